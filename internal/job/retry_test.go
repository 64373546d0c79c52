package job

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
)

func TestClassOf(t *testing.T) {
	plain := errors.New("connection refused")
	for _, c := range []struct {
		err  error
		want Class
	}{
		{plain, Soon},
		{orrery.Errorf(orrery.KindUnavailable, "x"), Soon},
		{orrery.Errorf(orrery.KindPrecondition, "x"), Soon},
		{orrery.Errorf(orrery.KindInvalid, "x"), Permanent},
		{orrery.Errorf(orrery.KindConflict, "x"), Permanent},
		{orrery.Errorf(orrery.KindExhausted, "x"), Permanent},
		{fmt.Errorf("read: %w", orrery.NotFound("host", "a")), Permanent},
		{Retry(plain, Later), Later},
		{fmt.Errorf("wrapped: %w", Retry(plain, Permanent)), Permanent},
		{Retry(orrery.NotFound("host", "a"), Soon), Soon},
		{Retry(Retry(plain, Later), Soon), Soon},
	} {
		if got := ClassOf(c.err); got != c.want {
			t.Errorf("ClassOf(%v) = %d, want %d", c.err, got, c.want)
		}
	}
	if Retry(nil, Later) != nil {
		t.Error("no error became one")
	}
}

func TestBackoff(t *testing.T) {
	for n := range 100 {
		whole := min(soonFirst<<max(n-1, 0), soonMost)
		if n > 20 {
			whole = soonMost
		}
		if d := backoff(soonFirst, soonMost, n); d < whole/2 || d > whole {
			t.Fatalf("after %d failures %s, want %s to %s", n, d, whole/2, whole)
		}
	}
	if d := backoff(laterFirst, laterMost, 1<<30); d > 2*time.Minute {
		t.Fatal(d)
	}
}

func TestCheckInput(t *testing.T) {
	type deep struct {
		Users []struct {
			Name     string `json:"name"`
			Password string `json:"pw"`
		}
	}
	type bad struct {
		Users map[string]*struct {
			Hash struct {
				Verifier string
			} `json:"hash"`
		}
	}
	type self struct {
		Next *self `json:"next"`
		Gen  int64 `json:"generation"`
	}
	for _, ok := range []any{nil, self{}, &orrery.DatastoreSpec{}} {
		if err := CheckInput(ok); err != nil {
			t.Errorf("%T: %v", ok, err)
		}
	}
	for _, no := range []any{bad{}, []bad{}, deep{}, struct {
		A string `json:"new_password"`
	}{}, struct{ AuthToken []byte }{}} {
		if err := CheckInput(no); err == nil {
			t.Errorf("%T is let through", no)
		}
	}
}

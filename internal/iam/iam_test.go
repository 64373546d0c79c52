package iam_test

import (
	"strings"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/iam"
)

func lookup(tokens ...*orrery.Token) iam.Lookup {
	return func(id string) (*orrery.Token, bool) {
		for _, t := range tokens {
			if t.ID == id {
				return t, true
			}
		}
		return nil, false
	}
}

func codeOf(err error) string {
	if e, ok := err.(*orrery.Error); ok { //nolint:errorlint // iam promises it unwrapped
		return e.Code
	}
	return ""
}

func TestAuthenticate(t *testing.T) {
	now := time.Now()
	soon := now.Add(time.Hour)
	good, bearer := iam.NewToken("ops", iam.RoleAdmin, &soon)
	revoked, revokedBearer := iam.NewToken("old", iam.RoleAdmin, nil)
	revoked.RevokedAt = &now
	_, unknown := iam.NewToken("lost", iam.RoleAdmin, nil)
	host, joinText := iam.NewJoinToken("h", "ff", soon)
	all := lookup(good, revoked, host)

	p, err := iam.Authenticate("Bearer "+bearer, all, now)
	if err != nil || p.ID != good.ID || p.Name != "ops" || p.Role != iam.RoleAdmin {
		t.Fatalf("got %+v, %v", p, err)
	}
	if strings.Contains(good.Hash, bearer[len(bearer)-20:]) || len(good.Hash) != 64 {
		t.Fatalf("the stored hash is %q", good.Hash)
	}
	join := strings.Split(joinText, ".")
	for name, tc := range map[string]struct {
		header string
		now    time.Time
		code   string
	}{
		"none":              {"", now, "token_missing"},
		"another scheme":    {"Basic " + bearer, now, "token_malformed"},
		"garbage":           {"Bearer orr_x", now, "token_malformed"},
		"only a prefix":     {"Bearer orr_", now, "token_malformed"},
		"path tricks":       {"Bearer orr_../../../../tokens_x", now, "token_malformed"},
		"unknown":           {"Bearer " + unknown, now, "token_unknown"},
		"wrong secret":      {"Bearer " + bearer[:len(bearer)-1] + "!", now, "token_unknown"},
		"no secret":         {"Bearer " + bearer[:21], now, "token_unknown"},
		"revoked":           {"Bearer " + revokedBearer, now, "token_revoked"},
		"expired":           {"Bearer " + bearer, soon, "token_expired"},
		"a host's":          {"Bearer orr_" + join[0][3:] + "_" + join[1], now, "token_unknown"},
		"very long garbage": {"Bearer " + strings.Repeat("orr_", 10000), now, "token_malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := iam.Authenticate(tc.header, all, tc.now)
			if orrery.KindOf(err) != orrery.KindUnauthorized || codeOf(err) != tc.code || p != (iam.Principal{}) {
				t.Fatalf("got %+v, %v (%s), want %s", p, err, codeOf(err), tc.code)
			}
		})
	}
}

func TestJoinToken(t *testing.T) {
	now := time.Now()
	token, text := iam.NewJoinToken("h", "c0ffee", now.Add(time.Minute))
	_, bearerToken := iam.NewToken("x", iam.RoleAdmin, nil)
	all := lookup(token)
	if !strings.HasSuffix(text, ".c0ffee") {
		t.Fatal(text)
	}
	for _, form := range []string{text, strings.TrimSuffix(text, ".c0ffee")} {
		if got, err := iam.CheckJoinToken(form, all, now); err != nil || got.ID != token.ID {
			t.Fatalf("%s: %v", form, err)
		}
	}
	for form, code := range map[string]string{
		"": "token_malformed", bearerToken: "token_malformed", token.ID + ".wrong.c0ffee": "token_unknown",
	} {
		if _, err := iam.CheckJoinToken(form, all, now); codeOf(err) != code {
			t.Errorf("%q: got %v, want %s", form, err, code)
		}
	}
	if _, err := iam.CheckJoinToken(text, all, now.Add(time.Hour)); codeOf(err) != "token_expired" {
		t.Errorf("got %v", err)
	}
}

func TestRoles(t *testing.T) {
	viewer := iam.Principal{ID: "to-1", Role: iam.RoleViewer}
	admin := iam.Principal{ID: "to-2", Role: iam.RoleAdmin}
	for permission, viewerMay := range map[iam.Permission]bool{
		iam.PlaneRead: true, iam.DatastoresRead: true, iam.JobsRead: true, iam.HostsRead: true,
		iam.DatastoresCreate: false, iam.DatastoresDelete: false, iam.JobsUpdate: false, iam.TokensRead: false,
		iam.TokensCreate: false, iam.HostsJoin: false,
	} {
		if err := iam.Authorize(viewer, permission, iam.Object{}); (err == nil) != viewerMay {
			t.Errorf("viewer, %s: %v", permission, err)
		}
		if err := iam.Authorize(admin, permission, iam.Object{}); err != nil {
			t.Errorf("admin, %s: %v", permission, err)
		}
		if err := iam.Authorize(iam.Principal{}, permission, iam.Object{}); orrery.KindOf(err) != orrery.KindUnauthorized {
			t.Errorf("nobody, %s: %v", permission, err)
		}
		if err := iam.Authorize(iam.Principal{ID: "to-3", Role: iam.RoleHostJoin}, permission, iam.Object{}); orrery.KindOf(err) != orrery.KindForbidden {
			t.Errorf("host, %s: %v", permission, err)
		}
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	token, bearer := iam.NewToken("ops", iam.RoleAdmin, nil)
	all, header, now := lookup(token), "Bearer "+bearer, time.Now()
	for b.Loop() {
		if _, err := iam.Authenticate(header, all, now); err != nil {
			b.Fatal(err)
		}
	}
}

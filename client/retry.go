package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/orrery-db/orrery"
)

// serverError is what a server's answer says beyond the error itself.
type serverError struct {
	err        *orrery.Error
	retryAfter time.Duration // 0 where the server gave none
}

func (e *serverError) Error() string { return e.err.Error() }
func (e *serverError) Unwrap() error { return e.err }

// problem is application/problem+json (RFC 9457) as Orrery extends it.
type problem struct {
	Title  string           `json:"title"`
	Detail string           `json:"detail"`
	Kind   orrery.ErrorKind `json:"kind"`
	Code   string           `json:"code"`
	Field  string           `json:"field"`
	Hint   string           `json:"hint"`
}

// decodeError turns an answer from 400 on into an error.
func decodeError(resp *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	e := &serverError{err: problemError(data, resp.StatusCode)}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		e.retryAfter = min(time.Duration(s)*time.Second, time.Minute)
	}
	return e
}

func problemError(data []byte, status int) *orrery.Error {
	var p problem
	if json.Unmarshal(data, &p) != nil {
		p = problem{} // some proxy's page
	}
	e := &orrery.Error{Kind: p.Kind, Code: p.Code, Message: p.Detail, Field: p.Field, Hint: p.Hint}
	if e.Kind == "" {
		e.Kind = kindOf(status)
	}
	if e.Code == "" {
		e.Code = string(e.Kind)
	}
	if e.Message == "" {
		e.Message = p.Title
	}
	if e.Message == "" {
		e.Message = "the server answered " + strconv.Itoa(status) + " " + http.StatusText(status)
	}
	return e
}

// kindOf guesses the kind where the answer does not carry it.
func kindOf(status int) orrery.ErrorKind {
	switch status {
	case http.StatusUnauthorized:
		return orrery.KindUnauthorized
	case http.StatusForbidden:
		return orrery.KindForbidden
	case http.StatusNotFound:
		return orrery.KindNotFound
	case http.StatusConflict:
		return orrery.KindConflict
	case http.StatusPreconditionFailed, http.StatusPreconditionRequired:
		return orrery.KindPrecondition
	case http.StatusRequestEntityTooLarge:
		return orrery.KindTooLarge
	case http.StatusTooManyRequests:
		return orrery.KindRateLimited
	case http.StatusInsufficientStorage:
		return orrery.KindExhausted
	case http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout:
		return orrery.KindUnavailable
	}
	if status < 500 {
		return orrery.KindInvalid
	}
	return orrery.KindInternal
}

// repeatable tells whether r may be sent again after err. Three cases: it never left this machine; the server says that
// it did nothing; or nobody knows, and a second time does no harm.
func repeatable(r request, err error) bool {
	if se, ok := errors.AsType[*serverError](err); ok {
		switch {
		case se.retryAfter > 0:
			return se.err.Kind == orrery.KindUnavailable || se.err.Kind == orrery.KindRateLimited
		case se.err.Kind == orrery.KindUnavailable:
			// A code of its own (a full disk, say) is for a person, and does not go away within our patience.
			return se.err.Code == string(orrery.KindUnavailable)
		}
		return se.err.Kind == orrery.KindRateLimited
	}
	e, ok := errors.AsType[*orrery.Error](err)
	if !ok || e.Code != "unreachable" {
		return false
	}
	if op, ok := errors.AsType[*net.OpError](e.Err); ok && op.Op == "dial" {
		return true
	}
	switch r.method {
	case http.MethodGet, http.MethodHead:
		return true
	case http.MethodPost:
		return r.header["Idempotency-Key"] != ""
	case http.MethodPatch:
		return r.header["If-Match"] == "" // with it, the second answer would be about the first
	}
	return false
}

// retry calls f until it succeeds, fails for good, or patience ends.
func (c *Client) retry(ctx context.Context, r request, f func() error) error {
	var b backoff
	started := time.Now()
	for {
		err := f()
		if err == nil || !repeatable(r, err) {
			return plain(err)
		}
		wait := b.next(err)
		if time.Since(started)+wait > c.cfg.Patience {
			return plain(err)
		}
		if err := c.pause(ctx, plain(err), wait); err != nil {
			return err
		}
	}
}

// pause waits before the next try.
func (c *Client) pause(ctx context.Context, err error, wait time.Duration) error {
	if c.cfg.OnRetry != nil {
		c.cfg.OnRetry(err, wait)
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// plain gives users of the package the *orrery.Error that it promises.
func plain(err error) error {
	if se, ok := errors.AsType[*serverError](err); ok {
		return se.err
	}
	return err
}

// backoff doubles from 100 ms to 5 s, with jitter, so that the clients of a server that comes back do not come at once.
type backoff struct{ tries int }

func (b *backoff) next(err error) time.Duration {
	if se, ok := errors.AsType[*serverError](err); ok && se.retryAfter > 0 {
		return se.retryAfter
	}
	d := min(100*time.Millisecond<<min(b.tries, 10), 5*time.Second)
	b.tries++
	return d/2 + rand.N(d/2+1)
}

func (b *backoff) reset() { b.tries = 0 }

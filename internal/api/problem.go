package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/orrery-db/orrery"
)

// statusOf is the only map from kinds of error to HTTP status codes.
func statusOf(kind orrery.ErrorKind) int {
	switch kind {
	case orrery.KindInvalid:
		return http.StatusBadRequest
	case orrery.KindUnauthorized:
		return http.StatusUnauthorized
	case orrery.KindForbidden:
		return http.StatusForbidden
	case orrery.KindNotFound:
		return http.StatusNotFound
	case orrery.KindConflict:
		return http.StatusConflict
	case orrery.KindPrecondition:
		return http.StatusPreconditionFailed
	case orrery.KindTooLarge:
		return http.StatusRequestEntityTooLarge
	case orrery.KindRateLimited:
		return http.StatusTooManyRequests
	case orrery.KindExhausted:
		return http.StatusInsufficientStorage
	case orrery.KindUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// Problem is the body of every answer from 400 on (RFC 9457), with what Orrery adds: kind, code, field, hint.
type Problem struct {
	Type   string           `json:"type" doc:"Always about:blank: code tells problems apart." example:"about:blank"`
	Title  string           `json:"title" doc:"The status code in words."`
	Status int              `json:"status"`
	Detail string           `json:"detail" doc:"One sentence for a person."`
	Kind   orrery.ErrorKind `json:"kind" enum:"invalid,unauthorized,forbidden,not_found,conflict,precondition,too_large,rate_limited,exhausted,unavailable,internal"`
	Code   string           `json:"code" doc:"Stable, for programs, as in name_taken."`
	Field  string           `json:"field,omitempty" doc:"Path of the offending field, as in spec.users[0].name."`
	Hint   string           `json:"hint,omitempty" doc:"What to do next."`
	// RequestID is that of the header X-Request-Id; the server's log has it too.
	RequestID string `json:"request_id,omitempty"`
}

// httpError is an error of HTTP itself, whose status no kind stands for.
type httpError struct {
	status int
	err    *orrery.Error
}

func (e *httpError) Error() string { return e.err.Error() }
func (e *httpError) Unwrap() error { return e.err }

// problemOf turns any error into what a user may see of it. The cause of an internal error is kept from it.
func problemOf(err error, requestID string) Problem {
	var e *orrery.Error
	switch {
	case errors.As(err, &e):
	case errors.Is(err, context.DeadlineExceeded):
		e = orrery.Errorf(orrery.KindUnavailable, "the server could not finish this in time").WithCode("timeout").
			WithHint("Look whether it was done before you try again.")
	case errors.Is(err, context.Canceled):
		e = orrery.Errorf(orrery.KindUnavailable, "the request was ended before it was done")
	default:
		e = orrery.Errorf(orrery.KindInternal, "something went wrong within Orrery").
			WithHint("Give the request ID to whoever runs this server; its log tells more.")
	}
	p := Problem{Type: "about:blank", Status: statusOf(e.Kind), Detail: e.Message, Kind: e.Kind, Code: e.Code,
		Field: e.Field, Hint: e.Hint, RequestID: requestID}
	if he, ok := errors.AsType[*httpError](err); ok {
		p.Status = he.status
	}
	if p.Code == "" {
		p.Code = string(e.Kind)
	}
	p.Title = http.StatusText(p.Status)
	return p
}

func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err, w.Header().Get(headerRequestID))
	if p.Status >= http.StatusInternalServerError && r.Context().Err() == nil {
		a.log.LogAttrs(r.Context(), slog.LevelError, "request failed", slog.String("request_id", p.RequestID),
			slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Any("error", err))
	}
	data, err := json.Marshal(p)
	if err != nil {
		data = []byte(`{"type":"about:blank","status":500}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(data)))
	h.Del("ETag")
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="orrery"`)
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(data) // nobody is left to tell
}

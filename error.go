package orrery

import (
	"errors"
	"fmt"
)

// ErrorKind says what sort of thing went wrong. internal/api holds the only map from kinds to HTTP status codes.
type ErrorKind string

// The kinds of error.
const (
	KindInvalid      ErrorKind = "invalid"      // the request is wrong; sending it again will not help
	KindUnauthorized ErrorKind = "unauthorized" // nobody knows who asks
	KindForbidden    ErrorKind = "forbidden"    // known, and not allowed
	KindNotFound     ErrorKind = "not_found"    // there is no such thing, or it is not the asker's to see
	KindConflict     ErrorKind = "conflict"     // the object's state forbids it now
	KindPrecondition ErrorKind = "precondition" // If-Match did not match, or a transaction lost its race for good
	KindTooLarge     ErrorKind = "too_large"    // the request is bigger than the plane takes
	KindRateLimited  ErrorKind = "rate_limited" // too many, too fast
	KindExhausted    ErrorKind = "exhausted"    // no host has room, or a quota is used up
	KindUnavailable  ErrorKind = "unavailable"  // cannot be done just now; try again soon
	KindInternal     ErrorKind = "internal"     // a fault of Orrery's own
)

// Error is an error a person can act on. Message is one sentence for a person; Err is the inner cause, which is
// logged and never shown to users of the API.
type Error struct {
	Kind    ErrorKind `json:"kind"`
	Code    string    `json:"code"` // stable, for programs: "name_taken", "parameter_out_of_range"; the kind where empty
	Message string    `json:"message"`
	Field   string    `json:"field,omitempty"` // JSON path of the offending field, as in "spec.parameters.work_mem"
	Hint    string    `json:"hint,omitempty"`  // what to do next
	Err     error     `json:"-"`
}

// Error gives the whole text with its cause, for logs.
func (e *Error) Error() string {
	s := e.Message
	if e.Field != "" {
		s = e.Field + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// WithHint returns e with a hint.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// WithCode returns e with a stable code.
func (e *Error) WithCode(code string) *Error { e.Code = code; return e }

// WithCause returns e with its inner cause.
func (e *Error) WithCause(err error) *Error { e.Err = err; return e }

// Errorf makes an error of a kind.
func Errorf(kind ErrorKind, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: string(kind), Message: fmt.Sprintf(format, args...)}
}

// Invalid makes an error that blames a field of the request.
func Invalid(field, format string, args ...any) *Error {
	e := Errorf(KindInvalid, format, args...)
	e.Field = field
	return e
}

// NotFound makes the error for a missing object: what is the noun, as in "datastore".
func NotFound(what, name string) *Error {
	return Errorf(KindNotFound, "there is no %s %q", what, Shorten(name, 60)).WithCode(what + "_not_found")
}

// KindOf gives the kind of the first Error in err's chain, KindInternal where there is none.
func KindOf(err error) ErrorKind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return KindInternal
}

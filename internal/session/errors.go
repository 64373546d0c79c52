package session

import (
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/orrery-db/orrery"
)

// errorDomain marks errors that the plane itself made, in the ErrorInfo detail of a gRPC status.
const errorDomain = "orrery"

// CodeExpired is the code of the error for a session certificate that has lapsed: it can still be renewed.
const CodeExpired = "certificate_expired"

// CodeReplaced is the code of the error for a stream whose identity began another.
const CodeReplaced = "session_replaced"

var codeOf = map[orrery.ErrorKind]codes.Code{
	orrery.KindInvalid:      codes.InvalidArgument,
	orrery.KindUnauthorized: codes.Unauthenticated,
	orrery.KindForbidden:    codes.PermissionDenied,
	orrery.KindNotFound:     codes.NotFound,
	orrery.KindConflict:     codes.FailedPrecondition,
	orrery.KindPrecondition: codes.Aborted,
	orrery.KindTooLarge:     codes.ResourceExhausted,
	orrery.KindRateLimited:  codes.ResourceExhausted,
	orrery.KindExhausted:    codes.ResourceExhausted,
	orrery.KindUnavailable:  codes.Unavailable,
	orrery.KindInternal:     codes.Internal,
}

// toStatus gives the gRPC form of an error. Causes stay here: what is not an *orrery.Error is told as unavailable.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*orrery.Error](err)
	if !ok {
		e = orrery.Errorf(orrery.KindUnavailable, "the server cannot do this just now")
	}
	st, derr := status.New(codeOf[e.Kind], e.Message).WithDetails(&errdetails.ErrorInfo{
		Reason: e.Code, Domain: errorDomain,
		Metadata: map[string]string{"kind": string(e.Kind), "field": e.Field, "hint": e.Hint},
	})
	if derr != nil { // a code of OK: a kind that the map does not know
		return status.Error(codes.Internal, e.Message)
	}
	return st.Err()
}

// fromStatus gives the *orrery.Error that the server sent. Whatever else went wrong on the way is KindUnavailable.
func fromStatus(err error) error {
	if err == nil {
		return nil
	}
	st, _ := status.FromError(err)
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			m := info.GetMetadata()
			return &orrery.Error{
				Kind: orrery.ErrorKind(m["kind"]), Code: info.GetReason(), Message: st.Message(),
				Field: m["field"], Hint: m["hint"],
			}
		}
	}
	if st.Code() == codes.ResourceExhausted { // gRPC's own: a message over the limit
		return orrery.Errorf(orrery.KindTooLarge, "a message of the session is too large").WithCode("message_too_large").WithCause(err)
	}
	return unreachable(err)
}

// Permanent tells whether the server refused for good: the identity is gone or unknown, or the join token is no good.
func Permanent(err error) bool {
	switch orrery.KindOf(err) {
	case orrery.KindUnauthorized, orrery.KindForbidden, orrery.KindNotFound:
		return !hasCode(err, CodeExpired)
	}
	return false
}

func hasCode(err error, code string) bool {
	e, ok := errors.AsType[*orrery.Error](err)
	return ok && e.Code == code
}

func malformed(what string, err error) error {
	return orrery.Invalid("", "%s is malformed", what).WithCode("message_malformed").WithCause(fmt.Errorf("decode %s: %w", what, err))
}

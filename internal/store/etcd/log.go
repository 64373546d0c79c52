package etcd

import (
	"context"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"go.uber.org/zap/zapcore"
)

// zapCore writes what etcd logs through zap into a slog handler. What etcd calls info is debug to the plane: etcd
// tells dozens of lines at each start that nobody but its developers wants.
type zapCore struct {
	handler slog.Handler
	// calm: etcd is being stopped, and tells of each listener that it closes as of an error.
	calm *atomic.Bool
}

func newZapCore(log *slog.Logger) *zapCore { return &zapCore{log.Handler(), new(atomic.Bool)} }

// harmless are warnings and errors that say nothing is wrong.
var harmless = map[string]bool{
	// At each start of a healthy node:
	"Running http and grpc server on single port. This is not recommended for production.":               true, // under load of HTTP, of which there is none
	"simple token is not cryptographically signed":                                                       true, // tokens are of password authentication, which is off
	"Failed to detect schema version":                                                                    true, // of a file that is new; tried again by itself
	"failed to update storage version":                                                                   true,
	"scheme is http or unix while key and cert files are present; ignoring key and cert files":           true, // the socket is guarded by its mode
	"scheme is http or unix while --client-cert-auth is enabled; ignoring client cert auth for this URL": true,
	// Errors that the caller is given as well:
	"failed to apply request":          true,
	"retrying of unary invoker failed": true,
}

func (c *zapCore) levelOf(e zapcore.Entry) slog.Level {
	if e.Level < zapcore.DPanicLevel && (c.calm.Load() || harmless[e.Message]) {
		return slog.LevelDebug
	}
	return level(e.Level)
}

func level(l zapcore.Level) slog.Level {
	switch {
	case l <= zapcore.InfoLevel:
		return slog.LevelDebug
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	default:
		return slog.LevelError
	}
}

// Enabled is part of zapcore.Core.
func (c *zapCore) Enabled(l zapcore.Level) bool {
	return c.handler.Enabled(context.Background(), level(l))
}

// With is part of zapcore.Core.
func (c *zapCore) With(fields []zapcore.Field) zapcore.Core {
	return &zapCore{c.handler.WithAttrs(attrs(fields)), c.calm}
}

// Check is part of zapcore.Core.
func (c *zapCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.handler.Enabled(context.Background(), c.levelOf(e)) {
		return ce
	}
	return ce.AddCore(e, c)
}

// Write is part of zapcore.Core.
func (c *zapCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	var pcs [1]uintptr
	if e.Caller.Defined {
		pcs[0] = e.Caller.PC
	} else {
		runtime.Callers(3, pcs[:])
	}
	when := e.Time
	if when.IsZero() {
		when = time.Now()
	}
	r := slog.NewRecord(when, c.levelOf(e), "etcd: "+e.Message, pcs[0])
	r.AddAttrs(attrs(fields)...)
	return c.handler.Handle(context.Background(), r)
}

// Sync is part of zapcore.Core.
func (c *zapCore) Sync() error { return nil }

func attrs(fields []zapcore.Field) []slog.Attr {
	enc := zapcore.NewMapObjectEncoder()
	out := make([]slog.Attr, 0, len(fields))
	for _, f := range fields {
		f.AddTo(enc)
		if v, ok := enc.Fields[f.Key]; ok {
			out = append(out, slog.Any(f.Key, v))
		}
	}
	return out
}

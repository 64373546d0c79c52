package etcd

import (
	"context"
	"log/slog"
	"runtime"
	"time"

	"go.uber.org/zap/zapcore"
)

// zapCore writes what etcd logs through zap into a slog handler. What etcd calls info is debug to the plane: etcd
// tells dozens of lines at each start that nobody but its developers wants.
type zapCore struct {
	handler slog.Handler
}

func newZapCore(log *slog.Logger) zapcore.Core { return zapCore{log.Handler()} }

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
func (c zapCore) Enabled(l zapcore.Level) bool {
	return c.handler.Enabled(context.Background(), level(l))
}

// With is part of zapcore.Core.
func (c zapCore) With(fields []zapcore.Field) zapcore.Core {
	return zapCore{c.handler.WithAttrs(attrs(fields))}
}

// Check is part of zapcore.Core.
func (c zapCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(e.Level) {
		return ce
	}
	return ce.AddCore(e, c)
}

// Write is part of zapcore.Core.
func (c zapCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
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
	r := slog.NewRecord(when, level(e.Level), "etcd: "+e.Message, pcs[0])
	r.AddAttrs(attrs(fields)...)
	return c.handler.Handle(context.Background(), r)
}

// Sync is part of zapcore.Core.
func (c zapCore) Sync() error { return nil }

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

// Package job owns the durable runner of jobs: it claims them by lease, makes their plan once, runs their steps with a
// checkpoint after each, retries, cancels and undoes, and hands over to another server when this one dies. It knows no
// step and no engine: kinds and steps are given to it. DESIGN.md beside it tells how it works and why.
package job

import (
	"context"
	"reflect"
	"strings"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/store"
)

// Def is a step: a pair of do and undo.
//
// Both may be called again after they failed, were cut off by a timeout or by the death of the server at any
// instruction, and also after they succeeded (when the server died before it could write that down): each must be
// idempotent. Undo must also cope with a Do that never began or that stopped half-way.
//
// An error is retried by its class; see Retry. When ctx is cancelled they return soon, with any error.
type Def struct {
	Do func(ctx context.Context, c *Context) error
	// Undo takes back what Do did. Where there is nothing to take back it is NothingToUndo: an Undo must be given, so
	// that nobody forgets it. A step with ForwardOnly has none.
	Undo func(ctx context.Context, c *Context) error
	// Timeout of one attempt of Do or Undo; an attempt that ran out of time is retried. 5 minutes where 0.
	Timeout time.Duration
	// ForwardOnly marks the point of no return: from the start of this step on the job is neither undone nor cancelled.
	ForwardOnly bool
}

// NothingToUndo is the Undo of a step that leaves nothing behind.
func NothingToUndo(context.Context, *Context) error { return nil }

// Kind is a kind of job.
type Kind struct {
	Name string
	// ReadOnly jobs run beside a mutating one on the same object.
	ReadOnly bool
	// Deadline counts from the moment the job is first claimed. When it has passed, an alarm is set and the job is
	// undone; where it cannot be undone it is retried at long intervals, with the alarm set. Undoing has the same time
	// again. An hour where 0.
	Deadline time.Duration
	// Plan gives the steps (Name, Title and Args). It is called once, when the job is first claimed and its object is
	// free, and what it gives is stored. It may be called again, on another server too, if the claim is lost before
	// that. It changes nothing. A permanent error ends the job.
	Plan func(ctx context.Context, j *orrery.Job) ([]orrery.JobStep, error)
	// ForwardOnly jobs (deletion) are never undone, and not cancelled once they have begun: what fails for good makes
	// them stuck, with an alarm, until a person retries.
	ForwardOnly bool
	// TakesOver lets a job of this kind end a stuck job that holds its object: the stuck one fails as it is, half done,
	// and this one has to clear up whatever it finds. For deletion.
	TakesOver bool
	// Input is a prototype of the job's input, or nil where it has none; see CheckInput.
	Input any
	// Finished, where given, runs in the transaction that ends the job with success. A permanent error makes the job
	// fail and be undone.
	Finished func(tx *store.Tx, j *orrery.Job) error
	// Undone, where given, runs in the transaction that ends the job as failed or cancelled: after all steps were
	// undone, after Plan failed, or when the job was cancelled before it began (StartedAt is nil then, and another job
	// may be at work on the object).
	Undone func(tx *store.Tx, j *orrery.Job) error
}

const (
	defaultDeadline = time.Hour
	defaultTimeout  = 5 * time.Minute
	planTimeout     = 30 * time.Second
)

func (k Kind) deadline() time.Duration {
	if k.Deadline > 0 {
		return k.Deadline
	}
	return defaultDeadline
}

func (d Def) timeout() time.Duration {
	if d.Timeout > 0 {
		return d.Timeout
	}
	return defaultTimeout
}

// forbiddenInput are words that give away a secret in a field's name.
var forbiddenInput = []string{"password", "passwd", "secret", "private", "credential", "token", "verifier"}

// CheckInput refuses a type whose JSON could hold a secret: a field, at any depth, that is named like one. Job input is
// stored in the clear and shown to whoever may see the job. A counter (an integer) may have such a name, as in
// orrery.User.SecretVersion.
func CheckInput(prototype any) error {
	if prototype == nil {
		return nil
	}
	return checkInput(reflect.TypeOf(prototype), "input", map[reflect.Type]bool{})
}

func checkInput(t reflect.Type, path string, seen map[reflect.Type]bool) error {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return checkInput(t.Elem(), path, seen)
	case reflect.Struct:
	default:
		return nil
	}
	if seen[t] {
		return nil
	}
	seen[t] = true
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() && !f.Anonymous {
			continue
		}
		if name == "" {
			name = f.Name
		}
		if (looksSecret(name) || looksSecret(f.Name)) && !isNumber(f.Type) {
			return orrery.Errorf(orrery.KindInternal, "%s.%s is named like a secret; job input holds none", path, name)
		}
		if err := checkInput(f.Type, path+"."+name, seen); err != nil {
			return err
		}
	}
	return nil
}

func looksSecret(name string) bool {
	name = strings.ToLower(name)
	for _, word := range forbiddenInput {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

func isNumber(t reflect.Type) bool { return t.Kind() >= reflect.Bool && t.Kind() <= reflect.Float64 }

package job

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/store"
)

// maxLogLines and maxLogBytes bound what a step may say, so that a job stays far below what the store takes.
const (
	maxLogLines  = 50
	keptLogLines = 20 // once the step is over
	maxLogBytes  = 300
)

// Context is what a step is called with: its job, its arguments, and the ways to tell what it does. A Context belongs
// to one attempt; its methods are safe for concurrent use.
type Context struct {
	// Job and Step are private copies as they were when the attempt began. Changing them changes nothing.
	Job  *orrery.Job
	Step *orrery.JobStep
	// Undoing is true in Undo.
	Undoing bool
	// Log is for the server's log. What people who watch the job should read goes to Logf.
	Log *slog.Logger

	run *run

	mu       sync.Mutex
	closed   bool
	log      []orrery.LogLine
	progress int
	result   json.RawMessage
	commit   []func(tx *store.Tx) error
	err      error
	dirty    chan struct{} // capacity 1: something to flush
}

// Args decodes the step's arguments, as Plan gave them, into v. Without arguments v is left as it is.
func (c *Context) Args(v any) error {
	return decode(c.Step.Args, v, "arguments of step %s", c.Step.Name)
}

// Input decodes the job's input into v. Without input v is left as it is.
func (c *Context) Input(v any) error { return decode(c.Job.Input, v, "input of job %s", c.Job.ID) }

// Result decodes what this step remembered by SetResult in an earlier attempt or, in Undo, in its Do. Where it
// remembered nothing v is left as it is.
func (c *Context) Result(v any) error {
	return decode(c.Step.Result, v, "result of step %s", c.Step.Name)
}

// StepResult decodes what the last earlier step of that name remembered, and tells whether there was something.
func (c *Context) StepResult(name string, v any) (bool, error) {
	for i := min(c.Job.Cursor, len(c.Job.Steps)) - 1; i >= 0; i-- {
		if s := c.Job.Steps[i]; s.Name == name && len(s.Result) > 0 {
			return true, decode(s.Result, v, "result of step %s", name)
		}
	}
	return false, nil
}

func decode(data json.RawMessage, v any, what string, args ...any) error {
	if len(data) == 0 {
		return nil
	}
	if err := json.Unmarshal(data, v); err != nil {
		return Retry(fmt.Errorf("decode "+what+": %w", append(args, err)...), Permanent)
	}
	return nil
}

// SetResult remembers v, as JSON and without secrets, for the step's undo and for later steps. It is stored with the
// step's end or, where the attempt fails, with its failure; Save stores it at once. What cannot be encoded makes the step fail.
func (c *Context) SetResult(v any) {
	data, err := json.Marshal(v)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.err = Retry(fmt.Errorf("encode result of step %s: %w", c.Step.Name, err), Permanent)
		return
	}
	c.result = data
}

// Save stores the result, log and progress now. It is for what must be known to whoever resumes the step before the
// step goes on; it costs a write of the store.
func (c *Context) Save(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := c.run.r.at(c.run.id, BeforeWrite, c.Job.Cursor); err != nil {
		return err
	}
	if err := c.run.flush(ctx, c); err != nil {
		return err
	}
	return c.run.r.at(c.run.id, AfterWrite, c.Job.Cursor)
}

// Logf adds a line to the step's log, which people who watch the job read. The newest 50 lines of up to 300 bytes are
// kept, 20 when the step is over. Lines of a long step are stored about once a second.
func (c *Context) Logf(format string, args ...any) {
	line := orrery.LogLine{Time: time.Now().UTC(), Message: clip(fmt.Sprintf(format, args...), maxLogBytes)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.log = append(c.log, line)
	if drop := len(c.log) - maxLogLines; drop > 0 {
		c.log = append(c.log[:0], c.log[drop:]...)
	}
	c.touch()
}

// Progress tells how much of this step is done, from 0 to 100 percent.
func (c *Context) Progress(percent int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if percent = min(max(percent, 0), 100); percent != c.progress && !c.closed {
		c.progress = percent
		c.touch()
	}
}

func (c *Context) touch() {
	select {
	case c.dirty <- struct{}{}:
	default:
	}
}

// Update is Store.Update for steps: the transaction also compares that this server still has the job's claim, so that
// a server that lost it (frozen, cut off from the store) can do no harm any more.
func (c *Context) Update(ctx context.Context, fn func(tx *store.Tx) error) (int64, error) {
	n := c.run
	if err := n.r.at(n.id, BeforeWrite, c.Job.Cursor); err != nil {
		return 0, err
	}
	revision, err := n.r.store.Update(ctx, func(tx *store.Tx) error {
		tx.Essential()
		if err := n.owned(tx); err != nil {
			return err
		}
		return fn(tx)
	})
	if err != nil {
		return 0, err
	}
	return revision, n.r.at(n.id, AfterWrite, c.Job.Cursor)
}

// OnDone adds fn to the transaction that writes down that this step is done (undone, in Undo), so that what it writes
// costs no write of its own and happens exactly once. It is forgotten when the attempt fails. An error of fn makes the
// attempt fail.
func (c *Context) OnDone(fn func(tx *store.Tx) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.commit = append(c.commit, fn)
}

// pending is what an attempt has said and not yet stored.
type pending struct {
	log      []orrery.LogLine
	progress int
	result   json.RawMessage
}

func (c *Context) pending() pending {
	if c == nil {
		return pending{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.dirty:
	default:
	}
	return pending{log: append([]orrery.LogLine(nil), c.log...), progress: c.progress, result: c.result}
}

// apply writes what was said into the job.
func (p pending) apply(j *orrery.Job) {
	s := &j.Steps[j.Cursor]
	if p.result != nil {
		s.Result = p.result
	}
	if len(p.log) > 0 {
		s.Log = p.log
	}
	if j.State == orrery.JobRunning {
		j.Progress = max(j.Progress, progress(j, p.progress))
	}
}

// progress gives the job's progress in percent from its cursor and the current step's own.
func progress(j *orrery.Job, step int) int {
	if len(j.Steps) == 0 {
		return 100
	}
	return min((j.Cursor*100+step)/len(j.Steps), 100)
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

func (n *run) newContext(undo bool) *Context {
	j := clone(n.job)
	step := j.Steps[j.Cursor]
	return &Context{Job: j, Step: &step, Undoing: undo, Log: n.log.With("step", step.Name), run: n,
		log: append([]orrery.LogLine(nil), step.Log...), dirty: make(chan struct{}, 1)}
}

// close makes the Context deaf: an attempt that was given up may still be talking.
func (c *Context) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
}

// reset forgets what only the end of an attempt would have stored, for a second attempt.
func (c *Context) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.commit, c.err = nil, nil
	if c.result != nil {
		c.Step.Result = c.result
	}
}

// note adds a line of the runner's own.
func (c *Context) note(format string, args ...any) {
	c.mu.Lock()
	c.closed = false
	c.mu.Unlock()
	c.Logf(format, args...)
	c.close()
}

func (c *Context) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/spf13/cobra"
)

// waiting is how long a mutation's command stays.
type waiting struct {
	wait, noWait bool
	timeout      time.Duration
}

func (w *waiting) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.wait, "wait", true, "wait until the job has ended")
	cmd.Flags().BoolVar(&w.noWait, "no-wait", false, "return as soon as the job is accepted")
	cmd.Flags().DurationVar(&w.timeout, "timeout", 0, "stop waiting after this long, as in 90s or 5m; the job goes on (default as long as the job lives)")
	cmd.MarkFlagsMutuallyExclusive("wait", "no-wait")
}

// message is an error's one sentence.
func message(err error) string {
	if e, ok := errors.AsType[*orrery.Error](err); ok {
		return e.Message
	}
	return err.Error()
}

// waitJob follows a job to its end.
func (a *app) waitJob(ctx context.Context, id string, timeout time.Duration) (*orrery.Job, error) {
	s, err := a.settings()
	if err != nil {
		return nil, err
	}
	f := a.follow()
	// A client of its own: its troubles are part of the picture.
	c, err := client.New(client.Config{Server: s.Server, Token: s.Token, CA: []byte(s.CA), UserAgent: "orrery/" + a.Version,
		OnRetry: func(err error, _ time.Duration) {
			if orrery.KindOf(err) == orrery.KindUnavailable && !watchEnded(err) {
				f.trouble(err)
			}
		}})
	if err != nil {
		f.end()
		return nil, err
	}
	waitCtx := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		waitCtx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	j, err := c.WaitJob(waitCtx, id, f.job)
	f.end()
	switch {
	case ctx.Err() != nil:
		return j, &detached{job: id, why: "Detached.", usual: true}
	case errors.Is(err, context.DeadlineExceeded):
		return j, &detached{job: id, why: fmt.Sprintf("Error: not done after %s.", timeout)}
	}
	return j, err
}

// watchEnded tells apart the end of a watch, which is no trouble: it is taken up again at once.
func watchEnded(err error) bool {
	e, ok := errors.AsType[*orrery.Error](err)
	return ok && e.Code == "watch_broken"
}

// finish ends a mutation: it waits for the job if it is asked to, and says what was done. then, if given, is called when
// all went well, and before anything is printed.
func (a *app) finish(ctx context.Context, w waiting, ch *client.Changed, done string, then func() error) error {
	waited := false
	if ch.Job != nil && w.wait && !w.noWait {
		j, err := a.waitJob(ctx, ch.Job.ID, w.timeout)
		if err != nil {
			return err
		}
		ch.Job, waited = j, true
	}
	if then != nil {
		if err := then(); err != nil {
			return err
		}
	}
	if a.json() {
		return a.printJSON(ch)
	}
	switch {
	case ch.Job == nil:
		a.say("%s: nothing to do", done)
	case waited:
		a.say("%s (%s)", done, took(jobTime(ch.Job, a.Now())))
	default:
		a.say("asked for: %s; job %s goes on. Watch it with: orrery job watch %s", done, ch.Job.ID, ch.Job.ID)
	}
	return nil
}

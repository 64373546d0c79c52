package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/spf13/cobra"
)

func (a *app) job() *cobra.Command {
	return holder("job", "What the plane is doing and has done", []string{"jobs"},
		a.jobList(), a.jobShow(), a.jobWatch(),
		a.jobAction("cancel", "Stop a job and undo what it did", (*client.Client).CancelJob),
		a.jobAction("retry", "Let a stuck job try again", (*client.Client).RetryJob))
}

func (a *app) jobList() *cobra.Command {
	var object, state string
	var limit int
	cmd := &cobra.Command{
		Use: "list [datastore]", Aliases: []string{"ls"}, Short: "List jobs, the newest first",
		Example: `  orrery job list
  orrery job list demo
  orrery job list --state running --output wide`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: words(a.datastoreNames, nil),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			if len(args) > 0 {
				d, err := c.Datastore(ctx, a.projectName, args[0])
				if err != nil {
					return err
				}
				object = d.ID
			}
			all := []*orrery.Job{}
			for j, err := range c.Jobs(ctx, client.ListOptions{PageSize: limit, Sort: "-created_at",
				Filter: map[string]string{"object": object, "state": state}}) {
				if err != nil {
					return err
				}
				if all = append(all, j); len(all) == limit {
					break
				}
			}
			t := table{head: []string{"ID", "KIND", "OBJECT", "STATE", "PROGRESS", "AGE", "TOOK", "+BY", "+SERVER", "MESSAGE"}, empty: "No jobs."}
			for _, j := range all {
				t.add(j.ID, j.Kind, j.ObjectName, string(j.State), fmt.Sprintf("%d%%", j.Progress), age(a.Now(), j.CreatedAt),
					took(jobTime(j, a.Now())), j.RequestedBy, j.Owner, oneLine(jobMessage(j)))
			}
			return a.showTable(all, t)
		}),
	}
	cmd.Flags().StringVar(&object, "object", "", "only those on the object with this ID")
	cmd.Flags().StringVar(&state, "state", "", "only those in this state")
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many; 0 for all")
	a.complete(cmd, "state", fixed("queued", "running", "undoing", "stuck", "succeeded", "failed", "cancelled"))
	return cmd
}

func jobMessage(j *orrery.Job) string {
	switch {
	case j.Alarm != "":
		return j.Alarm
	case j.Error != nil:
		return j.Error.Message
	}
	return ""
}

func (a *app) jobShow() *cobra.Command {
	return &cobra.Command{
		Use: "show <job>", Short: "Show a job with its steps and what they said",
		Example: "  orrery job show jo-4q7x0m2c9b1d8k3f",
		Args:    args("the job"), ValidArgsFunction: words(a.jobIDs, nil),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			j, err := c.Job(ctx, args[0])
			if err != nil {
				return err
			}
			return a.show(j, func() string { return jobText(j, a.Now()) })
		}),
	}
}

// jobText is a job as people read it.
func jobText(j *orrery.Job, now time.Time) string {
	var b strings.Builder
	problem, hint := "", ""
	if e := j.Error; e != nil {
		problem, hint = e.Message, e.Hint
		if e.Field != "" {
			problem = e.Field + ": " + problem
		}
	}
	state := string(j.State)
	if j.CancelRequested && !j.State.Final() {
		state += ", cancel asked for"
	}
	b.WriteString(fields("Job", j.ID, "Kind", j.Kind, "Object", strings.TrimSpace(j.ObjectName+" "+j.Object), "State", state,
		"Progress", fmt.Sprintf("%d%%", j.Progress), "Took", took(jobTime(j, now)), "Asked for", age(now, j.CreatedAt)+" ago",
		"By", j.RequestedBy, "Server", j.Owner, "Alarm", j.Alarm, "Error", problem, "Hint", hint))
	t := table{head: []string{"STEP", "STATE", "TOOK", "TRIES"}, empty: "\nNo steps yet."}
	for i, s := range j.Steps {
		took := took(stepTime(s, now))
		if s.StartedAt == nil {
			took = ""
		}
		t.add(fmt.Sprintf("%d %s", i+1, s.Title), string(s.State), took, fmt.Sprint(max(s.Attempts, 1)))
	}
	if len(j.Steps) > 0 {
		b.WriteByte('\n')
	}
	b.WriteString(t.render(false))
	for i, s := range j.Steps {
		for n, l := range s.Log {
			if n == 0 {
				fmt.Fprintf(&b, "\n%d %s\n", i+1, s.Title)
			}
			fmt.Fprintf(&b, "  %s  %s\n", l.Time.UTC().Format("15:04:05.000"), oneLine(l.Message))
		}
	}
	return b.String()
}

func (a *app) jobWatch() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "watch <job>", Aliases: []string{"wait"}, Short: "Follow a job to its end",
		Long: `Follow a job to its end. The exit code is 0 when it succeeds and 6 when it does not. Ctrl-C stops the watching, never
the job.`,
		Example: `  orrery job watch jo-4q7x0m2c9b1d8k3f
  orrery job watch jo-4q7x0m2c9b1d8k3f --timeout 5m`,
		Args: args("the job"), ValidArgsFunction: words(a.jobIDs, nil),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			if _, err := c.Job(ctx, args[0]); err != nil {
				return err
			}
			j, err := a.waitJob(ctx, args[0], timeout)
			if j != nil && a.json() {
				if err := a.printJSON(j); err != nil {
					return err
				}
			}
			return err
		}),
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "stop watching after this long")
	return cmd
}

func (a *app) jobAction(verb, short string, do func(*client.Client, context.Context, string) (*orrery.Job, error)) *cobra.Command {
	return &cobra.Command{
		Use: verb + " <job>", Short: short,
		Example: "  orrery job " + verb + " jo-4q7x0m2c9b1d8k3f",
		Args:    args("the job"), ValidArgsFunction: words(a.jobIDs, nil),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			j, err := do(c, ctx, args[0])
			if err != nil {
				return err
			}
			return a.show(j, func() string {
				return fmt.Sprintf("asked job %s to %s. Watch it with: orrery job watch %s\n", args[0], verb, args[0])
			})
		}),
	}
}

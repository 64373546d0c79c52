package cli

import (
	"context"
	"iter"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/spf13/cobra"
)

// namer gives the names that a word may have, seeing the words before it. Completion is a help: where the plane does
// not answer at once, there is none.
type namer func(cmd *cobra.Command, args []string) []string

// complete names what a flag may be.
func (a *app) complete(cmd *cobra.Command, flag string, n namer) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		return n(cmd, args), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		cmd.PrintErrln(err) // the flag is not there: a fault of the caller that the first test shows
	}
}

// words completes positional arguments, each by its own namer; the last one serves all that follow.
func words(names ...namer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(names) == 0 || (len(args) >= len(names) && names[len(names)-1] == nil) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		n := names[min(len(args), len(names)-1)]
		if n == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return n(cmd, args), cobra.ShellCompDirectiveNoFileComp
	}
}

// fixed completes to words that are known.
func fixed(words ...string) namer {
	return func(*cobra.Command, []string) []string { return words }
}

// named lists at most a few hundred names.
func named[T any](a *app, cmd *cobra.Command, list func(context.Context, *client.Client) iter.Seq2[*T, error], name func(*T) string) []string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), 2*time.Second)
	defer cancel()
	c, err := a.connect()
	if err != nil {
		return nil
	}
	var names []string
	for item, err := range list(ctx, c) {
		if err != nil || len(names) == 500 {
			break
		}
		names = append(names, name(item))
	}
	return names
}

func (a *app) datastoreNames(cmd *cobra.Command, args []string) []string {
	if len(args) > 0 {
		return nil
	}
	return named(a, cmd, func(ctx context.Context, c *client.Client) iter.Seq2[*orrery.Datastore, error] {
		return c.Datastores(ctx, a.projectName, client.ListOptions{})
	}, func(d *orrery.Datastore) string { return d.Name })
}

func (a *app) userNames(cmd *cobra.Command, args []string) []string {
	return named(a, cmd, func(ctx context.Context, c *client.Client) iter.Seq2[*orrery.User, error] {
		return c.Users(ctx, a.projectName, args[0])
	}, func(u *orrery.User) string { return u.Name })
}

func (a *app) databaseNames(cmd *cobra.Command, args []string) []string {
	return named(a, cmd, func(ctx context.Context, c *client.Client) iter.Seq2[*orrery.Database, error] {
		return c.Databases(ctx, a.projectName, args[0])
	}, func(d *orrery.Database) string { return d.Name })
}

func (a *app) sourceNames(cmd *cobra.Command, args []string) []string {
	return named(a, cmd, func(ctx context.Context, c *client.Client) iter.Seq2[*orrery.TrustedSource, error] {
		return c.TrustedSources(ctx, a.projectName, args[0])
	}, func(s *orrery.TrustedSource) string { return s.CIDR })
}

func (a *app) parameterNames(cmd *cobra.Command, args []string) []string {
	return named(a, cmd, func(ctx context.Context, c *client.Client) iter.Seq2[*client.ParameterValue, error] {
		return c.Parameters(ctx, a.projectName, args[0])
	}, func(p *client.ParameterValue) string { return p.Name })
}

func (a *app) instanceNames(cmd *cobra.Command, args []string) []string {
	return named(a, cmd, func(ctx context.Context, c *client.Client) iter.Seq2[*orrery.Instance, error] {
		return c.Instances(ctx, a.projectName, args[0], client.ListOptions{})
	}, func(i *orrery.Instance) string { return i.Name })
}

func (a *app) jobIDs(cmd *cobra.Command, _ []string) []string {
	return named(a, cmd, func(ctx context.Context, c *client.Client) iter.Seq2[*orrery.Job, error] {
		return c.Jobs(ctx, client.ListOptions{Sort: "-created_at"})
	}, func(j *orrery.Job) string { return j.ID + "\t" + j.Kind + " " + j.ObjectName + ", " + string(j.State) })
}

func (a *app) hostNames(cmd *cobra.Command, _ []string) []string {
	return named(a, cmd, func(ctx context.Context, c *client.Client) iter.Seq2[*orrery.Host, error] {
		return c.Hosts(ctx, client.ListOptions{})
	}, func(h *orrery.Host) string { return h.Name })
}

func (a *app) planNames(cmd *cobra.Command, _ []string) []string {
	return named(a, cmd, func(ctx context.Context, c *client.Client) iter.Seq2[*orrery.Plan, error] { return c.Plans(ctx) },
		func(p *orrery.Plan) string { return p.Name })
}

func (a *app) engineNames(cmd *cobra.Command, _ []string) []string {
	return named(a, cmd, func(ctx context.Context, c *client.Client) iter.Seq2[*orrery.Engine, error] { return c.Engines(ctx) },
		func(e *orrery.Engine) string { return e.Name })
}

func (a *app) projectNames(cmd *cobra.Command, _ []string) []string {
	return named(a, cmd, func(ctx context.Context, c *client.Client) iter.Seq2[*orrery.Project, error] {
		return c.Projects(ctx, client.ListOptions{})
	}, func(p *orrery.Project) string { return p.Name })
}

func (a *app) tokenIDs(cmd *cobra.Command, _ []string) []string {
	return named(a, cmd, func(ctx context.Context, c *client.Client) iter.Seq2[*orrery.Token, error] { return c.Tokens(ctx) },
		func(t *orrery.Token) string { return t.ID + "\t" + t.Name })
}

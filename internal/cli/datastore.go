package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/spf13/cobra"
)

func (a *app) datastore() *cobra.Command {
	return holder("datastore", "Create, change and use databases", []string{"datastores", "ds"},
		a.datastoreCreate(), a.datastoreList(), a.datastoreShow(), a.datastoreUpdate(), a.datastoreScale(),
		a.datastoreAction("restart", "Restart the databases, one instance at a time, the primary last", "restarted"),
		a.datastoreAction("pause", "Stop the databases and keep their data", "paused"),
		a.datastoreAction("resume", "Start paused databases again", "resumed"),
		a.datastoreDelete(), a.datastoreConnect())
}

func (a *app) datastoreList() *cobra.Command {
	var engine, state, sort string
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the project's datastores",
		Example: `  orrery datastore list
  orrery datastore list --engine postgres --state degraded
  orrery datastore list --sort -created_at --output wide`,
		Args: args(), ValidArgsFunction: words(),
		RunE: a.run(func(ctx context.Context, c *client.Client, _ []string) error {
			all, err := client.Collect(c.Datastores(ctx, a.projectName, client.ListOptions{Sort: sort,
				Filter: map[string]string{"engine": engine, "state": state}}))
			if err != nil {
				return err
			}
			t := table{head: []string{"NAME", "STATE", "ENGINE", "PLAN", "READY", "+REPLICATION", "ENDPOINT", "AGE", "+ID"},
				empty: "No datastores. Create one with: orrery datastore create <name>"}
			for _, d := range all {
				t.add(d.Name, string(d.Status.State), d.Spec.Engine+" "+d.Spec.Version, d.Spec.Plan,
					fmt.Sprintf("%d/%d", d.Status.ReadyInstances, d.Spec.Instances), string(d.Spec.Replication),
					primaryAddress(d), age(a.Now(), d.CreatedAt), d.ID)
			}
			return a.showTable(all, t)
		}),
	}
	cmd.Flags().StringVar(&engine, "engine", "", "only those of this engine")
	cmd.Flags().StringVar(&state, "state", "", "only those in this state")
	cmd.Flags().StringVar(&sort, "sort", "", "name or created_at; with a leading - descending")
	a.complete(cmd, "engine", a.engineNames)
	a.complete(cmd, "state", fixed("creating", "available", "updating", "degraded", "unavailable", "paused", "deleting", "failed"))
	a.complete(cmd, "sort", fixed("name", "-name", "created_at", "-created_at"))
	return cmd
}

func primaryAddress(d *orrery.Datastore) string {
	for _, e := range d.Status.Endpoints {
		if e.Role == orrery.EndpointPrimary {
			return fmt.Sprintf("%s:%d", e.Address, e.Port)
		}
	}
	return ""
}

func (a *app) datastoreShow() *cobra.Command {
	return &cobra.Command{
		Use: "show <datastore>", Short: "Show a datastore and its instances",
		Example: `  orrery datastore show demo
  orrery datastore show demo --output json`,
		Args: args("the datastore"), ValidArgsFunction: words(a.datastoreNames),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			d, err := c.Datastore(ctx, a.projectName, args[0])
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(d)
			}
			members, err := client.Collect(c.Instances(ctx, a.projectName, d.ID, client.ListOptions{}))
			if err != nil {
				return err
			}
			t := instanceTable(members)
			a.say("%s\n%s", a.datastoreText(d, members), strings.TrimRight(t.render(a.flags.output == "wide"), "\n"))
			return nil
		}),
	}
}

// datastoreText is a datastore as people read it.
func (a *app) datastoreText(d *orrery.Datastore, members []*orrery.Instance) string {
	state := string(d.Status.State)
	if d.Status.Message != "" {
		state += ": " + d.Status.Message
	}
	primary := d.Status.Primary
	for _, m := range members {
		if m.ID == primary {
			primary = m.Name
		}
	}
	if at := primaryAddress(d); at != "" {
		primary += " at " + at
	}
	var users, databases, sources, parameters []string
	for _, u := range d.Spec.Users {
		users = append(users, fmt.Sprintf("%s (%s)", u.Name, u.Access))
	}
	for _, b := range d.Spec.Databases {
		databases = append(databases, b.Name)
	}
	for _, s := range d.Spec.TrustedSources {
		sources = append(sources, s.CIDR)
	}
	for _, k := range sortedKeys(d.Spec.Parameters) {
		parameters = append(parameters, k+"="+d.Spec.Parameters[k])
	}
	size := d.Spec.Plan
	if d.Spec.StorageGiB > 0 {
		size += fmt.Sprintf(", %d GiB each", d.Spec.StorageGiB)
	}
	return fields(
		"Name", d.Name,
		"ID", d.ID,
		"State", state,
		"Engine", d.Spec.Engine+" "+d.Spec.Version,
		"Plan", size,
		"Instances", fmt.Sprintf("%d of %d ready, %s replication", d.Status.ReadyInstances, d.Spec.Instances, d.Spec.Replication),
		"Primary", strings.TrimSpace(primary),
		"Users", strings.Join(users, ", "),
		"Databases", strings.Join(databases, ", "),
		"Trusted sources", strings.Join(sources, ", "),
		"Parameters", strings.Join(parameters, "\n"),
		"Protected", map[bool]string{true: "against deletion"}[d.Spec.DeletionProtection],
		"Created", age(a.Now(), d.CreatedAt)+" ago",
	)
}

func (a *app) datastoreUpdate() *cobra.Command {
	var w waiting
	var plan, version, replication string
	var storage int
	var protect bool
	cmd := &cobra.Command{
		Use: "update <datastore>", Short: "Change a datastore's plan, storage, replication or protection",
		Long: `Change a datastore. What a running database cannot take on is rolled out one instance at a time, the primary last.
A change that fails is taken back whole. Parameters have a verb of their own: orrery parameter.`,
		Example: `  orrery datastore update demo --plan large
  orrery datastore update demo --replication sync
  orrery datastore update demo --deletion-protection=false`,
		Args: args("the datastore"), ValidArgsFunction: words(a.datastoreNames),
	}
	f := cmd.Flags()
	f.StringVar(&plan, "plan", "", "size of each instance; see: orrery plan list")
	f.StringVar(&version, "version", "", "major version of the engine")
	f.IntVar(&storage, "storage", 0, "GiB of each instance's volume")
	f.StringVar(&replication, "replication", "", "async or sync")
	f.BoolVar(&protect, "deletion-protection", false, "refuse to delete it")
	w.flags(cmd)
	a.complete(cmd, "plan", a.planNames)
	a.complete(cmd, "replication", fixed("async", "sync"))
	cmd.RunE = a.run(func(ctx context.Context, c *client.Client, args []string) error {
		var p client.SpecPatch
		if f.Changed("plan") {
			p.Plan = &plan
		}
		if f.Changed("version") {
			p.Version = &version
		}
		if f.Changed("storage") {
			p.StorageGiB = &storage
		}
		if f.Changed("replication") {
			mode := orrery.ReplicationMode(replication)
			p.Replication = &mode
		}
		if f.Changed("deletion-protection") {
			p.DeletionProtection = &protect
		}
		if p == (client.SpecPatch{}) {
			return usageError(cmd, "nothing to change was given")
		}
		return a.patchDatastore(ctx, c, args[0], p, w, "updated "+args[0])
	})
	return cmd
}

func (a *app) datastoreScale() *cobra.Command {
	var w waiting
	var instances int
	cmd := &cobra.Command{
		Use: "scale <datastore> --instances <n>", Short: "Add or remove instances",
		Long: `Add or remove instances. New ones are cloned from the primary; when fewer are asked for, replicas go first and the
primary never does.`,
		Example: `  orrery datastore scale demo --instances 3`,
		Args:    args("the datastore"), ValidArgsFunction: words(a.datastoreNames),
	}
	cmd.Flags().IntVarP(&instances, "instances", "n", 0, "how many instances there are to be")
	w.flags(cmd)
	cmd.RunE = a.run(func(ctx context.Context, c *client.Client, args []string) error {
		if !cmd.Flags().Changed("instances") {
			return usageError(cmd, "--instances is missing")
		}
		return a.patchDatastore(ctx, c, args[0], client.SpecPatch{Instances: &instances}, w,
			fmt.Sprintf("scaled %s to %s", args[0], plural(instances, "instance")))
	})
	return cmd
}

func (a *app) patchDatastore(ctx context.Context, c *client.Client, name string, p client.SpecPatch, w waiting, done string) error {
	ch, err := c.UpdateDatastore(ctx, a.projectName, name, 0, client.DatastorePatch{Spec: &p})
	if err != nil {
		return err
	}
	return a.finish(ctx, w, ch, done, a.reread(ctx, c, ch))
}

// reread gets the datastore as it is after the job, for the output.
func (a *app) reread(ctx context.Context, c *client.Client, ch *client.Changed) func() error {
	return func() error {
		if ch.Datastore == nil || ch.Job == nil || !ch.Job.State.Final() {
			return nil
		}
		d, err := c.Datastore(ctx, a.projectName, ch.Datastore.ID)
		if err == nil {
			ch.Datastore = d
		}
		return err
	}
}

func (a *app) datastoreAction(action, short, done string) *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use: action + " <datastore>", Short: short,
		Long:    short + ".",
		Example: fmt.Sprintf("  orrery datastore %s demo\n  orrery datastore %s demo --no-wait", action, action),
		Args:    args("the datastore"), ValidArgsFunction: words(a.datastoreNames),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			ch, err := c.ActOnDatastore(ctx, a.projectName, args[0], action)
			if err != nil {
				return err
			}
			return a.finish(ctx, w, ch, done+" "+args[0], a.reread(ctx, c, ch))
		}),
	}
	w.flags(cmd)
	return cmd
}

func (a *app) datastoreDelete() *cobra.Command {
	var w waiting
	var yes bool
	cmd := &cobra.Command{
		Use: "delete <datastore>", Aliases: []string{"rm"}, Short: "Delete a datastore with all its data",
		Long: `Delete a datastore with all its data. On a terminal it asks for the name; elsewhere it wants --yes. A protected one is
refused until the protection is lifted.`,
		Example: `  orrery datastore delete demo
  orrery datastore delete demo --yes --no-wait`,
		Args: args("the datastore"), ValidArgsFunction: words(a.datastoreNames),
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	w.flags(cmd)
	cmd.RunE = a.run(func(ctx context.Context, c *client.Client, args []string) error {
		d, err := c.Datastore(ctx, a.projectName, args[0])
		if err != nil {
			return err
		}
		if err := a.confirm(cmd, yes, fmt.Sprintf("Deleting datastore %s and all its data", d.Name), d.Name); err != nil {
			return err
		}
		ch, err := c.DeleteDatastore(ctx, a.projectName, d.ID)
		if err != nil {
			return err
		}
		return a.finish(ctx, w, ch, "deleted "+d.Name, func() error { return forgetPassword(a.ConfigDir, d.ID, "") })
	})
	return cmd
}

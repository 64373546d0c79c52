package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/spf13/cobra"
)

func (a *app) host() *cobra.Command {
	return holder("host", "Machines that databases run on", []string{"hosts"}, a.hostList(), a.hostShow(),
		a.hostCordon("cordon", "Keep new instances away from a host", true),
		a.hostCordon("uncordon", "Let new instances come to a host again", false), a.hostJoinToken())
}

func (a *app) hostJoinToken() *cobra.Command {
	return &cobra.Command{
		Use: "join-token", Short: "Make a one-time token with which a machine joins",
		Example: "  orrery host join-token\n  orrery agent --server 10.0.0.5:7601 --join-token to-…   # on the new machine",
		Args:    args(), ValidArgsFunction: words(),
		RunE: a.run(func(ctx context.Context, c *client.Client, _ []string) error {
			t, err := c.CreateJoinToken(ctx)
			if err != nil {
				return err
			}
			return a.show(map[string]string{"token": t}, func() string { return t + "\n" })
		}),
	}
}

func (a *app) hostList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the hosts",
		Example: "  orrery host list --output wide",
		Args:    args(), ValidArgsFunction: words(),
		RunE: a.run(func(ctx context.Context, c *client.Client, _ []string) error {
			all, err := client.Collect(c.Hosts(ctx, client.ListOptions{}))
			if err != nil {
				return err
			}
			t := table{head: []string{"NAME", "STATE", "ADDRESS", "CPU", "MEMORY", "STORAGE", "ENGINES", "+LIMITS", "+AGENT", "+ID"},
				empty: "No hosts. A machine joins with a token of: orrery host join-token"}
			for _, h := range all {
				t.add(h.Name, hostState(h), h.Status.Address, cores(h.Status.Capacity.CPUMilli), mib(h.Status.Capacity.MemoryMiB),
					fmt.Sprintf("%d GiB", h.Status.Capacity.StorageGiB), enginesOf(h), h.Status.Limits, h.Status.AgentVersion, h.ID)
			}
			return a.showTable(all, t)
		}),
	}
}

func hostState(h *orrery.Host) string {
	state := "connected"
	if !h.Status.Connected {
		state = "away"
	}
	if h.Spec.Cordoned {
		state += ", cordoned"
	}
	return state
}

func enginesOf(h *orrery.Host) string {
	var names []string
	for _, e := range h.Status.Engines {
		names = append(names, e.Engine+" "+e.Version)
	}
	return strings.Join(names, ", ")
}

func (a *app) hostShow() *cobra.Command {
	return &cobra.Command{
		Use: "show <host>", Short: "Show a host",
		Example: "  orrery host show rack1-a",
		Args:    args("the host"), ValidArgsFunction: words(a.hostNames, nil),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			h, err := c.Host(ctx, args[0])
			if err != nil {
				return err
			}
			return a.show(h, func() string {
				return fields("Name", h.Name, "ID", h.ID, "State", hostState(h), "Message", h.Status.Message, "Pool", h.Spec.Pool,
					"Zone", h.Spec.Zone, "Address", h.Status.Address, "CPU", cores(h.Status.Capacity.CPUMilli)+" cores",
					"Memory", mib(h.Status.Capacity.MemoryMiB), "Storage", fmt.Sprintf("%d GiB", h.Status.Capacity.StorageGiB),
					"Hypervisor", h.Status.Hypervisor, "Limits", h.Status.Limits, "Engines", enginesOf(h),
					"Agent", h.Status.AgentVersion, "Unclaimed", strings.Join(h.Status.Unclaimed, "\n"),
					"Joined", age(a.Now(), h.Status.JoinedAt))
			})
		}),
	}
}

func (a *app) hostCordon(verb, short string, cordoned bool) *cobra.Command {
	return &cobra.Command{
		Use: verb + " <host>", Short: short,
		Long:    short + ". What runs there goes on.",
		Example: "  orrery host " + verb + " rack1-a",
		Args:    args("the host"), ValidArgsFunction: words(a.hostNames, nil),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			h, err := c.CordonHost(ctx, args[0], cordoned)
			if err != nil {
				return err
			}
			return a.show(h, func() string { return fmt.Sprintf("host %s is %s\n", args[0], hostState(h)) })
		}),
	}
}

func (a *app) instance() *cobra.Command {
	list := &cobra.Command{
		Use: "list <datastore>", Aliases: []string{"ls"}, Short: "List a datastore's instances",
		Example: "  orrery instance list demo --output wide",
		Args:    args("the datastore"), ValidArgsFunction: words(a.datastoreNames, nil),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			all, err := client.Collect(c.Instances(ctx, a.projectName, args[0], client.ListOptions{}))
			if err != nil {
				return err
			}
			return a.showTable(all, instanceTable(all))
		}),
	}
	show := &cobra.Command{
		Use: "show <datastore> <instance>", Short: "Show one instance",
		Example: "  orrery instance show demo demo-1",
		Args:    args("the datastore", "the instance"), ValidArgsFunction: words(a.datastoreNames, a.instanceNames, nil),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			i, err := c.Instance(ctx, a.projectName, args[0], args[1])
			if err != nil {
				return err
			}
			return a.show(i, func() string { return a.instanceText(i) })
		}),
	}
	return holder("instance", "The members of a datastore", []string{"instances"}, list, show)
}

func instanceTable(all []*orrery.Instance) table {
	t := table{head: []string{"INSTANCE", "ROLE", "DATABASE", "PLACE", "ADDRESS", "VERSION", "MESSAGE", "+PLAN", "+LIMITS", "+HOST", "+ID"},
		empty: "No instances."}
	for _, i := range all {
		db := i.Status.Database
		state := string(db.State)
		if db.Streaming {
			state += ", streaming"
		}
		message := db.Message
		if message == "" {
			message = i.Status.Place.Message
		}
		t.add(i.Name, string(roleOf(i)), state, string(i.Status.Place.State), instanceAddress(i), db.Version, oneLine(message),
			i.Spec.Plan, i.Status.Place.Limits, i.Spec.Host, i.ID)
	}
	return t
}

func roleOf(i *orrery.Instance) orrery.Role {
	if i.Status.Database.Role != "" {
		return i.Status.Database.Role
	}
	return i.Spec.Role
}

func instanceAddress(i *orrery.Instance) string {
	p := i.Status.Place
	if p.Port == 0 {
		return ""
	}
	return fmt.Sprintf("%s:%d", p.Address, p.Port)
}

func pid(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func (a *app) instanceText(i *orrery.Instance) string {
	p, db := i.Status.Place, i.Status.Database
	return fields("Name", i.Name, "ID", i.ID, "Role", string(roleOf(i)), "Host", i.Spec.Host, "Plan", i.Spec.Plan,
		"Address", instanceAddress(i), "Place", strings.TrimSpace(string(p.State)+" "+p.Message), "Limits", p.Limits,
		"Keeper", pid(p.KeeperPID), "Database", strings.TrimSpace(string(db.State)+" "+db.Message), "Version", db.Version,
		"Process", pid(db.PID), "Follows", db.Upstream, "Streaming", map[bool]string{true: "yes"}[db.Streaming],
		"Quorum", strings.Join(db.Sync, ", "), "Wants restart", strings.Join(db.PendingRestart, ", "),
		"Running for", ageOf(a.Now(), db.StartedAt))
}

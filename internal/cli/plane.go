package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/spf13/cobra"
)

func (a *app) engine() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the engines and versions that hosts have",
		Example: "  orrery engine list",
		Args:    args(), ValidArgsFunction: words(),
		RunE: a.run(func(ctx context.Context, c *client.Client, _ []string) error {
			all, err := client.Collect(c.Engines(ctx))
			if err != nil {
				return err
			}
			t := table{head: []string{"NAME", "TITLE", "VERSIONS", "DEFAULT", "REPLICATION", "+DATABASES"}, empty: "No engines."}
			for _, e := range all {
				var modes []string
				for _, m := range e.Replication {
					modes = append(modes, string(m))
				}
				t.add(e.Name, e.Title, strings.Join(e.Versions, ", "), e.Default, strings.Join(modes, ", "), yesNo(e.Databases))
			}
			return a.showTable(all, t)
		}),
	}
	return holder("engine", "Databases on offer", []string{"engines"}, list)
}

func (a *app) plan() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the sizes on offer",
		Example: "  orrery plan list",
		Args:    args(), ValidArgsFunction: words(),
		RunE: a.run(func(ctx context.Context, c *client.Client, _ []string) error {
			all, err := client.Collect(c.Plans(ctx))
			if err != nil {
				return err
			}
			slices.SortStableFunc(all, func(a, b *orrery.Plan) int { return int(a.MemoryMiB - b.MemoryMiB) })
			t := table{head: []string{"NAME", "CPU", "MEMORY", "STORAGE", "+ID"}, empty: "No plans."}
			for _, p := range all {
				t.add(p.Name, cores(p.CPUMilli), mib(p.MemoryMiB), fmt.Sprintf("%d GiB", p.StorageGiB), p.ID)
			}
			return a.showTable(all, t)
		}),
	}
	return holder("plan", "Sizes of instances", []string{"plans"}, list)
}

func (a *app) project() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the projects",
		Example: "  orrery project list",
		Args:    args(), ValidArgsFunction: words(),
		RunE: a.run(func(ctx context.Context, c *client.Client, _ []string) error {
			all, err := client.Collect(c.Projects(ctx, client.ListOptions{}))
			if err != nil {
				return err
			}
			t := table{head: []string{"NAME", "DESCRIPTION", "AGE", "+ID"}, empty: "No projects."}
			for _, p := range all {
				t.add(p.Name, p.Description, age(a.Now(), p.CreatedAt), p.ID)
			}
			return a.showTable(all, t)
		}),
	}
	var description string
	create := &cobra.Command{
		Use: "create <name>", Short: "Make a project",
		Example: `  orrery project create shop --description "the shop's databases"`,
		Args:    args("the name"), ValidArgsFunction: words(),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			p, err := c.CreateProject(ctx, args[0], description)
			if err != nil {
				return err
			}
			return a.show(p, func() string { return "created project " + p.Name + "\n" })
		}),
	}
	create.Flags().StringVar(&description, "description", "", "what it is for")
	var yes bool
	remove := &cobra.Command{
		Use: "delete <project>", Aliases: []string{"rm"}, Short: "Delete an empty project",
		Example: "  orrery project delete shop --yes",
		Args:    args("the project"), ValidArgsFunction: words(a.projectNames, nil),
	}
	remove.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	remove.RunE = a.run(func(ctx context.Context, c *client.Client, args []string) error {
		if err := a.confirm(remove, yes, "Deleting project "+args[0], args[0]); err != nil {
			return err
		}
		if err := c.DeleteProject(ctx, args[0]); err != nil {
			return err
		}
		return a.show(map[string]string{"deleted": args[0]}, func() string { return "deleted project " + args[0] + "\n" })
	})
	return holder("project", "Groups of datastores", []string{"projects"}, list, create, remove)
}

func (a *app) event() *cobra.Command {
	var limit int
	var follow bool
	list := &cobra.Command{
		Use: "list [datastore]", Aliases: []string{"ls"}, Short: "List what happened, the newest last",
		Long: "List what happened, to a datastore or on the whole plane, the newest last. With --follow it goes on as more happens.",
		Example: `  orrery event list
  orrery event list demo --limit 10
  orrery event list demo --follow`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: words(a.datastoreNames, nil),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			object := ""
			if len(args) > 0 {
				d, err := c.Datastore(ctx, a.projectName, args[0])
				if err != nil {
					return err
				}
				object = d.ID
			}
			if follow {
				return a.followEvents(ctx, c, object)
			}
			all := []*orrery.Event{}
			for e, err := range c.Events(ctx, client.ListOptions{PageSize: limit, Sort: "-created_at", Filter: map[string]string{"object": object}}) {
				if err != nil {
					return err
				}
				if all = append(all, e); len(all) == limit {
					break
				}
			}
			slices.Reverse(all)
			t := table{head: []string{"TIME", "SEVERITY", "OBJECT", "REASON", "MESSAGE", "+JOB"}, empty: "No events."}
			for _, e := range all {
				t.add(e.Time.Local().Format(time.DateTime), string(e.Severity), e.ObjectName, e.Reason, oneLine(e.Message), e.Job)
			}
			return a.showTable(all, t)
		}),
	}
	list.Flags().IntVar(&limit, "limit", 50, "at most so many; 0 for all")
	list.Flags().BoolVarP(&follow, "follow", "f", false, "go on as more happens")
	return holder("event", "What happened", []string{"events"}, list)
}

// followEvents prints events as they come, as lines or as one JSON object a line.
func (a *app) followEvents(ctx context.Context, c *client.Client, object string) error {
	seen := map[string]bool{} // a watch that begins anew tells again what is
	for ch, err := range c.WatchEvents(ctx, object) {
		if ctx.Err() != nil {
			return nil // Ctrl-C is how it is ended
		}
		if err != nil {
			return err
		}
		if ch.Type != client.ChangePut || seen[ch.Object.ID] {
			continue
		}
		seen[ch.Object.ID] = true
		if a.json() {
			if err := a.printJSON(ch.Object); err != nil {
				return err
			}
			continue
		}
		e := ch.Object
		a.say("%s  %-7s  %s  %s: %s", e.Time.Local().Format(time.DateTime), e.Severity, e.ObjectName, e.Reason, oneLine(e.Message))
	}
	return nil
}

func (a *app) token() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the tokens, without their secrets",
		Example: "  orrery token list",
		Args:    args(), ValidArgsFunction: words(),
		RunE: a.run(func(ctx context.Context, c *client.Client, _ []string) error {
			all, err := client.Collect(c.Tokens(ctx))
			if err != nil {
				return err
			}
			t := table{head: []string{"ID", "NAME", "ROLE", "STATE", "AGE"}, empty: "No tokens."}
			for _, k := range all {
				t.add(k.ID, k.Name, k.Role, tokenState(k, a.Now()), age(a.Now(), k.CreatedAt))
			}
			return a.showTable(all, t)
		}),
	}
	var role string
	var life time.Duration
	create := &cobra.Command{
		Use: "create <name>", Short: "Make a token and show its secret once",
		Example: `  orrery token create ci --expires 720h
  ORRERY_TOKEN=$(orrery token create ci --output json | jq -r .secret)`,
		Args: args("the name"), ValidArgsFunction: words(),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			n := client.NewToken{Name: args[0], Role: role}
			if life > 0 {
				at := a.Now().Add(life).UTC()
				n.ExpiresAt = &at
			}
			m, err := c.CreateToken(ctx, n)
			if err != nil {
				return err
			}
			return a.show(m, func() string {
				if m.Secret == "" {
					return m.Hint + "\n"
				}
				return fmt.Sprintf("%s\n\nThis is shown once. Use it with ORRERY_TOKEN or \"orrery login\".\n", m.Secret)
			})
		}),
	}
	create.Flags().StringVar(&role, "role", "", "what it may do (default what the plane gives)")
	create.Flags().DurationVar(&life, "expires", 0, "how long it is good, as in 720h (default for ever)")
	var yes bool
	revoke := &cobra.Command{
		Use: "revoke <token>", Aliases: []string{"delete", "rm"}, Short: "Make a token good for nothing",
		Example: "  orrery token revoke to-4q7x0m2c9b1d8k3f --yes",
		Args:    args("the token"), ValidArgsFunction: words(a.tokenIDs, nil),
	}
	revoke.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	revoke.RunE = a.run(func(ctx context.Context, c *client.Client, args []string) error {
		if err := a.confirm(revoke, yes, "Revoking token "+args[0], args[0]); err != nil {
			return err
		}
		if err := c.RevokeToken(ctx, args[0]); err != nil {
			return err
		}
		return a.show(map[string]string{"revoked": args[0]}, func() string { return "revoked token " + args[0] + "\n" })
	})
	return holder("token", "Tokens that let people and programs in", []string{"tokens"}, list, create, revoke)
}

func tokenState(t *orrery.Token, now time.Time) string {
	switch {
	case t.RevokedAt != nil:
		return "revoked"
	case t.ExpiresAt != nil && !now.Before(*t.ExpiresAt):
		return "expired"
	case t.ExpiresAt != nil:
		return "expires in " + age(*t.ExpiresAt, now)
	}
	return "valid"
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Tell the version of this program and of the plane",
		Example: "  orrery version --output json",
		Args:    args(), ValidArgsFunction: words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := struct {
				Client string `json:"client"`
				Server string `json:"server,omitempty"`
				Error  string `json:"error,omitempty"`
			}{Client: a.Version}
			ctx, cancel := context.WithTimeout(cmd.Context(), 3*time.Second)
			defer cancel()
			if c, err := a.connect(); err != nil {
				v.Error = message(err)
			} else if s, err := c.Status(ctx); err != nil {
				v.Error = message(err)
			} else {
				v.Server = s.Version
			}
			return a.show(v, func() string {
				return fields("orrery", v.Client, "plane", v.Server, "plane:", v.Error)
			})
		},
	}
}

func (a *app) status() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Tell whether the plane works, and what it holds",
		Long:    "Tell whether the plane can be reached and works, and what it holds. The exit code is 7 where it cannot be reached.",
		Example: "  orrery status\n  orrery status --output json",
		Args:    args(), ValidArgsFunction: words(),
		RunE: a.run(func(ctx context.Context, c *client.Client, _ []string) error {
			status, err := c.Status(ctx)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(status)
			}
			hosts, err := client.Collect(c.Hosts(ctx, client.ListOptions{}))
			if err != nil {
				return err
			}
			stores, err := client.Collect(c.Datastores(ctx, a.projectName, client.ListOptions{}))
			if err != nil && orrery.KindOf(err) != orrery.KindNotFound {
				return err
			}
			running, err := client.Collect(c.Jobs(ctx, client.ListOptions{Filter: map[string]string{"state": string(orrery.JobRunning)}}))
			if err != nil {
				return err
			}
			stuck, err := client.Collect(c.Jobs(ctx, client.ListOptions{Filter: map[string]string{"state": string(orrery.JobStuck)}}))
			if err != nil {
				return err
			}
			a.say("%s", strings.TrimRight(statusText(c.Server(), status, hosts, stores, running, stuck), "\n"))
			return nil
		}),
	}
}

// statusText is the plane as people read it.
func statusText(server string, status *client.Status, hosts []*orrery.Host, stores []*orrery.Datastore, running, stuck []*orrery.Job) string {
	away := 0
	for _, h := range hosts {
		if !h.Status.Connected {
			away++
		}
	}
	hostText := fmt.Sprint(len(hosts))
	if away > 0 {
		hostText += fmt.Sprintf(", %d away", away)
	}
	states := map[string]int{}
	for _, d := range stores {
		states[string(d.Status.State)]++
	}
	var parts []string
	for _, s := range sortedKeys(states) {
		parts = append(parts, fmt.Sprintf("%d %s", states[s], s))
	}
	jobs := fmt.Sprintf("%d running", len(running))
	if len(stuck) > 0 {
		jobs += fmt.Sprintf(", %d stuck; see: orrery job list --state stuck", len(stuck))
	}
	refuses := ""
	if !status.Writable {
		refuses = strings.TrimSpace(or(status.Message, "yes") + "\n" + status.Hint)
	}
	text := fields("Plane", server, "Server", status.Server, "Version", status.Version, "Hosts", hostText, "Datastores", or(strings.Join(parts, ", "), "none"),
		"Jobs", jobs, "Refuses changes", refuses)
	if len(stores) == 0 {
		return text
	}
	t := table{head: []string{"DATASTORE", "STATE", "ENGINE", "READY", "ENDPOINT"}}
	for _, d := range stores[:min(len(stores), 20)] {
		t.add(d.Name, string(d.Status.State), d.Spec.Engine+" "+d.Spec.Version,
			fmt.Sprintf("%d/%d", d.Status.ReadyInstances, d.Spec.Instances), primaryAddress(d))
	}
	text += "\n" + t.render(false)
	if more := len(stores) - 20; more > 0 {
		text += fmt.Sprintf("… and %d more; see: orrery datastore list\n", more)
	}
	return text
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (a *app) login() *cobra.Command {
	return &cobra.Command{
		Use: "login", Short: "Remember which plane to talk to, and as whom",
		Long: `Check a server's address and token and remember them, with the CA certificate and the project if they are given. The
token is read from --token, ORRERY_TOKEN or standard input. "orrery up" does this by itself for the plane it starts.`,
		Example: `  orrery login --server https://plane.example.net:7600 --ca plane.pem < token
  ORRERY_TOKEN=orr_… orrery login --server https://10.1.2.3:7600 --ca plane.pem`,
		Args: args(), ValidArgsFunction: words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.settings()
			if err != nil {
				return err
			}
			if s.Server == "" {
				return usageError(cmd, "--server is missing")
			}
			if s.Token == "" {
				if s.Token, err = a.askToken(); err != nil {
					return err
				}
			}
			c, err := client.New(client.Config{Server: s.Server, Token: s.Token, CA: []byte(s.CA), UserAgent: "orrery/" + a.Version, Patience: 3 * time.Second})
			if err != nil {
				return err
			}
			if _, err := c.Status(cmd.Context()); err != nil {
				if e, ok := errors.AsType[*orrery.Error](err); ok && e.Code == "certificate_unknown" {
					e.Hint = "Give the plane's CA certificate with --ca."
				}
				return err
			}
			if s.Project == "default" {
				s.Project = ""
			}
			if err := SaveContext(a.ConfigDir, s); err != nil {
				return err
			}
			a.say("logged in to %s", s.Server)
			return nil
		},
	}
}

func (a *app) askToken() (string, error) {
	if _, ok := terminal(a.Err, a.Getenv); ok {
		fmt.Fprint(a.Err, "Token: ")
	}
	token, err := readSecret(a.In)
	if ok := err == nil && token != ""; !ok {
		return "", errors.Join(orrery.Invalid("token", "no token was given").WithHint("Put it in ORRERY_TOKEN or on standard input."), err)
	}
	return token, nil
}

func (a *app) context() *cobra.Command {
	return &cobra.Command{
		Use: "context", Short: "Tell which plane commands go to, and where that is said",
		Example: "  orrery context",
		Args:    args(), ValidArgsFunction: words(),
		RunE: func(*cobra.Command, []string) error {
			s, err := a.settings()
			if err != nil {
				return err
			}
			v := struct {
				Server  string `json:"server"`
				Project string `json:"project"`
				Token   string `json:"token"` // its public part only
				CA      bool   `json:"ca"`
				File    string `json:"file"`
			}{s.Server, s.Project, tokenID(s.Token), s.CA != "", ContextFile(a.ConfigDir)}
			return a.show(v, func() string {
				return fields("Server", or(v.Server, "none; see: orrery login --help"), "Project", v.Project, "Token", or(v.Token, "none"),
					"CA", map[bool]string{true: "its own", false: "the system's"}[v.CA], "File", v.File)
			})
		},
	}
}

// tokenID is the part of a token that may be shown.
func tokenID(token string) string {
	if i := strings.LastIndexByte(token, '_'); i > 0 {
		return token[:i] + "_…"
	}
	if token != "" {
		return "…"
	}
	return ""
}

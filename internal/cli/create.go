package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/spf13/cobra"
)

// newDatastore are the flags of "datastore create".
type newDatastore struct {
	w            waiting
	spec         orrery.DatastoreSpec
	replication  string
	parameters   []string
	users        []string
	databases    []string
	sources      []string
	labels       map[string]string
	passwordFile string
	noSave       bool
	ifMissing    bool
}

func (a *app) datastoreCreate() *cobra.Command {
	var n newDatastore
	cmd := &cobra.Command{
		Use: "create <name>", Short: "Create a datastore",
		Long: `Create a datastore and wait until it takes connections. What is not given is chosen by the plane: the engine's newest
version, the smallest plan, one instance, one user and, for engines that have them, one database.
The password is shown once, and kept in ~/.config/orrery/credentials for "datastore connect".`,
		Example: `  orrery datastore create demo
  orrery datastore create shop --instances 3 --replication sync --plan medium
  orrery datastore create cache --engine valkey
  orrery datastore create shop --user app --user report:readonly --database shop --trusted-source 10.0.0.0/8
  orrery datastore create shop --parameter work_mem=16MB --no-wait --output json`,
		Args: args("the name"), ValidArgsFunction: words(),
	}
	f := cmd.Flags()
	f.StringVarP(&n.spec.Engine, "engine", "e", "postgres", "database engine; see: orrery engine list")
	f.StringVar(&n.spec.Version, "version", "", "major version (default the newest)")
	f.StringVarP(&n.spec.Plan, "plan", "p", "", "size of each instance; see: orrery plan list")
	f.IntVar(&n.spec.StorageGiB, "storage", 0, "GiB of each instance's volume (default the plan's)")
	f.StringVar(&n.spec.Region, "region", "", "where it is to live")
	f.IntVarP(&n.spec.Instances, "instances", "n", 1, "how many: one primary, the others replicas")
	f.StringVar(&n.replication, "replication", "", "async, or sync: a commit waits for a quorum of replicas (default async)")
	f.StringArrayVar(&n.parameters, "parameter", nil, "setting of the engine, as name=value; may be repeated")
	f.StringArrayVar(&n.users, "user", nil, "user, as name or name:access (admin, readwrite, readonly); may be repeated")
	f.StringArrayVar(&n.databases, "database", nil, "database to make; may be repeated")
	f.StringArrayVar(&n.sources, "trusted-source", nil, "network from which clients may connect, as in 10.0.0.0/8; may be repeated")
	f.StringToStringVar(&n.labels, "label", nil, "label, as name=value; may be repeated")
	f.BoolVar(&n.spec.DeletionProtection, "deletion-protection", false, "refuse to delete it until this is lifted")
	f.StringVar(&n.passwordFile, "password-file", "", "file with the first user's password, - for standard input (default: the plane makes one)")
	f.BoolVar(&n.noSave, "no-save-password", false, "do not keep the password for \"datastore connect\"")
	f.BoolVar(&n.ifMissing, "if-missing", false, "succeed without change where one of that name exists")
	n.w.flags(cmd)
	a.complete(cmd, "engine", a.engineNames)
	a.complete(cmd, "plan", a.planNames)
	a.complete(cmd, "replication", fixed("async", "sync"))
	cmd.RunE = a.run(func(ctx context.Context, c *client.Client, args []string) error {
		body, err := n.body(cmd, args[0], a.In)
		if err != nil {
			return err
		}
		return a.create(ctx, c, n, body)
	})
	return cmd
}

// body is what the flags ask for.
func (n *newDatastore) body(cmd *cobra.Command, name string, stdin io.Reader) (client.NewDatastore, error) {
	b := client.NewDatastore{Name: name, Labels: n.labels, Spec: n.spec}
	b.Spec.Replication = orrery.ReplicationMode(n.replication)
	values, err := pairs(cmd, n.parameters)
	if err != nil {
		return b, err
	}
	if len(values) > 0 {
		b.Spec.Parameters = values
	}
	for i, u := range n.users {
		name, access, _ := strings.Cut(u, ":")
		switch {
		case access == "" && i == 0:
			access = string(orrery.AccessAdmin)
		case access == "":
			access = string(orrery.AccessReadWrite)
		}
		b.Spec.Users = append(b.Spec.Users, orrery.User{Name: name, Access: orrery.Access(access)})
	}
	for _, d := range n.databases {
		b.Spec.Databases = append(b.Spec.Databases, orrery.Database{Name: d})
	}
	for _, s := range n.sources {
		b.Spec.TrustedSources = append(b.Spec.TrustedSources, orrery.TrustedSource{CIDR: s})
	}
	b.Password, err = readPassword(n.passwordFile, stdin)
	return b, err
}

// readPassword reads a password from a file; "-" is stdin, "" is none.
func readPassword(file string, stdin io.Reader) (string, error) {
	var data []byte
	var err error
	switch file {
	case "":
		return "", nil
	case "-":
		data, err = io.ReadAll(io.LimitReader(stdin, 4096))
	default:
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	password := strings.TrimRight(string(data), "\r\n")
	if password == "" {
		return "", orrery.Invalid("password", "the password is empty")
	}
	return password, nil
}

// pairs parses name=value words.
func pairs(cmd *cobra.Command, words []string) (map[string]string, error) {
	m := map[string]string{}
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok || k == "" {
			return nil, usageError(cmd, "%q is not of the form name=value", w)
		}
		m[k] = v
	}
	return m, nil
}

func (a *app) create(ctx context.Context, c *client.Client, n newDatastore, body client.NewDatastore) error {
	if n.ifMissing {
		d, err := c.Datastore(ctx, a.projectName, body.Name)
		if err == nil {
			return a.show(&client.Changed{Datastore: d}, func() string {
				return fmt.Sprintf("datastore %s exists already and is %s\n", d.Name, d.Status.State)
			})
		}
		if orrery.KindOf(err) != orrery.KindNotFound {
			return err
		}
	}
	ch, err := c.CreateDatastore(ctx, a.projectName, body)
	if err != nil {
		return err
	}
	// Kept before the wait: whoever detaches has it all the same. The server gives it this once.
	if cr := ch.Credentials; cr != nil && cr.Password != "" && !n.noSave && ch.Datastore != nil {
		if err := savePassword(a.ConfigDir, ch.Datastore, cr.Username, cr.Password); err != nil {
			fmt.Fprintf(a.Err, "warning: the password was not saved: %s\n", err)
		}
	}
	err = a.finish(ctx, n.w, ch, "created "+body.Name, a.reread(ctx, c, ch))
	if failed := errors.As(err, new(*client.JobFailed)); failed && ch.Datastore != nil {
		return errors.Join(err, forgetPassword(a.ConfigDir, ch.Datastore.ID, ""))
	}
	if a.json() {
		if errors.As(err, new(*detached)) {
			return errors.Join(err, a.printJSON(ch)) // it holds the password
		}
		return err
	}
	if err != nil || ch.Datastore == nil || (ch.Job != nil && !ch.Job.State.Final()) {
		a.tellPassword(ch.Credentials)
		return err
	}
	info, err := c.Connection(ctx, a.projectName, ch.Datastore.ID, "", "")
	if err != nil {
		a.tellPassword(ch.Credentials)
		return err
	}
	caFile, err := saveCA(a.ConfigDir, ch.Datastore.ID, info.CA)
	if err != nil {
		return err
	}
	fmt.Fprint(a.Out, createdText(ch, info, caFile, n.noSave))
	return nil
}

// tellPassword is for a create that is not waited for: the password is shown now or never.
func (a *app) tellPassword(cr *client.Credentials) {
	switch {
	case cr == nil:
	case cr.Password == "":
		a.say("user %s. %s", cr.Username, cr.Hint)
	default:
		a.say("user %s, password %s (shown this once)", cr.Username, cr.Password)
	}
}

// createdText is what a new datastore's owner wants to know.
func createdText(ch *client.Changed, info *orrery.ConnectionInfo, caFile string, noSave bool) string {
	name := ch.Datastore.Name
	var b strings.Builder
	password := "{password}"
	if cr := ch.Credentials; cr != nil {
		shown := cr.Hint
		if cr.Password != "" {
			password, shown = cr.Password, cr.Password+"  (shown this once)"
		}
		b.WriteString("\n" + fields("User", cr.Username, "Password", shown, "Database", info.Database, "CA", caFile))
	}
	b.WriteString("\nConnect with:\n")
	for _, s := range info.Strings {
		if s.Name == "cli" {
			continue // "datastore connect" does it better
		}
		fmt.Fprintf(&b, "  %-10s  %s\n", s.Name, fill(s.Text, password, caFile))
	}
	next := []string{"orrery datastore connect " + name, "orrery datastore show " + name}
	if ch.Datastore.Spec.Instances < 2 {
		next = append(next, "orrery datastore scale "+name+" --instances 2")
	} else {
		next = append(next, "orrery parameter list "+name)
	}
	b.WriteString("\nTry next:\n")
	for _, n := range next {
		fmt.Fprintf(&b, "  %s\n", n)
	}
	if !noSave && password != "{password}" {
		b.WriteString("\nThe password is kept for \"datastore connect\" in your configuration folder.\n")
	}
	return b.String()
}

// fill puts a password and a CA file into a connection string; into a URL in its escaped form.
func fill(text, password, caFile string) string {
	if password != "{password}" && strings.Contains(text, "://") {
		password = strings.ReplaceAll(url.QueryEscape(password), "+", "%20")
	}
	return strings.NewReplacer("{password}", password, "{ca}", caFile).Replace(text)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

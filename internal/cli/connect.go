package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"strings"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/spf13/cobra"
)

// Program is a database's own client program, ready to start.
type Program struct {
	// Names to look for, the preferred first.
	Names []string
	Args  []string
	Env   []string // beside the process's own
	Stdin io.Reader
	Out   io.Writer
	Err   io.Writer
	// Install says how to get it where it is missing.
	Install string
}

// connection are the flags of "datastore connect".
type connection struct {
	user, database, password, statement string
	readOnly                            bool
}

func (a *app) datastoreConnect() *cobra.Command {
	var n connection
	cmd := &cobra.Command{
		Use: "connect <datastore> [-- arguments of the program]", Short: "Open psql or valkey-cli, or run one statement",
		Long: `Open the database's own client program (psql; valkey-cli or redis-cli), with the server's certificate verified, or run
one statement. The password is that of --password, of ORRERY_DB_PASSWORD, PGPASSWORD or REDISCLI_AUTH, or the one
that "datastore create" kept. The program's exit code is the command's.`,
		Example: `  orrery datastore connect demo
  orrery datastore connect demo -c 'select version()'
  orrery datastore connect demo --user report --read-only
  orrery datastore connect demo -- --csv -c 'select 1'`,
		Args: args("the datastore", "arguments of the program..."), ValidArgsFunction: words(a.datastoreNames, nil),
	}
	cmd.Args = func(cmd *cobra.Command, got []string) error {
		if dash := cmd.ArgsLenAtDash(); dash >= 0 {
			got = got[:dash]
		}
		return args("the datastore")(cmd, got)
	}
	f := cmd.Flags()
	f.StringVarP(&n.user, "user", "u", "", "user of the database (default the one whose password was kept, or the first)")
	f.StringVarP(&n.database, "database", "d", "", "database to open (default the first)")
	f.StringVar(&n.password, "password", "", "password; others on this machine may see it here")
	f.StringVarP(&n.statement, "command", "c", "", "run this one statement and end")
	f.BoolVar(&n.readOnly, "read-only", false, "connect to a replica")
	inside := func(names namer) namer {
		return func(cmd *cobra.Command, args []string) []string {
			if len(args) == 0 {
				return nil
			}
			return names(cmd, args)
		}
	}
	a.complete(cmd, "user", inside(a.userNames))
	a.complete(cmd, "database", inside(a.databaseNames))
	cmd.RunE = a.run(func(ctx context.Context, c *client.Client, args []string) error {
		p, err := a.program(ctx, c, args[0], n)
		if err != nil {
			return err
		}
		p.Args = append(p.Args, args[1:]...)
		return a.Start(ctx, p)
	})
	return cmd
}

// program finds out how to connect and puts the client program together.
func (a *app) program(ctx context.Context, c *client.Client, name string, n connection) (Program, error) {
	var p Program
	d, err := c.Datastore(ctx, a.projectName, name)
	if err != nil {
		return p, err
	}
	saved, err := loadCredentials(a.ConfigDir, d.ID)
	if err != nil {
		return p, err
	}
	info, err := c.Connection(ctx, a.projectName, d.ID, cmp.Or(n.user, saved.User), n.database)
	if err != nil {
		return p, err
	}
	want := "primary"
	if n.readOnly {
		want = "read_only"
	}
	text := ""
	for _, s := range info.Strings {
		if s.Name == want {
			text = s.Text
		}
	}
	if text == "" {
		return p, orrery.Errorf(orrery.KindConflict, "%s has no %s address now", d.Name, strings.ReplaceAll(want, "_", "-")).
			WithHint("See its state with: orrery datastore show %s", d.Name)
	}
	caFile, err := saveCA(a.ConfigDir, d.ID, info.CA)
	if err != nil {
		return p, err
	}
	password := cmp.Or(n.password, a.Getenv("ORRERY_DB_PASSWORD"), a.Getenv("PGPASSWORD"), a.Getenv("REDISCLI_AUTH"), saved.Passwords[info.User])
	_, terminal := terminal(a.Out, a.Getenv)
	if password == "" && (!terminal || n.statement != "") {
		return p, orrery.Errorf(orrery.KindInvalid, "the password of user %s is not known here", info.User).
			WithHint("Put it in ORRERY_DB_PASSWORD, or make a new one with: orrery user reset-password %s %s", d.Name, info.User)
	}
	p, err = programFor(text, caFile, password, n.statement)
	if err != nil {
		return p, err
	}
	p.Out, p.Err = a.Out, a.Err
	if p.Stdin == nil {
		p.Stdin = a.In
	}
	return p, nil
}

// programFor makes the program for a connection string. The password goes through the environment, for arguments can
// be seen by everybody on the machine; without one the program asks for it.
func programFor(text, caFile, password, statement string) (Program, error) {
	scheme, _, _ := strings.Cut(text, "://")
	dsn := strings.NewReplacer(":{password}@", "@", "{ca}", caFile).Replace(text)
	var p Program
	switch scheme {
	case "postgres", "postgresql":
		p.Names, p.Install = []string{"psql"}, "Install PostgreSQL's client; on Debian: apt-get install postgresql-client"
		p.Args = []string{dsn}
		if statement != "" {
			p.Args = append(p.Args, "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--command", statement)
		}
		if password != "" {
			p.Env = append(p.Env, "PGPASSWORD="+password)
		}
	case "redis", "rediss", "valkey", "valkeys":
		u, err := url.Parse(dsn)
		if err != nil {
			return p, orrery.Errorf(orrery.KindInternal, "the connection string cannot be read").WithCause(err)
		}
		p.Names, p.Install = []string{"valkey-cli", "redis-cli"}, "Install it; on Debian: apt-get install valkey-tools or redis-tools"
		p.Args = []string{"-h", u.Hostname(), "-p", cmp.Or(u.Port(), "6379")}
		if u.User.Username() != "" {
			p.Args = append(p.Args, "--user", u.User.Username())
		}
		if scheme == "rediss" || scheme == "valkeys" {
			p.Args = append(p.Args, "--tls", "--cacert", caFile)
		}
		if password != "" {
			p.Env = append(p.Env, "REDISCLI_AUTH="+password, "VALKEYCLI_AUTH="+password)
		} else {
			p.Args = append(p.Args, "--askpass")
		}
		if statement != "" {
			p.Args = append(p.Args, "-e") // exit code tells a failed command
			p.Stdin = strings.NewReader(statement + "\n")
		}
	default:
		return p, orrery.Errorf(orrery.KindInvalid, "there is no client program known for %q", scheme).
			WithHint("Its connection strings: orrery datastore show --output json")
	}
	return p, nil
}

// startProgram runs p as the terminal's foreground program: Ctrl-C is for it to handle, and not for us.
func startProgram(ctx context.Context, p Program) error {
	file := ""
	for _, name := range p.Names {
		if found, err := exec.LookPath(name); err == nil {
			file = found
			break
		}
	}
	if file == "" {
		return orrery.Errorf(orrery.KindUnavailable, "%s is not installed here", strings.Join(p.Names, " or ")).
			WithCode("program_missing").WithHint("%s", p.Install)
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), file, p.Args...)
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Stdin, p.Out, p.Err
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return &programExit{code: max(exit.ExitCode(), 1)}
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", file, err)
	}
	return nil
}

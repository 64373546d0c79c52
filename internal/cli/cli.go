// Package cli is the command line of Orrery's users: every verb that works through the REST API. It owns how people and
// scripts talk to the plane: finding it, showing objects as tables or JSON, following jobs live on a terminal and line
// by line in a pipe, errors that say what to do, and the exit codes.
//
// It uses package client and nothing else of Orrery, so that it can do exactly what any user of the API can do. The
// verbs that run the plane itself are added to its root command by cmd/orrery.
package cli

import (
	"context"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
)

// Config is what the command line lives with.
type Config struct {
	// Version of the program.
	Version string
	In      io.Reader
	Out     io.Writer
	Err     io.Writer
	Getenv  func(string) string
	// ConfigDir holds the context file, credentials and CA certificates.
	ConfigDir string
	Now       func() time.Time
	// Start runs a database's own client program.
	Start func(ctx context.Context, p Program) error
}

// SystemConfig is the Config of a real process.
func SystemConfig(version string) Config {
	return Config{Version: version, In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv,
		ConfigDir: DefaultConfigDir(), Now: time.Now, Start: startProgram}
}

// DefaultConfigDir is ~/.config/orrery, or the same below XDG_CONFIG_HOME.
func DefaultConfigDir() string {
	dir, err := os.UserConfigDir()
	if err != nil { // no HOME, as in a service
		dir = ".config"
		if u, err := user.Current(); err == nil {
			dir = filepath.Join(u.HomeDir, dir)
		}
	}
	return filepath.Join(dir, "orrery")
}

// Groups of commands in the help of the root command.
const (
	GroupData  = "data"
	GroupPlane = "plane"
	GroupHost  = "host" // for the commands that run the plane on this machine
)

// New makes the root command with every verb of this package.
func New(cfg Config) *cobra.Command {
	a := &app{Config: cfg}
	root := &cobra.Command{
		Use:   "orrery",
		Short: "Databases as a service, on your own machines",
		Long: `Orrery runs replicated, encrypted databases on machines that you already have.
Start a plane here with "orrery up", then ask it for databases.

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 not found; 4 conflict with the present state; 5 not allowed;
6 the job failed; 7 the plane cannot be reached or is not available; 130 detached with Ctrl-C.`,
		Example: `  orrery up
  orrery datastore create shop --instances 2
  orrery datastore connect shop
  orrery datastore list --output json`,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          group,
		Args:          cobra.ArbitraryArgs,
	}
	root.SetIn(cfg.In)
	root.SetOut(cfg.Out)
	root.SetErr(cfg.Err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError(cmd, "%s", err) })
	root.AddGroup(&cobra.Group{ID: GroupHost, Title: "This machine:"}, &cobra.Group{ID: GroupData, Title: "Databases:"},
		&cobra.Group{ID: GroupPlane, Title: "The plane:"})
	root.SetCompletionCommandGroupID(GroupPlane)
	root.SetHelpCommandGroupID(GroupPlane)
	a.globalFlags(root)
	for _, cmd := range []*cobra.Command{a.datastore(), a.user(), a.database(), a.parameter(), a.trustedSource(), a.instance()} {
		cmd.GroupID = GroupData
		root.AddCommand(cmd)
	}
	for _, cmd := range []*cobra.Command{a.status(), a.job(), a.event(), a.host(), a.engine(), a.plan(), a.project(),
		a.token(), a.login(), a.context(), a.version()} {
		cmd.GroupID = GroupPlane
		root.AddCommand(cmd)
	}
	return root
}

// group is the RunE of commands that only hold others: alone it shows what there is, and a wrong word is told apart
// from it, with what it may have meant.
func group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	cmd.SuggestionsMinimumDistance = 2
	err := usageError(cmd, "there is no command %q", cmd.CommandPath()+" "+args[0])
	if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		err.hint = "Did you mean " + quotedOr(s) + "?"
	}
	return err
}

// holder makes a command that only holds others.
func holder(use, short string, aliases []string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Aliases: aliases, RunE: group, Args: cobra.ArbitraryArgs}
	cmd.AddCommand(children...)
	return cmd
}

// args checks the number of positional arguments: names are what to call them in a message. A last name ending in
// "..." stands for one or more.
func args(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, got []string) error {
		many := len(names) > 0 && len(names[len(names)-1]) > 3 && names[len(names)-1][len(names[len(names)-1])-3:] == "..."
		switch {
		case len(got) < len(names):
			return usageError(cmd, "%s is missing", names[len(got)])
		case len(got) > len(names) && !many:
			return usageError(cmd, "%q is one argument too many", got[len(names)])
		}
		return nil
	}
}

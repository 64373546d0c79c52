package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/cli"
)

func upCommand(system cli.Config) *cobra.Command {
	var common commonFlags
	var f serverFlags
	var a agentFlags
	var foreground, demo bool
	cmd := &cobra.Command{
		Use: "up", Short: "Start a plane on this machine", Args: cobra.NoArgs, GroupID: cli.GroupHost,
		Long: `Start a plane on this machine, server and agent in one process, in the background. Everything it needs is
embedded; what it keeps is in one folder. A plane that runs already is left as it is.
The command line finds it from then on by itself.`,
		Example: `  orrery up
  orrery up --demo                        # with a first datastore, demo, of two instances
  orrery up --foreground --log-level debug
  orrery up --api-listen :7600 --advertise-address 192.168.1.10 --session-listen :7601`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := common.paths()
			if foreground {
				ctx, stop := signals(cmd.Context())
				defer stop()
				return runPlane(ctx, f, a, p, common)
			}
			return up(cmd, system, p, demo)
		},
	}
	common.add(cmd.Flags())
	f.add(cmd.Flags())
	a.add(cmd.Flags())
	cmd.Flags().BoolVar(&foreground, "foreground", false, "stay in the foreground and log to the terminal")
	cmd.Flags().BoolVar(&demo, "demo", false, "make a first datastore, demo, where there is none")
	return cmd
}

// up starts the plane in the background with the flags of this very command, unless it runs.
func up(cmd *cobra.Command, system cli.Config, p paths, demo bool) error {
	ctx := cmd.Context()
	out := cmd.OutOrStdout()
	begin := time.Now()
	lock, holder, err := takeLock(p.lock())
	if err != nil {
		return err
	}
	if lock == nil {
		fmt.Fprintf(out, "The plane runs already (process %d).\n", holder)
	} else {
		lock.release()
		args := append([]string{"up", "--foreground"}, backgroundArgs(os.Args[1:])...)
		if err := spawn(ctx, p.log(), args...); err != nil {
			return orrery.Errorf(orrery.KindUnavailable, "the plane did not start: %v", err).WithHint("Its log is %s.", p.log())
		}
		fmt.Fprintf(out, "The plane is up, in %s.\n", time.Since(begin).Round(10*time.Millisecond))
	}
	c, err := cli.LoadContext(p.server())
	if err != nil {
		return err
	}
	if err := cli.SaveContext(system.ConfigDir, c); err != nil {
		return err
	}
	if demo {
		if err := makeDemo(ctx, system); err != nil {
			return err
		}
	}
	return tellUp(ctx, out, c, p, system, demo)
}

// backgroundArgs are this command's flags without its name and what only the foreground needs.
func backgroundArgs(args []string) []string {
	var out []string
	for _, a := range args {
		switch {
		case a == "up", a == "--demo", strings.HasPrefix(a, "--demo="), strings.HasPrefix(a, "--foreground"):
		default:
			out = append(out, a)
		}
	}
	return out
}

// makeDemo makes the first datastore as a user would, with the command that a user would type. One that is there stays
// as it is.
func makeDemo(ctx context.Context, system cli.Config) error {
	root := cli.New(system)
	if code := cli.Execute(ctx, root, []string{"datastore", "create", demoName, "--instances", "2", "--if-missing"}); code != 0 {
		return orrery.Errorf(orrery.KindUnavailable, "the datastore %s could not be made; what went wrong is said above", demoName).
			WithHint("Try again with: orrery datastore create %s --instances 2", demoName)
	}
	return nil
}

const demoName = "demo"

// tellUp says where the plane is, how to get in, and what to do next.
func tellUp(ctx context.Context, out io.Writer, c cli.Context, p paths, system cli.Config, demo bool) error {
	fmt.Fprintf(out, `
Orrery    %s
docs      %s/docs
login     your command line is logged in (%s)
          the administrator's token is in %s
data      %s
log       %s
`, c.Server, c.Server, cli.ContextFile(system.ConfigDir), p.adminToken(), p.root, p.log())
	if !demo {
		fmt.Fprint(out, "\nNext:\n  orrery datastore create demo --instances 2\n")
		return nil
	}
	line, err := cli.ShellLine(ctx, system, demoName)
	if err != nil {
		return err
	}
	self := "orrery"
	if _, err := exec.LookPath(self); err != nil {
		self = os.Args[0]
	}
	fmt.Fprintf(out, `
A shell on %[2]s:
  %[3]s

Three things to try:
  %[1]s datastore connect %[2]s -c 'select version()'
  %[1]s datastore create shop --instances 3 --replication sync
  %[1]s parameter set %[2]s work_mem=16MB
`, self, demoName, line)
	return nil
}

func downCommand() *cobra.Command {
	var common commonFlags
	cmd := &cobra.Command{
		Use: "down", Short: "Stop the plane of this machine; databases go on", Args: cobra.NoArgs, GroupID: cli.GroupHost,
		Long:    `Stop the plane that "orrery up" started. Databases keep running and data stays; "orrery up" finds them again.`,
		Example: "  orrery down",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			p := common.paths()
			if _, err := os.Stat(p.lock()); os.IsNotExist(err) {
				fmt.Fprintf(cmd.OutOrStdout(), "There is no plane in %s.\n", p.root)
				return nil
			}
			stopped, err := stopPlane(ctx, p.lock(), 30*time.Second)
			if err != nil {
				return err
			}
			if !stopped {
				fmt.Fprintln(cmd.OutOrStdout(), "The plane does not run.")
				return nil
			}
			fmt.Fprintln(cmd.OutOrStdout(), "The plane is stopped. Databases keep running; start it again with: orrery up")
			return nil
		},
	}
	common.add(cmd.Flags())
	return cmd
}

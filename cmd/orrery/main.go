// Command orrery is Orrery, whole: the control plane's roles and the command line of its users. This package is where
// concrete packages meet; what it does itself is to put them together.
package main

import (
	"context"
	"os"

	"github.com/orrery-db/orrery/internal/cli"
)

// version is stamped by the linker; see the Makefile.
var version = "dev"

func main() {
	system := cli.SystemConfig(version)
	root := cli.New(system)
	root.AddCommand(upCommand(system), downCommand(), serverCommand(), agentCommand(), keeperCommand(), adminCommand(system))
	os.Exit(cli.Execute(context.Background(), root, os.Args[1:]))
}

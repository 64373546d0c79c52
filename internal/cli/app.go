package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/spf13/cobra"
)

// app is what all verbs share: the flags that every command knows, and the client made of them.
type app struct {
	Config
	flags struct {
		server, token, ca, project, output string
	}
	client *client.Client
	// Project that commands work in, by name or ID.
	projectName string
}

func (a *app) globalFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&a.flags.server, "server", "", "address of the plane, as in https://host:7600 (ORRERY_SERVER)")
	f.StringVar(&a.flags.token, "token", "", "token to show; better in ORRERY_TOKEN, where others cannot see it")
	f.StringVar(&a.flags.ca, "ca", "", "file with the CA certificate of the plane (ORRERY_CA)")
	f.StringVar(&a.flags.project, "project", "", "project to work in (ORRERY_PROJECT; default \"default\")")
	f.StringVarP(&a.flags.output, "output", "o", "table", "table, wide or json")
	a.complete(root, "project", a.projectNames)
	a.complete(root, "output", func(*cobra.Command, []string) []string { return []string{"table", "wide", "json"} })
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		switch a.flags.output {
		case "table", "wide", "json":
			return nil
		}
		return usageError(cmd, "the output can be table, wide or json, not %q", a.flags.output)
	}
}

// settings are flags over environment over the context file.
func (a *app) settings() (Context, error) {
	c, err := LoadContext(a.ConfigDir)
	if err != nil {
		return c, err
	}
	server := cmp.Or(a.flags.server, a.Getenv("ORRERY_SERVER"))
	if server != "" && server != c.Server {
		c = Context{Server: server} // another plane: its token and CA are not the file's
	}
	c.Token = cmp.Or(a.flags.token, a.Getenv("ORRERY_TOKEN"), c.Token)
	c.Project = cmp.Or(a.flags.project, a.Getenv("ORRERY_PROJECT"), c.Project, "default")
	if ca := cmp.Or(a.flags.ca, a.Getenv("ORRERY_CA")); ca != "" {
		data := []byte(ca)
		if !strings.Contains(ca, "-----BEGIN") {
			if data, err = os.ReadFile(ca); err != nil {
				return c, fmt.Errorf("read the CA certificate: %w", err)
			}
		}
		c.CA = string(data)
	}
	return c, nil
}

// connect makes the client, once.
func (a *app) connect() (*client.Client, error) {
	if a.client != nil {
		return a.client, nil
	}
	s, err := a.settings()
	if err != nil {
		return nil, err
	}
	if s.Server == "" {
		return nil, orrery.Errorf(orrery.KindUnavailable, "it is not known which plane to talk to").WithCode("no_context").
			WithHint(`Start one here with "orrery up", or name one with "orrery login", --server or ORRERY_SERVER.`)
	}
	c, err := client.New(client.Config{Server: s.Server, Token: s.Token, CA: []byte(s.CA),
		UserAgent: "orrery/" + a.Version, Patience: 3 * time.Second})
	if err != nil {
		return nil, err
	}
	a.client, a.projectName = c, s.Project
	return c, nil
}

func (a *app) json() bool { return a.flags.output == "json" }

// printJSON writes v as indented JSON.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.Out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}

// show prints v as JSON, or the text that render makes where people read.
func (a *app) show(v any, render func() string) error {
	if a.json() {
		return a.printJSON(v)
	}
	if _, err := fmt.Fprint(a.Out, render()); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}

// showTable prints items as JSON, or the table that rows makes of them.
func (a *app) showTable(items any, t table) error {
	return a.show(items, func() string { return t.render(a.flags.output == "wide") })
}

// say tells a person something beside the output proper. Programs that read JSON are spared.
func (a *app) say(format string, args ...any) {
	if !a.json() {
		fmt.Fprintf(a.Out, format+"\n", args...)
	}
}

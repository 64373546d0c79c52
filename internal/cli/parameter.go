package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/spf13/cobra"
)

func (a *app) parameter() *cobra.Command {
	return holder("parameter", "Settings of a datastore's engine", []string{"parameters", "param"},
		a.parameterList(), a.parameterShow(), a.parameterSet(), a.parameterUnset())
}

func (a *app) parameterList() *cobra.Command {
	var all bool
	var match string
	cmd := &cobra.Command{
		Use: "list <datastore>", Aliases: []string{"ls"}, Short: "List the parameters that were set, or all there are",
		Example: `  orrery parameter list demo
  orrery parameter list demo --all --output wide
  orrery parameter list demo --match wal`,
		Args: args("the datastore"), ValidArgsFunction: words(a.datastoreNames),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			got, err := client.Collect(c.Parameters(ctx, a.projectName, args[0]))
			if err != nil {
				return err
			}
			shown := []*client.ParameterValue{}
			t := table{head: []string{"NAME", "VALUE", "DEFAULT", "UNIT", "RANGE", "RESTART", "+MANAGED", "+DESCRIPTION"},
				empty: "No parameters were set. See all there are with --all."}
			for _, p := range got {
				if match != "" && !strings.Contains(p.Name, match) || match == "" && !all && p.Value == nil {
					continue
				}
				shown = append(shown, p)
				value := ""
				if p.Value != nil {
					value = *p.Value
				}
				t.add(p.Name, value, p.Default, p.Unit, rangeOf(p.Parameter), yesNo(p.Restart), p.Managed, p.Description)
			}
			return a.showTable(shown, t)
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "all that the engine knows")
	cmd.Flags().StringVar(&match, "match", "", "all whose name contains this")
	return cmd
}

// rangeOf tells what values a parameter may have.
func rangeOf(p orrery.Parameter) string {
	switch {
	case p.Type == orrery.ParameterBool:
		return "on, off"
	case len(p.Values) > 0:
		return strings.Join(p.Values, ", ")
	case p.Min != "" || p.Max != "":
		return p.Min + " to " + p.Max
	}
	return ""
}

func (a *app) parameterShow() *cobra.Command {
	return &cobra.Command{
		Use: "show <datastore> <parameter>", Short: "Show what the engine says of a parameter",
		Example: "  orrery parameter show demo work_mem",
		Args:    args("the datastore", "the parameter"), ValidArgsFunction: words(a.datastoreNames, a.parameterNames, nil),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			var names []string
			for p, err := range c.Parameters(ctx, a.projectName, args[0]) {
				if err != nil {
					return err
				}
				if p.Name != args[1] {
					names = append(names, p.Name)
					continue
				}
				return a.show(p, func() string {
					value := ""
					if p.Value != nil {
						value = *p.Value
					}
					return fields("Name", p.Name, "Value", value, "Default", p.Default, "Type", string(p.Type), "Unit", p.Unit,
						"Range", rangeOf(p.Parameter), "Restart", yesNo(p.Restart), "Managed", p.Managed,
						"Category", p.Category, "Description", p.Description)
				})
			}
			err := orrery.NotFound("parameter", args[1])
			if near := alike(args[1], names); len(near) > 0 {
				return err.WithHint("Did you mean %s?", quotedOr(near))
			}
			return err.WithHint("See what there is with: orrery parameter list %s --all", args[0])
		}),
	}
}

func (a *app) parameterSet() *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use: "set <datastore> <name=value>...", Short: "Set parameters",
		Long: `Set parameters. Values are checked against what the engine itself says of them. Those that want a restart are applied
by restarting one instance at a time.`,
		Example: `  orrery parameter set demo work_mem=16MB
  orrery parameter set demo max_connections=200 log_min_duration_statement=250ms`,
		Args: args("the datastore", "name=value..."), ValidArgsFunction: words(a.datastoreNames, a.parameterNames),
	}
	w.flags(cmd)
	cmd.RunE = a.run(func(ctx context.Context, c *client.Client, args []string) error {
		given, err := pairs(cmd, args[1:])
		if err != nil {
			return err
		}
		values := map[string]*string{}
		for k, v := range given {
			values[k] = &v
		}
		return a.setParameters(ctx, c, w, args[0], values, "set "+strings.Join(args[1:], ", "))
	})
	return cmd
}

func (a *app) parameterUnset() *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use: "unset <datastore> <name>...", Short: "Take parameters back to what the plan gives them",
		Example: "  orrery parameter unset demo work_mem",
		Args:    args("the datastore", "the parameter..."), ValidArgsFunction: words(a.datastoreNames, a.parameterNames),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			values := map[string]*string{}
			for _, k := range args[1:] {
				values[k] = nil
			}
			return a.setParameters(ctx, c, w, args[0], values, "unset "+strings.Join(args[1:], ", "))
		}),
	}
	w.flags(cmd)
	return cmd
}

func (a *app) setParameters(ctx context.Context, c *client.Client, w waiting, name string, values map[string]*string, done string) error {
	ch, err := c.SetParameters(ctx, a.projectName, name, values)
	if err != nil {
		return err
	}
	return a.finish(ctx, w, ch, fmt.Sprintf("%s of %s", done, name), a.reread(ctx, c, ch))
}

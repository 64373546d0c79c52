package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/spf13/cobra"
)

func (a *app) user() *cobra.Command {
	return holder("user", "Logins of a datastore", []string{"users"},
		a.userList(), a.userCreate(), a.userUpdate(), a.userDelete(), a.userReset())
}

func (a *app) userList() *cobra.Command {
	return &cobra.Command{
		Use: "list <datastore>", Aliases: []string{"ls"}, Short: "List a datastore's users",
		Example: "  orrery user list demo",
		Args:    args("the datastore"), ValidArgsFunction: words(a.datastoreNames),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			all, err := client.Collect(c.Users(ctx, a.projectName, args[0]))
			if err != nil {
				return err
			}
			t := table{head: []string{"NAME", "ACCESS", "DATABASES"}, empty: "No users."}
			for _, u := range all {
				databases := "all"
				if len(u.Databases) > 0 {
					databases = strings.Join(u.Databases, ", ")
				}
				t.add(u.Name, string(u.Access), databases)
			}
			return a.showTable(all, t)
		}),
	}
}

func (a *app) userCreate() *cobra.Command {
	var w waiting
	var access, passwordFile string
	var databases []string
	var noSave bool
	cmd := &cobra.Command{
		Use: "create <datastore> <name>", Aliases: []string{"add"}, Short: "Make a user and show its password once",
		Example: `  orrery user create demo report --access readonly
  orrery user create demo app --database shop --password-file -`,
		Args: args("the datastore", "the user's name"), ValidArgsFunction: words(a.datastoreNames, nil),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			password, err := readPassword(passwordFile, a.In)
			if err != nil {
				return err
			}
			ch, err := c.CreateUser(ctx, a.projectName, args[0], client.NewUser{Name: args[1],
				Access: orrery.Access(access), Databases: databases, Password: password})
			if err != nil {
				return err
			}
			return a.finishWithPassword(ctx, w, ch, "created user "+args[1]+" of "+args[0], noSave)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&access, "access", "readwrite", "admin, readwrite or readonly")
	f.StringArrayVar(&databases, "database", nil, "only in this database; may be repeated (default in all)")
	f.StringVar(&passwordFile, "password-file", "", "file with the password, - for standard input (default: the plane makes one)")
	f.BoolVar(&noSave, "no-save-password", false, "do not keep the password for \"datastore connect\"")
	w.flags(cmd)
	a.complete(cmd, "access", fixed("admin", "readwrite", "readonly"))
	return cmd
}

// finishWithPassword shows a new password, keeps it, and waits. It is shown first: whoever detaches has it all the same.
func (a *app) finishWithPassword(ctx context.Context, w waiting, ch *client.Changed, done string, noSave bool) error {
	if cr := ch.Credentials; cr != nil {
		a.tellPassword(cr)
		if !noSave && cr.Password != "" && ch.Datastore != nil {
			if err := savePassword(a.ConfigDir, ch.Datastore, cr.Username, cr.Password); err != nil {
				fmt.Fprintf(a.Err, "warning: the password was not saved: %s\n", err)
			}
		}
	}
	err := a.finish(ctx, w, ch, done, nil)
	if a.json() && errors.As(err, new(*detached)) {
		return errors.Join(err, a.printJSON(ch))
	}
	return err
}

func (a *app) userUpdate() *cobra.Command {
	var w waiting
	var access string
	var databases []string
	cmd := &cobra.Command{
		Use: "update <datastore> <name>", Short: "Change what a user may do",
		Example: `  orrery user update demo report --access readwrite
  orrery user update demo report --database shop --database stats`,
		Args: args("the datastore", "the user's name"), ValidArgsFunction: words(a.datastoreNames, a.userNames, nil),
	}
	f := cmd.Flags()
	f.StringVar(&access, "access", "", "admin, readwrite or readonly")
	f.StringArrayVar(&databases, "database", nil, "only in this database; may be repeated")
	w.flags(cmd)
	a.complete(cmd, "access", fixed("admin", "readwrite", "readonly"))
	cmd.RunE = a.run(func(ctx context.Context, c *client.Client, args []string) error {
		var p client.UserPatch
		if f.Changed("access") {
			level := orrery.Access(access)
			p.Access = &level
		}
		if f.Changed("database") {
			p.Databases = &databases
		}
		if p == (client.UserPatch{}) {
			return usageError(cmd, "nothing to change was given")
		}
		ch, err := c.UpdateUser(ctx, a.projectName, args[0], args[1], p)
		if err != nil {
			return err
		}
		return a.finish(ctx, w, ch, "updated user "+args[1]+" of "+args[0], nil)
	})
	return cmd
}

func (a *app) userDelete() *cobra.Command {
	return a.removal(removal{
		use: "delete <datastore> <name>", aliases: []string{"remove", "rm"}, short: "Remove a user",
		example: "  orrery user delete demo report", noun: "user", names: a.userNames,
		do: func(ctx context.Context, c *client.Client, datastore, name string) (*client.Changed, error) {
			ch, err := c.DeleteUser(ctx, a.projectName, datastore, name)
			if err == nil && ch.Datastore != nil {
				err = forgetPassword(a.ConfigDir, ch.Datastore.ID, name)
			}
			return ch, err
		},
	})
}

func (a *app) userReset() *cobra.Command {
	var w waiting
	var passwordFile string
	var noSave bool
	cmd := &cobra.Command{
		Use: "reset-password <datastore> <name>", Short: "Give a user a new password and show it once",
		Example: `  orrery user reset-password demo app
  orrery user reset-password demo app --password-file ./new`,
		Args: args("the datastore", "the user's name"), ValidArgsFunction: words(a.datastoreNames, a.userNames, nil),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			password, err := readPassword(passwordFile, a.In)
			if err != nil {
				return err
			}
			ch, err := c.ResetPassword(ctx, a.projectName, args[0], args[1], password)
			if err != nil {
				return err
			}
			return a.finishWithPassword(ctx, w, ch, "reset the password of "+args[1]+" of "+args[0], noSave)
		}),
	}
	cmd.Flags().StringVar(&passwordFile, "password-file", "", "file with the password, - for standard input (default: the plane makes one)")
	cmd.Flags().BoolVar(&noSave, "no-save-password", false, "do not keep the password for \"datastore connect\"")
	w.flags(cmd)
	return cmd
}

func (a *app) database() *cobra.Command {
	var w waiting
	var owner string
	create := &cobra.Command{
		Use: "create <datastore> <name>", Aliases: []string{"add"}, Short: "Make a database",
		Example: "  orrery database create demo shop --owner app",
		Args:    args("the datastore", "the database's name"), ValidArgsFunction: words(a.datastoreNames, nil),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			ch, err := c.CreateDatabase(ctx, a.projectName, args[0], orrery.Database{Name: args[1], Owner: owner})
			if err != nil {
				return err
			}
			return a.finish(ctx, w, ch, "created database "+args[1]+" of "+args[0], nil)
		}),
	}
	create.Flags().StringVar(&owner, "owner", "", "user with admin access (default the first)")
	w.flags(create)
	list := &cobra.Command{
		Use: "list <datastore>", Aliases: []string{"ls"}, Short: "List a datastore's databases",
		Example: "  orrery database list demo",
		Args:    args("the datastore"), ValidArgsFunction: words(a.datastoreNames),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			all, err := client.Collect(c.Databases(ctx, a.projectName, args[0]))
			if err != nil {
				return err
			}
			t := table{head: []string{"NAME", "OWNER"}, empty: "No databases."}
			for _, d := range all {
				t.add(d.Name, d.Owner)
			}
			return a.showTable(all, t)
		}),
	}
	remove := a.removal(removal{
		use: "delete <datastore> <name>", aliases: []string{"remove", "rm"}, short: "Drop a database with all its data",
		example: "  orrery database delete demo shop", noun: "database", names: a.databaseNames,
		do: func(ctx context.Context, c *client.Client, datastore, name string) (*client.Changed, error) {
			return c.DeleteDatabase(ctx, a.projectName, datastore, name)
		},
	})
	return holder("database", "Databases inside a datastore", []string{"databases", "db"}, list, create, remove)
}

func (a *app) trustedSource() *cobra.Command {
	var w waiting
	var description string
	add := &cobra.Command{
		Use: "add <datastore> <network>", Aliases: []string{"create"}, Short: "Let clients of a network in",
		Example: `  orrery trusted-source add demo 10.0.0.0/8 --description office
  orrery trusted-source add demo 192.0.2.17`,
		Args: args("the datastore", "the network"), ValidArgsFunction: words(a.datastoreNames, nil),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			ch, err := c.AddTrustedSource(ctx, a.projectName, args[0], orrery.TrustedSource{CIDR: args[1], Description: description})
			if err != nil {
				return err
			}
			return a.finish(ctx, w, ch, "let "+args[1]+" into "+args[0], nil)
		}),
	}
	add.Flags().StringVar(&description, "description", "", "what network it is")
	w.flags(add)
	list := &cobra.Command{
		Use: "list <datastore>", Aliases: []string{"ls"}, Short: "List the networks that are let in",
		Example: "  orrery trusted-source list demo",
		Args:    args("the datastore"), ValidArgsFunction: words(a.datastoreNames),
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			all, err := client.Collect(c.TrustedSources(ctx, a.projectName, args[0]))
			if err != nil {
				return err
			}
			t := table{head: []string{"NETWORK", "DESCRIPTION"}, empty: "No networks beside those that are always let in."}
			for _, s := range all {
				t.add(s.CIDR, s.Description)
			}
			return a.showTable(all, t)
		}),
	}
	remove := a.removal(removal{
		use: "remove <datastore> <network>", aliases: []string{"delete", "rm"}, short: "Let clients of a network in no longer",
		example: "  orrery trusted-source remove demo 10.0.0.0/8", noun: "trusted source", names: a.sourceNames,
		do: func(ctx context.Context, c *client.Client, datastore, name string) (*client.Changed, error) {
			return c.RemoveTrustedSource(ctx, a.projectName, datastore, name)
		},
	})
	return holder("trusted-source", "Networks from which clients may connect", []string{"trusted-sources", "ts"}, list, add, remove)
}

// removal is a verb that removes something of a datastore.
type removal struct {
	use, short, example, noun string
	aliases                   []string
	names                     namer
	do                        func(ctx context.Context, c *client.Client, datastore, name string) (*client.Changed, error)
}

func (a *app) removal(r removal) *cobra.Command {
	var w waiting
	var yes bool
	cmd := &cobra.Command{
		Use: r.use, Aliases: r.aliases, Short: r.short,
		Long:    r.short + ". On a terminal it asks for the name; elsewhere it wants --yes.",
		Example: r.example + "\n" + r.example + " --yes",
		Args:    args("the datastore", "the "+r.noun), ValidArgsFunction: words(a.datastoreNames, r.names, nil),
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	w.flags(cmd)
	cmd.RunE = a.run(func(ctx context.Context, c *client.Client, args []string) error {
		if err := a.confirm(cmd, yes, fmt.Sprintf("Removing %s %s of %s", r.noun, args[1], args[0]), args[1]); err != nil {
			return err
		}
		ch, err := r.do(ctx, c, args[0], args[1])
		if err != nil {
			return err
		}
		return a.finish(ctx, w, ch, fmt.Sprintf("removed %s %s of %s", r.noun, args[1], args[0]), nil)
	})
	return cmd
}

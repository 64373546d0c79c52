package cli

import (
	"cmp"
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/orrery-db/orrery"
)

// ShellLine is a line for the shell that opens the engine's own client on a datastore, whole with the password that this
// user keeps for it and the file of its CA. It is what "orrery up" ends with.
func ShellLine(ctx context.Context, cfg Config, datastore string) (string, error) {
	a := &app{Config: cfg}
	a.globalFlags(&cobra.Command{})
	c, err := a.connect()
	if err != nil {
		return "", err
	}
	ds, err := c.Datastore(ctx, a.projectName, datastore)
	if err != nil {
		return "", err
	}
	kept, err := loadCredentials(cfg.ConfigDir, ds.ID)
	if err != nil {
		return "", err
	}
	info, err := c.Connection(ctx, a.projectName, ds.ID, kept.User, "")
	if err != nil {
		return "", err
	}
	ca, err := saveCA(cfg.ConfigDir, ds.ID, info.CA)
	if err != nil {
		return "", err
	}
	for _, s := range info.Strings {
		if s.Name == "cli" {
			return fill(s.Text, cmp.Or(kept.Passwords[info.User], "{password}"), ca), nil
		}
	}
	return "", fmt.Errorf("the line for a shell on %s: %w", datastore, orrery.NotFound("connection", "cli"))
}

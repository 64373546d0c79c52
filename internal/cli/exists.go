package cli

import (
	"context"

	"github.com/spf13/cobra"
)

// Exists tells whether the plane that this user's command line finds has a datastore of this name.
func Exists(ctx context.Context, cfg Config, datastore string) bool {
	a := &app{Config: cfg}
	a.globalFlags(&cobra.Command{})
	c, err := a.connect()
	if err != nil {
		return false
	}
	_, err = c.Datastore(ctx, a.projectName, datastore)
	return err == nil
}

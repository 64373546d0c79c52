package postgres

import (
	"fmt"
	"strings"

	"github.com/orrery-db/orrery/internal/engine"
)

// hbaConf says who may come in. The first line that matches decides.
func hbaConf(d engine.Desired) string {
	var b strings.Builder
	line := func(fields ...string) { b.WriteString(strings.Join(fields, "\t") + "\n") }
	line("# Written by Orrery, whole, at each change.")
	line("# The keeper, by its own operating system user.")
	line("local", "all", superuser, "peer map=keeper")
	line("local", "all", "all", "reject")
	line("# Members of the datastore, by certificate.")
	line("hostssl", "replication", replicator, "all", "cert map=member")
	line("host", "replication", "all", "all", "reject")
	line("host", "all", superuser+","+replicator, "all", "reject")
	line("# Clients from trusted sources, encrypted, by password.")
	for _, p := range d.TrustedSources {
		line("hostssl", "all", "all", p.Masked().String(), "scram-sha-256")
	}
	line("host", "all", "all", "all", "reject")
	return b.String()
}

// identConf maps the keeper's operating system user, and the common name of members' certificates.
func identConf(d engine.Desired, osUser string) string {
	quote := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
	return fmt.Sprintf("# Written by Orrery, whole, at each change.\nkeeper\t%s\t%s\nmember\t%s\t%s\n",
		quote(osUser), superuser, quote(d.Datastore), replicator)
}

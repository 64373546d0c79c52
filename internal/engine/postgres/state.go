package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// The groups that users belong to; grants are made to groups wherever they can be.
const (
	groupAdmin     = "orrery_admin"
	groupReadWrite = "orrery_readwrite"
	groupReadOnly  = "orrery_readonly"
)

// setupSQL makes what Orrery needs inside a fresh dataset. The register tells what Orrery has made, by oid and name: a
// thing that a person made, or has renamed since, is the person's. Only the superuser can look into it.
const setupSQL = `CREATE ROLE orrery_replication LOGIN REPLICATION;
	CREATE ROLE orrery_admin; CREATE ROLE orrery_readwrite; CREATE ROLE orrery_readonly;
	GRANT pg_monitor, pg_signal_backend TO orrery_admin;
	REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;
	CREATE SCHEMA orrery;
	CREATE TABLE orrery.object (kind text NOT NULL, name text NOT NULL, oid oid NOT NULL, applied text NOT NULL DEFAULT '', PRIMARY KEY (kind, name))`

// role is a role as it is.
type role struct {
	OID                         uint32
	Name, Password              string
	Login, CreateDB, CreateRole bool
	Groups                      []string // memberships that the superuser granted
}

type database struct {
	OID         uint32
	Name, Owner string
	Connect     bool
}

// registered is a row of the register.
type registered struct {
	Kind, Name string
	OID        uint32
	Applied    string
}

// state is what is inside the server.
type state struct {
	fresh     bool // it was set up just now
	roles     map[string]role
	databases map[string]database
	register  map[[2]string]registered
}

func readState(ctx context.Context, c *conn) (*state, error) {
	var there bool
	if err := c.QueryRow(ctx, `SELECT to_regclass('orrery.object') IS NOT NULL`).Scan(&there); err != nil {
		return nil, fmt.Errorf("look for the register: %w", err)
	}
	if !there {
		if _, err := c.Exec(ctx, "BEGIN; "+setupSQL+"; COMMIT", pgx.QueryExecModeSimpleProtocol); err != nil {
			return nil, fmt.Errorf("set up the register: %w", err)
		}
	}
	st := &state{fresh: !there, roles: map[string]role{}, databases: map[string]database{}, register: map[[2]string]registered{}}
	rows, _ := c.Query(ctx, `SELECT r.oid, r.rolname::text, coalesce(r.rolpassword, ''), r.rolcanlogin, r.rolcreatedb, r.rolcreaterole,
		coalesce((SELECT array_agg(g.rolname::text) FROM pg_auth_members m JOIN pg_authid g ON g.oid = m.roleid WHERE m.member = r.oid AND m.grantor = 10), '{}')
		FROM pg_authid r WHERE r.rolname NOT LIKE 'pg\_%'`)
	roles, err := pgx.CollectRows(rows, pgx.RowToStructByPos[role])
	if err != nil {
		return nil, fmt.Errorf("list the roles: %w", err)
	}
	for _, r := range roles {
		st.roles[r.Name] = r
	}
	rows, _ = c.Query(ctx, `SELECT d.oid, d.datname::text, r.rolname::text, d.datallowconn FROM pg_database d JOIN pg_authid r ON r.oid = d.datdba`)
	databases, err := pgx.CollectRows(rows, pgx.RowToStructByPos[database])
	if err != nil {
		return nil, fmt.Errorf("list the databases: %w", err)
	}
	for _, d := range databases {
		st.databases[d.Name] = d
	}
	rows, _ = c.Query(ctx, `SELECT kind, name, oid, applied FROM orrery.object`)
	register, err := pgx.CollectRows(rows, pgx.RowToStructByPos[registered])
	if err != nil {
		return nil, fmt.Errorf("read the register: %w", err)
	}
	for _, r := range register {
		st.register[[2]string{r.Kind, r.Name}] = r
	}
	return st, nil
}

// ownRole tells whether the role of this name is one that Orrery made.
func (st *state) ownRole(name string) bool {
	r, ok := st.register[[2]string{"role", name}]
	return ok && r.OID == st.roles[name].OID
}

// ownDatabase tells the same of a database. One that is registered without an oid was being made when Orrery died.
func (st *state) ownDatabase(name string) bool {
	r, ok := st.register[[2]string{"database", name}]
	return ok && (r.OID == st.databases[name].OID || r.OID == 0)
}

func ident(name string) string { return pgx.Identifier{name}.Sanitize() }

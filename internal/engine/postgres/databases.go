package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/orrery-db/orrery"
)

// ownerOf is who is to own a database.
func (a *applier) ownerOf(db orrery.Database) string {
	if db.Owner != "" {
		if _, ok := a.st.roles[db.Owner]; ok {
			return db.Owner
		}
	}
	return a.defaultOwner()
}

// makeDatabases makes databases and gives them their owners. Making one is no transaction's business, so the intent is
// registered before, and the oid after.
func (a *applier) makeDatabases(ctx context.Context) error {
	made := false
	for _, db := range a.d.Databases {
		have, there := a.st.databases[db.Name]
		switch {
		case there && !a.st.ownDatabase(db.Name):
			a.problems = append(a.problems, orrery.Errorf(orrery.KindConflict, "a database %q was made by SQL", db.Name).WithCode("name_taken").
				WithHint("Drop or rename the database, or take another name."))
			continue
		case !there:
			if err := a.makeDatabase(ctx, db); err != nil {
				return fmt.Errorf("make the database %q: %w", db.Name, err)
			}
			made = true
		case have.Owner != a.ownerOf(db):
			if _, err := a.c.Exec(ctx, "ALTER DATABASE "+ident(db.Name)+" OWNER TO "+ident(a.ownerOf(db))); err != nil {
				return fmt.Errorf("give the database %q its owner: %w", db.Name, err)
			}
		}
		if there && a.st.register[[2]string{"database", db.Name}].OID == 0 {
			if err := a.transaction(ctx, []string{registerDatabase(db.Name)}); err != nil {
				return fmt.Errorf("register the database %q: %w", db.Name, err)
			}
			made = true
		}
	}
	if !made {
		return nil
	}
	st, err := readState(ctx, a.c)
	if err == nil {
		a.st = st
	}
	return err
}

// makeDatabase takes the spare one where it is still there.
func (a *applier) makeDatabase(ctx context.Context, db orrery.Database) error {
	owner := ident(a.ownerOf(db))
	if x, ok := a.st.databases[spare]; ok && x.Owner == superuser {
		delete(a.st.databases, spare)
		return a.transaction(ctx, []string{
			"ALTER DATABASE " + spare + " RENAME TO " + ident(db.Name), "ALTER DATABASE " + ident(db.Name) + " OWNER TO " + owner, registerDatabase(db.Name),
		})
	}
	intent := "INSERT INTO orrery.object (kind, name, oid) VALUES ('database', " + literal(db.Name) + ", 0) ON CONFLICT (kind, name) DO UPDATE SET oid = 0, applied = ''"
	if err := a.transaction(ctx, []string{intent}); err != nil {
		return err
	}
	if _, err := a.c.Exec(ctx, "CREATE DATABASE "+ident(db.Name)+" OWNER "+owner); err != nil {
		return err
	}
	return a.transaction(ctx, []string{registerDatabase(db.Name)})
}

func registerDatabase(name string) string {
	return "INSERT INTO orrery.object (kind, name, oid) SELECT 'database', datname, oid FROM pg_database WHERE datname = " + literal(name) +
		" ON CONFLICT (kind, name) DO UPDATE SET oid = excluded.oid, applied = ''"
}

// dropDatabases drops databases that Orrery made and nobody wants any more, whoever is connected.
func (a *applier) dropDatabases(ctx context.Context) error {
	for _, key := range slices.SortedFunc(maps.Keys(a.st.register), func(x, y [2]string) int { return strings.Compare(x[1], y[1]) }) {
		name := key[1]
		if key[0] != "database" || slices.ContainsFunc(a.d.Databases, func(db orrery.Database) bool { return db.Name == name }) {
			continue
		}
		if _, there := a.st.databases[name]; there && a.st.ownDatabase(name) {
			if _, err := a.c.Exec(ctx, "DROP DATABASE IF EXISTS "+ident(name)+" WITH (FORCE)"); err != nil {
				return fmt.Errorf("drop the database %q: %w", name, err)
			}
			delete(a.st.databases, name)
		}
		if _, err := a.c.Exec(ctx, `DELETE FROM orrery.object WHERE kind = 'database' AND name = $1`, name); err != nil {
			return fmt.Errorf("forget the database %q: %w", name, err)
		}
	}
	return nil
}

// grant gives users their rights in databases. What was granted is noted beside the database, so that an Apply that
// changes nothing need not connect to each.
func (a *applier) grant(ctx context.Context) error {
	for _, db := range a.d.Databases {
		if !a.st.ownDatabase(db.Name) {
			continue
		}
		sql, barred := a.grantSQL(db)
		sum := sha256.Sum256([]byte(sql))
		applied := hex.EncodeToString(sum[:])
		if a.st.register[[2]string{"database", db.Name}].Applied == applied {
			continue
		}
		err := a.s.with(ctx, db.Name, func(c *conn) error {
			_, err := c.Exec(ctx, "SET synchronous_commit = off; "+sql, pgx.QueryExecModeSimpleProtocol)
			return err
		})
		a.changed = true
		if err != nil {
			return fmt.Errorf("grant the rights in %q: %w", db.Name, err)
		}
		if _, err := a.c.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND usename = ANY ($2)`, db.Name, barred); err != nil {
			return fmt.Errorf("end the connections of who lost the access to %q: %w", db.Name, err)
		}
		if _, err := a.c.Exec(ctx, `UPDATE orrery.object SET applied = $2 WHERE kind = 'database' AND name = $1`, db.Name, applied); err != nil {
			return fmt.Errorf("note the rights in %q: %w", db.Name, err)
		}
	}
	return nil
}

// grantSQL gives the statements, to be run in the database, and who is kept out of it. Rights on objects to come are
// default privileges of those who make objects: the admins. The numbers in comments make a role of the same name that
// was made anew count as a change.
func (a *applier) grantSQL(db orrery.Database) (sql string, barred []string) {
	name := ident(db.Name)
	extension := ""
	if a.s.hasStatStatements() {
		extension = "CREATE EXTENSION IF NOT EXISTS " + statStatements + " WITH SCHEMA public;"
	}
	list := []string{"REVOKE ALL ON DATABASE " + name + " FROM PUBLIC", fmt.Sprintf(publicSQL, extension)}
	barred = []string{}
	for _, u := range a.d.Users {
		if !a.st.ownRole(u.Name) {
			continue
		}
		who := ident(u.Name)
		list = append(list, fmt.Sprintf("-- %d\n", a.st.roles[u.Name].OID))
		if len(u.Databases) > 0 && !slices.Contains(u.Databases, db.Name) {
			list = append(list, "REVOKE ALL ON DATABASE "+name+" FROM "+who)
			barred = append(barred, u.Name)
			continue
		}
		rights := "CONNECT, TEMPORARY"
		if u.Access == orrery.AccessAdmin {
			rights = "ALL"
		}
		list = append(list, "REVOKE ALL ON DATABASE "+name+" FROM "+who, "GRANT "+rights+" ON DATABASE "+name+" TO "+who)
		if u.Access != orrery.AccessAdmin {
			continue
		}
		for _, g := range defaultPrivileges {
			list = append(list, "ALTER DEFAULT PRIVILEGES FOR ROLE "+who+" GRANT "+g)
		}
	}
	return strings.Join(list, ";\n"), barred
}

// publicSQL lets the groups into the schema public, where it still is. From 15 on nobody else may make things there;
// before, that is taken away.
const publicSQL = `DO $$ BEGIN
	IF to_regnamespace('public') IS NOT NULL THEN
		REVOKE CREATE ON SCHEMA public FROM PUBLIC;
		ALTER SCHEMA public OWNER TO pg_database_owner;
		GRANT ALL ON SCHEMA public TO orrery_admin;
		GRANT USAGE ON SCHEMA public TO orrery_readwrite, orrery_readonly;
		%s
	END IF;
END $$`

// defaultPrivileges are what an admin's future objects allow to the groups.
var defaultPrivileges = []string{
	"ALL ON TABLES TO " + groupAdmin, "SELECT, INSERT, UPDATE, DELETE ON TABLES TO " + groupReadWrite, "SELECT ON TABLES TO " + groupReadOnly,
	"ALL ON SEQUENCES TO " + groupAdmin, "USAGE, SELECT, UPDATE ON SEQUENCES TO " + groupReadWrite, "SELECT ON SEQUENCES TO " + groupReadOnly,
	"ALL ON FUNCTIONS TO " + groupAdmin, "ALL ON TYPES TO " + groupAdmin,
	"ALL ON SCHEMAS TO " + groupAdmin, "USAGE ON SCHEMAS TO " + groupReadWrite + ", " + groupReadOnly,
}

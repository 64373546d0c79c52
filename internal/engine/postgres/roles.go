package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// applier converges one primary.
type applier struct {
	s  *server
	c  *conn
	d  engine.Desired
	st *state
	// problems that concern one object do not keep the others from being applied.
	problems []error
	// changed tells that something was committed that may not have reached the disk yet.
	changed bool
}

func (a *applier) run(ctx context.Context) error {
	// Each commit would wait for the disk. Together they wait once, at the end: the log is written in order.
	if _, err := a.c.Exec(ctx, "SET synchronous_commit = off"); err != nil {
		return err
	}
	var err error
	if a.st, err = readState(ctx, a.c); err != nil {
		return err
	}
	a.changed = a.st.fresh
	for _, step := range []func(context.Context) error{a.makeRoles, a.makeDatabases, a.grant, a.dropDatabases, a.dropRoles} {
		if err := step(ctx); err != nil {
			return errors.Join(append(a.problems, diskError(err))...)
		}
	}
	if a.changed {
		if err := a.flush(ctx); err != nil {
			return err
		}
	}
	return errors.Join(a.problems...)
}

// flush waits until all that was committed is on disk, by one more commit that does.
func (a *applier) flush(ctx context.Context) error {
	_, err := a.c.Exec(ctx, `BEGIN; SET LOCAL synchronous_commit = local; INSERT INTO orrery.object (kind, name, oid) VALUES ('flush', '', 0)
		ON CONFLICT (kind, name) DO UPDATE SET applied = ''; COMMIT`, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return diskError(fmt.Errorf("flush what was applied: %w", err))
	}
	return nil
}

// defaultOwner is who owns databases that name nobody, and what removed users leave behind.
func (a *applier) defaultOwner() string {
	for _, u := range a.d.Users {
		if u.Access == orrery.AccessAdmin && !a.foreign(u.Name) {
			return u.Name
		}
	}
	return superuser
}

// foreign tells whether a role of this name was made by a person.
func (a *applier) foreign(name string) bool {
	_, there := a.st.roles[name]
	return there && !a.st.ownRole(name)
}

var verifierRE = regexp.MustCompile(`^SCRAM-SHA-256\$\d+:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+$`)

func groupOf(access orrery.Access) string {
	switch access {
	case orrery.AccessAdmin:
		return groupAdmin
	case orrery.AccessReadWrite:
		return groupReadWrite
	default:
		return groupReadOnly
	}
}

// makeRoles makes and changes users, all in one transaction.
func (a *applier) makeRoles(ctx context.Context) error {
	var batch []string
	var demoted []string
	for _, u := range a.d.Users {
		if !verifierRE.MatchString(u.Secret) {
			return orrery.Invalid("users", "the secret of user %q is not a SCRAM verifier", u.Name).WithCode("secret_invalid")
		}
		have, there := a.st.roles[u.Name]
		if there && !a.st.ownRole(u.Name) {
			a.problems = append(a.problems, orrery.Errorf(orrery.KindConflict, "a role %q was made by SQL", u.Name).WithCode("name_taken").
				WithHint("Drop or rename the role, or take another name for the user."))
			continue
		}
		// Before 16, who may make roles may give any role to anybody, such as pg_execute_server_program, and so become the
		// operating system's user (the release notes of 16, "Privileges"). There, users are made through Orrery only.
		makesRoles := u.Access == orrery.AccessAdmin && a.s.major >= 16
		makesDatabases := u.Access == orrery.AccessAdmin
		name := ident(u.Name)
		attributes := "LOGIN " + attribute(makesDatabases, "CREATEDB") + attribute(makesRoles, "CREATEROLE") + "PASSWORD '" + u.Secret + "'"
		switch {
		case !there:
			batch = append(batch, "CREATE ROLE "+name+" "+attributes)
		case have.Password != u.Secret || !have.Login || have.CreateDB != makesDatabases || have.CreateRole != makesRoles:
			batch = append(batch, "ALTER ROLE "+name+" "+attributes)
		}
		for _, group := range []string{groupAdmin, groupReadWrite, groupReadOnly} {
			is, want := slices.Contains(have.Groups, group), group == groupOf(u.Access)
			switch {
			case want && !is:
				batch = append(batch, "GRANT "+group+" TO "+name)
			case is && !want:
				batch = append(batch, "REVOKE "+group+" FROM "+name)
				if group == groupAdmin {
					demoted = append(demoted, u.Name)
				}
			}
		}
		if !there {
			batch = append(batch, fmt.Sprintf("INSERT INTO orrery.object (kind, name, oid) SELECT 'role', rolname, oid FROM pg_authid WHERE rolname = %s "+
				"ON CONFLICT (kind, name) DO UPDATE SET oid = excluded.oid, applied = ''", literal(u.Name)))
		}
	}
	if err := a.transaction(ctx, batch); err != nil {
		return fmt.Errorf("make the users: %w", err)
	}
	if len(batch) > 0 {
		st, err := readState(ctx, a.c)
		if err != nil {
			return err
		}
		a.st = st
	}
	if err := a.shareOwners(ctx); err != nil {
		return err
	}
	for _, name := range demoted {
		if err := a.handOver(ctx, name, false); err != nil {
			return err
		}
	}
	return nil
}

// shareOwners makes each admin a member of the users who own databases, so that admins can change what owners made.
func (a *applier) shareOwners(ctx context.Context) error {
	owners, admins := map[string]bool{}, map[string]bool{}
	for _, u := range a.d.Users {
		admins[u.Name] = u.Access == orrery.AccessAdmin && len(u.Databases) == 0
	}
	for _, db := range a.d.Databases {
		owners[a.ownerOf(db)] = true
	}
	var batch []string
	for _, name := range slices.Sorted(maps.Keys(admins)) {
		for _, owner := range slices.Sorted(maps.Keys(a.st.roles)) {
			if owner == name || !a.st.ownRole(owner) || !a.st.ownRole(name) {
				continue
			}
			// Two owners would be members of each other, which there cannot be: the default owner stands above.
			want := admins[name] && owners[owner] && (!owners[name] || name == a.defaultOwner())
			is := slices.Contains(a.st.roles[name].Groups, owner)
			switch {
			case want && !is:
				batch = append(batch, "GRANT "+ident(owner)+" TO "+ident(name))
			case is && !want:
				batch = append([]string{"REVOKE " + ident(owner) + " FROM " + ident(name)}, batch...)
			}
		}
	}
	return a.transaction(ctx, batch)
}

// transaction runs statements as one.
func (a *applier) transaction(ctx context.Context, statements []string) error {
	if len(statements) == 0 {
		return nil
	}
	a.changed = true
	_, err := a.c.Exec(ctx, "BEGIN;\n"+strings.Join(statements, ";\n")+";\nCOMMIT", pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		_, _ = a.c.Exec(ctx, "ROLLBACK")
	}
	return err
}

// dropRoles removes users that Orrery made and nobody wants any more. What they own is handed over first.
func (a *applier) dropRoles(ctx context.Context) error {
	for _, key := range slices.SortedFunc(maps.Keys(a.st.register), func(x, y [2]string) int { return strings.Compare(x[1], y[1]) }) {
		name := key[1]
		if key[0] != "role" || slices.ContainsFunc(a.d.Users, func(u engine.DesiredUser) bool { return u.Name == name }) {
			continue
		}
		if a.st.ownRole(name) {
			a.changed = true
			if _, err := a.c.Exec(ctx, "ALTER ROLE "+ident(name)+" NOLOGIN"); err != nil {
				return fmt.Errorf("lock the user %q out: %w", name, err)
			}
			if _, err := a.c.Exec(ctx, `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = $1`, name); err != nil {
				return fmt.Errorf("end the connections of %q: %w", name, err)
			}
			if err := a.handOver(ctx, name, true); err != nil {
				return err
			}
			if _, err := a.c.Exec(ctx, "DROP ROLE "+ident(name)); err != nil {
				return fmt.Errorf("drop the user %q: %w", name, err)
			}
		}
		if _, err := a.c.Exec(ctx, `DELETE FROM orrery.object WHERE kind = 'role' AND name = $1`, name); err != nil {
			return fmt.Errorf("forget the user %q: %w", name, err)
		}
	}
	return nil
}

// handOver gives what a role owns to the default owner, in every database there is, and takes its rights away where the
// role is about to go.
func (a *applier) handOver(ctx context.Context, name string, going bool) error {
	heir := a.defaultOwner()
	if heir == name {
		heir = superuser
	}
	sql := "REASSIGN OWNED BY " + ident(name) + " TO " + ident(heir)
	if going {
		sql += "; DROP OWNED BY " + ident(name)
	}
	for _, db := range slices.Sorted(maps.Keys(a.st.databases)) {
		if !a.st.databases[db].Connect {
			continue
		}
		err := a.s.with(ctx, db, func(c *conn) error {
			_, err := c.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
			return err
		})
		if err != nil && !isState(err, "3D000") { // the database has gone meanwhile
			return fmt.Errorf("hand over what %q owns in %q: %w", name, db, err)
		}
	}
	return nil
}

func attribute(on bool, word string) string {
	if on {
		return word + " "
	}
	return "NO" + word + " "
}

// literal quotes a string as SQL does, whatever standard_conforming_strings says.
func literal(s string) string {
	s = strings.ReplaceAll(s, "'", "''")
	if strings.Contains(s, `\`) {
		return " E'" + strings.ReplaceAll(s, `\`, `\\`) + "'"
	}
	return "'" + s + "'"
}

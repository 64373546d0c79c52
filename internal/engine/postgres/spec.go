package postgres

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// DefaultUser is the first user's name.
func (*Driver) DefaultUser() string { return "admin" }

// DefaultDatabase is the first database's name.
func (*Driver) DefaultDatabase() string { return "app" }

// maxName is NAMEDATALEN less its end, in bytes; longer names would be cut silently.
const maxName = 63

var (
	reservedRoles = []string{"public", "none", "current_user", "current_role", "session_user", "user", superuser}
	reservedDBs   = []string{"postgres", "template0", "template1", "replication", superuser}
)

// CheckSpec refuses names that PostgreSQL or Orrery keep for themselves, and what does not fit together.
func (*Driver) CheckSpec(spec orrery.DatastoreSpec) error {
	databases, users := map[string]bool{}, map[string]orrery.Access{}
	for i, db := range spec.Databases {
		field := fmt.Sprintf("databases[%d].name", i)
		if err := checkName(field, "database", db.Name, reservedDBs); err != nil {
			return err
		}
		if databases[db.Name] {
			return orrery.Invalid(field, "there are two databases named %q", db.Name).WithCode("name_taken")
		}
		databases[db.Name] = true
	}
	for i, u := range spec.Users {
		field := fmt.Sprintf("users[%d]", i)
		if err := checkName(field+".name", "user", u.Name, reservedRoles); err != nil {
			return err
		}
		if _, twice := users[u.Name]; twice {
			return orrery.Invalid(field+".name", "there are two users named %q", u.Name).WithCode("name_taken")
		}
		if !slices.Contains([]orrery.Access{orrery.AccessAdmin, orrery.AccessReadWrite, orrery.AccessReadOnly}, u.Access) {
			return orrery.Invalid(field+".access", "the access %q is not one", orrery.Shorten(string(u.Access), 60)).
				WithHint("It is one of: admin, readwrite, readonly.")
		}
		users[u.Name] = u.Access
		for j, db := range u.Databases {
			if !databases[db] {
				return orrery.Invalid(fmt.Sprintf("%s.databases[%d]", field, j), "there is no database %q", orrery.Shorten(db, 60)).WithCode("database_not_found")
			}
		}
	}
	for i, db := range spec.Databases {
		if access, ok := users[db.Owner]; db.Owner != "" && (!ok || access != orrery.AccessAdmin) {
			return orrery.Invalid(fmt.Sprintf("databases[%d].owner", i), "the owner %q is not a user with admin access", orrery.Shorten(db.Owner, 60)).
				WithHint("Name a user whose access is admin, or leave the owner out.")
		}
	}
	for i, source := range spec.TrustedSources {
		if _, err := netip.ParsePrefix(source.CIDR); err != nil {
			if _, err := netip.ParseAddr(source.CIDR); err != nil || strings.Contains(source.CIDR, "%") {
				return orrery.Invalid(fmt.Sprintf("trusted_sources[%d].cidr", i), "%q is no network", orrery.Shorten(source.CIDR, 60)).
					WithHint("Write a network such as 10.1.0.0/16, or a single address.")
			}
		}
	}
	return nil
}

// checkName takes any name that PostgreSQL can keep and a person can see: all are quoted wherever they are used.
func checkName(field, noun, name string, reserved []string) error {
	hidden := func(r rune) bool { return !unicode.IsPrint(r) }
	switch {
	case name == "" || len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, hidden) || strings.TrimSpace(name) != name:
		return orrery.Invalid(field, "the %s name %q cannot be used", noun, orrery.Shorten(name, 60)).
			WithHint("Use 1 to %d bytes of visible characters, without a space at the start or end.", maxName)
	case slices.Contains(reserved, name) || strings.HasPrefix(name, "pg_") || strings.HasPrefix(name, superuser+"_"):
		return orrery.Invalid(field, "the %s name %q is reserved", noun, name).WithCode(noun+"_name_reserved").
			WithHint("Names that start with pg_ or %s_, and a few others, belong to the system.", superuser)
	}
	return nil
}

// CheckParameter refuses what PostgreSQL itself would only refuse later, or what a plan cannot hold.
func (*Driver) CheckParameter(p orrery.Parameter, value string, _ orrery.DatastoreSpec, plan orrery.Plan) error {
	field := engine.ParameterField(p.Name)
	if unit := strings.TrimSpace(strings.TrimLeft(value, "+-.0123456789eE ")); p.Unit != "" && unit != "" &&
		!slices.Contains([]string{"B", "kB", "MB", "GB", "TB", "us", "ms", "s", "min", "h", "d"}, unit) {
		return orrery.Invalid(field, "PostgreSQL does not know the unit %q", unit).WithCode("parameter_invalid").
			WithHint("Units of size: B, kB, MB, GB, TB; of time: us, ms, s, min, h, d.")
	}
	if p.Name == "wal_level" && strings.EqualFold(value, "minimal") {
		return orrery.Invalid(field, "wal_level has to be replica or logical").WithCode("parameter_invalid").
			WithHint("Replicas and backups need what minimal leaves out.")
	}
	if limit := plan.MemoryMiB; p.Name == "shared_buffers" && limit > 0 {
		n, err := engine.ParseNumber(value, "MB")
		if !hasUnit(value) {
			n /= 128 // pages of 8 kB
		}
		if err == nil && n > float64(limit)*0.75 {
			return orrery.Invalid(field, "shared_buffers does not fit in the plan's %d MiB of memory", limit).WithCode("parameter_out_of_range").
				WithHint("At most three quarters of it, %d MB; a quarter is usual.", limit*3/4)
		}
	}
	return nil
}

func hasUnit(value string) bool {
	return strings.ContainsAny(strings.TrimSpace(value), "BkMGT")
}

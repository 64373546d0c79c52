package iam

import (
	"slices"
	"strings"

	"github.com/orrery-db/orrery"
)

// Permission is the right to do one sort of thing: a noun, a dot and a verb.
type Permission string

// The permissions. Verbs other than read change something.
const (
	PlaneRead        Permission = "plane.read" // engines, plans, regions, pools, status, the data CA
	HostsRead        Permission = "hosts.read"
	HostsUpdate      Permission = "hosts.update"
	HostsJoin        Permission = "hosts.join" // make join tokens
	ProjectsRead     Permission = "projects.read"
	ProjectsCreate   Permission = "projects.create"
	ProjectsUpdate   Permission = "projects.update"
	ProjectsDelete   Permission = "projects.delete"
	DatastoresRead   Permission = "datastores.read" // with all that is below them, but no secrets
	DatastoresCreate Permission = "datastores.create"
	DatastoresUpdate Permission = "datastores.update" // spec, users, databases, trusted sources, parameters
	DatastoresAct    Permission = "datastores.act"    // restart, pause, resume
	DatastoresDelete Permission = "datastores.delete"
	JobsRead         Permission = "jobs.read"
	JobsUpdate       Permission = "jobs.update" // cancel, retry
	EventsRead       Permission = "events.read"
	TokensRead       Permission = "tokens.list" // not "read": a viewer has no business with it
	TokensCreate     Permission = "tokens.create"
	TokensRevoke     Permission = "tokens.revoke"
)

// Role is a named set of permissions.
type Role string

// The roles.
const (
	RoleAdmin  Role = "admin"
	RoleViewer Role = "viewer"
	// RoleHostJoin marks a host's join token. It opens nothing in the API.
	RoleHostJoin Role = "join-host"
)

// grants says what each role may do, as patterns: a permission, "*.<verb>", or "*".
func grants(r Role) []string {
	switch r {
	case RoleAdmin:
		return []string{"*"}
	case RoleViewer:
		return []string{"*.read"}
	}
	return nil
}

// Roles lists the roles that a token for the API may have.
func Roles() []Role { return []Role{RoleAdmin, RoleViewer} }

// Allows tells whether the role has a permission.
func (r Role) Allows(permission Permission) bool {
	for _, pattern := range grants(r) {
		if pattern == "*" || pattern == string(permission) {
			return true
		}
		if verb, ok := strings.CutPrefix(pattern, "*"); ok && strings.HasSuffix(string(permission), verb) {
			return true
		}
	}
	return false
}

// CheckRole refuses a role that no token can have, blaming field.
func CheckRole(field, role string) error {
	if slices.Contains(Roles(), Role(role)) {
		return nil
	}
	return orrery.Invalid(field, "there is no role %q", orrery.Shorten(role, 40)).WithCode("role_unknown").
		WithHint("Use admin or viewer.")
}

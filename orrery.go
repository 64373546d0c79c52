// Package orrery defines the words of the control plane as Go types: what a datastore, an instance, a host and a job
// are, and the kinds of error there are. The API, the store and the clients share these definitions. It imports
// nothing but the standard library, and holds no behaviour beyond what belongs to the words themselves.
package orrery

import (
	"crypto/rand"
	"encoding/base32"
	"regexp"
	"strings"
	"time"
)

// Meta is what every stored object carries.
type Meta struct {
	// ID is unique for ever: a prefix that tells the kind, and 16 random characters, as in "ds-4q7…".
	ID string `json:"id" doc:"Unique for ever; made by the server." readOnly:"true"`
	// Name is chosen by a person, unique within its parent, a DNS label; see CheckName.
	Name string `json:"name" doc:"A DNS label: lower-case letters, digits and hyphens, at most 40 characters."`
	// Project is the ID of the owning project; empty for what belongs to the plane itself.
	Project string `json:"project,omitempty" readOnly:"true"`
	// Generation counts changes of the spec. It is the object's ETag.
	Generation int64 `json:"generation" readOnly:"true"`
	// Revision is the store revision of the last write of any kind; a watch can be resumed from it. The store sets it
	// on reading; it is never stored.
	Revision  int64             `json:"revision,omitempty" readOnly:"true"`
	Labels    map[string]string `json:"labels,omitempty"`
	CreatedAt time.Time         `json:"created_at" readOnly:"true"`
	UpdatedAt time.Time         `json:"updated_at" readOnly:"true"`
}

// GetMeta gives every object that embeds Meta the accessor that the store asks for.
func (m *Meta) GetMeta() *Meta { return m }

// ID prefixes, one for each kind of object.
const (
	PrefixProject   = "pr"
	PrefixDatastore = "ds"
	PrefixInstance  = "in"
	PrefixHost      = "ho"
	PrefixPool      = "po"
	PrefixRegion    = "re"
	PrefixJob       = "jo"
	PrefixEvent     = "ev"
	PrefixToken     = "to"
	PrefixPlace     = "pl"
)

var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// NewID makes a new unique ID: the prefix, a hyphen, and 80 random bits in Crockford's base 32.
func NewID(prefix string) string {
	var b [10]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails (Go 1.24 release notes)
	return prefix + "-" + idEncoding.EncodeToString(b[:])
}

// IsID tells whether s has the form of an ID with the given prefix. Names may have that form too; IDs win.
func IsID(s, prefix string) bool {
	rest, ok := strings.CutPrefix(s, prefix+"-")
	return ok && len(rest) == 16 && !strings.ContainsFunc(rest, func(r rune) bool {
		return !strings.ContainsRune("0123456789abcdefghjkmnpqrstvwxyz", r)
	})
}

var nameRE = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$`)

// CheckName tells whether name may name an object: a DNS label (RFC 1123) that starts with a letter, at most 40
// characters. The error names field.
func CheckName(field, name string) error {
	if nameRE.MatchString(name) {
		return nil
	}
	return Invalid(field, "the name %q cannot be used", Shorten(name, 60)).
		WithHint("Use 1 to 40 lower-case letters, digits and hyphens; start with a letter and do not end with a hyphen.")
}

// Shorten cuts s to at most n runes for use in a message.
func Shorten(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n]) + "…"
	}
	return s
}

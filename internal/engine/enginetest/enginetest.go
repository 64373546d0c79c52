// Package enginetest is the conformance suite of engine drivers. It keeps real servers itself, in the plainest way (see
// Member), and holds each method of engine.Server to its contract, from outside through real client connections. A
// driver is done when the suite passes with the real database. It knows no engine: what differs comes in by Target.
package enginetest

import (
	"context"
	"crypto/tls"
	"testing"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// Target is a driver with what the suite needs to know of its engine.
type Target struct {
	Driver engine.Driver
	// Connect logs in as a client program does. An error is a refusal.
	Connect func(ctx context.Context, login Login) (Client, error)
	// Reloadable and Restart are each a parameter and a legal value, other than its default: taken on while running, and
	// at a restart. Restart.Name is empty where the engine has none such.
	Reloadable, Restart Setting
	// Extra are the driver's own tests, each on an instance with an empty folder.
	Extra []Extra
	// FiltersSources: the engine keeps clients out by their address also within the loopback network.
	FiltersSources bool
}

// Extra is a driver's own test, which borrows the suite's way of keeping a server.
type Extra struct {
	Name string
	Test func(t *testing.T, in *Instance)
}

// Setting is a parameter with a value.
type Setting struct{ Name, Value string }

// Login is one attempt of a client.
type Login struct {
	Address        string
	Port           int
	User, Password string
	Database       string
	// TLS is nil for an attempt in the clear.
	TLS *tls.Config
	// Source is the address to come from; any where empty.
	Source string
}

// Client is a connected client.
type Client interface {
	// Write stores a value under a key.
	Write(ctx context.Context, key, value string) error
	// Read gives the value, "" where there is none.
	Read(ctx context.Context, key string) (string, error)
	// Setting gives a parameter's value as the server has it, in the server's own spelling.
	Setting(ctx context.Context, name string) (string, error)
	Close() error
}

// Run runs the whole suite on the newest installed version. The calling test must not be parallel.
func Run(t *testing.T, target Target) {
	versions, err := target.Driver.Discover(t.Context())
	if err != nil || len(versions) == 0 {
		t.Fatalf("Discover found %v, %v: the suite needs the real database", versions, err)
	}
	s := &suite{Target: target, version: versions[len(versions)-1], ca: newAuthority(t)}
	if s.isChild(t) {
		return
	}
	for _, c := range []struct {
		name string
		test func(*testing.T)
	}{
		{"Definition", s.definition},
		{"Prepare", s.prepare},
		{"PrepareDies", s.prepareDies},
		{"Parameters", s.parameters},
		{"Primary", s.primary},
		{"Access", s.access},
		{"TrustedSources", s.trustedSources},
		{"Users", s.users},
		{"Databases", s.databases},
		{"Configure", s.configure},
		{"Durability", s.durability},
		{"Adoption", s.adoption},
		{"PortTaken", s.portTaken},
		{"Replication", s.replication},
		{"CloneDies", s.cloneDies},
	} {
		t.Run(c.name, c.test)
	}
	for _, x := range target.Extra {
		t.Run(x.Name, func(t *testing.T) {
			x.Test(t, &Instance{s.newMember(t, "in-1000000000000000", orrery.RolePrimary)})
		})
	}
}

type suite struct {
	Target
	version orrery.EngineVersion
	ca      *authority
}

const datastore = "ds-0000000000000000"

// password of the first user, who may do everything.
const password = "correct horse 'battery\" \\staple%"

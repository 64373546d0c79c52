// Package hypervisor is the seam between an agent and the machine it runs on. A driver answers one demand: give me a
// place to live. It knows nothing of databases: what lives in a place is a command. hypervisortest is the conformance
// suite: a driver is done when the suite passes on the real thing.
package hypervisor

import (
	"context"

	"github.com/orrery-db/orrery"
)

// Driver makes and unmakes places. All methods are safe for concurrent use (one call at a time per place is the
// caller's duty), idempotent, and may be cut off by the death of the process at any instruction: calling again finishes
// the work. Places and what runs in them outlive the driver; a new driver on the same root finds them again.
// Errors are retried by the caller, but *orrery.Error with KindInvalid or KindExhausted.
type Driver interface {
	// Name of the driver, as in "process".
	Name() string
	// Host says what the machine has and whether limits can be set here (see orrery.PlaceStatus.Limits).
	Host(ctx context.Context) (Host, error)
	// Create makes the place and starts its command. The place is listed from its first trace on, so that a half-made
	// one can be finished (Create again with the same spec) or destroyed.
	Create(ctx context.Context, spec Spec) (Place, error)
	// Update changes limits, labels and nothing else, without touching what runs.
	Update(ctx context.Context, id string, limits Limits, labels map[string]string) (Place, error)
	// Destroy stops everything in the place and removes every trace: processes, folder, port, limits group, user.
	// Destroying what is not there is no error.
	Destroy(ctx context.Context, id string) error
	// List gives all places, whole and half-made, with labels and state as they are now.
	List(ctx context.Context) ([]Place, error)
	// Changes tells the IDs of places whose state changed (a command died, was restarted). The channel is never closed
	// before Close; a change is never lost, but several may be told as one.
	Changes() <-chan string
	// Close lets go of everything without stopping what runs in places.
	Close() error
}

// Spec is the place that is asked for.
type Spec struct {
	ID     string // chosen by the caller, of the form of an orrery ID with PrefixPlace
	Labels map[string]string
	Limits Limits
	// Command is run in the place, in its folder, as its user, restarted with back-off when it ends, and left alone when
	// the driver goes away. "{dir}" in an argument stands for the place's folder as seen from inside, "{port}" for its port.
	Command []string
	Env     []string
}

// Limits of a place. 0 is none.
type Limits struct {
	CPUMilli  int64
	MemoryMiB int64
	// StorageGiB is enforced where the driver can, else watched by the keeper.
	StorageGiB int64
	// Background lets the place have only the CPU time that no other place wants, where the driver can. It is for places
	// that are made ready ahead of need; Update lifts it.
	Background bool
}

// Place is a place to live.
type Place struct {
	ID     string
	Labels map[string]string
	State  orrery.PlaceState
	// Dir is the place's folder as the agent sees it; the agent may put a socket in Dir/agent.
	Dir string
	// UID and GID own Dir; the agent's own where it is not root.
	UID, GID int
	// Port is free for the place's database to listen on, at the host's address, and stays the place's own.
	Port int
	// PID of the command as the host sees it; 0 where it is not running.
	PID int
	// Restarts counts restarts of the command since the place was made.
	Restarts int
	// Limited says how limits are enforced; see orrery.PlaceStatus.Limits.
	Limited string
	Message string
}

// Host is what a machine has.
type Host struct {
	Capacity orrery.Capacity
	Limits   string
}

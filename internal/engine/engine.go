// Package engine is the seam between the plane and the databases it runs. A driver answers one demand: be this
// database. It knows nothing of hypervisors, jobs or the API, and drivers never import each other. enginetest is the
// conformance suite: a driver is done when the suite passes with the real database.
package engine

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/orrery-db/orrery"
)

// Driver is one engine. Its methods are safe for concurrent use and hold no state of any instance.
type Driver interface {
	Definition
	// Discover finds the versions installed on this host, oldest first. No version is not an error.
	Discover(ctx context.Context) ([]orrery.EngineVersion, error)
	// Open gives the handle of one database server on one folder. It reads at most; it starts nothing.
	Open(cfg Config) (Server, error)
}

// Definition is the part of a driver that the server side uses. It is pure: no process, no file, no network.
type Definition interface {
	// Engine describes the engine; Versions and Default are filled in by the caller from what hosts report.
	Engine() orrery.Engine
	// Supports tells whether the driver knows this major version.
	Supports(version string) bool
	// CheckSpec refuses what this engine cannot do (a database for an engine without, a reserved user name, …) with an
	// *orrery.Error that names the field, relative to the spec ("users[0].name").
	CheckSpec(spec orrery.DatastoreSpec) error
	// CheckParameter refuses a value with the reason. It is called for parameters that the catalogue knows and does not
	// manage, after the generic check by CheckParameters. Drivers without such rules return nil.
	CheckParameter(p orrery.Parameter, value string, spec orrery.DatastoreSpec, plan orrery.Plan) error
	// DefaultUser is the name of a new datastore's first user, DefaultDatabase of its first database ("" where the
	// engine has none).
	DefaultUser() string
	DefaultDatabase() string
	// Connection gives ready connection strings; "{password}" stands where the password goes, "{ca}" where the path of
	// the CA file goes. endpoints has the primary first.
	Connection(spec orrery.DatastoreSpec, endpoints []orrery.Endpoint, user, database string) []orrery.ConnectionString
	// SecretForm turns a password into what keepers need to set it, so that the password itself need not be kept
	// (a SCRAM verifier, a hash).
	SecretForm(password string) (string, error)
}

// Config is what a Server lives with.
type Config struct {
	Version orrery.EngineVersion
	// Dir is the instance's own folder, on its volume. The driver makes and owns Dir/data (the dataset), Dir/conf and
	// Dir/run (sockets, pid files; its path is short enough for a unix socket). TLS files are given in Desired.
	Dir string
	// Log is for the driver's own words; the database's own log goes to LogDir in rotated files.
	Log    *slog.Logger
	LogDir string
}

// Desired is all that an instance should be. It is whole (never a change against an earlier one), numbered, and
// neutral: each driver maps it to its own terms.
type Desired struct {
	// Generation is the datastore generation this stems from.
	Generation int64 `json:"generation"`
	// InstanceGeneration is the instance's own: it grows with its plan.
	InstanceGeneration int64 `json:"instance_generation"`
	// Datastore and Instance are IDs; an instance's ID serves as its name in replication.
	Datastore string      `json:"datastore"`
	Instance  string      `json:"instance"`
	Role      orrery.Role `json:"role"`
	Stopped   bool        `json:"stopped,omitempty"`
	// RestartSeq: restart once each time this grows.
	RestartSeq int64 `json:"restart_seq,omitempty"`
	// Primary is whom a replica follows; nil on the primary, and on a replica while the primary's address is unknown.
	Primary *Peer `json:"primary,omitempty"`
	// Peers are the other members, whatever their role.
	Peers       []Peer                 `json:"peers,omitempty"`
	Replication orrery.ReplicationMode `json:"replication"`
	// Address and Port to listen on (beside the loopback address and the unix socket in Config.Dir/run).
	Address string `json:"address"`
	Port    int    `json:"port"`
	// The plan's size, to tune settings from.
	CPUMilli   int64 `json:"cpu_milli"`
	MemoryMiB  int64 `json:"memory_mib"`
	StorageGiB int64 `json:"storage_gib"`
	// Parameters that the user set.
	Parameters     map[string]string `json:"parameters,omitempty"`
	Users          []DesiredUser     `json:"users,omitempty"`
	Databases      []orrery.Database `json:"databases,omitempty"`
	TrustedSources []netip.Prefix    `json:"trusted_sources,omitempty"`
	// MemberSecret is shared by the members of the datastore and nobody else, made at its creation. Engines whose
	// members prove themselves by certificate ignore it.
	MemberSecret string `json:"member_secret,omitempty"`
	// SystemID is the lineage of the datastore's data as its primary reported it (Observation.SystemID); empty while
	// unknown. A replica whose dataset is of another lineage has to be cloned anew.
	SystemID string `json:"system_id,omitempty"`
	// TLS is filled in by the keeper.
	TLS TLSFiles `json:"-"`
}

// DesiredUser is a user with what is needed to set its password; see Definition.SecretForm.
type DesiredUser struct {
	orrery.User
	Secret string `json:"secret"`
}

// Peer is another member of the datastore.
type Peer struct {
	Instance string      `json:"instance"`
	Role     orrery.Role `json:"role"`
	Address  string      `json:"address"`
	Port     int         `json:"port"`
}

// TLSFiles are PEM files in the instance's folder, readable by the database's user. The certificate serves clients
// (its names: the host's address, localhost, the instance's and datastore's IDs) and, as a client certificate with the
// datastore's ID as common name, proves a member to the other members. Files are replaced atomically by renaming.
type TLSFiles struct {
	Cert, Key, CA string
}

// Effect is what it takes to make written configuration effective in a running server.
type Effect int

// The effects, each including those before.
const (
	EffectNone Effect = iota
	EffectReload
	EffectRestart
)

// Command is how to start the database in the foreground. The keeper is its parent.
type Command struct {
	Path string
	Args []string
	Env  []string
	Dir  string
	// Stop says how it is stopped: each signal in turn, each with the time the process is given after it. The last
	// stage must be one that cannot be ignored and must be safe for the data (crash recovery).
	Stop []StopStage
}

// StopStage is one signal and the time to wait for it.
type StopStage struct {
	Signal os.Signal
	Wait   time.Duration
}

// Observation is what a running server says of itself.
type Observation struct {
	Role      orrery.Role
	Version   string // full
	Streaming bool   // replica: receives from its primary
	Upstream  string // replica: instance ID it receives from, where known
	// Sync: primary in synchronous mode, the instance IDs that count for the quorum and are connected.
	Sync []string
	// Replicas: primary, the instance IDs that stream from it.
	Replicas       []string
	PendingRestart []string // parameters that wait for a restart
	SystemID       string
	// Position is how far the log has been written (primary) or received (replica), in bytes, and Lag the bytes that a
	// replica knows to be behind in applying. Stats: not for the state store.
	Position uint64
	LagBytes uint64
	// DataBytes is the size of the dataset where that is cheap to know, else 0.
	DataBytes int64
	StartedAt time.Time
}

// Server is one database server on one folder. The keeper calls one method at a time, but Observe and Ready, which may
// run beside any. Every method may be called again after it failed or after the process died in the middle of it, and
// then finishes the work or does it anew: each must be idempotent. Errors that no retry will mend are *orrery.Error
// with KindInvalid or KindConflict and a stable Code; all others are retried with back-off.
type Server interface {
	// Prepared tells whether a whole dataset lies in the folder. A half-made one (of a Prepare or Clone that died) counts as none.
	Prepared() (bool, error)
	// Prepare makes a fresh dataset that belongs to no datastore yet, with its own system identity. It is made aside and
	// renamed into place, so that it is whole or not there. It is called with or without Desired being known: nothing
	// of a datastore may go in.
	Prepare(ctx context.Context) error
	// Clone replaces the dataset by a copy of the primary's (d.Primary), ready to follow it. Engines whose replicas copy by themselves return nil.
	// progress may be called with bytes done and total (0 where unknown).
	Clone(ctx context.Context, d Desired, progress func(done, total int64)) error
	// Discard removes the dataset.
	Discard(ctx context.Context) error
	// Configure writes the configuration files for d (role, following, access, settings), atomically, and says what
	// a running server needs to take them on. It needs no running server.
	Configure(ctx context.Context, d Desired) (Effect, error)
	// Command is how to start the server after Configure.
	Command(d Desired) (Command, error)
	// FindProcess gives the process ID of a server that an earlier keeper left running on this folder; 0 where none
	// runs. It must not be fooled by a stale pid file whose number another process has now.
	FindProcess() (int, error)
	// Ready returns nil when the server takes commands over its local socket.
	Ready(ctx context.Context) error
	// Reload makes the server take on reloadable configuration; it returns when it has.
	Reload(ctx context.Context) error
	// Apply converges what lives inside the running server: users, databases, grants, slots, dynamic parameters. Users
	// and databases only on a primary. It removes users and databases that Orrery made and d no longer has: a database is dropped with
	// its data.
	Apply(ctx context.Context, d Desired) error
	// Observe asks the running server. It never blocks longer than ctx.
	Observe(ctx context.Context) (Observation, error)
	// Promote makes a replica a primary; it returns when it accepts writes.
	Promote(ctx context.Context) error
	// Parameters lists every parameter this server version knows, as the server's own programs tell it. It needs a
	// prepared dataset and no running server.
	Parameters(ctx context.Context) ([]orrery.Parameter, error)
	// Close lets go of connections; it does not stop the server.
	Close() error
}

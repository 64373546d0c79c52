package orrery

import "time"

// Datastore is one database service: an engine, a version, one or more instances, its users and endpoints.
type Datastore struct {
	Meta
	Spec   DatastoreSpec   `json:"spec"`
	Status DatastoreStatus `json:"status" readOnly:"true"`
	// Applied is the last spec that was rolled out whole. A change that fails for good is rolled back to it.
	Applied *DatastoreSpec `json:"applied,omitempty" readOnly:"true"`
	// AppliedGeneration is the generation that Applied stems from: behind Generation while a change is under way.
	AppliedGeneration int64 `json:"applied_generation" readOnly:"true"`
	// DeletingAt is set from the moment the deletion was asked for.
	DeletingAt *time.Time `json:"deleting_at,omitempty" readOnly:"true"`
}

// DatastoreSpec is what was asked for.
type DatastoreSpec struct {
	Engine  string `json:"engine" doc:"postgres or valkey; see /v1/engines."`
	Version string `json:"version" doc:"Major version, as in 15. The newest on offer where empty."`
	Plan    string `json:"plan" doc:"Name of a plan; see /v1/plans."`
	// StorageGiB is the size of each instance's volume; the plan's where 0.
	StorageGiB  int             `json:"storage_gib,omitempty"`
	Region      string          `json:"region,omitempty"`
	Instances   int             `json:"instances" minimum:"1" maximum:"15"`
	Replication ReplicationMode `json:"replication" enum:"async,sync" doc:"sync: a commit waits for a quorum of replicas."`
	// Parameters are the engine's own, by the engine's own names; what is not given is tuned from the plan.
	Parameters     map[string]string `json:"parameters,omitempty"`
	Users          []User            `json:"users,omitempty"`
	Databases      []Database        `json:"databases,omitempty"`
	TrustedSources []TrustedSource   `json:"trusted_sources,omitempty"`
	// Paused stops the databases and keeps their data.
	Paused             bool `json:"paused,omitempty"`
	DeletionProtection bool `json:"deletion_protection,omitempty"`
	// RestartSeq grows by one with each restart asked for.
	RestartSeq int64 `json:"restart_seq,omitempty" readOnly:"true"`
}

// ReplicationMode says what a commit waits for.
type ReplicationMode string

// The replication modes.
const (
	ReplicationAsync ReplicationMode = "async" // a commit waits for nobody
	ReplicationSync  ReplicationMode = "sync"  // a commit waits for a quorum of the replicas
)

// Access is what a user may do in the databases it is given.
type Access string

// The levels of access. Each engine driver maps them to its own grants.
const (
	AccessAdmin     Access = "admin" // owns the databases, may make roles; never the engine's superuser
	AccessReadWrite Access = "readwrite"
	AccessReadOnly  Access = "readonly"
)

// User is a login of the database. Its password is kept sealed beside the datastore, never in it.
type User struct {
	Name   string `json:"name"`
	Access Access `json:"access" enum:"admin,readwrite,readonly"`
	// Databases limits the access to these; all where empty.
	Databases []string `json:"databases,omitempty"`
	// SecretVersion counts password changes.
	SecretVersion int64 `json:"secret_version" readOnly:"true"`
}

// Database is a logical database, for engines that have named ones.
type Database struct {
	Name string `json:"name"`
	// Owner is a user with admin access; the datastore's first user where empty.
	Owner string `json:"owner,omitempty"`
}

// TrustedSource is a network from which clients may connect.
type TrustedSource struct {
	CIDR        string `json:"cidr" doc:"A network such as 10.1.0.0/16, or a single address."`
	Description string `json:"description,omitempty"`
}

// DatastoreState is a datastore's state in one word.
type DatastoreState string

// The states of a datastore.
const (
	DatastoreCreating  DatastoreState = "creating"
	DatastoreAvailable DatastoreState = "available"
	DatastoreUpdating  DatastoreState = "updating"
	DatastoreDegraded  DatastoreState = "degraded"    // works, with fewer members than asked for
	DatastoreDown      DatastoreState = "unavailable" // no primary accepts writes
	DatastorePaused    DatastoreState = "paused"
	DatastoreDeleting  DatastoreState = "deleting"
	DatastoreFailed    DatastoreState = "failed" // a person has to look
)

// DatastoreStatus is what was seen. Only observers write it.
type DatastoreStatus struct {
	State   DatastoreState `json:"state"`
	Message string         `json:"message,omitempty"`
	// Primary is the ID of the instance that accepts writes.
	Primary string `json:"primary,omitempty"`
	// Term is the leadership generation; it only grows.
	Term uint64 `json:"term,omitempty"`
	// ReadyInstances of Spec.Instances are running in their role.
	ReadyInstances int        `json:"ready_instances"`
	Endpoints      []Endpoint `json:"endpoints,omitempty"`
	// ObservedGeneration is the generation that every instance has taken on.
	ObservedGeneration int64      `json:"observed_generation"`
	AvailableSince     *time.Time `json:"available_since,omitempty"`
}

// EndpointRole says what an endpoint leads to.
type EndpointRole string

// The roles of endpoints.
const (
	EndpointPrimary EndpointRole = "primary"
	EndpointReplica EndpointRole = "replica"
)

// Endpoint is an address of one instance.
type Endpoint struct {
	Instance string       `json:"instance"`
	Role     EndpointRole `json:"role"`
	Address  string       `json:"address"`
	Port     int          `json:"port"`
}

// ConnectionInfo is all that a client needs, but the password.
type ConnectionInfo struct {
	User     string `json:"user"`
	Database string `json:"database,omitempty"`
	// CA is the PEM certificate to verify the server with (sslmode=verify-full and its like).
	CA string `json:"ca"`
	// Strings are ready to use; "{password}" stands where the password goes.
	Strings []ConnectionString `json:"strings"`
}

// ConnectionString is one way to connect.
type ConnectionString struct {
	// Name is stable: primary, all_hosts, read_only, jdbc, cli.
	Name string `json:"name"`
	Text string `json:"text"`
	Doc  string `json:"doc,omitempty"`
}

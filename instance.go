package orrery

import "time"

// Instance is one member of a datastore: one database server process with its volume and address.
type Instance struct {
	Meta
	Spec   InstanceSpec   `json:"spec"`
	Status InstanceStatus `json:"status" readOnly:"true"`
}

// Role is an instance's part in replication.
type Role string

// The roles.
const (
	RolePrimary Role = "primary"
	RoleReplica Role = "replica"
)

// InstanceSpec is written by jobs only.
type InstanceSpec struct {
	Datastore string `json:"datastore"`
	Host      string `json:"host"`
	// Ordinal tells the members of a datastore apart, from 1; the name is "<datastore>-<ordinal>".
	Ordinal int  `json:"ordinal"`
	Role    Role `json:"role"`
	// Plan and StorageGiB are what this instance has been given; a plan change moves them one instance at a time.
	Plan       string `json:"plan"`
	StorageGiB int    `json:"storage_gib"`
	// Stopped asks the keeper to stop the database and keep its data.
	Stopped bool `json:"stopped,omitempty"`
	// RestartSeq: the keeper restarts the database once each time this grows.
	RestartSeq int64 `json:"restart_seq"`
	// Absent asks the agent to unmake the place with all that is in it.
	Absent bool `json:"absent,omitempty"`
}

// InstanceStatus has a part for each of its two observers.
type InstanceStatus struct {
	Place    PlaceStatus    `json:"place"`    // written for the agent
	Database DatabaseStatus `json:"database"` // written for the keeper
	// KeeperKey is the SHA-256 of the public key with which the keeper joined; its join token is used up from then on,
	// but for the same key.
	KeeperKey string `json:"keeper_key,omitempty"`
}

// PlaceState is the state of the place in which an instance lives.
type PlaceState string

// The states of a place. The empty state means that no agent has said anything yet.
const (
	PlaceCreating   PlaceState = "creating"
	PlaceRunning    PlaceState = "running"    // its keeper's process runs
	PlaceRestarting PlaceState = "restarting" // its keeper died and waits for its back-off
	PlaceFailed     PlaceState = "failed"     // cannot be made; Message says why
	PlaceAbsent     PlaceState = "absent"     // nothing of it is left
)

// PlaceStatus is what the host's agent sees of an instance's place.
type PlaceStatus struct {
	State   PlaceState `json:"state,omitempty"`
	ID      string     `json:"id,omitempty"`
	Address string     `json:"address,omitempty"`
	Port    int        `json:"port,omitempty"`
	// KeeperPID is the keeper's process ID on its host, where that has a meaning.
	KeeperPID int `json:"keeper_pid,omitempty"`
	// Limits says how CPU and memory are limited: "cgroup v2", "cgroup v1", or "not limited: <why>".
	Limits  string `json:"limits,omitempty"`
	Message string `json:"message,omitempty"`
	// Generation of the wish that the agent last converged to for this place.
	Generation uint64 `json:"generation,omitempty"`
}

// DatabaseState is the state of the database process.
type DatabaseState string

// The states of a database process.
const (
	DatabaseUnknown   DatabaseState = ""
	DatabasePreparing DatabaseState = "preparing" // initialising or cloning its data
	DatabaseStarting  DatabaseState = "starting"
	DatabaseRunning   DatabaseState = "running"
	DatabaseStopping  DatabaseState = "stopping"
	DatabaseStopped   DatabaseState = "stopped"
	DatabaseFailing   DatabaseState = "failed" // Message says why; the keeper keeps trying with back-off
)

// DatabaseStatus is what the keeper sees of its database. Numbers that change all the time (lag, sizes) are stats and
// are not kept here.
type DatabaseStatus struct {
	State   DatabaseState `json:"state,omitempty"`
	Role    Role          `json:"role,omitempty"`
	PID     int           `json:"pid,omitempty"`
	Version string        `json:"version,omitempty"` // full, as in "15.18"
	// Streaming is true on a replica that receives from its primary.
	Streaming bool `json:"streaming,omitempty"`
	// Upstream is the instance ID a replica receives from.
	Upstream string `json:"upstream,omitempty"`
	// Sync: on a primary in synchronous mode, the instance IDs that count for the quorum and are connected.
	Sync []string `json:"sync,omitempty"`
	// AppliedGeneration is the datastore generation that the keeper has wholly taken on.
	AppliedGeneration int64 `json:"applied_generation,omitempty"`
	// AppliedSpec is the generation of the instance's own spec (its plan) that the keeper has wholly taken on.
	AppliedSpec int64 `json:"applied_spec,omitempty"`
	// AppliedRestartSeq is the last restart that was done.
	AppliedRestartSeq int64 `json:"applied_restart_seq,omitempty"`
	// PendingRestart names the parameters that wait for a restart.
	PendingRestart []string `json:"pending_restart,omitempty"`
	// SystemID identifies the data's lineage (PostgreSQL's system identifier; for Valkey, whose own ID changes, the
	// datastore's ID).
	SystemID string `json:"system_id,omitempty"`
	Message  string `json:"message,omitempty"`
	// ErrorCode is a stable code of what Message tells, as in "parameter_rejected", "disk_full", "port_taken".
	ErrorCode string     `json:"error_code,omitempty"`
	StartedAt *time.Time `json:"started_at,omitempty"`
}

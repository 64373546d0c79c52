package orrery

import "time"

// Host is a machine, or a data cluster's worker, that instances run on.
type Host struct {
	Meta
	Spec   HostSpec   `json:"spec"`
	Status HostStatus `json:"status" readOnly:"true"`
	// Allocated is what instances on the host have been promised. Placement changes it in the transaction that makes
	// or removes an instance, so that nothing is promised twice.
	Allocated Capacity `json:"allocated" readOnly:"true"`
	// AgentKey is the SHA-256 of the public key with which the agent joined: a join whose answer was lost may be repeated
	// with the same key.
	AgentKey string `json:"agent_key,omitempty" readOnly:"true"`
}

// HostSpec is what a person says of a host.
type HostSpec struct {
	Pool string `json:"pool"`
	// Cordoned hosts get no new instances.
	Cordoned bool `json:"cordoned,omitempty"`
	// Zone tells failure domains apart within a region.
	Zone string `json:"zone,omitempty"`
}

// HostStatus is what the host's agent sees.
type HostStatus struct {
	Address      string   `json:"address,omitempty"` // where its instances are reached
	AgentVersion string   `json:"agent_version,omitempty"`
	Hypervisor   string   `json:"hypervisor,omitempty"`
	Capacity     Capacity `json:"capacity"`
	// Limits says whether CPU and memory limits can be set here; see PlaceStatus.Limits.
	Limits  string          `json:"limits,omitempty"`
	Engines []EngineVersion `json:"engines,omitempty"`
	// Unclaimed are places found on the host that no instance owns; a person decides.
	Unclaimed []string  `json:"unclaimed,omitempty"`
	Message   string    `json:"message,omitempty"`
	BootID    string    `json:"boot_id,omitempty"`
	JoinedAt  time.Time `json:"joined_at"`
	// Connected is true while a server holds the agent's session; made on reading, not stored.
	Connected bool `json:"connected"`
}

// Capacity is what a host has.
type Capacity struct {
	CPUMilli   int64 `json:"cpu_milli"` // thousandths of a core
	MemoryMiB  int64 `json:"memory_mib"`
	StorageGiB int64 `json:"storage_gib"`
}

// EngineVersion is one installed version of an engine.
type EngineVersion struct {
	Engine  string `json:"engine"`
	Version string `json:"version"` // major, as in "15"
	Full    string `json:"full"`    // as in "15.18"
	// Dir is where its programs lie on the host.
	Dir string `json:"dir,omitempty"`
}

// Pool is a set of like hosts in one region.
type Pool struct {
	Meta
	Spec PoolSpec `json:"spec"`
}

// PoolSpec says where a pool lives and what its hosts are.
type PoolSpec struct {
	Region     string `json:"region"`
	Hypervisor string `json:"hypervisor"` // name of the hypervisor driver, as in "process"
	// How many times over CPU and storage may be promised, in percent: 100 (and 0) is none. Memory is never promised twice.
	CPUOvercommitPercent     int `json:"cpu_overcommit_percent,omitempty"`
	StorageOvercommitPercent int `json:"storage_overcommit_percent,omitempty"`
}

// Region is where pools live. One region is one cell.
type Region struct {
	Meta
	Description string `json:"description,omitempty"`
}

// Plan is a size.
type Plan struct {
	Meta
	CPUMilli   int64 `json:"cpu_milli"`
	MemoryMiB  int64 `json:"memory_mib"`
	StorageGiB int64 `json:"storage_gib"` // where the datastore does not say
}

// Project owns datastores.
type Project struct {
	Meta
	Description string `json:"description,omitempty"`
}

// Engine is what the plane offers of one engine.
type Engine struct {
	Name     string   `json:"name"`
	Title    string   `json:"title"`
	Versions []string `json:"versions"` // major versions found on some host, oldest first
	Default  string   `json:"default"`  // used where a datastore does not say
	// Databases tells whether the engine has named databases.
	Databases bool `json:"databases"`
	// Replication modes that it knows.
	Replication []ReplicationMode `json:"replication"`
}

// ParameterType is the type of a parameter's value.
type ParameterType string

// The types of parameters.
const (
	ParameterBool   ParameterType = "bool"
	ParameterInt    ParameterType = "integer"
	ParameterReal   ParameterType = "real"
	ParameterEnum   ParameterType = "enum"
	ParameterString ParameterType = "string"
)

// Parameter is what a version of an engine says of one of its settings.
type Parameter struct {
	Name    string        `json:"name"`
	Type    ParameterType `json:"type"`
	Unit    string        `json:"unit,omitempty"` // of Min, Max and Default, as in "8kB", "ms"
	Min     string        `json:"min,omitempty"`
	Max     string        `json:"max,omitempty"`
	Values  []string      `json:"values,omitempty"` // of an enum
	Default string        `json:"default,omitempty"`
	Restart bool          `json:"restart"` // a change wants a restart
	// Managed parameters are set by Orrery and refused from users; it says why.
	Managed     string `json:"managed,omitempty"`
	Description string `json:"description,omitempty"`
	Category    string `json:"category,omitempty"`
}

// ParameterCatalogue is all the parameters of one version of an engine, as that version itself tells them.
type ParameterCatalogue struct {
	Meta                   // Name is "<engine>-<version>"
	Engine     string      `json:"engine"`
	Version    string      `json:"version"`
	Full       string      `json:"full"`
	Parameters []Parameter `json:"parameters"`
}

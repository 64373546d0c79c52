package session

import (
	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// AgentWish is all that an agent should have on its host. A place that is not named is left alone and reported as
// unclaimed: an agent destroys only what is named with Absent.
type AgentWish struct {
	Places []PlaceWish `json:"places"`
	// Warm says how many prepared places to hold ready.
	Warm []WarmWish `json:"warm,omitempty"`
}

// PlaceWish is the place of one instance.
type PlaceWish struct {
	Instance   string `json:"instance"`
	Datastore  string `json:"datastore"`
	Engine     string `json:"engine"`
	Version    string `json:"version"`
	CPUMilli   int64  `json:"cpu_milli"`
	MemoryMiB  int64  `json:"memory_mib"`
	StorageGiB int64  `json:"storage_gib"`
	// JoinToken is the keeper's one-time token; empty once it was used.
	JoinToken string `json:"join_token,omitempty"`
	Absent    bool   `json:"absent,omitempty"`
}

// WarmWish asks for prepared places.
type WarmWish struct {
	Engine  string `json:"engine"`
	Version string `json:"version"`
	Count   int    `json:"count"`
}

// AgentReport is all that an agent sees. Places that were wished Absent are reported as PlaceAbsent while the wish names them.
type AgentReport struct {
	// Generation of the wish that this report reflects.
	Generation uint64                `json:"generation"`
	Host       orrery.HostStatus     `json:"host"`
	Places     map[string]PlaceState `json:"places"` // by instance ID
	// Catalogues of parameters that warm places found, by "<engine>-<version>"; sent once per stream.
	Catalogues []orrery.ParameterCatalogue `json:"catalogues,omitempty"`
}

// PlaceState is one place as the agent sees it.
type PlaceState = orrery.PlaceStatus

// KeeperWish is all that a keeper's instance should be.
type KeeperWish struct {
	Desired engine.Desired `json:"desired"`
}

// KeeperReport is what a keeper sees of its database.
type KeeperReport struct {
	// Generation of the wish that this report reflects.
	Generation uint64                `json:"generation"`
	Database   orrery.DatabaseStatus `json:"database"`
	// Catalogue is sent once per stream where the server may not have it.
	Catalogue *orrery.ParameterCatalogue `json:"catalogue,omitempty"`
}

// KeeperStats are numbers over time.
type KeeperStats struct {
	LagBytes  uint64 `json:"lag_bytes"`
	Position  uint64 `json:"position"`
	DataBytes int64  `json:"data_bytes"`
}

// ActionResult is the end of a one-off action.
type ActionResult struct {
	OK      bool   `json:"ok"`
	Message string `json:"message,omitempty"`
}

package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// paths of a place.
type paths string

func (p paths) join(dir string, elem []string) string {
	return filepath.Join(append([]string{string(p), dir}, elem...)...)
}
func (p paths) keeper(elem ...string) string { return p.join("keeper", elem) }
func (p paths) log(elem ...string) string    { return p.join("log", elem) }
func (p paths) tls(elem ...string) string    { return p.join("keeper/tls", elem) }
func (p paths) proxy() string                { return p.join("agent", []string{"proxy.sock"}) }
func (p paths) assignment() string           { return p.join("agent", []string{"assignment.json"}) }

// wish is a desired state with its number in the session, which keeps the newest.
type wish struct {
	Generation uint64
	Desired    engine.Desired
}

// memory is what the keeper must not forget, in keeper/state.json.
type memory struct {
	// RestartSeq is the last restart that was asked for when the database was last started, or found stopped. It is
	// written while no database runs, so each restart is done once, wherever a keeper died.
	RestartSeq int64 `json:"restart_seq"`
	// Live is true once the dataset belongs to this instance; before, it is a prepared one that belongs to nobody. A live
	// dataset is never made anew, and only ever removed by a replica that clones.
	Live bool `json:"live"`
	// Copying is true while a copy of the primary's dataset is under way: there is nothing then that could be a primary.
	Copying bool `json:"copying,omitempty"`
	// SystemID is the dataset's lineage, as last seen.
	SystemID string `json:"system_id,omitempty"`
}

func loadMemory(p paths) (memory, error) {
	var m memory
	_, err := readJSON(p.keeper("state.json"), &m)
	return m, err
}

// prepared is keeper/prepared.json: the sign that a place can be handed out.
type prepared struct {
	Catalogue *orrery.ParameterCatalogue `json:"catalogue"`
}

func readJSON(path string, v any) (bool, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the keeper's state: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("read the keeper's state %s: %w", filepath.Base(path), err)
	}
	return true, nil
}

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write the keeper's state %s: %w", filepath.Base(path), err)
	}
	return writeFile(path, b)
}

// writeFile replaces a file whole. It does not wait for the disk: what is lost with the host's power is told again by
// the server, or done again without harm.
func writeFile(path string, data []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

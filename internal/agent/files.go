package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/hypervisor"
	"github.com/orrery-db/orrery/internal/session"
)

// assignment is the file agent/assignment.json in a place: it tells the keeper which instance it is.
type assignment struct {
	Instance   string `json:"instance"`
	Datastore  string `json:"datastore"`
	JoinToken  string `json:"join_token,omitempty"`
	ServerName string `json:"server_name,omitempty"`
}

func assignmentPath(dir string) string { return filepath.Join(dir, "agent", "assignment.json") }

func (a *Agent) newAssignment(w session.PlaceWish) assignment {
	return assignment{Instance: w.Instance, Datastore: w.Datastore, JoinToken: w.JoinToken, ServerName: a.cfg.ServerName}
}

// assignmentDone tells whether the place's keeper has been told. A token that was used, and is therefore not in the
// wish any more, need not be taken out of the file.
func (a *Agent) assignmentDone(w session.PlaceWish, p *placeInfo) bool {
	if p.assigned == nil {
		p.assigned = readAssignment(p.Dir)
	}
	return covers(*p.assigned, a.newAssignment(w))
}

func covers(have, want assignment) bool {
	if want.JoinToken == "" {
		have.JoinToken = ""
	}
	return have == want
}

// readAssignment gives an empty one where there is none that can be read: it is then written again.
func readAssignment(dir string) *assignment {
	var got assignment
	b, err := os.ReadFile(assignmentPath(dir))
	if err != nil || json.Unmarshal(b, &got) != nil {
		return &assignment{}
	}
	return &got
}

// assign writes the assignment, whole or not at all, for the place's user alone to read. It need not be on the disk:
// an agent that finds it missing writes it again.
func assign(p hypervisor.Place, want assignment) (*assignment, error) {
	if have := readAssignment(p.Dir); covers(*have, want) {
		return have, nil
	}
	b, err := json.Marshal(want)
	if err != nil {
		return nil, err
	}
	path := assignmentPath(p.Dir)
	tmp := path + ".tmp"
	if err := writeFor(tmp, b, p); err != nil {
		return nil, fmt.Errorf("write the assignment of %s: %w", want.Instance, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return nil, fmt.Errorf("write the assignment of %s: %w", want.Instance, err)
	}
	return &want, nil
}

// writeFor writes a file that only the agent and the place's user can read.
func writeFor(path string, b []byte, p hypervisor.Place) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil && os.Geteuid() == 0 {
		err = f.Chown(p.UID, p.GID)
	}
	return errors.Join(err, f.Close())
}

// prepared is the file keeper/prepared.json, with which a keeper tells that its place is ready to be handed out.
type prepared struct {
	Catalogue *orrery.ParameterCatalogue `json:"catalogue,omitempty"`
}

// A catalogue has some hundred KiB; a report, with all of them, may have session.MaxMessage.
const maxPrepared = 1 << 20

// readPrepared reads what a place's user wrote: anything may lie there.
func readPrepared(dir string) (*prepared, error) {
	f, err := os.OpenFile(filepath.Join(dir, "keeper", "prepared.json"), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() || fi.Size() > maxPrepared {
		return nil, fmt.Errorf("%s is no file of a keeper", f.Name())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPrepared))
	if err != nil {
		return nil, err
	}
	got := &prepared{}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(got); err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return got, nil
}

// awaitPrepared waits beside the agent's goroutine until the keeper says that the place is prepared. It looks often at
// first: preparing takes some hundred milliseconds.
func (a *Agent) awaitPrepared(p *placeInfo) {
	id, dir := p.ID, p.Dir
	a.tasks.Go(func() {
		for wait := 10 * time.Millisecond; ; wait = min(wait*5/4, time.Second) {
			got, err := readPrepared(dir)
			if err == nil {
				a.post(func() { a.setPrepared(id, got) })
				return
			}
			if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
				return
			}
			if !pause(a.ctx, wait) {
				return
			}
		}
	})
}

func (a *Agent) setPrepared(id string, got *prepared) {
	p := a.places[id]
	if p == nil {
		return
	}
	p.prepared = true
	if c := got.Catalogue; c != nil && c.Engine == p.key().engine && c.Version == p.key().version {
		if a.reporter.addCatalogue(*c) {
			a.reporter.last = nil // to be reported
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

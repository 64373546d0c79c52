package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// actionID is the form of actions' IDs; they name files.
var actionID = regexp.MustCompile(`^[0-9A-Za-z_-]{1,64}$`)

// ledgerLife is how long an action that was done and acknowledged is remembered. No server sends one that old.
const ledgerLife = 7 * 24 * time.Hour

// ledger remembers actions, so that each is done at most once however often it is sent and whenever we die: an action
// is written down, and synced, before it begins.
type ledger struct {
	dir string // "" is memory only

	mu      sync.Mutex
	entries map[string]ledgerEntry
}

type ledgerEntry struct {
	Begun  time.Time     `json:"begun"`
	Result *ActionResult `json:"result,omitempty"` // nil while it is being done
	Acked  bool          `json:"acked,omitempty"`

	id    string
	asked int // how often the server sent the action again
}

// openLedger reads what an earlier process wrote. What that had begun and not ended is ended here, as interrupted.
func openLedger(dir string, now time.Time) (*ledger, error) {
	l := &ledger{dir: dir, entries: map[string]ledgerEntry{}}
	if dir == "" {
		return l, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the ledger of actions: %w", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open the ledger of actions: %w", err)
	}
	for _, f := range files {
		id, ok := strings.CutSuffix(f.Name(), ".json")
		if !ok || !actionID.MatchString(id) {
			_ = os.Remove(filepath.Join(dir, f.Name())) // half-written
			continue
		}
		raw, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read the ledger of actions: %w", err)
		}
		e := ledgerEntry{Begun: now}
		if json.Unmarshal(raw, &e) != nil || e.Result == nil { // that it is there says that it was begun
			e.Result = &ActionResult{Message: "interrupted: the process ended while the action was under way; whether it took effect is not known"}
			if err := l.write(id, e); err != nil {
				return nil, err
			}
		}
		e.id = id
		l.entries[id] = e
	}
	l.forget()
	return l, nil
}

// begin writes an action down. Where it was begun before it must not be done again.
func (l *ledger) begin(id string, now time.Time) (fresh bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.entries[id]; ok {
		return false, nil
	}
	e := ledgerEntry{Begun: now, id: id}
	if err := l.write(id, e); err != nil {
		return false, err
	}
	l.entries[id] = e
	return true, nil
}

// finish notes the result of an action that was begun.
func (l *ledger) finish(id string, r ActionResult) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[id]
	e.Result = &r
	l.entries[id] = e
	return l.write(id, e)
}

// acked notes that the server has the result.
func (l *ledger) acked(id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.entries[id]
	if !ok || e.Acked || e.Result == nil {
		return nil
	}
	e.Acked = true
	l.entries[id] = e
	l.forget()
	return l.write(id, e)
}

// forget drops what is old.
func (l *ledger) forget() {
	for id, e := range l.entries {
		if e.Acked && time.Since(e.Begun) > ledgerLife {
			delete(l.entries, id)
			if l.dir != "" {
				_ = os.Remove(filepath.Join(l.dir, id+".json"))
			}
		}
	}
}

// again makes the result of an action that the server sent once more go to it once more.
func (l *ledger) again(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[id]
	e.Acked = false
	e.asked++
	l.entries[id] = e
}

// unacked gives the results that the server has not acknowledged, oldest first.
func (l *ledger) unacked() []ledgerEntry {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []ledgerEntry
	for _, e := range l.entries {
		if e.Result != nil && !e.Acked {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b ledgerEntry) int { return a.Begun.Compare(b.Begun) })
	return out
}

func (l *ledger) write(id string, e ledgerEntry) error {
	if l.dir == "" {
		return nil
	}
	raw, err := json.Marshal(e)
	if err == nil {
		err = writeFile(filepath.Join(l.dir, id+".json"), raw)
	}
	if err != nil {
		return fmt.Errorf("write action %s down: %w", id, err)
	}
	return nil
}

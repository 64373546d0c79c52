package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// quorum is how many replicas have to have a commit before it is acknowledged: with the primary, more than half of the
// members have it then, so any majority of the members that survives holds every acknowledged commit.
func quorum(members int) int { return members / 2 }

var quorumRE = regexp.MustCompile(`ANY (\d+) \(`)

// quorumIn reads the number out of synchronous_standby_names; 0 where it is off.
func quorumIn(text string) int {
	if m := quorumRE.FindStringSubmatch(text); m != nil {
		n, _ := strconv.Atoi(m[1])
		return n
	}
	return 0
}

func syncNames(n int, peers []engine.Peer) string {
	if n == 0 || len(peers) == 0 {
		return ""
	}
	names := make([]string, len(peers))
	for i, p := range peers {
		names[i] = `"` + strings.ReplaceAll(p.Instance, `"`, `""`) + `"`
	}
	slices.Sort(names)
	return fmt.Sprintf("ANY %d (%s)", n, strings.Join(names, ", "))
}

func syncConf(n int, peers []engine.Peer) string {
	return "synchronous_standby_names = " + quoteConf(syncNames(n, peers)) + "\n"
}

func wantedQuorum(d engine.Desired) int {
	if d.Replication != orrery.ReplicationSync {
		return 0
	}
	return quorum(len(d.Peers) + 1)
}

// syncConfFor decides what Configure writes. The quorum of a primary is never raised here, as replicas that do not
// stream yet would hold up all commits: settleSync raises it when they do. A replica has the whole quorum from the
// start, so that it is in force at the very moment of its promotion.
func (s *server) syncConfFor(d engine.Desired) (string, error) {
	n := wantedQuorum(d)
	if d.Role == orrery.RolePrimary {
		old, err := os.ReadFile(s.conf(confSync))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("read %s: %w", confSync, err)
		}
		n = min(n, quorumIn(string(old)))
	}
	return syncConf(n, d.Peers), nil
}

// settleSync raises a primary's quorum when enough replicas stream. It is called by Apply, and by Observe for as long as
// what Apply was asked for is not reached: no wish comes when a replica has caught up.
func (s *server) settleSync(ctx context.Context, streaming []string) error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	d := s.wanted
	if d == nil || d.Role != orrery.RolePrimary {
		return nil
	}
	want := wantedQuorum(*d)
	old, err := os.ReadFile(s.conf(confSync))
	if err != nil {
		return fmt.Errorf("read %s: %w", confSync, err)
	}
	if quorumIn(string(old)) >= want {
		return nil
	}
	here := 0
	for _, p := range d.Peers {
		if slices.Contains(streaming, p.Instance) {
			here++
		}
	}
	if here < want {
		return nil
	}
	if _, err := writeFile(s.conf(confSync), syncConf(want, d.Peers)); err != nil {
		return err
	}
	s.log.Info("synchronous replication is on", "quorum", want, "replicas", len(d.Peers))
	return s.Reload(ctx)
}

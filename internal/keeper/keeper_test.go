package keeper_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

func TestWarmPlaceBecomesAPrimary(t *testing.T) { onEach(t, testWarmPlaceBecomesAPrimary) }

func testWarmPlaceBecomesAPrimary(t *testing.T, e subject) {
	p := newPlane(t)
	pl := newPlace(t, p, e)
	pl.startKeeper()
	var prepared struct {
		Catalogue *orrery.ParameterCatalogue `json:"catalogue"`
	}
	check(t, json.Unmarshal(awaitFile(t, filepath.Join(pl.dir, "keeper", "prepared.json")), &prepared))
	if c := prepared.Catalogue; c == nil || c.Engine != e.name || len(c.Parameters) < 50 {
		t.Fatalf("catalogue: %+v", c)
	}
	p.wish(pl.d)
	began := time.Now()
	pl.assign()
	st := p.running(pl.d.Instance, 1)
	t.Logf("assigned to running: %v", time.Since(began))
	if st.Role != orrery.RolePrimary || st.PID != pl.database() || st.Version == "" || st.SystemID == "" || st.StartedAt == nil || st.ErrorCode != "" || st.Message != "" {
		t.Errorf("%+v", st)
	}
	check(t, pl.login().Write(t.Context(), "k", "v"))
	for path, want := range map[string]os.FileMode{"keeper": 0o700, "keeper/tls/server.key": 0o600, "keeper/session": 0o700, "log": 0o700, "log/database.log": 0o600} {
		fi, err := os.Stat(filepath.Join(pl.dir, path))
		check(t, err)
		if fi.Mode().Perm() != want {
			t.Errorf("%s has mode %v", path, fi.Mode())
		}
	}
	p.await(pl.d.Instance, "counted", func(orrery.DatabaseStatus) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		st := p.stats[pl.d.Instance]
		return st.Position > 0 || st.DataBytes > 0 // not every engine tells both
	})
	if anon := memoryOf(t, pl.cmd.Process.Pid, "RssAnon"); anon > 20<<10 && !raceDetector() {
		t.Errorf("the keeper holds %d KiB", anon)
	}
	t.Logf("the keeper holds %d KiB, with what it shares %d KiB", memoryOf(t, pl.cmd.Process.Pid, "RssAnon"), memoryOf(t, pl.cmd.Process.Pid, "VmRSS"))
}

// raceDetector tells whether the binary has it: it takes several times the memory.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

func memoryOf(t *testing.T, pid int, what string) (kib int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	check(t, err)
	_, rest, _ := strings.Cut(string(b), what+":")
	_, err = fmt.Sscan(rest, &kib)
	check(t, err)
	return kib
}

func TestColdPlace(t *testing.T) { onEach(t, testColdPlace) }

func testColdPlace(t *testing.T, e subject) {
	p := newPlane(t)
	pl := newPlace(t, p, e)
	began := time.Now()
	pl.up()
	t.Logf("cold start to running: %v", time.Since(began))
}

func TestDatabaseThatDiesIsStartedAgain(t *testing.T) { onEach(t, testDatabaseThatDiesIsStartedAgain) }

func testDatabaseThatDiesIsStartedAgain(t *testing.T, e subject) {
	p := newPlane(t)
	pl := newPlace(t, p, e)
	first := pl.up()
	check(t, pl.login().Write(t.Context(), "k", "v"))
	began := time.Now()
	check(t, syscall.Kill(first.PID, syscall.SIGKILL))
	again := p.await(pl.d.Instance, "another process", func(st orrery.DatabaseStatus) bool {
		return st.State == orrery.DatabaseRunning && st.PID != first.PID
	})
	t.Logf("killed to running: %v", time.Since(began))
	if again.ErrorCode != "database_died" || !strings.Contains(again.Message, "signal: killed") {
		t.Errorf("nothing tells of the death: %+v", again)
	}
	if again.AppliedRestartSeq != 0 {
		t.Errorf("a death counted as a restart: %+v", again)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", first.PID)); err == nil {
		t.Error("the dead process was not reaped")
	}
	if v, err := pl.login().Read(t.Context(), "k"); v != "v" {
		t.Errorf("%q, %v", v, err)
	}
}

func TestKeeperThatDiesIsSurvived(t *testing.T) { onEach(t, testKeeperThatDiesIsSurvived) }

func testKeeperThatDiesIsSurvived(t *testing.T, e subject) {
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			p := newPlane(t)
			pl := newPlace(t, p, e)
			st := pl.up()
			was := startTime(t, st.PID)
			client := pl.login()
			check(t, client.Write(t.Context(), "k", "v"))
			pl.signalKeeper(sig)
			if startTime(t, st.PID) != was {
				t.Fatal("the database went with its keeper")
			}
			pl.d.Generation = 2
			pl.p.wish(pl.d)
			pl.startKeeper()
			again := p.running(pl.d.Instance, 2)
			if again.PID != st.PID || startTime(t, again.PID) != was {
				t.Errorf("%d became %d", st.PID, again.PID)
			}
			check(t, client.Write(t.Context(), "k", "w"))

			// An adopted database is watched and stopped as well as a child.
			check(t, syscall.Kill(st.PID, syscall.SIGKILL))
			third := p.await(pl.d.Instance, "another process", func(st orrery.DatabaseStatus) bool {
				return st.State == orrery.DatabaseRunning && st.PID != again.PID
			})
			pl.killKeeper()
			pl.d.Stopped = true
			pl.p.wish(pl.d)
			pl.startKeeper()
			p.await(pl.d.Instance, "stopped", func(st orrery.DatabaseStatus) bool { return st.State == orrery.DatabaseStopped })
			if pid := pl.database(); pid != 0 {
				t.Errorf("%d still runs, it was %d", pid, third.PID)
			}
		})
	}
}

func TestWithThePlaneAway(t *testing.T) { onEach(t, testWithThePlaneAway) }

func testWithThePlaneAway(t *testing.T, e subject) {
	p := newPlane(t)
	pl := newPlace(t, p, e)
	st := pl.up()
	p.stop()
	pl.killKeeper()
	check(t, syscall.Kill(st.PID, syscall.SIGKILL))
	pl.startKeeper()
	srv := pl.server()
	defer srv.Close()
	deadline := time.After(20 * time.Second)
	for srv.Ready(t.Context()) != nil {
		select {
		case <-deadline:
			t.Fatal("the database is not started while the plane is away")
		case <-time.After(10 * time.Millisecond):
		}
	}
	check(t, pl.login().Write(t.Context(), "k", "v"))
	pl.d.Generation = 2
	p.wish(pl.d)
	p.serve()
	again := p.running(pl.d.Instance, 2)
	if again.PID != pl.database() || again.PID == st.PID {
		t.Errorf("%+v, before %+v", again, st)
	}
}

func TestStopAndRestart(t *testing.T) { onEach(t, testStopAndRestart) }

func testStopAndRestart(t *testing.T, e subject) {
	p := newPlane(t)
	pl := newPlace(t, p, e)
	first := pl.up()
	check(t, pl.login().Write(t.Context(), "k", "v"))

	pl.d.RestartSeq = 1
	p.wish(pl.d)
	second := p.await(pl.d.Instance, "restarted", func(st orrery.DatabaseStatus) bool {
		return st.State == orrery.DatabaseRunning && st.AppliedRestartSeq == 1
	})
	if second.PID == first.PID || second.ErrorCode != "" {
		t.Errorf("%+v", second)
	}
	// The same wish to another keeper is the same restart.
	pl.killKeeper()
	pl.d.Generation = 2
	p.wish(pl.d)
	pl.startKeeper()
	if st := p.running(pl.d.Instance, 2); st.PID != second.PID || st.AppliedRestartSeq != 1 {
		t.Errorf("restarted twice: %+v", st)
	}

	pl.d.Stopped, pl.d.RestartSeq = true, 2
	p.wish(pl.d)
	p.await(pl.d.Instance, "stopped", func(st orrery.DatabaseStatus) bool {
		return st.State == orrery.DatabaseStopped && st.PID == 0 && st.AppliedRestartSeq == 2
	})
	if pid := pl.database(); pid != 0 {
		t.Errorf("%d still runs", pid)
	}
	pl.d.Stopped, pl.d.Generation = false, 3
	p.wish(pl.d)
	p.running(pl.d.Instance, 3)
	if v, err := pl.login().Read(t.Context(), "k"); v != "v" {
		t.Errorf("%q, %v", v, err)
	}
}

// TestRestartIsDoneOnce kills the keeper at many moments of a restart.
func TestRestartIsDoneOnce(t *testing.T) { onEach(t, testRestartIsDoneOnce) }

func testRestartIsDoneOnce(t *testing.T, e subject) {
	p := newPlane(t)
	pl := newPlace(t, p, e)
	st := pl.up()
	for i := range 8 {
		pl.d.RestartSeq++
		pl.d.Generation++
		p.wish(pl.d)
		select {
		case <-time.After(time.Duration(i) * 3 * time.Millisecond): // where in the restart it dies is the subject
		case <-t.Context().Done():
		}
		pl.killKeeper()
		pl.startKeeper()
		next := p.await(pl.d.Instance, "restarted", func(s orrery.DatabaseStatus) bool {
			return s.State == orrery.DatabaseRunning && s.AppliedRestartSeq == pl.d.RestartSeq && s.AppliedGeneration == pl.d.Generation
		})
		if next.PID == st.PID {
			t.Fatalf("round %d: not restarted", i)
		}
		pl.d.Generation++
		p.wish(pl.d)
		st = p.running(pl.d.Instance, pl.d.Generation)
		if st.PID != next.PID {
			t.Fatalf("round %d: restarted more than once", i)
		}
	}
}

func TestReplicaFollows(t *testing.T) { onEach(t, testReplicaFollows) }

func testReplicaFollows(t *testing.T, e subject) {
	p := newPlane(t)
	primary, replica := newPlace(t, p, e), newPlace(t, p, e)
	replica.d.Role = orrery.RoleReplica
	primary.d.Peers = []engine.Peer{replica.peer()}
	replica.d.Peers = []engine.Peer{primary.peer()}

	// The replica comes first: it waits.
	p.wish(replica.d)
	replica.assign()
	replica.startKeeper()
	p.await(replica.d.Instance, "waiting", func(st orrery.DatabaseStatus) bool {
		return st.State == orrery.DatabasePreparing && strings.Contains(st.Message, "primary")
	})
	st := primary.up()
	check(t, primary.login().Write(t.Context(), "k", "v"))
	peer := primary.peer()
	replica.d.Primary, replica.d.SystemID = &peer, st.SystemID
	p.wish(replica.d)
	began := time.Now()
	p.await(replica.d.Instance, "streaming", func(st orrery.DatabaseStatus) bool {
		return st.State == orrery.DatabaseRunning && st.Streaming && st.Upstream == primary.d.Instance && st.Role == orrery.RoleReplica
	})
	t.Logf("told of its primary to streaming: %v", time.Since(began))
	if v, err := replica.login().Read(t.Context(), "k"); v != "v" {
		t.Errorf("%q, %v", v, err)
	}

	// The other way round, as it is planned: the old primary ends first, so that its replica has all of its log. One that
	// went on while another was promoted would have to be rewound.
	primary.d.Stopped = true
	p.wish(primary.d)
	p.await(primary.d.Instance, "stopped", func(st orrery.DatabaseStatus) bool { return st.State == orrery.DatabaseStopped })
	primary.d.Stopped = false
	primary.d.Role, replica.d.Role = orrery.RoleReplica, orrery.RolePrimary
	peer = replica.peer()
	replica.d.Primary, replica.d.SystemID, primary.d.Primary = nil, "", &peer
	replica.d.Generation, primary.d.Generation = 2, 2
	p.wish(replica.d)
	p.await(replica.d.Instance, "the primary", func(st orrery.DatabaseStatus) bool {
		return st.State == orrery.DatabaseRunning && st.Role == orrery.RolePrimary && st.AppliedGeneration == 2
	})
	p.wish(primary.d)
	p.await(primary.d.Instance, "a replica", func(st orrery.DatabaseStatus) bool {
		return st.State == orrery.DatabaseRunning && st.Role == orrery.RoleReplica && st.Streaming && st.AppliedGeneration == 2
	})
	check(t, replica.login().Write(t.Context(), "k", "w"))
}

func TestParameters(t *testing.T) { onEach(t, testParameters) }

func testParameters(t *testing.T, e subject) {
	p := newPlane(t)
	pl := newPlace(t, p, e)
	st := pl.up()
	pl.d.Generation, pl.d.Parameters = 2, map[string]string{e.reload[0]: e.reload[1], e.restart[0]: e.restart[1]}
	p.wish(pl.d)
	pending := p.running(pl.d.Instance, 2)
	if pending.PID != st.PID || !slices.Equal(pending.PendingRestart, []string{e.restart[0]}) {
		t.Errorf("%+v", pending)
	}
	pl.d.RestartSeq = 1
	p.wish(pl.d)
	p.await(pl.d.Instance, "restarted", func(st orrery.DatabaseStatus) bool {
		return st.State == orrery.DatabaseRunning && st.AppliedRestartSeq == 1 && len(st.PendingRestart) == 0
	})

	pl.d.Generation, pl.d.Parameters = 3, map[string]string{e.bad[0]: e.bad[1]}
	p.wish(pl.d)
	refused := p.await(pl.d.Instance, "refused", func(st orrery.DatabaseStatus) bool { return st.ErrorCode == "parameter_rejected" })
	if refused.State != orrery.DatabaseRunning || refused.AppliedGeneration != 2 {
		t.Errorf("%+v", refused)
	}
	pl.d.Generation, pl.d.Parameters = 4, nil
	p.wish(pl.d)
	if st := p.running(pl.d.Instance, 4); st.ErrorCode != "" || st.Message != "" {
		t.Errorf("%+v", st)
	}
}

// TestWishesWhileStarting sends wishes faster than they can be met: only the last counts.
func TestWishesWhileStarting(t *testing.T) { onEach(t, testWishesWhileStarting) }

func testWishesWhileStarting(t *testing.T, e subject) {
	p := newPlane(t)
	pl := newPlace(t, p, e)
	p.wish(pl.d)
	pl.assign()
	pl.startKeeper()
	for i := range 40 {
		pl.d.Generation++
		pl.d.Stopped = i%2 == 0
		p.wish(pl.d)
		select {
		case <-time.After(5 * time.Millisecond): // spread over the start
		case <-t.Context().Done():
		}
	}
	p.running(pl.d.Instance, pl.d.Generation)
	pl.d.Generation++
	pl.d.Stopped = true
	p.wish(pl.d)
	p.await(pl.d.Instance, "stopped", func(st orrery.DatabaseStatus) bool {
		return st.State == orrery.DatabaseStopped && st.AppliedGeneration == pl.d.Generation
	})
}

func TestPortTaken(t *testing.T) { onEach(t, testPortTaken) }

func testPortTaken(t *testing.T, e subject) {
	p := newPlane(t)
	other := newPlace(t, p, e)
	other.up()
	pl := newPlace(t, p, e)
	pl.d.Port = other.d.Port
	pl.env = append(pl.env, fmt.Sprintf("KEEPER_PORT=%d", pl.d.Port))
	p.wish(pl.d)
	pl.assign()
	pl.startKeeper()
	p.await(pl.d.Instance, "failing", func(st orrery.DatabaseStatus) bool { return st.ErrorCode == "port_taken" })
	other.killKeeper()
	other.killDatabase()
	p.running(pl.d.Instance, 1)
}

func TestLostDatasetIsNotMadeAnew(t *testing.T) { onEach(t, testLostDatasetIsNotMadeAnew) }

func testLostDatasetIsNotMadeAnew(t *testing.T, e subject) {
	p := newPlane(t)
	pl := newPlace(t, p, e)
	pl.up()
	pl.killKeeper()
	pl.killDatabase()
	check(t, os.RemoveAll(filepath.Join(pl.dir, "data")))
	pl.startKeeper()
	st := p.await(pl.d.Instance, "failing", func(st orrery.DatabaseStatus) bool { return st.ErrorCode == "dataset_missing" })
	if st.State != orrery.DatabaseFailing {
		t.Errorf("%+v", st)
	}
	if _, err := os.Stat(filepath.Join(pl.dir, "data")); err == nil {
		t.Error("a dataset was made")
	}
}

func TestCertificateIsRenewed(t *testing.T) { onEach(t, testCertificateIsRenewed) }

func testCertificateIsRenewed(t *testing.T, e subject) {
	p := newPlane(t)
	p.data.DatabaseLife = 10 * time.Second
	pl := newPlace(t, p, e)
	st := pl.up()
	serial := func() (serial string) {
		c, err := e.connect(t.Context(), pl.d.Port, &tls.Config{
			RootCAs: p.data.Pool(), ServerName: pl.d.Instance,
			VerifyConnection: func(s tls.ConnectionState) error {
				serial = s.PeerCertificates[0].SerialNumber.String()
				return nil
			},
		})
		check(t, err)
		check(t, c.Close())
		return serial
	}
	first := serial()
	deadline := time.After(20 * time.Second)
	for serial() == first {
		select {
		case <-deadline:
			t.Fatal("the database still has its first certificate")
		case <-time.After(50 * time.Millisecond):
		}
	}
	pl.d.Generation = 2
	p.wish(pl.d)
	if again := p.running(pl.d.Instance, 2); again.PID != st.PID {
		t.Error("the database was restarted for a certificate")
	}
}

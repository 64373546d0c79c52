package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/hypervisor"
)

func testCreateListDestroy(t *testing.T, f Factory) {
	s := f.New(t)
	d := open(t, s)
	host, err := d.Host(t.Context())
	if err != nil || host.Capacity.CPUMilli <= 0 || host.Capacity.MemoryMiB <= 0 || host.Capacity.StorageGiB < 0 || host.Limits == "" {
		t.Errorf("Host says %+v, %v", host, err)
	}
	spec := newSpec(sleeper())
	p := create(t, d, spec)
	if !running(p) || p.ID != spec.ID || !maps.Equal(p.Labels, spec.Labels) || p.Port == 0 || p.Limited == "" || p.Restarts != 0 {
		t.Errorf("created: %+v", p)
	}
	if listed, ok := find(t, d, spec.ID); !ok || fmt.Sprint(listed) != fmt.Sprint(p) {
		t.Errorf("listed: %+v, created: %+v", listed, p)
	}
	if fi, err := os.Stat(filepath.Join(p.Dir, "agent")); err != nil || !fi.IsDir() {
		t.Errorf("the agent's folder: %v", err)
	}
	again := create(t, d, spec)
	if again.PID != p.PID || again.Port != p.Port {
		t.Errorf("created twice: %+v, %+v", p, again)
	}
	if n := starts(t, p); n != 1 {
		t.Errorf("the command was started %d times", n)
	}
	if traces := s.Traces(t, spec.ID); len(traces) == 0 {
		t.Fatal("Traces sees nothing of a place that is there; the suite would be blind")
	}
	destroy(t, s, d, spec.ID)
	destroy(t, s, d, spec.ID)
	if alive(p.PID) {
		t.Errorf("process %d lives on", p.PID)
	}
	// The same ID may be made again.
	create(t, d, spec)
	destroy(t, s, d, spec.ID)
}

func testRefusals(t *testing.T, f Factory) {
	s := f.New(t)
	d := open(t, s)
	for field, change := range map[string]func(*hypervisor.Spec){
		"id":                 func(s *hypervisor.Spec) { s.ID = "../../etc" },
		"command":            func(s *hypervisor.Spec) { s.Command = nil },
		"command[0]":         func(s *hypervisor.Spec) { s.Command = []string{"/no/such/program"} },
		"command[1]":         func(s *hypervisor.Spec) { s.Command = []string{"/bin/sh", "a\x00b"} },
		"env[1]":             func(s *hypervisor.Spec) { s.Env = []string{"A=b", "no equals sign"} },
		"limits.cpu_milli":   func(s *hypervisor.Spec) { s.Limits.CPUMilli = -1 },
		"limits.memory_mib":  func(s *hypervisor.Spec) { s.Limits.MemoryMiB = -1 },
		"limits.storage_gib": func(s *hypervisor.Spec) { s.Limits.StorageGiB = -1 },
		"labels":             func(s *hypervisor.Spec) { s.Labels = map[string]string{"": "x"} },
	} {
		spec := newSpec(sleeper())
		change(&spec)
		_, err := d.Create(t.Context(), spec)
		if e, ok := errors.AsType[*orrery.Error](err); !ok || e.Kind != orrery.KindInvalid || e.Field != field {
			t.Errorf("%s: got error %#v", field, err)
		}
	}
	if list, _ := d.List(t.Context()); len(list) > 0 {
		t.Errorf("refused places are listed: %+v", list)
	}
	if _, err := d.Update(t.Context(), orrery.NewID(orrery.PrefixPlace), hypervisor.Limits{}, nil); orrery.KindOf(err) != orrery.KindNotFound {
		t.Errorf("update of what is not there: %v", err)
	}
}

func testUpdate(t *testing.T, f Factory) {
	s := f.New(t)
	d := open(t, s)
	p := create(t, d, newSpec(sleeper()))
	labels := map[string]string{"instance": "in-1111111111111111", "more": "of it"}
	limits := hypervisor.Limits{CPUMilli: 500, MemoryMiB: 128, StorageGiB: 1}
	q, err := d.Update(t.Context(), p.ID, limits, labels)
	if err != nil {
		t.Fatal(err)
	}
	if q.PID != p.PID || q.Port != p.Port || !maps.Equal(q.Labels, labels) {
		t.Errorf("updated: %+v", q)
	}
	d = reopen(t, s, d)
	if r, _ := find(t, d, p.ID); !maps.Equal(r.Labels, labels) || r.PID != p.PID {
		t.Errorf("after reopening: %+v", r)
	}
	destroy(t, s, d, p.ID)
}

func testAdoption(t *testing.T, f Factory) {
	s := f.New(t)
	d := open(t, s)
	p := create(t, d, newSpec(sleeper()))
	for range 3 {
		d = reopen(t, s, d)
		q, ok := find(t, d, p.ID)
		if !ok || q.PID != p.PID || q.Port != p.Port || q.State != orrery.PlaceRunning || q.Restarts != 0 {
			t.Fatalf("adopted: %+v, was %+v", q, p)
		}
	}
	destroy(t, s, d, p.ID)
	if alive(p.PID) {
		t.Errorf("process %d lives on", p.PID)
	}
}

// testDriverKilled has the place made by a driver that dies at once, with no chance to close anything.
func testDriverKilled(t *testing.T, f Factory) {
	s := f.New(t)
	spec := newSpec(sleeper())
	if s.Interrupt(t, OpCreate, spec, 1<<20) {
		t.Fatal("no driver has that many stages")
	}
	d := open(t, s)
	p := waitPlace(t, d, spec.ID, "running", running)
	if n := starts(t, p); n != 1 || p.Restarts != 0 {
		t.Errorf("the command was started %d times, restarted %d times", n, p.Restarts)
	}
	destroy(t, s, d, spec.ID)
}

func testRestart(t *testing.T, f Factory) {
	s := f.New(t)
	d := open(t, s)
	p := create(t, d, newSpec(sleeper()))
	starts(t, p)
	kill(t, p.PID)
	q := waitPlace(t, d, p.ID, "restarted", func(q hypervisor.Place) bool { return running(q) && q.PID != p.PID })
	if q.Restarts != 1 || q.Port != p.Port {
		t.Errorf("restarted: %+v", q)
	}
	destroy(t, s, d, p.ID)
}

func testRestartAfterAdoption(t *testing.T, f Factory) {
	s := f.New(t)
	d := open(t, s)
	p := create(t, d, newSpec(sleeper()))
	starts(t, p)
	// Once it dies under a driver that adopted it, once while there is no driver.
	d = reopen(t, s, d)
	kill(t, p.PID)
	q := waitPlace(t, d, p.ID, "restarted", func(q hypervisor.Place) bool { return running(q) && q.PID != p.PID })
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	kill(t, q.PID)
	d = open(t, s)
	r := waitPlace(t, d, p.ID, "restarted", func(r hypervisor.Place) bool { return running(r) && r.PID != q.PID })
	if r.Restarts != 2 {
		t.Errorf("%d restarts are told, 2 were done", r.Restarts)
	}
	destroy(t, s, d, p.ID)
}

// testBackOff has a command that ends at once: it is started again soon, and then ever less often.
func testBackOff(t *testing.T, f Factory) {
	s := f.New(t)
	d := open(t, s)
	began := time.Now()
	p := create(t, d, newSpec([]string{"/bin/sh", "-c", "exit 3"}))
	var at []time.Duration
	for n := 1; n <= 4; n++ {
		waitPlace(t, d, p.ID, fmt.Sprintf("restart %d", n), func(q hypervisor.Place) bool { return q.Restarts >= n })
		at = append(at, time.Since(began))
	}
	if at[0] > 2*time.Second {
		t.Errorf("the first restart took %v", at[0])
	}
	if first, last := at[0], at[3]-at[2]; last < 2*first && last < time.Second {
		t.Errorf("restarts came after %v; the gaps do not grow", at)
	}
	q := waitPlace(t, d, p.ID, "a message", func(q hypervisor.Place) bool { return q.State == orrery.PlaceRestarting && q.Message != "" })
	if !strings.Contains(q.Message, "3") {
		t.Errorf("the message does not tell the exit code: %q", q.Message)
	}
	destroy(t, s, d, p.ID)
}

// testMemoryLimit has a command that wants 256 MiB in a place of 64.
func testMemoryLimit(t *testing.T, f Factory) {
	s := f.New(t)
	d := open(t, s)
	spec := newSpec(script(`{ head -c 268435456 /dev/zero | tail -c 268435456 | wc -c; } > got.tmp; mv got.tmp got; exec sleep 3600`))
	spec.Limits = hypervisor.Limits{CPUMilli: 2000, MemoryMiB: 64}
	p := create(t, d, spec)
	got, err := strconv.Atoi(waitFile(t, p, "got"))
	if err != nil {
		t.Fatal(err)
	}
	limited := !strings.HasPrefix(p.Limited, "not limited: ")
	if limited && got >= 256<<20 {
		t.Errorf("the place says %q, and its command got %d bytes", p.Limited, got)
	}
	if !limited && len(p.Limited) < len("not limited: x") {
		t.Errorf("no reason is told why there is no limit: %q", p.Limited)
	}
	destroy(t, s, d, spec.ID)
}

// testEnvironment looks at what a command is given.
func testEnvironment(t *testing.T, f Factory) {
	t.Setenv("ORRERY_TEST_SECRET", "of the agent")
	s := f.New(t)
	leak, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = leak.Close() }()
	d := open(t, s)
	spec := newSpec(script(`{ pwd; echo "{port} $GIVEN $ORRERY_TEST_SECRET."; id -u; ls /proc/self/fd | wc -l; cat; } > got.tmp; mv got.tmp got; exec sleep 3600`))
	spec.Env = []string{"GIVEN=hello world"}
	p := create(t, d, spec)
	got := strings.Split(waitFile(t, p, "got"), "\n")
	// ls itself has 0, 1, 2 and the folder it reads.
	if len(got) != 4 || !strings.HasSuffix(got[0], filepath.Base(p.Dir)) || got[1] != fmt.Sprintf("%d hello world .", p.Port) ||
		got[2] != strconv.Itoa(p.UID) || strings.TrimSpace(got[3]) != "4" {
		t.Errorf("the command saw %q in place %+v", got, p)
	}
	if os.Getuid() == 0 && p.UID == 0 {
		t.Error("the command runs as root")
	}
	destroy(t, s, d, spec.ID)
}

// testParallel makes and unmakes many at once.
func testParallel(t *testing.T, f Factory) {
	const n = 20
	s := f.New(t)
	d := open(t, s)
	places := make([]hypervisor.Place, n)
	each := func(work func(i int) error) {
		t.Helper()
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				if err := work(i); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	began := time.Now()
	each(func(i int) (err error) {
		places[i], err = d.Create(context.Background(), newSpec(sleeper()))
		return err
	})
	t.Logf("%d created in %v", n, time.Since(began))
	ports, uids := map[int]bool{}, map[int]bool{}
	for _, p := range places {
		ports[p.Port], uids[p.UID] = true, true
		// A server can listen on it, by name and on all addresses.
		for _, address := range []string{"127.0.0.1", ""} {
			l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort(address, strconv.Itoa(p.Port)))
			if err != nil {
				t.Errorf("the place's port cannot be used: %v", err)
				continue
			}
			_ = l.Close()
		}
	}
	if len(ports) != n {
		t.Errorf("%d places have %d ports", n, len(ports))
	}
	if os.Getuid() == 0 && len(uids) != n {
		t.Errorf("%d places have %d users", n, len(uids))
	}
	began = time.Now()
	each(func(i int) error { return d.Destroy(context.Background(), places[i].ID) })
	t.Logf("%d destroyed in %v", n, time.Since(began))
	for _, p := range places {
		checkGone(t, s, d, p.ID)
		if alive(p.PID) {
			t.Errorf("process %d lives on", p.PID)
		}
	}
}

package process_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/hypervisor"
	"github.com/orrery-db/orrery/internal/hypervisor/process"
)

func sleeping(limits hypervisor.Limits) hypervisor.Spec {
	return hypervisor.Spec{ID: orrery.NewID(orrery.PrefixPlace), Limits: limits, Command: []string{"/bin/sleep", "3600"}}
}

func openSite(t *testing.T, s *site) hypervisor.Driver {
	t.Helper()
	d := s.Open(t)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func mustCreate(t *testing.T, d hypervisor.Driver, spec hypervisor.Spec) hypervisor.Place {
	t.Helper()
	p, err := d.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestLimitsAreInTheKernel reads limits back from the control group that the process itself says it is in.
func TestLimitsAreInTheKernel(t *testing.T) {
	s := newSite(t)
	d := openSite(t, s)
	p := mustCreate(t, d, sleeping(hypervisor.Limits{CPUMilli: 500, MemoryMiB: 100}))
	switch {
	case strings.HasPrefix(p.Limited, "not limited: "):
		if os.Getuid() == 0 {
			t.Fatalf("as root: %s", p.Limited)
		}
		return
	case p.Limited == "cgroup v2":
		checkValues(t, p.PID, map[string]string{"cpu.max": "50000 100000", "memory.max": "104857600", "cpu.weight": "50"})
		return
	}
	checkValues(t, p.PID, map[string]string{
		"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000", "cpu.cfs_burst_us": "50000", "cpu.shares": "512",
		"memory.limit_in_bytes": "104857600",
	})
	for _, l := range []struct {
		limits hypervisor.Limits
		want   map[string]string
	}{
		{hypervisor.Limits{CPUMilli: 2000, MemoryMiB: 300}, map[string]string{"cpu.cfs_quota_us": "200000", "cpu.cfs_burst_us": "200000", "memory.limit_in_bytes": "314572800"}},
		{hypervisor.Limits{CPUMilli: 100, MemoryMiB: 50}, map[string]string{"cpu.cfs_quota_us": "10000", "cpu.cfs_burst_us": "10000", "memory.limit_in_bytes": "52428800"}},
		{hypervisor.Limits{Background: true}, map[string]string{"cpu.cfs_quota_us": "-1", "cpu.shares": "2"}},
		{hypervisor.Limits{}, map[string]string{"cpu.cfs_quota_us": "-1", "cpu.shares": "1024"}},
	} {
		if _, err := d.Update(t.Context(), p.ID, l.limits, nil); err != nil {
			t.Fatal(err)
		}
		checkValues(t, p.PID, l.want)
	}
}

func checkValues(t *testing.T, pid int, want map[string]string) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for file, value := range want {
		controller, _, _ := strings.Cut(file, ".")
		var got []byte
		for line := range strings.Lines(string(b)) {
			f := strings.SplitN(strings.TrimSpace(line), ":", 3)
			dir := "/sys/fs/cgroup" + f[2]
			if f[1] == controller || strings.HasPrefix(f[1], controller+",") {
				dir = "/sys/fs/cgroup/" + f[1] + f[2]
			}
			if text, err := os.ReadFile(filepath.Join(dir, file)); err == nil && strings.Contains(f[2], "orrery-") {
				got = text
			}
		}
		if strings.TrimSpace(string(got)) != value {
			t.Errorf("%s is %q, should be %q", file, got, value)
		}
	}
}

// TestCPULimitHolds burns CPU in a place of a tenth of a core.
func TestCPULimitHolds(t *testing.T) {
	s := newSite(t)
	d := openSite(t, s)
	spec := sleeping(hypervisor.Limits{CPUMilli: 100})
	spec.Command = []string{"/bin/sh", "-c", "while :; do :; done"}
	p := mustCreate(t, d, spec)
	if strings.HasPrefix(p.Limited, "not limited: ") {
		return // as it says
	}
	const wall = time.Second
	<-time.After(wall) // time is the subject
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b))
	user, _ := strconv.Atoi(f[13])
	system, _ := strconv.Atoi(f[14])
	if used := time.Duration(user+system) * 10 * time.Millisecond; used > wall*4/10 || used == 0 {
		t.Errorf("used %v of CPU in %v", used, wall)
	}
}

func TestPortTakenByAnotherIsReported(t *testing.T) {
	s := newSite(t)
	s.cfg.CheckEvery = 20 * time.Millisecond
	d := openSite(t, s)
	p := mustCreate(t, d, sleeping(hypervisor.Limits{}))
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Port)))
	if err != nil {
		t.Fatal(err)
	}
	await(t, d, func() bool { return strings.Contains(view(t, d, p.ID).Message, "port") })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	await(t, d, func() bool { return view(t, d, p.ID).Message == "" })
}

// TestPortsOfOthersAreAvoided has two drivers on one range, and a stranger.
func TestPortsOfOthersAreAvoided(t *testing.T) {
	a, b := newSite(t), newSite(t)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	first := l.Addr().(*net.TCPAddr).Port
	for _, s := range []*site{a, b} {
		s.cfg.FirstPort, s.cfg.LastPort = first, min(first+20, 65535)
	}
	da, db := openSite(t, a), openSite(t, b)
	used := map[int]bool{first: true}
	for _, d := range []hypervisor.Driver{da, db, da, db} {
		p, err := d.Create(t.Context(), sleeping(hypervisor.Limits{}))
		if err != nil {
			if first > 65500 {
				return // the stranger got a port at the end of all ports
			}
			t.Fatal(err)
		}
		if used[p.Port] {
			t.Errorf("port %d is given twice", p.Port)
		}
		used[p.Port] = true
	}
}

func TestPortsRunOut(t *testing.T) {
	s := newSite(t)
	s.cfg.FirstPort, s.cfg.LastPort = 23456, 23457
	d := openSite(t, s)
	var err error
	for range 3 {
		if _, err = d.Create(t.Context(), sleeping(hypervisor.Limits{})); err != nil {
			break
		}
	}
	if e, ok := errors.AsType[*orrery.Error](err); !ok || e.Kind != orrery.KindExhausted || e.Code != "no_port" {
		t.Errorf("got %v", err)
	}
}

func TestLowDiskIsRefused(t *testing.T) {
	s := newSite(t)
	s.cfg.MinFreeMiB = 1 << 40
	d := openSite(t, s)
	spec := sleeping(hypervisor.Limits{})
	_, err := d.Create(t.Context(), spec)
	if e, ok := errors.AsType[*orrery.Error](err); !ok || e.Code != "disk_full" {
		t.Errorf("got %v", err)
	}
	if left := s.Traces(t, spec.ID); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestSecondDriverOnOneRootIsRefused(t *testing.T) {
	s := newSite(t)
	openSite(t, s)
	_, err := process.New(context.Background(), s.cfg)
	if e, ok := errors.AsType[*orrery.Error](err); !ok || e.Code != "root_in_use" || e.Hint == "" {
		t.Errorf("got %v", err)
	}
}

// TestReusedPIDIsNotMistaken has the record name a process that now is somebody else's.
func TestReusedPIDIsNotMistaken(t *testing.T) {
	s := newSite(t)
	d := openSite(t, s)
	p := mustCreate(t, d, sleeping(hypervisor.Limits{}))
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Numbers come round again after minutes at the soonest; the start time counts hundredths of a second.
	<-time.After(30 * time.Millisecond)
	stranger := exec.CommandContext(t.Context(), "/bin/sleep", "3600")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stranger.Process.Kill()
		_ = stranger.Wait()
	}()
	path := filepath.Join(s.cfg.Root, "records", p.ID+".json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var record map[string]any
	if err := json.Unmarshal(b, &record); err != nil {
		t.Fatal(err)
	}
	record["process"].(map[string]any)["pid"] = stranger.Process.Pid
	if b, err = json.Marshal(record); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	d = openSite(t, s)
	await(t, d, func() bool {
		q := view(t, d, p.ID)
		return q.State == orrery.PlaceRunning && q.PID != stranger.Process.Pid
	})
	if err := d.Destroy(t.Context(), p.ID); err != nil {
		t.Fatal(err)
	}
	if err := stranger.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the stranger was killed: %v", err)
	}
}

// TestLogIsKeptAndBounded has a command that writes without end.
func TestLogIsKeptAndBounded(t *testing.T) {
	s := newSite(t)
	s.cfg.LogMaxBytes, s.cfg.CheckEvery = 64<<10, 10*time.Millisecond
	d := openSite(t, s)
	spec := sleeping(hypervisor.Limits{})
	spec.Command = []string{"/bin/sh", "-c", "x=0123456789012345678901234567890123456789; x=$x$x$x$x$x$x$x$x$x$x; x=$x$x$x$x$x; echo first >&2; while :; do echo $x; sleep 0.001; done"}
	p := mustCreate(t, d, spec)
	path := filepath.Join(p.Dir, "log", "command.log")
	await(t, d, func() bool { fi, err := os.Stat(path + ".1"); return err == nil && fi.Size() >= 64<<10 })
	old, err := os.ReadFile(path + ".1")
	if err != nil || !strings.HasPrefix(string(old), "first\n0123") {
		t.Errorf("the old log begins with %.20q, %v", old, err)
	}
	// What comes next is appended at the beginning, with no hole before it.
	await(t, d, func() bool { b, err := os.ReadFile(path); return err == nil && len(b) > 100 && b[0] != 0 })
}

// TestPlacesAreClosedToEachOther runs, as the user of one place, what that user should not be able to do.
func TestPlacesAreClosedToEachOther(t *testing.T) {
	if os.Getuid() != 0 {
		return // all places have one user
	}
	s := newSite(t)
	d := openSite(t, s)
	other := mustCreate(t, d, sleeping(hypervisor.Limits{}))
	spec := sleeping(hypervisor.Limits{})
	spec.Command = []string{"/bin/sh", "-c", `cd {dir} && touch mine && {
		ls "$OTHER" && echo saw another place
		ls "$(dirname {dir})" && echo saw the list of places
		mv agent away && echo moved the folder of the agent
		touch agent/x && echo wrote into the folder of the agent
		rm -f log/command.log && echo removed its log
		ln -s /etc/passwd log/command.log && echo replaced its log
		echo end; } > out 2> err; exec sleep 3600`}
	spec.Env = []string{"OTHER=" + other.Dir}
	p := mustCreate(t, d, spec)
	var out []byte
	await(t, d, func() bool {
		out, _ = os.ReadFile(filepath.Join(p.Dir, "out"))
		return strings.HasSuffix(string(out), "end\n")
	})
	// rm -f of what cannot be removed fails as well.
	if string(out) != "end\n" {
		t.Errorf("the user of a place can do too much: %s", out)
	}
}

func view(t *testing.T, d hypervisor.Driver, id string) hypervisor.Place {
	t.Helper()
	list, err := d.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		if p.ID == id {
			return p
		}
	}
	t.Fatalf("place %s is not listed", id)
	return hypervisor.Place{}
}

// await waits for what the driver or a command does; not all of it gives a signal.
func await(t *testing.T, d hypervisor.Driver, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatal("it did not come")
		}
		select {
		case <-d.Changes():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

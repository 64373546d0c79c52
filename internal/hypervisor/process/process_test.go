package process_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/orrery-db/orrery/internal/hypervisor"
	"github.com/orrery-db/orrery/internal/hypervisor/hypervisortest"
	"github.com/orrery-db/orrery/internal/hypervisor/process"
	"github.com/orrery-db/orrery/internal/testkit/unpriv"
)

func TestMain(m *testing.M) {
	if text := os.Getenv("ORRERY_TEST_INTERRUPT"); text != "" {
		interrupted(text)
	}
	unpriv.Both(m)
}

func TestConformance(t *testing.T) {
	f := hypervisortest.Factory{New: func(t testing.TB) hypervisortest.Site { return newSite(t) }}
	if os.Getuid() == 0 { // only root can mount a disk small enough to fill; TestLowDisk is for the others
		f.Full = func(t testing.TB) hypervisortest.FullSite { return newFullSite(t) }
	}
	hypervisortest.Run(t, f)
}

// site is a root folder.
type site struct {
	cfg process.Config
}

func newSite(t testing.TB) *site {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "orr")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	s := &site{cfg: config(filepath.Join(dir, "root"))}
	t.Cleanup(func() {
		s.clear(t)
		_ = os.RemoveAll(dir)
	})
	return s
}

func config(root string) process.Config {
	cfg := process.Config{Root: root, Log: slog.New(slog.DiscardHandler), FirstPort: 21000, LastPort: 21999}
	if os.Getenv("ORRERY_TEST_LOG") != "" {
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return cfg
}

// clear destroys whatever a failed test left.
func (s *site) clear(t testing.TB) {
	cfg := s.cfg
	cfg.StopGrace = 1
	d, err := process.New(context.Background(), cfg)
	if err != nil {
		t.Errorf("clear the site: %v", err)
		return
	}
	defer func() { _ = d.Close() }()
	list, _ := d.List(context.Background())
	for _, p := range list {
		if err := d.Destroy(context.Background(), p.ID); err != nil {
			t.Errorf("clear the site: %v", err)
		}
	}
}

func (s *site) Open(t testing.TB) hypervisor.Driver {
	t.Helper()
	d, err := process.New(context.Background(), s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (s *site) Traces(t testing.TB, id string) []string {
	t.Helper()
	var left []string
	for _, pattern := range []string{
		s.cfg.Root + "/*/" + id + "*", "/sys/fs/cgroup/*/orrery-*/" + id, "/sys/fs/cgroup/orrery-*/" + id, "/sys/fs/cgroup/*/*/*/orrery-*/" + id,
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	if name := "orr-" + strings.TrimPrefix(id, "pl-")[:8]; os.Getuid() == 0 {
		if u, err := user.Lookup(name); err == nil {
			left = append(left, "user "+u.Username)
		}
		if _, err := user.LookupGroup(name); err == nil {
			left = append(left, "user group "+name)
		}
	}
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environs {
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), "ORRERY_PLACE="+id) {
			left = append(left, "process "+filepath.Base(filepath.Dir(path)))
		}
	}
	return left
}

func (s *site) Damage(t testing.TB, id string) {
	t.Helper()
	if err := os.Truncate(filepath.Join(s.cfg.Root, "records", id+".json"), 7); err != nil {
		t.Fatal(err)
	}
}

// interruption is what the process that is to be killed is told.
type interruption struct {
	Root  string
	Op    hypervisortest.Op
	Spec  hypervisor.Spec
	Stage int
}

const reachedText = "reached"

func (s *site) Interrupt(t testing.TB, op hypervisortest.Op, spec hypervisor.Spec, stage int) bool {
	t.Helper()
	text, err := json.Marshal(interruption{Root: s.cfg.Root, Op: op, Spec: spec, Stage: stage})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "ORRERY_TEST_INTERRUPT="+string(text))
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the driver's process was to be killed, it ended with %v: %s", err, out)
	}
	return strings.Contains(string(out), reachedText)
}

// interrupted is the process that is to be killed.
func interrupted(text string) {
	var in interruption
	err := json.Unmarshal([]byte(text), &in)
	cfg := config(in.Root)
	stage := 0
	cfg.Stage = func(string) {
		if stage++; stage > in.Stage {
			fmt.Println(reachedText)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	ctx := context.Background()
	var d *process.Driver
	if err == nil {
		d, err = process.New(ctx, cfg)
	}
	if err == nil {
		if in.Op == hypervisortest.OpDestroy {
			err = d.Destroy(ctx, in.Spec.ID)
		} else {
			_, err = d.Create(ctx, in.Spec)
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// fullSite lies on a small file system of its own.
type fullSite struct{ *site }

func newFullSite(t testing.TB) *fullSite {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "orr")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m,mode=711"); err != nil {
		t.Fatalf("mount a small file system: %v", err)
	}
	s := &fullSite{&site{cfg: config(filepath.Join(dir, "root"))}}
	s.cfg.MinFreeMiB = -1
	t.Cleanup(func() {
		_ = os.Remove(filepath.Join(dir, "filler"))
		s.clear(t)
		if err := syscall.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		_ = os.Remove(dir)
	})
	return s
}

func (s *fullSite) Fill(t testing.TB) {
	t.Helper()
	f, err := os.Create(filepath.Join(filepath.Dir(s.cfg.Root), "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for _, size := range []int{1 << 16, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
}

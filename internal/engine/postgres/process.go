package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// startLog takes what the server says before it has opened its own log.
const startLog = "start.log"

// Command starts the postmaster in the foreground. The shell only points its standard error at a file, which outlives
// the keeper, and is replaced by the server.
func (s *server) Command(engine.Desired) (engine.Command, error) {
	if err := s.endLeftovers(); err != nil {
		return engine.Command{}, err
	}
	return engine.Command{
		Path: "/bin/sh",
		Args: []string{"-c", `exec "$0" -D "$1" -c "config_file=$2" 2>"$3"`, s.program("postgres"), s.data(), s.conf(confMain), s.path("run", startLog)},
		Env:  append(environment(), "PGDATA="+s.data()), Dir: s.dir,
		Stop: []engine.StopStage{
			{Signal: syscall.SIGINT, Wait: 60 * time.Second},  // fast: clients are cut off, a checkpoint is written
			{Signal: syscall.SIGQUIT, Wait: 10 * time.Second}, // immediate: no checkpoint, recovery at the next start
			{Signal: syscall.SIGKILL, Wait: 10 * time.Second},
		},
	}, nil
}

// FindProcess trusts postmaster.pid only where the kernel agrees: that process is a PostgreSQL server whose working
// folder is the dataset, as every postmaster's is. Where the file is gone, the processes themselves are looked through.
func (s *server) FindProcess() (int, error) {
	data, err := filepath.EvalSymlinks(s.data())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find the server's process: %w", err)
	}
	p, err := s.readPidFile()
	if err == nil {
		if p.pid > 0 && serverIn(p.pid, data) {
			return p.pid, nil
		}
		return 0, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("find the server's process: %w", err)
	}
	for _, pid := range serversIn(data) {
		if serverIn(pid, data) && !serverIn(parent(pid), data) && !orphan(pid) {
			return pid, nil
		}
	}
	return 0, nil
}

// endLeftovers kills server processes whose postmaster was killed. They notice by themselves, but not while they wait
// for a disk; until then they hold the shared memory that a new postmaster insists on having for itself.
func (s *server) endLeftovers() error {
	pid, err := s.FindProcess()
	if err != nil || pid != 0 {
		return err
	}
	data, err := filepath.EvalSymlinks(s.data())
	if err != nil {
		return fmt.Errorf("look for processes of a dead server: %w", err)
	}
	var left []int
	for _, pid := range serversIn(data) {
		if isLogger(pid) {
			continue // it holds no shared memory, and ends when it has written down what the others said
		}
		s.log.Warn("end a process that a dead server left", "pid", pid)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end the left process %d: %w", pid, err)
		}
		left = append(left, pid)
	}
	return awaitEnd(left)
}

// awaitEnd waits until killed processes have let go of everything, which they have when they are zombies: the links of
// /proc fail before the memory is given back. They are nobody's children here, so nothing else tells.
func awaitEnd(pids []int) error {
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		pids = slices.DeleteFunc(pids, func(pid int) bool { return !alive(pid) })
		if len(pids) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return orrery.Errorf(orrery.KindUnavailable, "processes of an earlier server do not end: %v", pids).WithCode("leftover_processes").
				WithHint("They may wait for a disk that does not answer.")
		}
	}
}

func isLogger(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	return err == nil && strings.HasPrefix(string(b), "postgres: ") && strings.HasSuffix(strings.TrimRight(string(b), "\x00 "), "logger")
}

// serversIn lists the PostgreSQL processes that work in a dataset, and those there that are about to end.
func serversIn(data string) []int {
	found, _ := filepath.Glob("/proc/[0-9]*/cwd") // the pattern is well-formed
	var pids []int
	for _, link := range found {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if err != nil {
			continue
		}
		if is, ending := inspect(pid, data); is || ending {
			pids = append(pids, pid)
		}
	}
	return pids
}

// serverIn tells whether a process is a live PostgreSQL server working in a dataset. The shell that execs it, and an
// initdb, are not.
func serverIn(pid int, data string) bool {
	is, _ := inspect(pid, data)
	return is
}

// inspect looks at what a process is. One whose program cannot be told any more is ending: its memory is being given back.
func inspect(pid int, data string) (is, ending bool) {
	proc := "/proc/" + strconv.Itoa(pid)
	cwd, err := os.Readlink(proc + "/cwd")
	if err != nil || cwd != data || !alive(pid) {
		return false, false
	}
	exe, err := os.Readlink(proc + "/exe")
	if err != nil {
		return false, true
	}
	return filepath.Base(strings.TrimSuffix(exe, " (deleted)")) == "postgres", false
}

// alive tells whether a process still holds anything.
func alive(pid int) bool {
	state, _ := procStat(pid)
	return state != "Z" && state != "X" && state != ""
}

func parent(pid int) int {
	_, ppid := procStat(pid)
	return ppid
}

// orphan tells a child of a dead postmaster from a postmaster: a child's title names its task.
func orphan(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	return err != nil || strings.HasPrefix(string(b), "postgres: ")
}

// procStat gives the state and the parent of a process (proc(5): the name in brackets may hold anything).
func procStat(pid int) (state string, ppid int) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", 0
	}
	text := string(b)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 2 {
		return "", 0
	}
	ppid, _ = strconv.Atoi(fields[1])
	return fields[0], ppid
}

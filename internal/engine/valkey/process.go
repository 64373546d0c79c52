package valkey

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orrery-db/orrery/internal/engine"
)

// Command starts the server in the foreground. Its log is its output.
func (s *server) Command(engine.Desired) (engine.Command, error) {
	return engine.Command{
		Path: s.program, Args: []string{s.path("conf", "valkey.conf")}, Dir: s.path("data"),
		Env: []string{"LC_ALL=C", "PATH=/usr/bin:/bin"},
		Stop: []engine.StopStage{
			// It waits up to 10 s for its replicas to catch up (shutdown-timeout), and syncs the append-only file.
			// A primary that was a replica until just now may have refused once; see settings.
			{Signal: syscall.SIGTERM, Wait: 15 * time.Second},
			{Signal: syscall.SIGTERM, Wait: 30 * time.Second},
			{Signal: syscall.SIGKILL, Wait: 10 * time.Second},
		},
	}, nil
}

// FindProcess asks the kernel who listens on the unix socket; no pid file can lie about that. A server that is so
// young that it does not listen yet is found by its working folder, which is the dataset's.
func (s *server) FindProcess() (int, error) {
	pid, err := listener(s.path("run", socketName))
	if pid != 0 || err != nil {
		return pid, err
	}
	data, err := filepath.EvalSymlinks(s.path("data"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	procs, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		return 0, err
	}
	for _, p := range procs {
		if cwd, err := os.Readlink(p); err != nil || cwd != data {
			continue // another's, or just gone
		}
		dir := filepath.Dir(p)
		exe, err := os.Readlink(filepath.Join(dir, "exe"))
		if err != nil || !isServer(exe) || isZombie(dir) {
			continue
		}
		return strconv.Atoi(filepath.Base(dir))
	}
	return 0, nil
}

// isServer knows the server by its file, also when that was replaced by an upgrade since.
func isServer(exe string) bool {
	base := strings.TrimSuffix(filepath.Base(exe), " (deleted)")
	for _, name := range append([]string{"redis-check-rdb"}, programs...) { // Debian's redis-server is a link to it
		if base == name {
			return true
		}
	}
	return false
}

func isZombie(procDir string) bool {
	stat, err := os.ReadFile(filepath.Join(procDir, "stat"))
	if err != nil {
		return true
	}
	i := strings.LastIndexByte(string(stat), ')') // the name in parentheses may hold anything; see proc(5)
	return i < 0 || strings.HasPrefix(string(stat[i+1:]), " Z")
}

// listener gives the process that listens on a unix socket, 0 where nobody does.
func listener(path string) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return int(cred.Pid), nil
}

// listening tells whether any process listens on a TCP port. It looks, rather than tries: a port that is tried is taken.
func listening(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return false
	}
	suffix := fmt.Sprintf(":%04X", n)
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line) // number, local address, remote address, state; see proc_net_tcp.txt of the kernel
			if len(f) > 3 && f[3] == "0A" && strings.HasSuffix(f[1], suffix) {
				return true
			}
		}
	}
	return false
}

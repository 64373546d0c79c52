// Package unpriv lets tests that must not run as root (initdb refuses it, permissions do not bind it) run everywhere:
// started as root, the test binary runs itself again as an ordinary user. It is for tests only.
package unpriv

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// User is the system user that tests run as; it is made when missing.
const User = "orrery-test"

// Main is for TestMain. As an ordinary user it runs the tests. As root it runs the same test binary, with the same
// arguments, as User, with HOME in a temporary folder, and exits with its code. Whatever the tests left running is
// killed. It never returns.
func Main(m *testing.M) {
	if os.Getuid() != 0 {
		os.Exit(m.Run()) //nolint:forbidigo // stands in for a test's main
	}
	os.Exit(Rerun()) //nolint:forbidigo // stands in for a test's main
}

// Both is like Main, but as root it runs the tests as root first, and then once more as User.
func Both(m *testing.M) {
	code := m.Run()
	if os.Getuid() == 0 && !listing() {
		fmt.Println("=== again as " + User)
		if c := Rerun(); code == 0 {
			code = c
		}
	}
	os.Exit(code) //nolint:forbidigo // stands in for a test's main
}

// listing tells whether go test only asks for the names of the tests, or fuzzes.
func listing() bool {
	for _, name := range []string{"test.list", "test.fuzz"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return true
		}
	}
	return false
}

// Rerun runs the test binary as User and gives its exit code. Only root can do that.
func Rerun() int {
	code, err := rerun()
	if err != nil {
		fmt.Fprintln(os.Stderr, "run the tests as "+User+":", err)
		return 1
	}
	return code
}

func rerun() (int, error) {
	uid, gid, err := ensureUser()
	if err != nil {
		return 0, err
	}
	home, err := os.MkdirTemp("/tmp", "orr-home")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(home) }()
	binary := filepath.Join(home, filepath.Base(os.Args[0]))
	if err := copyFile(binary, "/proc/self/exe"); err != nil {
		return 0, fmt.Errorf("copy the test binary: %w", err)
	}
	for _, path := range []string{home, binary} {
		if err := os.Chown(path, uid, gid); err != nil {
			return 0, err
		}
	}
	args, coverage := childArgs(home)

	cmd := exec.Command(binary, args...) //nolint:noctx // go test's own timeout ends it
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = childEnv(home)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
		Pdeathsig:  syscall.SIGKILL,
	}
	// Pdeathsig is bound to the life of the thread that forked (prctl(2)).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Orphans come to this process, so that what the tests leave behind is found and killed.
	if err := becomeSubreaper(); err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	defer signal.Stop(signals)
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	code := reapUntil(cmd.Process.Pid)
	killLeftovers()
	if coverage.from != "" {
		if err := copyFile(coverage.to, coverage.from); err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, fmt.Errorf("bring back the coverage profile: %w", err)
		}
	}
	return code, nil
}

type profile struct{ from, to string }

// childArgs gives this process's arguments for the child: files that go test wants written lie in folders that only
// root may write to. The profile of coverage is written to home and brought back; the others are done without.
func childArgs(home string) ([]string, profile) {
	var args []string
	var p profile
	for _, a := range os.Args[1:] {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(a, "-"), "-"), "=")
		switch name {
		case "test.testlogfile": // only serves the cache of results; without it nothing is cached
			continue
		case "test.gocoverdir":
			a = "-test.gocoverdir=" + home
		case "test.coverprofile":
			p = profile{from: filepath.Join(home, "cover.out"), to: value}
			a = "-test.coverprofile=" + p.from
		case "test.outputdir":
			a = "-test.outputdir=" + home
		}
		args = append(args, a)
	}
	return args, p
}

func childEnv(home string) []string {
	env := []string{"HOME=" + home, "USER=" + User, "LOGNAME=" + User}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case name == "HOME", name == "USER", name == "LOGNAME", name == "MAIL", name == "TMPDIR", name == "GOCACHE",
			strings.HasPrefix(name, "XDG_"), strings.HasPrefix(name, "SUDO_"):
		default:
			env = append(env, kv)
		}
	}
	return env
}

// ensureUser finds or makes User. Several test binaries may do so at once.
func ensureUser() (uid, gid int, err error) {
	u, err := user.Lookup(User)
	for attempt := 0; err != nil && attempt < 3; attempt++ {
		//nolint:noctx // useradd leaves its lock behind when killed
		out, addErr := exec.Command("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
			"--shell", "/usr/sbin/nologin", User).CombinedOutput()
		if u, err = user.Lookup(User); err != nil {
			err = fmt.Errorf("make user %s: %w: %s", User, errors.Join(addErr, err), out)
		}
	}
	if err != nil {
		return 0, 0, err
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(u.Gid)
	return uid, gid, err
}

func copyFile(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

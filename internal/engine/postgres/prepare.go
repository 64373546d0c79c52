package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/orrery-db/orrery"
)

// superuser is who Orrery is inside the server. Only the unix socket lets it in.
const superuser = "orrery"

// spare is a database that waits to become the datastore's first: renaming it takes a tenth of what making one does.
const spare = "orrery_spare"

// Prepare runs initdb aside, does in single-user mode what every dataset needs, and renames the result into place.
//
// The locale must never change under an index when the operating system is upgraded, or when a replica runs on another
// one. Collation C sorts by bytes and cannot change; from 17 on the built-in provider's C.UTF-8 does the same without
// the C library. The character type is C.UTF-8, so that upper and lower know more than ASCII.
func (s *server) Prepare(ctx context.Context) error {
	if ok, err := s.Prepared(); ok || err != nil {
		return err
	}
	made, err := s.aside()
	if err != nil {
		return err
	}
	args := []string{
		"--pgdata=" + made, "--username=" + superuser, "--encoding=UTF8", "--auth-local=peer", "--auth-host=scram-sha-256",
		"--data-checksums", "--no-sync", "--no-instructions", "--lc-messages=C",
	}
	locale := []string{"--locale=C", "--lc-ctype=C.UTF-8"}
	if s.major >= 17 {
		locale = []string{"--locale=C", "--lc-ctype=C.UTF-8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"}
	}
	if out, err := s.run(ctx, s.program("initdb"), append(args, locale...)...); err != nil {
		return errors.Join(initdbError(out, err), os.RemoveAll(filepath.Dir(made)))
	}
	if err := s.furnish(ctx, made); err != nil {
		return errors.Join(err, os.RemoveAll(filepath.Dir(made)))
	}
	// What initdb configures is not used (see Configure), and must not be taken for what is.
	for _, name := range []string{"postgresql.conf", "pg_hba.conf", "pg_ident.conf"} {
		if err := os.Remove(filepath.Join(made, name)); err != nil {
			return fmt.Errorf("tidy the new dataset: %w", err)
		}
	}
	return s.takePlace(made)
}

// furnish makes the spare database, and has the catalogue of parameters told by the way.
func (s *server) furnish(ctx context.Context, made string) error {
	var statements []string
	if s.hasStatStatements() {
		statements = append(statements, "CREATE EXTENSION IF NOT EXISTS "+statStatements) // in template1: each new database has it
	}
	make := "CREATE DATABASE " + spare
	if s.major >= 15 {
		make += " STRATEGY file_copy" // as it is before 15: quick where nothing is synced
	}
	out, err := s.single(ctx, made, append(statements, make, catalogueSQL)...)
	if err != nil {
		return fmt.Errorf("furnish the new dataset: %w", err)
	}
	return s.keepCatalogue(out)
}

// single runs statements in single-user mode on a dataset that nothing uses. Nothing is synced to disk.
func (s *server) single(ctx context.Context, data string, statements ...string) ([]byte, error) {
	args := []string{"--single", "-F", "-D", data, "-c", "config_file=/dev/null", "-c", "hba_file=/dev/null", "-c", "ident_file=/dev/null"}
	if s.hasStatStatements() {
		args = append(args, "-c", "shared_preload_libraries="+statStatements)
	}
	out, err := s.runWith(ctx, strings.Join(statements, "\n")+"\n", s.program("postgres"), append(args, "template1")...)
	if m := singleErrorRE.Find(out); err == nil && m != nil { // it goes on after errors, and ends well
		err = errors.New(string(m))
	}
	if err != nil {
		return nil, diskErrorIn(out, fmt.Errorf("single-user mode: %w: %s", err, lastLines(out, 3)))
	}
	return out, nil
}

var singleErrorRE = regexp.MustCompile(`(?m)^.*(?:ERROR|FATAL|PANIC):  .*$`)

// aside gives the path for a dataset in the making, and removes what earlier attempts left.
func (s *server) aside() (string, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return "", fmt.Errorf("make the instance's folder: %w", err)
	}
	if err := s.removeAsides(); err != nil {
		return "", fmt.Errorf("remove a half-made dataset: %w", err)
	}
	dir, err := os.MkdirTemp(s.dir, "new-")
	if err != nil {
		return "", diskError(fmt.Errorf("make a folder for the dataset: %w", err))
	}
	return filepath.Join(dir, "data"), nil
}

func initdbError(out []byte, err error) error {
	text := lastLines(out, 5)
	wrapped := fmt.Errorf("initdb: %w: %s", err, text)
	if strings.Contains(text, "cannot be run as root") {
		return orrery.Errorf(orrery.KindInvalid, "PostgreSQL does not run as root").WithCode("root_refused").WithCause(wrapped)
	}
	return diskErrorIn(out, wrapped)
}

// diskErrorIn gives a full disk that a program complains of its code.
func diskErrorIn(out []byte, err error) error {
	if text := string(out); strings.Contains(text, "No space left on device") || strings.Contains(text, "Disk quota exceeded") {
		return errDiskFull(err)
	}
	return err
}

// run runs one of PostgreSQL's programs; it dies with this process, so that it cannot work on behind the back of the
// next attempt.
func (s *server) run(ctx context.Context, program string, args ...string) ([]byte, error) {
	return s.runWith(ctx, "", program, args...)
}

func (s *server) runWith(ctx context.Context, input, program string, args ...string) ([]byte, error) {
	// The death signal is bound to the thread that forks (prctl(2)); a thread that ends early would kill the program.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env, cmd.Dir = strings.NewReader(input), &out, &out, environment(), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return out.Bytes(), err
}

// environment keeps the plane's own variables (PGHOST and the like) out. With TZ set, initdb need not try all time
// zones to find the system's.
func environment() []string {
	return []string{"LC_ALL=C", "TZ=UTC", "PATH=/usr/bin:/bin", "HOME=/"}
}

func lastLines(out []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

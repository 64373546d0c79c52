package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/orrery-db/orrery"
)

// Ready asks postmaster.pid first, which costs nothing and leaves no FATAL in the log, and only then the server. Of a
// server that has died it tells why, out of its log.
func (s *server) Ready(ctx context.Context) error {
	pid, err := s.FindProcess()
	if err != nil {
		return err
	}
	if pid == 0 {
		return s.whyDead()
	}
	p, err := s.readPidFile()
	if err != nil {
		return errors.Join(errNotUp, err)
	}
	if p.status != "ready" && p.status != "standby" {
		return fmt.Errorf("%w: it is %s", errNotUp, orWord(p.status, "starting"))
	}
	if want := s.wantedAddress(); want != "" && p.listenAddress != want {
		return portTaken(want, p.port)
	}
	return s.kept.use(ctx, func(ctx context.Context) (*conn, error) { return s.dial(ctx, "postgres") },
		func(c *conn) error { return c.Ping(ctx) })
}

func orWord(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

var listenRE = regexp.MustCompile(`(?m)^listen_addresses = '([^',]*)`)

// wantedAddress is the address that the server has to listen on first.
func (s *server) wantedAddress() string {
	b, err := os.ReadFile(s.conf(confMain))
	if err != nil {
		return ""
	}
	m := listenRE.FindSubmatch(b)
	if m == nil {
		return ""
	}
	return string(m[1])
}

func portTaken(address string, port int) error {
	return orrery.Errorf(orrery.KindConflict, "the address %s is taken by another program", net.JoinHostPort(address, strconv.Itoa(port))).
		WithCode("port_taken").WithHint("End the other program, or give the instance another port.")
}

func errDiskFull(cause error) *orrery.Error {
	return orrery.Errorf(orrery.KindExhausted, "the disk is full").WithCode("disk_full").WithCause(cause).
		WithHint("Free space on the instance's volume, or give it more storage.")
}

// failures are what a server's last words mean. The first that matches counts.
var failures = []struct {
	re   *regexp.Regexp
	make func(m []string) *orrery.Error
}{
	{regexp.MustCompile(`No space left on device|Disk quota exceeded`), func([]string) *orrery.Error { return errDiskFull(nil) }},
	{regexp.MustCompile(`could not bind IPv\d address "([^"]*)": Address already in use`), func(m []string) *orrery.Error {
		return orrery.Errorf(orrery.KindConflict, "the instance's port on %s is taken by another program", m[1]).WithCode("port_taken").
			WithHint("End the other program, or give the instance another port.")
	}},
	{regexp.MustCompile(`could not bind IPv\d address "([^"]*)": Cannot assign requested address`), func(m []string) *orrery.Error {
		return orrery.Errorf(orrery.KindConflict, "the host does not have the address %s", m[1]).WithCode("address_missing").
			WithHint("Give the host its address back, or move the instance.")
	}},
	{regexp.MustCompile(`(?:invalid value for parameter|parameter) "([^"]+)"`), rejected},
	{regexp.MustCompile(`(\S+) is outside the valid range for parameter "([^"]+)"`), func(m []string) *orrery.Error { return rejected(m[1:]) }},
	{regexp.MustCompile(`unrecognized configuration parameter "([^"]+)"`), rejected},
	{regexp.MustCompile(`could not map anonymous shared memory|could not create shared memory segment|could not resize shared memory segment`), func([]string) *orrery.Error {
		return orrery.Errorf(orrery.KindExhausted, "there is not enough memory to start").WithCode("memory_exhausted").
			WithHint("Lower shared_buffers or max_connections, or take a larger plan.")
	}},
	{regexp.MustCompile(`database files are incompatible with server|database system identifier differs|not initialized by PostgreSQL`), func([]string) *orrery.Error {
		return orrery.Errorf(orrery.KindConflict, "the dataset does not fit this server").WithCode("data_incompatible").
			WithHint("A replica is cloned anew; a primary is restored from a backup.")
	}},
	{regexp.MustCompile(`invalid checkpoint record|could not locate a valid checkpoint record|could not locate required checkpoint record|invalid page in block|PANIC:`), func([]string) *orrery.Error {
		return orrery.Errorf(orrery.KindConflict, "the dataset is damaged").WithCode("data_damaged").
			WithHint("A replica is cloned anew; a primary is restored from a backup. The log tells more.")
	}},
	{regexp.MustCompile(`could not load server certificate file|private key file ".*" has group or world access|could not load private key file|could not load root certificate file`), func([]string) *orrery.Error {
		return orrery.Errorf(orrery.KindConflict, "the instance's certificate cannot be loaded").WithCode("certificate_rejected").
			WithHint("The keeper fetches a new one; look into its log where this stays.")
	}},
	{regexp.MustCompile(`pre-existing shared memory block .* is still in use|lock file "postmaster.pid" already exists`), func([]string) *orrery.Error {
		return orrery.Errorf(orrery.KindUnavailable, "processes of an earlier server are still ending").WithCode("leftover_processes").
			WithHint("It is tried again.")
	}},
}

func rejected(m []string) *orrery.Error {
	name := m[len(m)-1]
	return orrery.Errorf(orrery.KindInvalid, "the server rejects the value of %s", name).WithCode("parameter_rejected").
		WithHint("Change or remove the parameter %s.", name)
}

// tellingRE picks the lines that may tell why a server ended.
var tellingRE = regexp.MustCompile(`FATAL:|PANIC:|could not |invalid value for parameter|outside the valid range|unrecognized configuration|No space left`)

var clientRE = regexp.MustCompile(`^\S+ \S+ \S+ \[\d+\] \S+@\S+ `)

// whyDead explains why no server runs: by what it said before it opened its log, which start.log has of the last start
// only, else by the end of its log.
func (s *server) whyDead() error {
	words := telling(tail(s.path("run", startLog), 16<<10))
	if logs := s.logs(); words == "" && len(logs) > 0 {
		words = telling(tail(logs[len(logs)-1], 16<<10))
	}
	if words == "" {
		return fmt.Errorf("%w: it does not run", errNotUp)
	}
	return explain(words)
}

// telling gives the lines that may tell why a server ended, of the last start that a log has.
func telling(text string) string {
	var last []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, "starting PostgreSQL") {
			last = nil
		}
		// Clients' troubles bear a user@database; see log_line_prefix.
		if tellingRE.MatchString(line) && !clientRE.MatchString(line) {
			last = append(last, strings.TrimSpace(line))
		}
	}
	return strings.Join(last, "; ")
}

// explain gives a server's last words a meaning.
func explain(words string) error {
	cause := fmt.Errorf("%w: %s", errNotUp, words)
	for _, f := range failures {
		if m := f.re.FindStringSubmatch(words); m != nil {
			return f.make(m).WithCause(cause)
		}
	}
	return cause
}

const logPrefix = "postgresql-"

// keptLogs is how many log files are kept; each has 16 MB at most.
const keptLogs = 8

// logs lists the server's log files, oldest first.
func (s *server) logs() []string {
	found, _ := filepath.Glob(filepath.Join(s.logDir, logPrefix+"*.log")) // the pattern is well-formed
	slices.Sort(found)
	return found
}

// tidyLogs prunes now and then, as the server itself only ever adds files.
func (s *server) tidyLogs() {
	s.tidyMu.Lock()
	defer s.tidyMu.Unlock()
	if time.Since(s.tidied) > 10*time.Minute {
		s.tidied = time.Now()
		s.pruneLogs()
	}
}

func (s *server) pruneLogs() {
	logs := s.logs()
	for i := range max(0, len(logs)-keptLogs) {
		if err := os.Remove(logs[i]); err != nil {
			s.log.Warn("remove an old log", "error", err)
		}
	}
}

func tail(path string, n int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	b := make([]byte, min(n, info.Size()))
	read, _ := f.ReadAt(b, info.Size()-int64(len(b)))
	return string(b[:read])
}

// diskError gives a full disk its code.
func diskError(err error) error {
	if isDiskFull(err) {
		return errDiskFull(err)
	}
	return err
}

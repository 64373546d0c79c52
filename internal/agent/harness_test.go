package agent_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/agent"
	"github.com/orrery-db/orrery/internal/hypervisor"
	"github.com/orrery-db/orrery/internal/hypervisor/process"
	"github.com/orrery-db/orrery/internal/session"
	"github.com/orrery-db/orrery/internal/testkit/unpriv"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(inProcessVariable); text != "" {
		fmt.Println(runInProcess(text))
		os.Exit(1)
	}
	unpriv.Both(m)
}

const patience = 30 * time.Second

// The fake keeper: without an assignment it prepares, and waits for one.
const fakeKeeper = `#!/bin/sh
# keeper --dir DIR --port PORT --engine ENGINE --version VERSION
dir=$3 engine=$7 version=$9
mkdir -p "$dir/keeper"
if [ ! -e "$dir/agent/assignment.json" ]; then
	cat > "$dir/keeper/tmp" <<END
{"catalogue": {"engine": "$engine", "version": "$version", "full": "1.0", "parameters": [{"name": "p", "type": "bool", "restart": false}]}}
END
	mv "$dir/keeper/tmp" "$dir/keeper/prepared.json"
fi
until [ -e "$dir/agent/assignment.json" ]; do sleep 0.05; done
cat "$dir/agent/assignment.json" > "$dir/keeper/assigned"
exec sleep 3600
`

// harness is an agent on a real driver with real processes.
type harness struct {
	t       *testing.T
	root    string
	keeper  string
	version string
	server  net.Listener
	driver  *process.Driver
	agent   *agent.Agent
	stop    func()

	mu       sync.Mutex
	engines  []orrery.EngineVersion
	last     *session.AgentReport
	newest   func(first bool) any
	sent     []orrery.ParameterCatalogue
	reported chan struct{}
}

func fakeEngine() orrery.EngineVersion {
	return orrery.EngineVersion{Engine: "fake", Version: "1", Full: "1.0"}
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "orr")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &harness{
		t: t, root: filepath.Join(dir, "r"), keeper: filepath.Join(dir, "keeper"), version: "1", stop: func() {},
		engines: []orrery.EngineVersion{fakeEngine()}, reported: make(chan struct{}, 1),
	}
	if err := os.WriteFile(h.keeper, []byte(fakeKeeper), 0o755); err != nil {
		t.Fatal(err)
	}
	if h.server, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	go echoServer(h.server)
	t.Cleanup(func() {
		h.stop()
		_ = h.server.Close()
		h.clear()
		_ = os.RemoveAll(dir)
	})
	return h
}

// echoServer stands for the server's session port.
func echoServer(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = conn.Close() }()
			_, _ = io.Copy(conn, conn)
		}()
	}
}

func openDriver(root string) (*process.Driver, error) {
	return process.New(context.Background(), process.Config{
		Root: root, Log: slog.New(slog.DiscardHandler), FirstPort: 22000, LastPort: 22999, StopGrace: 100 * time.Millisecond,
	})
}

func (h *harness) openDriver() *process.Driver {
	h.t.Helper()
	d, err := openDriver(h.root)
	if err != nil {
		h.t.Fatal(err)
	}
	return d
}

func (h *harness) clear() {
	d := h.openDriver()
	defer func() { _ = d.Close() }()
	list, _ := d.List(context.Background())
	for _, p := range list {
		if err := d.Destroy(context.Background(), p.ID); err != nil {
			h.t.Error(err)
		}
	}
}

// start brings an agent to life; h.stop ends it and leaves all that it made.
func (h *harness) start() {
	h.t.Helper()
	h.driver = h.openDriver()
	a, err := h.newAgent(h.driver, func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", h.server.Addr().String())
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.agent = a
	h.mu.Lock()
	h.last = nil
	h.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	var once sync.Once
	h.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				h.t.Errorf("the agent ended with %v", err)
			}
			if err := h.driver.Close(); err != nil {
				h.t.Error(err)
			}
		})
	}
}

func (h *harness) newAgent(driver hypervisor.Driver, dial func(context.Context) (net.Conn, error)) (*agent.Agent, error) {
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("ORRERY_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return agent.New(agent.Config{
		Driver: driver, Keeper: h.keeper, Address: "127.0.0.1", Version: h.version, ServerName: "plane", Log: log,
		RefillDelay: 50 * time.Millisecond,
		Discover: func(context.Context) ([]orrery.EngineVersion, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.engines, nil
		},
		Dial: dial, Report: h.report,
	})
}

func (h *harness) setEngines(engines ...orrery.EngineVersion) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.engines = engines
}

// report stands for the session, on one stream.
func (h *harness) report(newest func(first bool) any) {
	h.mu.Lock()
	h.newest = newest
	r := newest(h.last == nil).(session.AgentReport)
	h.sent = append(h.sent, r.Catalogues...)
	h.last = &r
	h.mu.Unlock()
	select {
	case h.reported <- struct{}{}:
	default:
	}
}

// newStream asks for a stream's first report.
func (h *harness) newStream() {
	h.mu.Lock()
	newest := h.newest
	h.last = nil
	h.mu.Unlock()
	h.report(newest)
}

func (h *harness) catalogues() []orrery.ParameterCatalogue {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sent
}

// wait waits for a report.
func (h *harness) wait(what string, cond func(session.AgentReport) bool) session.AgentReport {
	h.t.Helper()
	timeout := time.After(patience)
	for {
		h.mu.Lock()
		last := h.last
		h.mu.Unlock()
		if last != nil && cond(*last) {
			return *last
		}
		select {
		case <-h.reported:
		case <-timeout:
			h.t.Fatalf("no report of: %s; the last is %+v", what, last)
		}
	}
}

// poll waits for what gives no signal.
func (h *harness) poll(what string, cond func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(patience); !cond(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("did not come: %s", what)
		}
	}
}

// warm gives the prepared warm places with the process IDs of their keepers.
func (h *harness) warm() (prepared map[string]int, all int) {
	list, err := h.driver.List(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	prepared = map[string]int{}
	for _, p := range list {
		if p.Labels["warm"] != "yes" {
			continue
		}
		all++
		if _, err := os.Stat(filepath.Join(p.Dir, "keeper", "prepared.json")); err == nil && p.State == orrery.PlaceRunning {
			prepared[p.ID] = p.PID
		}
	}
	return prepared, all
}

func (h *harness) waitWarm(n int) (got map[string]int) {
	h.t.Helper()
	h.poll(fmt.Sprintf("%d warm places", n), func() bool {
		var all int
		got, all = h.warm()
		return len(got) == n && all == n
	})
	return got
}

// waitNew waits until there are as many warm places as in old, none of them from old.
func (h *harness) waitNew(old map[string]int) {
	h.t.Helper()
	h.poll("other warm places", func() bool {
		now, all := h.warm()
		for id := range maps.Keys(now) {
			if _, ok := old[id]; ok {
				return false
			}
		}
		return len(now) == len(old) && all == len(old)
	})
}

func (h *harness) waitAssigned(id string) {
	h.t.Helper()
	h.waitAssignedTo(id, "instance")
}

func (h *harness) waitAssignedTo(id, text string) {
	h.t.Helper()
	h.poll("the keeper knows what it is", func() bool {
		b, err := os.ReadFile(filepath.Join(h.root, "places", id, "keeper", "assigned"))
		return err == nil && bytes.Contains(b, []byte(text))
	})
}

// echo sends bytes the keeper's way and expects them back.
func (h *harness) echo(id string) {
	h.t.Helper()
	conn, err := net.Dial("unix", filepath.Join(h.root, "places", id, "agent", "proxy.sock"))
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	text := strings.Repeat("to the server and back ", 10000)
	go func() {
		_, _ = io.WriteString(conn, text)
		_ = conn.(*net.UnixConn).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != text {
		h.t.Errorf("%d bytes of %d came back: %v", len(got), len(text), err)
	}
}

func placeWish() session.PlaceWish {
	return session.PlaceWish{
		Instance: orrery.NewID(orrery.PrefixInstance), Datastore: orrery.NewID(orrery.PrefixDatastore), Engine: "fake", Version: "1",
		CPUMilli: 1000, MemoryMiB: 256, StorageGiB: 1, JoinToken: "a.b.c",
	}
}

// settled tells whether an instance's place runs as wished.
func settled(r session.AgentReport, instance string) bool {
	s := r.Places[instance]
	return s.State == orrery.PlaceRunning && s.Generation > 0 && s.KeeperPID > 0
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.HasPrefix(string(b[bytes.LastIndexByte(b, ')')+1:]), " Z")
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

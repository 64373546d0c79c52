package session

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/orrery-db/orrery/internal/pki"
)

// fleetEnv makes the test binary a fleet of keepers: "<address> <n> <seed folder>".
const fleetEnv = "ORRERY_TEST_FLEET"

func TestMain(m *testing.M) {
	if spec := os.Getenv(fleetEnv); spec != "" {
		if err := fleet(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// fleet runs n keepers in this process, with identities signed by the CA in the folder, until its input ends. It writes
// "up" when all are connected, each time anew.
func fleet(spec string) error {
	f := strings.Fields(spec)
	n, err := strconv.Atoi(f[1])
	if err != nil {
		return err
	}
	certPEM, err := os.ReadFile(f[2] + "/ca.pem")
	if err != nil {
		return err
	}
	keyPEM, err := os.ReadFile(f[2] + "/ca.key")
	if err != nil {
		return err
	}
	ca, err := pki.LoadCA(certPEM, keyPEM)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var up atomic.Int64
	var all sync.WaitGroup
	for range n {
		c, err := NewClient(ClientConfig{Servers: []string{f[0]}, Log: discard(), OnConnected: countUp(&up, int64(n))})
		if err != nil {
			return err
		}
		key, err := pki.NewKey()
		if err != nil {
			return err
		}
		who := newKeeperID()
		chain, err := ca.IssueSession(who.Kind, who.ID, key.Public())
		if err != nil {
			return err
		}
		id, err := newIdentity(key, chain, ca.CertPEM())
		if err != nil {
			return err
		}
		if err := c.adopt(id, key, chain); err != nil {
			return err
		}
		c.Report(KeeperReport{Generation: 1})
		all.Go(func() { _ = c.Run(ctx) })
	}
	_, _ = bufio.NewReader(os.Stdin).ReadString(0)
	cancel()
	all.Wait()
	return nil
}

func countUp(up *atomic.Int64, n int64) func(bool, error) {
	was := new(atomic.Bool)
	return func(now bool, _ error) {
		switch {
		case now && !was.Swap(true):
			if up.Add(1) == n {
				fmt.Println("up")
			}
		case !now && was.Swap(false):
			up.Add(-1)
		}
	}
}

// BenchmarkFleet: what a server pays for each keeper, and how long a fleet takes to come back. The keepers live in
// another process. ORRERY_FLEET sets their number.
func BenchmarkFleet(b *testing.B) {
	n := 500
	if s := os.Getenv("ORRERY_FLEET"); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		check(b, err)
	}
	var lim syscall.Rlimit
	check(b, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim))
	if lim.Cur < uint64(n)+100 {
		lim.Cur = min(lim.Max, uint64(n)*2)
		check(b, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim))
	}
	p := newTestPlane(b)
	dir := shortDir(b)
	keyPEM, err := p.ca.KeyPEM()
	check(b, err)
	check(b, os.WriteFile(dir+"/ca.pem", p.ca.CertPEM(), 0o600))
	check(b, os.WriteFile(dir+"/ca.key", keyPEM, 0o600))
	quiet := &benchPlane{testPlane: p}
	s := startServer(b, p, "127.0.0.1:0", func(c *ServerConfig) { c.Plane, c.Heartbeat = quiet, DefaultHeartbeat })
	before := memory()

	cmd := exec.CommandContext(b.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), fleetEnv+"="+fmt.Sprintf("%s %d %s", s.address, n, dir))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	check(b, err)
	out, err := cmd.StdoutPipe()
	check(b, err)
	check(b, cmd.Start())
	b.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	lines := bufio.NewScanner(out)
	wait := func() {
		if !lines.Scan() || lines.Text() != "up" {
			b.Fatalf("the fleet said %q, %v", lines.Text(), lines.Err())
		}
	}
	wait()
	waitFor(b, "all reports", func() bool { return quiet.reports.Load() >= int64(n) })
	each, goroutines := float64(memory()-before)/float64(n), float64(runtime.NumGoroutine())/float64(n)

	idle, from := cpu(b), time.Now()
	timer := time.NewTimer(2*DefaultHeartbeat + time.Second)
	<-timer.C
	core := 100 * (cpu(b) - idle).Seconds() / time.Since(from).Seconds()

	b.ResetTimer()
	var back, busy time.Duration
	for range b.N {
		s.kill()
		quiet.reports.Store(0)
		s.start()
		at, used := time.Now(), cpu(b)
		wait()
		back += time.Since(at)
		busy += cpu(b) - used
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(each, "B/conn")
	b.ReportMetric(goroutines, "goroutines/conn")
	b.ReportMetric(core, "%core-idle")
	b.ReportMetric(back.Seconds()/float64(b.N), "s/reconnect-all")
	b.ReportMetric(busy.Seconds()*1e6/float64(b.N)/float64(n), "µs-cpu/reconnect")
}

// benchPlane wishes each keeper something of usual size and keeps nothing.
type benchPlane struct {
	*testPlane
	reports atomic.Int64
}

var benchWish = Wish{Generation: 1, Body: json.RawMessage(`{"desired":"` + strings.Repeat("x", 2000) + `"}`)}

type benchKeeper struct {
	p      *benchPlane
	wishes chan Wish
}

func (p *benchPlane) KeeperConnected(context.Context, Identity, Hello) (KeeperSession, error) {
	k := benchKeeper{p: p, wishes: make(chan Wish, 1)}
	k.wishes <- benchWish
	return k, nil
}

func (k benchKeeper) Wishes() <-chan Wish                                      { return k.wishes }
func (k benchKeeper) Actions() <-chan Action                                   { return nil }
func (k benchKeeper) Report(context.Context, KeeperReport) error               { k.p.reports.Add(1); return nil }
func (k benchKeeper) Stats(KeeperStats)                                        {}
func (k benchKeeper) ActionResult(context.Context, string, ActionResult) error { return nil }
func (k benchKeeper) Close()                                                   {}

// memory is heap and stacks in use, after a collection.
func memory() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// cpu is what this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	check(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

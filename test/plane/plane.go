// Package plane starts whole planes from outside, as a person would: from the binary, in a folder of their own, on free
// ports, with real databases. The end-to-end tests, the torture and the bench share it.
package plane

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/orrery-db/orrery/client"
)

// Options say what to start.
type Options struct {
	// Binary is the orrery program.
	Binary string
	// Dir keeps everything; its path is short. Made anew under /tmp where empty.
	Dir string
	// Warm places for each engine version on the host; -1 is the program's own default.
	Warm int
	// Flags are added to the command line.
	Flags []string
	// Split runs server and agent as processes of their own.
	Split bool
	// Servers are the session addresses of further servers, for the agent of a split plane.
	Servers []string
	// Output gets what the plane says; discarded where nil.
	Output io.Writer
}

// Plane is a plane on this machine.
type Plane struct {
	Options
	API, Session string // addresses, kept over restarts
	ports        string

	server, agent process
	joined        bool
}

// Context is what the plane writes for its clients, beside its other files.
type Context struct {
	Server string `json:"server"`
	Token  string `json:"token"`
	CAPEM  string `json:"ca_pem"`
}

// New prepares a plane without starting it.
func New(o Options) (*Plane, error) {
	if o.Dir == "" {
		dir, err := os.MkdirTemp("/tmp", "orr")
		if err != nil {
			return nil, fmt.Errorf("make a folder for the plane: %w", err)
		}
		// Databases run as users of their own and must be able to pass.
		if err := os.Chmod(dir, 0o755); err != nil {
			return nil, fmt.Errorf("open the folder of the plane: %w", err)
		}
		o.Dir = dir
	}
	addrs, err := freeAddrs(2)
	if err != nil {
		return nil, err
	}
	base, err := freeRange(200)
	if err != nil {
		return nil, err
	}
	return &Plane{Options: o, API: addrs[0], Session: addrs[1], ports: fmt.Sprintf("%d-%d", base, base+199)}, nil
}

// Args are the flags that every command on this plane's folder needs.
func (p *Plane) Args(verb ...string) []string {
	return append(p.serverArgs(verb...), "--ports", p.ports)
}

func (p *Plane) serverArgs(verb ...string) []string {
	args := append(slices.Clone(verb), "--data-dir", p.Dir, "--api-listen", p.API, "--session-listen", p.Session)
	if p.Warm >= 0 {
		args = append(args, "--warm", strconv.Itoa(p.Warm))
	}
	return append(args, p.Flags...)
}

func (p *Plane) agentArgs(verb ...string) []string {
	return append(slices.Clone(verb), "--data-dir", p.Dir, "--ports", p.ports)
}

// Start starts the plane and waits until it is ready.
func (p *Plane) Start(ctx context.Context) error {
	if !p.Split {
		return p.server.start(ctx, p.Binary, p.Output, p.Args("up", "--foreground"))
	}
	if p.server.pid() == 0 {
		if err := p.StartServer(ctx); err != nil {
			return err
		}
	}
	return p.StartAgent(ctx)
}

// StartServer starts the server alone.
func (p *Plane) StartServer(ctx context.Context) error {
	return p.server.start(ctx, p.Binary, p.Output, p.serverArgs("server"))
}

// StartAgent starts the agent alone; the first time it joins with a token that the server makes.
func (p *Plane) StartAgent(ctx context.Context) error {
	args := append(p.agentArgs("agent"), "--server", strings.Join(append([]string{p.Session}, p.Servers...), ","))
	if !p.joined {
		c, err := p.Client()
		if err != nil {
			return err
		}
		token, err := c.CreateJoinToken(ctx)
		if err != nil {
			return err
		}
		args = append(args, "--join-token", token)
	}
	if err := p.agent.start(ctx, p.Binary, p.Output, args); err != nil {
		return err
	}
	p.joined = true
	return p.waitHost(ctx)
}

// waitHost waits until the host has said what it can run, and the plane knows the parameters of that: an agent is ready
// when its session is up, and its first report follows.
func (p *Plane) waitHost(ctx context.Context) error {
	c, err := p.Client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !p.hostReported(ctx, c) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for the host's first report: %w", ctx.Err())
		}
	}
	return nil
}

func (p *Plane) hostReported(ctx context.Context, c *client.Client) bool {
	for h, err := range c.Hosts(ctx, client.ListOptions{}) {
		if err != nil || !h.Status.Connected || len(h.Status.Engines) == 0 {
			return false
		}
		for _, e := range h.Status.Engines {
			for _, err := range c.Catalogue(ctx, e.Engine, e.Version) {
				if err != nil {
					return false
				}
				break
			}
		}
		return true
	}
	return false
}

// Kill ends the plane's processes with SIGKILL and waits until they are gone. Databases stay.
func (p *Plane) Kill() error {
	return errors.Join(p.server.end(syscall.SIGKILL), p.agent.end(syscall.SIGKILL))
}

// Stop ends the plane's processes with SIGTERM and waits until they are gone. Databases stay.
func (p *Plane) Stop() error {
	return errors.Join(p.agent.end(syscall.SIGTERM), p.server.end(syscall.SIGTERM))
}

// KillServer ends the server alone with SIGKILL.
func (p *Plane) KillServer() error { return p.server.end(syscall.SIGKILL) }

// KillAgent ends the agent alone with SIGKILL.
func (p *Plane) KillAgent() error { return p.agent.end(syscall.SIGKILL) }

// PID is the process ID of the server.
func (p *Plane) PID() int { return p.server.pid() }

// Client makes a client with the administrator's token.
func (p *Plane) Client() (*client.Client, error) {
	c, err := p.Context()
	if err != nil {
		return nil, err
	}
	return client.New(client.Config{Server: c.Server, Token: c.Token, CA: []byte(c.CAPEM)})
}

// Context reads what the plane wrote for its clients.
func (p *Plane) Context() (Context, error) {
	var c Context
	b, err := os.ReadFile(filepath.Join(p.Dir, "server", "context.json"))
	if err != nil {
		return c, fmt.Errorf("read the plane's context: %w", err)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("read the plane's context: %w", err)
	}
	return c, nil
}

// Destroy removes the plane with all its databases, and says what was left over.
func (p *Plane) Destroy(ctx context.Context) error {
	if err := p.Kill(); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, p.Binary, "admin", "destroy", "--yes", "--data-dir", p.Dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("destroy the plane: %w: %s", err, tail(string(out)))
	}
	left, err := Processes(p.Dir)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("processes are left of %s: %v", p.Dir, left)
	}
	return os.RemoveAll(p.Dir)
}

// Process is a process that mentions a plane's folder on its command line, or works in it.
type Process struct {
	PID, PPID int
	Args      []string
	Cwd       string // empty where it is not told
}

// Processes gives all processes whose command line names the folder or something in it, or that work in it: Valkey
// writes over its command line.
func Processes(dir string) ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var out []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || len(b) == 0 {
			continue // gone, or a zombie
		}
		cwd, _ := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		if !bytes.Contains(b, []byte(dir)) && !strings.HasPrefix(cwd+"/", dir+"/") {
			continue
		}
		out = append(out, Process{PID: pid, PPID: ppid(pid), Cwd: cwd, Args: strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")})
	}
	return out, nil
}

func ppid(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	n, _ := strconv.Atoi(fields[1])
	return n
}

// Keepers gives the keepers' processes by the folder of their place.
func (p *Plane) Keepers() (map[string]Process, error) { return p.pick(" keeper ") }

// Postmasters gives the database processes that a keeper started, by the folder of their place.
func (p *Plane) Postmasters() (map[string]Process, error) {
	all, err := Processes(p.Dir)
	if err != nil {
		return nil, err
	}
	out := map[string]Process{}
	for _, pr := range all {
		base := filepath.Base(pr.Args[0])
		// A postgres that prepares a dataset (--boot, --single, --check) serves nobody.
		if base == "postgres" && len(pr.Args) > 1 && pr.Args[1] == "-D" || strings.HasPrefix(base, "redis-server") || strings.HasPrefix(base, "valkey-server") {
			out[placeDir(p.Dir, append(pr.Args, pr.Cwd))] = pr
		}
	}
	return out, nil
}

func (p *Plane) pick(word string) (map[string]Process, error) {
	all, err := Processes(p.Dir)
	if err != nil {
		return nil, err
	}
	out := map[string]Process{}
	for _, pr := range all {
		if strings.Contains(" "+strings.Join(pr.Args[1:], " ")+" ", word) {
			out[placeDir(p.Dir, pr.Args)] = pr
		}
	}
	return out, nil
}

// placeDir finds the folder of a place on a command line.
func placeDir(root string, args []string) string {
	prefix := filepath.Join(root, "agent", "places") + "/"
	for _, a := range args {
		if i := strings.Index(a, prefix); i >= 0 {
			rest := a[i+len(prefix):]
			name, _, _ := strings.Cut(rest, "/")
			return prefix + name
		}
	}
	return ""
}

func freeAddrs(n int) ([]string, error) {
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed at once
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close()
		out = append(out, l.Addr().String())
	}
	return out, nil
}

// freeRange finds a range of n ports below the kernel's own ephemeral range, none of which is listened on, at a place
// that differs between test processes.
func freeRange(n int) (int, error) {
	start := 17000 + (os.Getpid()*n)%12000
	for i := range 60 {
		base := 17000 + (start-17000+i*n)%14000
		free := true
		for port := base; port < base+n && free; port += 7 {
			l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))) //nolint:noctx // closed at once
			if err != nil {
				free = false
				continue
			}
			l.Close()
		}
		if free {
			return base, nil
		}
	}
	return 0, errors.New("no free range of ports")
}

func tail(s string) string {
	if len(s) > 2000 {
		return "…" + s[len(s)-2000:]
	}
	return s
}

// AgentPID is the process ID of the agent, 0 while it does not run as a process of its own.
func (p *Plane) AgentPID() int { return p.agent.pid() }

package process

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/orrery-db/orrery"
)

// ports gives out the ports of places. A port that was given and is not yet listened on is held by a bound socket that
// does not listen: the kernel then gives it to nobody by chance, other drivers see it taken, and yet a server that
// sets SO_REUSEADDR, as databases do, can bind and listen (Linux: two sockets with SO_REUSEADDR may be bound to one
// port while neither listens).
type ports struct {
	first, last int
	mu          sync.Mutex
	next        int
	held        map[int]int // port → socket, -1 where somebody listens
}

func newPorts(first, last int) *ports {
	return &ports{first: first, last: last, next: first, held: map[int]int{}}
}

// take gives a port that is nobody's. Ports just given back come last, so that clients of a destroyed place do not
// meet another.
func (p *ports) take() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range p.last - p.first + 1 {
		port := p.next
		if p.next++; p.next > p.last {
			p.next = p.first
		}
		if _, ok := p.held[port]; ok {
			continue
		}
		// Without SO_REUSEADDR the bind fails where anybody has the port in any way.
		probe, err := bindPort(port, false)
		if err != nil {
			continue
		}
		_ = unix.Close(probe)
		fd, err := bindPort(port, true)
		if err != nil {
			continue
		}
		p.held[port] = fd
		return port, nil
	}
	return 0, orrery.Errorf(orrery.KindExhausted, "no port from %d to %d is free", p.first, p.last).WithCode("no_port").
		WithHint("Widen the agent's range of ports.")
}

// adopt takes a port that was given before. Where somebody listens on it already it cannot be held; whether that is
// the place's own database is looked at later, and holding it is tried again (retry).
func (p *ports) adopt(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.held[port]; ok || port == 0 {
		return
	}
	fd, err := bindPort(port, true)
	if err != nil {
		fd = -1
	}
	p.held[port] = fd
}

// retry holds a port on which somebody listened when it was to be held.
func (p *ports) retry(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fd, ok := p.held[port]; ok && fd < 0 {
		if fd, err := bindPort(port, true); err == nil {
			p.held[port] = fd
		}
	}
}

func (p *ports) release(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fd, ok := p.held[port]; ok && fd >= 0 {
		_ = unix.Close(fd)
	}
	delete(p.held, port)
}

func (p *ports) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, fd := range p.held {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	p.held = map[int]int{}
}

// bindPort binds port on all addresses of both families, or of IPv4 where there is no IPv6.
func bindPort(port int, reuse bool) (int, error) {
	fd, err := bindFamily(unix.AF_INET6, &unix.SockaddrInet6{Port: port}, reuse)
	if errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL) {
		fd, err = bindFamily(unix.AF_INET, &unix.SockaddrInet4{Port: port}, reuse)
	}
	if err != nil {
		return -1, fmt.Errorf("bind port %d: %w", port, err)
	}
	return fd, nil
}

func bindFamily(family int, addr unix.Sockaddr, reuse bool) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	}
	if err == nil && reuse {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil {
		err = unix.Bind(fd, addr)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	return fd, nil
}

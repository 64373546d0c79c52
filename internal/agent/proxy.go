package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/orrery-db/orrery/internal/hypervisor"
)

// The most connections that one place's keeper may hold at once: it needs one, and one more while it renews.
const maxProxied = 8

// proxy leads a place's keeper to the server: every connection to agent/proxy.sock is joined, byte by byte, with a new
// one to the server. The keeper's TLS goes through untouched.
type proxy struct {
	listener *net.UnixListener
	cancel   context.CancelFunc
	wg       sync.WaitGroup
}

// openProxy listens in the place's folder, in place of any agent before. Only the agent and the place's user get to
// the socket: the folder it lies in is closed to others.
func openProxy(ctx context.Context, p hypervisor.Place, dial func(context.Context) (net.Conn, error), log *slog.Logger) (*proxy, error) {
	path := filepath.Join(p.Dir, "agent", "proxy.sock")
	if len(path) > 107 {
		return nil, fmt.Errorf("listen on %s: the path has %d bytes, and a unix socket's may have 107; use a shorter root folder", path, len(path))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// What follows an agent finds the socket and takes its name; the name must not go with a late Close of this one.
	listener.SetUnlinkOnClose(false)
	if os.Geteuid() == 0 {
		err = os.Lchown(path, 0, p.GID)
	}
	if err == nil {
		err = os.Chmod(path, 0o660)
	}
	if err != nil {
		_ = listener.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	x := &proxy{listener: listener, cancel: cancel}
	log = log.With("place", p.ID)
	x.wg.Go(func() { x.accept(ctx, dial, log) })
	return x, nil
}

func (x *proxy) close() {
	x.cancel()
	_ = x.listener.Close()
	x.wg.Wait()
}

func (x *proxy) accept(ctx context.Context, dial func(context.Context) (net.Conn, error), log *slog.Logger) {
	slots := make(chan struct{}, maxProxied)
	for {
		conn, err := x.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			log.Warn("a keeper's connection cannot be taken", "error", err)
			if !pause(ctx, 100*time.Millisecond) {
				return
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			log.Warn("a keeper has too many connections", "limit", maxProxied)
			_ = conn.Close()
			continue
		}
		x.wg.Go(func() {
			defer func() { <-slots }()
			join(ctx, conn, dial, log)
		})
	}
}

// join carries bytes both ways until both sides have ended, or ctx.
func join(ctx context.Context, keeper *net.UnixConn, dial func(context.Context) (net.Conn, error), log *slog.Logger) {
	defer func() { _ = keeper.Close() }()
	dialCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
	server, err := dial(dialCtx)
	cancel()
	if err != nil {
		log.Debug("the server cannot be reached for a keeper", "error", err)
		return
	}
	defer func() { _ = server.Close() }()
	stop := context.AfterFunc(ctx, func() {
		_ = keeper.Close()
		_ = server.Close()
	})
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { carry(server, keeper) })
	wg.Go(func() { carry(keeper, server) })
	wg.Wait()
}

// carry copies until from ends, and passes the end on. Where to takes no more, from is ended as well.
func carry(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		_ = half.CloseWrite()
		return
	}
	_ = to.Close()
	_ = from.Close()
}

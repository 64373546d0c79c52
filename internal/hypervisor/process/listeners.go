package process

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// listener is a listening TCP socket.
type listener struct {
	uid   int
	inode string
}

// listeners gives the listening TCP sockets of the host by port (/proc/net/tcp, proc(5)).
func listeners() map[int][]listener {
	found := map[int][]listener{}
	for _, path := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if len(fields) < 10 || fields[3] != "0A" { // TCP_LISTEN
				continue
			}
			_, hex, _ := strings.Cut(fields[1], ":")
			port, err1 := strconv.ParseInt(hex, 16, 32)
			uid, err2 := strconv.Atoi(fields[7])
			if err1 == nil && err2 == nil {
				found[int(port)] = append(found[int(port)], listener{uid: uid, inode: fields[9]})
			}
		}
		_ = f.Close()
	}
	return found
}

// ownSockets are the listening sockets that were found to be a place's own; looking them up is dear where all places
// share one user.
type ownSockets map[*place]map[string]bool

func (o ownSockets) add(p *place, inode string) {
	if o[p] == nil {
		o[p] = map[string]bool{}
	}
	o[p][inode] = true
}

// forget drops what is not listened on any more: numbers of sockets are used again.
func (o ownSockets) forget(places []*place, open map[int][]listener) {
	for p, inodes := range o {
		if !slices.Contains(places, p) {
			delete(o, p)
			continue
		}
		maps.DeleteFunc(inodes, func(inode string, _ bool) bool {
			return !slices.ContainsFunc(open[p.record().Port], func(l listener) bool { return l.inode == inode })
		})
	}
}

// checkPorts reports ports that another program listens on.
func (d *Driver) checkPorts(places []*place, own ownSockets) {
	open := listeners()
	own.forget(places, open)
	for _, p := range places {
		rec := p.record()
		message := ""
		if len(open[rec.Port]) == 0 {
			d.ports.retry(rec.Port)
		}
		for _, l := range open[rec.Port] {
			if !rec.Whole || own[p][l.inode] {
				continue
			}
			if d.owns(&rec, l) {
				own.add(p, l.inode)
			} else {
				message = fmt.Sprintf("its port %d is taken by another program of user %d", rec.Port, l.uid)
			}
		}
		p.mu.Lock()
		changed := p.port != message
		p.port = message
		p.mu.Unlock()
		if changed {
			d.changes.tell(p.id)
		}
	}
}

// owns tells whether a listening socket is of the place.
func (d *Driver) owns(r *record, l listener) bool {
	if r.User != "" || l.uid != r.UID {
		return l.uid == r.UID
	}
	// All places share one user: look who has the socket open.
	pids, err := d.members(r)
	if err != nil {
		return true
	}
	return slices.ContainsFunc(pids, func(pid int) bool { return hasSocket(pid, l.inode) })
}

func hasSocket(pid int, inode string) bool {
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(fds, func(fd string) bool {
		target, err := os.Readlink(fd)
		return err == nil && target == "socket:["+inode+"]"
	})
}

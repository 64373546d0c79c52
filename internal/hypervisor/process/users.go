package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/orrery-db/orrery"
)

// users makes and removes the system users of places. Databases want a passwd entry of their user (initdb refuses a
// bare number), so an unused number would not do.
type users struct {
	root bool
	hash string // of the driver's root, tells its users from another driver's
	mu   sync.Mutex
}

func newUsers(root bool, hash string) *users { return &users{root: root, hash: hash} }

// account is a line of /etc/passwd.
type account struct {
	name, comment string
	uid, gid      int
}

// nameFor gives the user name of a place: short enough for every tool, unique enough for a host.
func (u *users) nameFor(id string) string {
	if !u.root {
		return ""
	}
	return "orr-" + strings.TrimPrefix(id, orrery.PrefixPlace+"-")[:8]
}

// comment marks a user as this driver's and this place's.
func (u *users) comment(id string) string { return "Orrery place " + id + " of " + u.hash }

// ensure gives the user of a place, made where missing. Where the driver is not root that is the driver's own.
func (u *users) ensure(ctx context.Context, id string) (uid, gid int, err error) {
	if !u.root {
		return os.Getuid(), os.Getgid(), nil
	}
	name := u.nameFor(id)
	u.mu.Lock()
	defer u.mu.Unlock()
	a, err := findAccount(name)
	if err != nil {
		return 0, 0, err
	}
	if a == nil {
		// --user-group: a group of its own, so that no file is shared by accident. --no-log-init: lastlog and faillog
		// have an entry per number ever used.
		if err := u.run(ctx, "useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
			"--shell", "/usr/sbin/nologin", "--no-log-init", "--comment", u.comment(id), name); err != nil {
			return 0, 0, fmt.Errorf("make user %s: %w", name, err)
		}
		if a, err = findAccount(name); err != nil || a == nil {
			return 0, 0, errors.Join(fmt.Errorf("user %s is not there after it was made", name), err)
		}
	}
	if a.comment != u.comment(id) {
		return 0, 0, orrery.Errorf(orrery.KindConflict, "the user name %s belongs to something else on this host", name).
			WithCode("user_taken")
	}
	return a.uid, a.gid, nil
}

// remove removes the user of a place, where it is this driver's.
func (u *users) remove(ctx context.Context, id string) error {
	if !u.root {
		return nil
	}
	name := u.nameFor(id)
	u.mu.Lock()
	defer u.mu.Unlock()
	a, err := findAccount(name)
	if err != nil || a == nil || a.comment != u.comment(id) {
		return err
	}
	if err := u.run(ctx, "userdel", name); err != nil {
		return fmt.Errorf("remove user %s: %w", name, err)
	}
	return nil
}

// run runs one of the shadow tools. They give up at once, or after a while, where another holds their lock.
func (u *users) run(ctx context.Context, tool string, args ...string) error {
	for wait := 10 * time.Millisecond; ; wait *= 2 {
		// Not cut off with ctx: the tools leave their lock behind when killed.
		out, err := exec.CommandContext(context.WithoutCancel(ctx), tool, args...).CombinedOutput()
		if err == nil {
			return nil
		}
		text := strings.TrimSpace(string(out))
		// userdel counts zombies as logged in; their parents reap them in a moment.
		passing := strings.Contains(text, "lock") || strings.Contains(text, "currently used by process")
		if errors.Is(err, exec.ErrNotFound) || !passing || wait > 2*time.Second {
			return fmt.Errorf("%s: %w: %s", tool, err, text)
		}
		if !pause(ctx, wait) {
			return ctx.Err()
		}
	}
}

// strays gives the places that have a user of this driver.
func (u *users) strays() ([]string, error) {
	if !u.root {
		return nil, nil
	}
	var ids []string
	err := eachAccount(func(a account) bool {
		if rest, ok := strings.CutPrefix(a.comment, "Orrery place "); ok && strings.HasPrefix(a.name, "orr-") {
			if id, ok := strings.CutSuffix(rest, " of "+u.hash); ok && orrery.IsID(id, orrery.PrefixPlace) {
				ids = append(ids, id)
			}
		}
		return true
	})
	return ids, err
}

func findAccount(name string) (found *account, err error) {
	err = eachAccount(func(a account) bool {
		if a.name == name {
			found = &a
		}
		return found == nil
	})
	return found, err
}

// eachAccount reads /etc/passwd, where useradd writes; the C library may have a cache (nscd) before it.
func eachAccount(fn func(account) bool) error {
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) < 7 {
			continue
		}
		uid, err1 := strconv.Atoi(fields[2])
		gid, err2 := strconv.Atoi(fields[3])
		if err1 != nil || err2 != nil {
			continue
		}
		if !fn(account{name: fields[0], comment: fields[4], uid: uid, gid: gid}) {
			break
		}
	}
	return lines.Err()
}

package process

import (
	"context"
	"crypto/rand"
	"fmt"
	mrand "math/rand/v2"

	"os/exec"
	"slices"
	"syscall"
	"time"

	"github.com/orrery-db/orrery"
)

// command is a running command.
type command struct {
	id    procID
	since time.Time
	ended chan struct{} // closed when it has ended
	how   string        // valid after ended; "" where nobody could see how
	close func()        // lets go of it without stopping it
}

// start starts the command of a place. Death at any instant in between leaves either no process or one that is found
// by the start mark in its environment. again counts it as a restart.
func (d *Driver) start(p *place, again bool) (*command, error) {
	mark := rand.Text()
	if err := p.save(false, func(r *record) { r.Start, r.Process = mark, nil }); err != nil {
		return nil, err
	}
	rec := p.record()
	dir := d.dir(p.id)
	log, err := openLog(d.logPath(p.id))
	if err != nil {
		return nil, fmt.Errorf("open the log of the command: %w", diskError(err))
	}
	defer func() { _ = log.Close() }()
	args := slices.Clone(rec.Spec.Command)
	for i := range args {
		args[i] = expand(args[i], dir, rec.Port)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.Env = append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + dir, "LANG=C.UTF-8",
		markOf(p.id), startMark(mark),
	}, rec.Spec.Env...)
	// A session of its own: no signal of the agent's terminal or process group reaches it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if rec.User != "" {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(rec.UID), Gid: uint32(rec.GID)}
		cmd.Env = append(cmd.Env, "USER="+rec.User, "LOGNAME="+rec.User)
	}
	if err := d.groups.spawn(p.id, cmd.SysProcAttr, cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	d.cfg.Stage("started")
	s, err := readStat(cmd.Process.Pid) // cannot be reaped before Wait
	if err != nil {
		return nil, fmt.Errorf("look at process %d: %w", cmd.Process.Pid, err)
	}
	c := &command{id: procID{PID: s.pid, Ticks: s.ticks, Boot: d.boot}, since: time.Now(), ended: make(chan struct{}), close: func() {}}
	go func() {
		_ = cmd.Wait()
		c.how = cmd.ProcessState.String()
		close(c.ended)
	}()
	note := func(r *record) {
		r.Process = &c.id
		if again {
			r.Restarts++
		}
	}
	if err := p.save(false, note); err != nil {
		// The start mark is on the disk; that will do to find it again.
		d.log.Warn("the process of a place could not be written down", "place", p.id, "error", err)
		p.mu.Lock()
		note(&p.rec)
		p.mu.Unlock()
	}
	return c, nil
}

func startMark(mark string) string { return "ORRERY_START=" + mark }

// adopt gives the command that runs already, nil where none does.
func (d *Driver) adopt(p *place) *command {
	rec := p.record()
	id := rec.Process
	if id == nil && rec.Start != "" {
		id = d.findStarted(rec.Start)
	}
	if id == nil || id.Boot != d.boot {
		return nil
	}
	w, err := watchProcess(*id)
	if err != nil {
		return nil
	}
	if rec.Process == nil {
		if err := p.save(false, func(r *record) { r.Process = id }); err != nil {
			d.log.Warn("the process of a place could not be written down", "place", p.id, "error", err)
		}
	}
	c := &command{id: *id, since: time.Now(), ended: make(chan struct{})}
	stop := make(chan struct{})
	c.close = func() { close(stop); w.close() }
	go func() {
		w.wait(stop)
		close(c.ended)
	}()
	return c
}

// findStarted looks for the oldest process with the start mark: children inherit it, and are younger.
func (d *Driver) findStarted(mark string) *procID {
	all, err := allStats()
	if err != nil {
		return nil
	}
	var oldest *procID
	for _, s := range all {
		if hasEnv(s.pid, startMark(mark)) && (oldest == nil || s.ticks < oldest.Ticks || s.ticks == oldest.Ticks && s.pid == s.session) {
			oldest = &procID{PID: s.pid, Ticks: s.ticks, Boot: d.boot}
		}
	}
	return oldest
}

// supervise begins to watch over the command, unless that is done already. c is a command just started, or nil.
func (d *Driver) supervise(p *place, c *command) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop != nil {
		return
	}
	if c == nil {
		p.mu.Unlock()
		c = d.adopt(p)
		p.mu.Lock()
	}
	ctx, cancel := context.WithCancel(d.ctx)
	p.stop, p.done = cancel, make(chan struct{})
	p.running = c != nil
	done := p.done
	d.wg.Go(func() {
		defer close(done)
		d.keep(ctx, p, c)
	})
	d.changes.tell(p.id)
}

// unsupervise lets go of the command without stopping it.
func (d *Driver) unsupervise(p *place) {
	p.mu.Lock()
	stop, done := p.stop, p.done
	p.mu.Unlock()
	if stop == nil {
		return
	}
	stop()
	<-done
	p.mu.Lock()
	p.stop, p.done, p.running = nil, nil, false
	p.mu.Unlock()
}

// keep keeps the command running until ctx ends.
func (d *Driver) keep(ctx context.Context, p *place, c *command) {
	back := backoff{first: d.cfg.BackoffFirst, max: d.cfg.BackoffMax}
	for {
		if c != nil {
			select {
			case <-c.ended:
			case <-ctx.Done():
				c.close()
				return
			}
			if c.how == "" {
				c.how = "ended"
			}
			if time.Since(c.since) >= d.cfg.BackoffReset {
				back.reset()
			}
			d.log.Warn("the command of a place ended", "place", p.id, "pid", c.id.PID, "how", c.how)
			p.set(func(p *place) { p.running, p.message = false, "its command ended: "+c.how })
			c.close()
		}
		select {
		case <-time.After(back.next()):
		case <-ctx.Done():
			return
		}
		var err error
		if c, err = d.start(p, true); err != nil {
			d.log.Error("the command of a place cannot be started", "place", p.id, "error", err)
			p.set(func(p *place) { p.message = orrery.Shorten("its command cannot be started: "+err.Error(), 500) })
			continue
		}
		p.set(func(p *place) { p.running, p.message = true, "" })
	}
}

// backoff gives waiting times: the first is short, each next twice as long, all with a quarter of jitter.
type backoff struct {
	first, max, last time.Duration
}

func (b *backoff) reset() { b.last = 0 }

func (b *backoff) next() time.Duration {
	b.last = min(max(b.first, 2*b.last), b.max)
	return b.last + time.Duration((mrand.Float64()-0.5)/2*float64(b.last))
}

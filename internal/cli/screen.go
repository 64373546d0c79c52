package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/orrery-db/orrery"
	"golang.org/x/term"
)

// screen redraws a few lines in place at the bottom of a terminal.
type screen struct {
	w     io.Writer
	size  func() (width, height int)
	drawn []string
}

// draw replaces what was drawn before. All goes out in one write, each line overwrites the old one and clears only what
// is left of it, so that nothing flickers. A terminal that was made narrower has broken the old lines into several:
// they are counted as it shows them now.
func (s *screen) draw(lines []string) {
	width, _ := s.size()
	var b strings.Builder
	if up := rows(s.drawn, width); up > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", up)
	}
	b.WriteByte('\r')
	for _, l := range lines {
		b.WriteString(l + "\x1b[K\n")
	}
	b.WriteString("\x1b[J")
	_, _ = io.WriteString(s.w, b.String()) // a terminal that is gone takes the whole process with it
	s.drawn = lines
}

func rows(lines []string, width int) int {
	n := 0
	for _, l := range lines {
		n += max(1, (utf8.RuneCountInString(l)+width-1)/max(width, 1))
	}
	return n
}

// terminal gives the size of w if it is a terminal that can be drawn on.
func terminal(w io.Writer, getenv func(string) string) (size func() (int, int), ok bool) {
	f, isFile := w.(interface{ Fd() uintptr })
	if !isFile || !term.IsTerminal(int(f.Fd())) || getenv("TERM") == "dumb" {
		return nil, false
	}
	return func() (int, int) {
		width, height, err := term.GetSize(int(f.Fd()))
		if err != nil || width < 1 {
			return 80, 24
		}
		return width, height
	}, true
}

// follower shows a job while it goes on: live on a terminal, as lines elsewhere.
type follower interface {
	job(*orrery.Job)
	trouble(err error)
	end()
}

// follow makes the follower that suits w.
func (a *app) follow() follower {
	if size, ok := terminal(a.Err, a.Getenv); ok {
		return startLive(&screen{w: a.Err, size: size}, a.Now, time.NewTicker(80*time.Millisecond))
	}
	return &lines{w: a.Err, now: a.Now}
}

// lines tells a job's changes one by one.
type lines struct {
	w     io.Writer
	now   func() time.Time
	last  *orrery.Job
	upset bool
}

func (l *lines) job(j *orrery.Job) {
	for _, s := range news(l.last, j, l.now()) {
		fmt.Fprintln(l.w, s)
	}
	l.last, l.upset = j, false
}

func (l *lines) trouble(err error) {
	if !l.upset {
		fmt.Fprintf(l.w, "%s; trying again\n", message(err))
	}
	l.upset = true
}

func (l *lines) end() {}

// live redraws a job several times a second.
type live struct {
	screen *screen
	now    func() time.Time
	done   chan struct{}
	exited chan struct{}

	mu     sync.Mutex
	last   *orrery.Job
	notice string
}

func startLive(s *screen, now func() time.Time, ticker *time.Ticker) *live {
	l := &live{screen: s, now: now, done: make(chan struct{}), exited: make(chan struct{})}
	go func() {
		defer close(l.exited)
		defer ticker.Stop()
		for tick := 0; ; tick++ {
			select {
			case <-l.done:
				l.redraw(tick)
				return
			case <-ticker.C:
				l.redraw(tick)
			}
		}
	}()
	return l
}

func (l *live) redraw(tick int) {
	l.mu.Lock()
	j, notice := l.last, l.notice
	l.mu.Unlock()
	if j == nil {
		return
	}
	width, height := l.screen.size()
	l.screen.draw(frame(j, notice, l.now(), tick, width, height))
}

func (l *live) job(j *orrery.Job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last, l.notice = j, ""
}

func (l *live) trouble(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.notice = message(err) + "; trying again"
}

// end draws the last state and leaves it standing.
func (l *live) end() {
	close(l.done)
	<-l.exited
}

package cli

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/orrery-db/orrery"
)

const spinner = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

// frame draws a job as it is now, for a terminal of the given size: a head line and one line for each step. Nothing is
// wider than the terminal, and where it is too low the steps that are done make room first.
func frame(j *orrery.Job, notice string, now time.Time, tick, width, height int) []string {
	head := fmt.Sprintf("%s %s", j.Kind, j.ObjectName)
	switch j.State {
	case orrery.JobQueued:
		head += " · waits for its turn"
	case orrery.JobUndoing:
		head += " · undoing"
	}
	if j.CancelRequested && !j.State.Final() {
		head += " · cancel asked for"
	}
	lines := []string{clip(head+" · "+took(jobTime(j, now)), width)}
	steps := j.Steps
	hidden := 0
	room := max(height-4, 1) // the head, the lines about what is hidden and what is wrong, and the cursor's own
	for len(steps) > room && (steps[0].State == orrery.StepDone || len(steps) > j.Cursor-hidden+room) {
		if steps[0].State != orrery.StepDone {
			steps = steps[:len(steps)-1]
			continue
		}
		steps = steps[1:]
		hidden++
	}
	if len(steps) > room {
		steps = steps[:room]
	}
	if hidden > 0 {
		lines = append(lines, clip(fmt.Sprintf("  ✓ %d steps done", hidden), width))
	}
	titles := 0
	for _, s := range steps {
		titles = max(titles, utf8.RuneCountInString(s.Title))
	}
	titles = min(titles, max(width-16, 8))
	for _, s := range steps {
		lines = append(lines, clip(stepLine(s, now, tick, titles), width))
	}
	if notice == "" && j.Error != nil {
		notice = "because: " + j.Error.Message
	}
	if notice != "" {
		lines = append(lines, clip("  "+notice, width))
	}
	return lines
}

func stepLine(s orrery.JobStep, now time.Time, tick, titles int) string {
	mark, time, note := " ", "", ""
	switch s.State {
	case orrery.StepDone:
		mark, time = "✓", took(stepTime(s, now))
	case orrery.StepFailed:
		mark, time, note = "✗", took(stepTime(s, now)), lastLog(s)
	case orrery.StepUndone:
		mark, note = "↶", "undone"
	case orrery.StepRunning:
		frames := []rune(spinner)
		mark, time, note = string(frames[tick%len(frames)]), took(stepTime(s, now)), lastLog(s)
		if s.Attempts > 1 {
			note = strings.TrimSpace(fmt.Sprintf("try %d  %s", s.Attempts, note))
		}
	}
	title := clip(s.Title, titles)
	pad := strings.Repeat(" ", titles-utf8.RuneCountInString(title))
	return strings.TrimRight(fmt.Sprintf("  %s %s%s  %5s  %s", mark, title, pad, time, note), " ")
}

func lastLog(s orrery.JobStep) string {
	if len(s.Log) == 0 {
		return ""
	}
	return oneLine(s.Log[len(s.Log)-1].Message)
}

// stepTime is how long a step took, or has been taking.
func stepTime(s orrery.JobStep, now time.Time) time.Duration {
	return between(s.StartedAt, s.EndedAt, now)
}

func jobTime(j *orrery.Job, now time.Time) time.Duration {
	start := &j.CreatedAt
	if j.StartedAt != nil {
		start = j.StartedAt
	}
	return between(start, j.EndedAt, now)
}

func between(start, end *time.Time, now time.Time) time.Duration {
	if start == nil || start.IsZero() {
		return 0
	}
	if end != nil {
		now = *end
	}
	return now.Sub(*start)
}

// clip cuts s to width columns. What the plane says is shown on one line and never steers the terminal.
func clip(s string, width int) string {
	s = oneLine(s)
	if width <= 0 || utf8.RuneCountInString(s) <= width {
		return s
	}
	r := []rune(s)
	return string(r[:width-1]) + "…"
}

func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return ' '
		}
		return r
	}, s)
}

// news tells in plain lines what changed between two states of a job; before is nil at first.
func news(before, j *orrery.Job, now time.Time) []string {
	var lines []string
	name := strings.TrimSpace(j.Kind + " " + j.ObjectName)
	say := func(format string, args ...any) {
		lines = append(lines, name+": "+oneLine(fmt.Sprintf(format, args...)))
	}
	if before == nil {
		say("job %s", j.ID)
	}
	if j.State == orrery.JobQueued && before == nil {
		say("waits for its turn")
	}
	if j.State == orrery.JobUndoing && (before == nil || before.State != j.State) {
		if j.Error != nil {
			say("undoing, because: %s", j.Error.Message)
		} else {
			say("undoing")
		}
	}
	for i, s := range j.Steps {
		was := orrery.JobStep{State: orrery.StepPending}
		if before != nil && i < len(before.Steps) {
			was = before.Steps[i]
		}
		at := fmt.Sprintf("[%d/%d] %s", i+1, len(j.Steps), s.Title)
		switch {
		case s.State == orrery.StepRunning && s.Attempts > was.Attempts && s.Attempts > 1:
			say("%s: try %d: %s", at, s.Attempts, lastLog(s))
		case s.State == was.State:
		case s.State == orrery.StepRunning:
			say("%s …", at)
		case s.State == orrery.StepDone:
			say("%s: done in %s", at, took(stepTime(s, now)))
		case s.State == orrery.StepFailed:
			say("%s: failed: %s", at, lastLog(s))
		case s.State == orrery.StepUndone:
			say("%s: undone", at)
		}
	}
	if j.State.Final() && (before == nil || before.State != j.State) {
		say("%s after %s", j.State, took(jobTime(j, now)))
	}
	if j.State == orrery.JobStuck && (before == nil || before.State != j.State) {
		say("stuck: %s", j.Alarm)
	}
	return lines
}

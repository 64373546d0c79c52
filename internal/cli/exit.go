package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/spf13/cobra"
)

// The exit codes. They are told in the help of the root command.
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitUsage       = 2
	ExitNotFound    = 3
	ExitConflict    = 4
	ExitForbidden   = 5
	ExitJobFailed   = 6
	ExitUnavailable = 7
	ExitDetached    = 130
)

// Execute runs root with args, prints the error if there is one, and gives the exit code. SIGINT and SIGTERM end the
// context that commands get.
func Execute(ctx context.Context, root *cobra.Command, args []string) int {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && ctx.Err() != nil && !errors.As(err, new(*detached)) && !errors.As(err, new(*programExit)) {
		err = context.Canceled // whatever it was that the signal cut off
	}
	if err != nil {
		fmt.Fprint(root.ErrOrStderr(), errorText(err))
	}
	return exitCode(err)
}

// badUsage is an error of who typed the command.
type badUsage struct {
	message string
	usage   string // of the command
	hint    string
}

func (e *badUsage) Error() string { return e.message }

func usageError(cmd *cobra.Command, format string, args ...any) *badUsage {
	return &badUsage{message: fmt.Sprintf(format, args...), usage: cmd.UseLine(),
		hint: fmt.Sprintf(`Run "%s --help" for more.`, cmd.CommandPath())}
}

// detached is the end of a command that stopped waiting for its job, which goes on.
type detached struct {
	job   string
	why   string
	usual bool // asked for, with Ctrl-C
}

func (e *detached) Error() string { return e.why }

// programExit is a database client's own exit code.
type programExit struct{ code int }

func (e *programExit) Error() string { return fmt.Sprintf("the program ended with code %d", e.code) }

func exitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	if e, ok := errors.AsType[*programExit](err); ok {
		return e.code
	}
	if e, ok := errors.AsType[*detached](err); ok {
		if e.usual {
			return ExitDetached
		}
		return ExitFailed
	}
	if errors.As(err, new(*badUsage)) {
		return ExitUsage
	}
	if errors.As(err, new(*client.JobFailed)) {
		return ExitJobFailed
	}
	if errors.Is(err, context.Canceled) {
		return ExitDetached
	}
	switch orrery.KindOf(err) {
	case orrery.KindNotFound:
		return ExitNotFound
	case orrery.KindConflict, orrery.KindPrecondition:
		return ExitConflict
	case orrery.KindUnauthorized, orrery.KindForbidden:
		return ExitForbidden
	case orrery.KindUnavailable, orrery.KindRateLimited:
		return ExitUnavailable
	}
	return ExitFailed
}

// errorText is what a person reads of an error.
func errorText(err error) string {
	var b strings.Builder
	if errors.As(err, new(*programExit)) {
		return "" // the program has said why
	}
	if e, ok := errors.AsType[*detached](err); ok {
		fmt.Fprintf(&b, "%s\nThe job goes on. Watch it again with: orrery job watch %s\n", e.why, e.job)
		return b.String()
	}
	if e, ok := errors.AsType[*badUsage](err); ok {
		fmt.Fprintf(&b, "Error: %s\n", e.message)
		line(&b, "usage", e.usage)
		line(&b, "hint", e.hint)
		return b.String()
	}
	if e, ok := errors.AsType[*client.JobFailed](err); ok {
		jobErrorText(&b, e.Job)
		return b.String()
	}
	if errors.Is(err, context.Canceled) {
		return "Interrupted.\n"
	}
	e, ok := errors.AsType[*orrery.Error](err)
	if !ok {
		fmt.Fprintf(&b, "Error: %s\n", err)
		return b.String()
	}
	fmt.Fprintf(&b, "Error: %s\n", e.Message)
	line(&b, "field", e.Field)
	if e.Err != nil {
		line(&b, "cause", e.Err.Error())
	}
	line(&b, "hint", e.Hint)
	return b.String()
}

func jobErrorText(b *strings.Builder, j *orrery.Job) {
	what := strings.TrimSpace(j.Kind + " " + j.ObjectName)
	switch {
	case j.State == orrery.JobCancelled:
		fmt.Fprintf(b, "Error: %s was cancelled, and what it had done is undone\n", what)
	case j.State == orrery.JobStuck:
		fmt.Fprintf(b, "Error: %s is stuck and wants a person\n", what)
		line(b, "alarm", j.Alarm)
	default:
		fmt.Fprintf(b, "Error: %s failed, and what it had done is undone\n", what)
	}
	hint := "orrery job show " + j.ID
	if e := j.Error; e != nil {
		line(b, "cause", e.Message)
		line(b, "field", e.Field)
		line(b, "step", e.Step)
		if e.Hint != "" {
			hint = e.Hint
		}
	}
	line(b, "hint", hint)
	line(b, "job", j.ID)
}

func line(w io.Writer, name, text string) {
	if text != "" {
		fmt.Fprintf(w, "  %-6s %s\n", name+":", text)
	}
}

// quotedOr joins names as in `"a", "b" or "c"`.
func quotedOr(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = fmt.Sprintf("%q", n)
	}
	if len(quoted) == 1 {
		return quoted[0]
	}
	last := len(quoted) - 1
	return strings.Join(quoted[:last], ", ") + " or " + quoted[last]
}

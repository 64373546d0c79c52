package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// confirm lets a destructive verb go on: with --yes, or when a person on a terminal types the name of what will be lost.
func (a *app) confirm(cmd *cobra.Command, yes bool, what, name string) error {
	if yes {
		return nil
	}
	in, ok := a.In.(interface{ Fd() uintptr })
	if !ok || !term.IsTerminal(int(in.Fd())) {
		e := usageError(cmd, "%s cannot be undone", what)
		e.hint = "Say --yes where nobody can be asked."
		return e
	}
	fmt.Fprintf(a.Err, "%s cannot be undone. Type %q to go on: ", what, name)
	answer, _ := bufio.NewReader(a.In).ReadString('\n')
	if strings.TrimSpace(answer) != name {
		return usageError(cmd, "that is not %q; nothing was done", name)
	}
	return nil
}

// readSecret reads one line, unseen where it is typed.
func readSecret(in io.Reader) (string, error) {
	if f, ok := in.(interface{ Fd() uintptr }); ok && term.IsTerminal(int(f.Fd())) {
		b, err := term.ReadPassword(int(f.Fd()))
		if err != nil {
			return "", fmt.Errorf("read from the terminal: %w", err)
		}
		return strings.TrimSpace(string(b)), nil
	}
	s, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read standard input: %w", err)
	}
	return strings.TrimSpace(s), nil
}

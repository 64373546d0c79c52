package unpriv_test

import (
	"os"
	"os/exec"
	"os/user"
	"testing"

	"github.com/orrery-db/orrery/internal/testkit/unpriv"
)

func TestMain(m *testing.M) { unpriv.Main(m) }

func TestRunsAsOrdinaryUserWithHome(t *testing.T) {
	if os.Getuid() == 0 {
		t.Fatal("the test runs as root")
	}
	if _, err := user.Current(); err != nil {
		t.Fatalf("the user has no passwd entry: %v", err)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.CreateTemp(home, "x")
	if err != nil {
		t.Fatalf("the home folder cannot be written: %v", err)
	}
	_ = f.Close()
	_ = os.Remove(f.Name())
}

// TestLeavesNoProcess leaves a process behind, which Main must kill: go test would wait for its open output for ever.
func TestLeavesNoProcess(t *testing.T) {
	cmd := exec.Command("setsid", "--fork", "sleep", "3600")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
}

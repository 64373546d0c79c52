package agent_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/orrery-db/orrery/internal/agent"
)

// TestKeeperBinaryCanBeRunByAnyUser runs it as nobody. go test's folders are closed to others, as root's home is.
func TestKeeperBinaryCanBeRunByAnyUser(t *testing.T) {
	root, err := os.MkdirTemp("/tmp", "orr")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(root) }()
	if err := os.Chmod(root, 0o711); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is replaced
		path, err := agent.KeeperBinary(root)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), path, "-test.list", "^$")
		cmd.Dir = "/"
		if os.Getuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s cannot be run: %v: %s", path, err, out)
		}
		if left, _ := filepath.Glob(filepath.Join(root, "bin", ".*")); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

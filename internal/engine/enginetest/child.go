package enginetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/orrery-db/orrery/internal/engine"
)

// childEnv makes the test binary do one operation on one folder and end: a keeper that can be killed in the middle.
const childEnv = "ORRERY_ENGINETEST_CHILD"

type childJob struct {
	Operation string // prepare or clone
	Dir       string
	Desired   engine.Desired
	TLS       engine.TLSFiles // left out of Desired's JSON
}

// isChild does the child's job where this process is one.
func (s *suite) isChild(t *testing.T) bool {
	text, ok := os.LookupEnv(childEnv)
	if !ok {
		return false
	}
	var job childJob
	if err := json.Unmarshal([]byte(text), &job); err != nil {
		t.Fatal(err)
	}
	job.Desired.TLS = job.TLS
	m := &member{s: s, dir: job.Dir, d: job.Desired}
	m.open(t)
	var err error
	if job.Operation == "prepare" {
		err = m.Prepare(t.Context())
	} else {
		err = m.Clone(t.Context(), m.d, nil)
	}
	if err := errors.Join(err, m.Close()); err != nil {
		t.Fatalf("%s: %v", job.Operation, err)
	}
	return true
}

// dieIn runs an operation in a process of its own and kills it after it ran for a while from its first trace in the
// folder on. It tells whether the operation was done before that.
func (m *member) dieIn(t *testing.T, operation string, after time.Duration) (done bool) {
	t.Helper()
	text, err := json.Marshal(childJob{operation, m.dir, m.d, m.d.TLS})
	if err != nil {
		t.Fatal(err)
	}
	before := m.traces()
	cmd := exec.Command(os.Args[0], "-test.run=^"+topTest(t)+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s", childEnv, text))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	eventually(t, operation+" leaves a trace", func() error {
		select {
		case err := <-ended:
			ended <- err
			return nil
		default:
		}
		if m.traces() == before {
			return errors.New("none yet")
		}
		return nil
	})
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatalf("%s in a process of its own: %v", operation, err)
		}
		return true
	case <-timer.C:
		_ = cmd.Process.Kill() // only this one: what it started has to be coped with
		<-ended
		return false
	}
}

// traces counts what lies in the folder.
func (m *member) traces() int {
	names, _ := filepath.Glob(filepath.Join(m.dir, "*"))
	return len(names)
}

func topTest(t *testing.T) string {
	name := t.Name()
	for i := range name {
		if name[i] == '/' {
			return name[:i]
		}
	}
	return name
}

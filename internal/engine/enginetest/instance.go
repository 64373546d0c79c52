package enginetest

import (
	"testing"

	"github.com/orrery-db/orrery/internal/engine"
)

// Instance is a primary that the suite keeps for a driver's own test. It is a handle of the server as well.
type Instance struct{ *member }

// Folder is the instance's folder.
func (in *Instance) Folder() string { return in.dir }

// Desired is what Up, Start and Converge bring about; it may be changed.
func (in *Instance) Desired() *engine.Desired { return &in.d }

// Start configures and starts the server and does not wait for it.
func (in *Instance) Start(t *testing.T) { in.start(t) }

// Up starts the server, waits until it is ready, and applies what is desired.
func (in *Instance) Up(t *testing.T) { in.up(t) }

// Converge takes on what is desired without a restart.
func (in *Instance) Converge(t *testing.T) engine.Effect { return in.converge(t) }

// PID of the server that was started.
func (in *Instance) PID() int { return in.cmd.Process.Pid }

// Kill ends the server and all its processes without mercy.
func (in *Instance) Kill() { in.kill() }

// Login is the first user's.
func (in *Instance) Login() Login { return in.login() }

// User makes a user with a password.
func (in *Instance) User(t *testing.T, u engine.DesiredUser, pw string) engine.DesiredUser {
	t.Helper()
	made := in.s.user(t, u.Name, u.Access, pw, 1)
	made.Databases = u.Databases
	return made
}

// OtherCA gives TLS files as a member of the datastore named by commonName would have, of the suite's CA or of another.
func (in *Instance) OtherCA(t *testing.T, commonName string, foreign bool) engine.TLSFiles {
	t.Helper()
	ca := in.s.ca
	if foreign {
		ca = newAuthority(t)
	}
	return ca.issue(t, t.TempDir(), commonName, "in-9000000000000000")
}

// Eventually polls until cond gives nil.
func Eventually(t *testing.T, what string, cond func() error) {
	t.Helper()
	eventually(t, what, cond)
}

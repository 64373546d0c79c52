package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/session"
)

// inProcess is what an agent in a process of its own is told.
type inProcess struct {
	Root, Keeper, Server string
	Wish                 session.AgentWish
}

const inProcessVariable = "ORRERY_TEST_AGENT"

// runInProcess is an agent that works until it is killed.
func runInProcess(text string) error {
	var in inProcess
	if err := json.Unmarshal([]byte(text), &in); err != nil {
		return err
	}
	driver, err := openDriver(in.Root)
	if err != nil {
		return err
	}
	h := &harness{keeper: in.Keeper, version: "1", engines: []orrery.EngineVersion{fakeEngine()}, reported: make(chan struct{}, 1)}
	a, err := h.newAgent(driver, func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", in.Server)
	})
	if err != nil {
		return err
	}
	a.Wish(1, in.Wish)
	fmt.Println("up")
	return a.Run(context.Background())
}

// TestKilledAgent kills agents in the midst of their work, at moments ever later. Whatever they leave, the next one
// makes whole: one place for each instance, no other, and no keeper that was told to be two.
func TestKilledAgent(t *testing.T) {
	h := newHarness(t)
	var wish session.AgentWish
	wish.Warm = []session.WarmWish{{Engine: "fake", Version: "1", Count: 1}}
	for round := range 8 {
		wish.Places = append(wish.Places, placeWish(), placeWish())
		text, err := json.Marshal(inProcess{Root: h.root, Keeper: h.keeper, Server: h.server.Addr().String(), Wish: wish})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
		cmd.Env = append(os.Environ(), inProcessVariable+"="+string(text))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatalf("the agent did not come up: %v", err)
		}
		<-time.After(time.Duration(round*round) * 3 * time.Millisecond) // the moment is the subject
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
	}
	h.start()
	h.agent.Wish(1, wish)
	r := h.wait("running", func(r session.AgentReport) bool {
		for _, w := range wish.Places {
			if !settled(r, w.Instance) {
				return false
			}
		}
		return true
	})
	h.waitWarm(1)
	list, err := h.driver.List(t.Context())
	if err != nil || len(list) != len(wish.Places)+1 || len(r.Host.Unclaimed) > 0 {
		t.Errorf("%d instances have %d places, %v unclaimed, %v", len(wish.Places), len(list), r.Host.Unclaimed, err)
	}
	for _, p := range list {
		if p.Labels["instance"] != "" {
			h.waitAssignedTo(p.ID, p.Labels["instance"])
		}
	}
}

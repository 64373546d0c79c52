package main

import (
	"context"
	"log/slog"
	"net"
	"testing"

	"github.com/orrery-db/orrery"
)

// TestServerThatCannotStart: a start that fails half way says why, and lets go of what it has taken.
func TestServerThatCannotStart(t *testing.T) {
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = newServer(context.Background(), serverFlags{name: "half", apiListen: "127.0.0.1:0", sessionListen: taken.Addr().String()},
		paths{root: t.TempDir()}, slog.New(slog.DiscardHandler))
	if orrery.KindOf(err) != orrery.KindConflict {
		t.Fatalf("a server on a port that is taken: %v", err)
	}
}

package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/seal"
	"github.com/orrery-db/orrery/internal/store/etcd"
)

// gadget is in its third form: version 1 had a title, version 2 a label, version 3 has both under other names.
type gadget struct {
	orrery.Meta
	Heading string `json:"heading"`
	Colour  string `json:"colour"`
}

func rename(from, to string) upgrade {
	return func(old json.RawMessage) (json.RawMessage, error) {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(old, &fields); err != nil {
			return nil, err
		}
		fields[to] = fields[from]
		delete(fields, from)
		return json.Marshal(fields)
	}
}

// openGadgets opens a store that knows gadgets, up to a version of their form.
func openGadgets(t *testing.T, server *etcd.Server, upgrades ...upgrade) (*Store, *Collection[gadget, *gadget], error) {
	t.Helper()
	sealer, err := seal.NewSealer(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := Config{Client: server.Client(), Sealer: sealer, Log: slog.New(slog.DiscardHandler), ServerName: "one"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(cfg)
	c := define(s, "gadgets", "gadget", schema[gadget]{upgrades: upgrades,
		indexes: indexes[gadget]{"colour": func(g *gadget) []string { return some(g.Colour) }}})
	err = s.open(t.Context())
	t.Cleanup(s.Abandon)
	return s, c, err
}

func TestOldFormsAreMovedForward(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "orr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	server, err := etcd.Start(t.Context(), etcd.Config{Dir: dir, Log: slog.New(slog.DiscardHandler), ForTests: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	put := func(id, value string) {
		t.Helper()
		if _, err := server.Client().Put(t.Context(), "/orrery/o/gadgets/"+id, value); err != nil {
			t.Fatal(err)
		}
	}
	stored := func(id string) string {
		t.Helper()
		resp, err := server.Client().Get(t.Context(), "/orrery/o/gadgets/"+id)
		if err != nil || len(resp.Kvs) != 1 {
			t.Fatal(err)
		}
		return string(resp.Kvs[0].Value)
	}
	put("g1", `1 {"id":"g1","title":"hello","color":"red"}`)
	put("g2", `2 {"id":"g2","heading":"world","color":"blue"}`)
	upgrades := []upgrade{rename("title", "heading"), rename("color", "colour")}
	s, gadgets, err := openGadgets(t, server, upgrades...)
	if err != nil {
		t.Fatal(err)
	}
	g1, _ := gadgets.Get("g1")
	if g1 == nil || g1.Heading != "hello" || g1.Colour != "red" || len(gadgets.By("colour", "blue")) != 1 {
		t.Fatalf("moved forward: %+v", g1)
	}
	if !strings.HasPrefix(stored("g1"), "1 ") {
		t.Fatal("reading has written")
	}
	// The next write writes the new form, even one that changes nothing else.
	if _, err := s.Update(t.Context(), func(tx *Tx) error {
		g, err := gadgets.TxGet(tx, "g1")
		if err != nil {
			return err
		}
		return gadgets.Put(tx, g)
	}); err != nil {
		t.Fatal(err)
	}
	if got := stored("g1"); !strings.HasPrefix(got, `3 {"id":"g1"`) || !strings.Contains(got, `"colour":"red"`) {
		t.Fatalf("rewritten as %s", got)
	}

	// A newer server writes a form that this one does not know: hidden, and safe from being overwritten.
	put("g2", `4 {"id":"g2","heading":"world","hue":1}`)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for gone := false; !gone; {
		if _, ok := gadgets.Get("g2"); !ok {
			gone = true
		} else if err := s.waitRevision(ctx, s.Revision()+1); err != nil {
			t.Fatal(err)
		}
	}
	for _, fn := range []func(tx *Tx) error{
		func(tx *Tx) error { _, err := gadgets.TxGet(tx, "g2"); return err },
		func(tx *Tx) error { return gadgets.Insert(tx, &gadget{Meta: orrery.Meta{ID: "g2"}}) },
		func(tx *Tx) error { return gadgets.Delete(tx, "g2") },
	} {
		_, err := s.Update(t.Context(), fn)
		if e, ok := errors.AsType[*orrery.Error](err); !ok || e.Code != "object_too_new" {
			t.Fatalf("error is %v", err)
		}
	}
	if len(gadgets.List()) != 1 || len(gadgets.By("colour", "blue")) != 0 {
		t.Fatal("the hidden object shows")
	}

	// A server that is too old for what is there does not start.
	_, _, err = openGadgets(t, server, upgrades...)
	if e, ok := errors.AsType[*orrery.Error](err); !ok || e.Code != "object_too_new" || !strings.Contains(e.Hint, "Upgrade") {
		t.Fatalf("error is %v", err)
	}
	for _, junk := range []string{`{"id":"g2"}`, `3 {"id":"other"}`, `3 [`, `0 {}`, ``} {
		put("g2", junk)
		_, _, err = openGadgets(t, server, upgrades...)
		if e, ok := errors.AsType[*orrery.Error](err); !ok || e.Code != "object_damaged" {
			t.Fatalf("with %q the error is %v", junk, err)
		}
	}
}

package main

import (
	"github.com/orrery-db/orrery/internal/engine"
	"github.com/orrery-db/orrery/internal/engine/postgres"
	"github.com/orrery-db/orrery/internal/engine/valkey"
)

// drivers are the engines that this program knows.
func drivers() []engine.Driver {
	return []engine.Driver{postgres.New(postgres.Config{}), valkey.New(valkey.Config{})}
}

// definitions are the server's half of them, by name.
func definitions() map[string]engine.Definition {
	out := map[string]engine.Definition{}
	for _, d := range drivers() {
		out[d.Engine().Name] = d
	}
	return out
}

func driver(name string) (engine.Driver, bool) {
	for _, d := range drivers() {
		if d.Engine().Name == name {
			return d, true
		}
	}
	return nil, false
}

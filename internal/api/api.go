// Package api owns HTTP: the operations of the REST API with their documents (OpenAPI made from the Go types, browsable
// docs), authentication of requests, strict reading of bodies, the one map from kinds of error to status codes, lists,
// and watches by server-sent events.
//
// It knows no store, job or engine: what an operation does is asked of the small interfaces that this package declares.
// Nothing here waits for an agent, and reads are answered from what the backend has in memory.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/orrery-db/orrery/internal/iam"
)

// Backend is all that operations ask for.
type Backend interface {
	// Authenticate finds out who sends an Authorization header; an error is KindUnauthorized.
	Authenticate(header string) (iam.Principal, error)
	// StillAlive tells whether a principal that was let in before still would be.
	StillAlive(p iam.Principal) error
	Datastores
	Members
	Settings
	Jobs
	Plane
	Projects
	Tokens
	Feed
}

// Mutation is what every change carries beside what it changes.
type Mutation struct {
	Principal iam.Principal
	// IfMatch is the generation that the object must have; 0 is any.
	IfMatch int64
	// Key is the request's Idempotency-Key, empty where it has none, and Hash tells requests apart that use the same.
	Key, Hash string
}

// Config of an API.
type Config struct {
	Backend Backend
	Log     *slog.Logger
	Version string
	// MaxWatches bounds open watches, MaxWatchesPerPrincipal those of one token. Defaults 20,000 and 2,000.
	MaxWatches, MaxWatchesPerPrincipal int
	// OpenAPIServer is the address that the documents name; relative where empty.
	OpenAPIServer string
}

// API answers requests. It is safe for concurrent use.
type API struct {
	Config
	log       *slog.Logger
	endpoints []*endpoint
	methods   map[string][]string // by path pattern
	mux       *http.ServeMux
	paths     *http.ServeMux // all path patterns, for any method: tells 405 from 404
	doc       *huma.OpenAPI
	encoded   encodedObjects

	stopping context.Context // ended by StopWatches
	stop     context.CancelFunc
	watchMu  sync.Mutex
	watches  map[string]int // open ones by principal
	open     int
}

// New makes an API.
func New(cfg Config) (*API, error) {
	if cfg.Backend == nil || cfg.Log == nil {
		return nil, errors.New("make the API: a backend and a logger are wanted")
	}
	if cfg.MaxWatches == 0 {
		cfg.MaxWatches = 20_000
	}
	if cfg.MaxWatchesPerPrincipal == 0 {
		cfg.MaxWatchesPerPrincipal = 2_000
	}
	if cfg.Version == "" {
		cfg.Version = "unknown"
	}
	a := &API{Config: cfg, log: cfg.Log, methods: map[string][]string{}, mux: http.NewServeMux(), paths: http.NewServeMux(),
		watches: map[string]int{}}
	a.stopping, a.stop = context.WithCancel(context.Background())
	a.doc = newDocument(cfg)
	for _, group := range [][]*endpoint{a.datastoreEndpoints(), a.memberEndpoints(), a.settingEndpoints(), a.jobEndpoints(),
		a.planeEndpoints(), a.projectEndpoints(), a.tokenEndpoints()} {
		for _, e := range group {
			a.register(e)
		}
	}
	if err := a.registerDocuments(); err != nil {
		return nil, err
	}
	a.mux.HandleFunc("/", a.unrouted)
	return a, nil
}

// StopWatches ends every watch with an event and refuses new ones, so that a server can stop.
func (a *API) StopWatches() { a.stop() }

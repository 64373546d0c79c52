package main

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/orrery-db/orrery/internal/api"
	"github.com/orrery-db/orrery/internal/control"
	"github.com/orrery-db/orrery/internal/pki"
)

// apiServer is the API with the listener's certificate.
type apiServer struct {
	api *api.API
	tls *pki.ServerCertificate
}

func (a *apiServer) serve(ctx context.Context, l net.Listener) error {
	return a.api.Serve(ctx, l, api.TLSConfig(a.tls.Get))
}

// newControl makes the use cases and the API over them, and what a new plane starts with: a project, a region, a pool,
// plans, and the administrator's token.
func (s *server) newControl(ctx context.Context) (control.Defaults, error) {
	c, err := control.New(control.Config{Store: s.store, Engines: definitions(), DataCA: s.authority.data.CertPEM(),
		PlaneFingerprint: s.authority.plane.Fingerprint(), ServerName: s.flags.name, Log: s.log.With("part", "control")})
	if err != nil {
		return control.Defaults{}, err
	}
	s.control = c
	defaults, err := c.EnsureDefaults(ctx, "process")
	if err != nil {
		return defaults, fmt.Errorf("make what a plane starts with: %w", err)
	}
	token, err := c.EnsureBootstrapToken(ctx)
	if err != nil {
		return defaults, fmt.Errorf("make the administrator's token: %w", err)
	}
	if token != "" {
		if err := os.WriteFile(s.paths.adminToken(), []byte(token), 0o600); err != nil {
			return defaults, fmt.Errorf("write the administrator's token: %w", err)
		}
	}
	a, err := api.New(api.Config{Backend: c, Log: s.log.With("part", "api"), Version: version})
	if err != nil {
		return defaults, err
	}
	s.api = &apiServer{api: a, tls: s.tls}
	return defaults, nil
}

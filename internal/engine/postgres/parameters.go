package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/orrery-db/orrery"
)

// catalogueSQL asks pg_settings, which alone has ranges, units and choices together (postgres --describe-config has
// neither units nor choices). It has to be one line for single-user mode, and gives one line.
const catalogueSQL = `SELECT jsonb_agg(jsonb_build_object('name', name, 'type', vartype, 'unit', coalesce(unit, ''), 'min', coalesce(min_val, ''), ` +
	`'max', coalesce(max_val, ''), 'values', coalesce(to_jsonb(enumvals), '[]'), 'default', coalesce(boot_val, ''), ` +
	`'context', context, 'description', short_desc, 'category', category) ORDER BY name)::text AS catalogue FROM pg_settings`

// rowRE is how single-user mode prints a column (debugtup in printtup.c).
var rowRE = regexp.MustCompile(`(?m)^\s+1: catalogue = "(.*)"\s+\(typeid = \d+, len = -?\d+, typmod = -?\d+, byval = [tf]\)\s*$`)

// Parameters gives what the server itself told when the dataset was made; else it is asked: where one runs over its
// socket, where none runs in single-user mode on the dataset.
func (s *server) Parameters(ctx context.Context) ([]orrery.Parameter, error) {
	key := s.version.Full + " " + s.version.Dir
	s.driver.mu.Lock()
	known, ok := s.driver.catalogues[key]
	s.driver.mu.Unlock()
	if ok {
		return slices.Clone(known), nil
	}
	text, err := s.askCatalogue(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask PostgreSQL %s for its parameters: %w", s.version.Full, err)
	}
	list, err := parseCatalogue(text)
	if err != nil {
		return nil, err
	}
	s.driver.mu.Lock()
	s.driver.catalogues[key] = list
	s.driver.mu.Unlock()
	return slices.Clone(list), nil
}

// catalogueFile is kept for each release, as minor ones may differ.
func (s *server) catalogueFile() string { return s.conf("parameters-" + s.version.Full + ".json") }

// keepCatalogue keeps what single-user mode told.
func (s *server) keepCatalogue(out []byte) error {
	m := rowRE.FindSubmatch(out)
	if m == nil {
		return fmt.Errorf("no parameters in %q", lastLines(out, 5))
	}
	if err := os.MkdirAll(s.path("conf"), 0o700); err != nil {
		return diskError(fmt.Errorf("make the folder of the configuration: %w", err))
	}
	_, err := writeFile(s.catalogueFile(), string(m[1]))
	return err
}

func (s *server) askCatalogue(ctx context.Context) (string, error) {
	if b, err := os.ReadFile(s.catalogueFile()); err == nil && json.Valid(b) {
		return string(b), nil
	}
	pid, err := s.FindProcess()
	if err != nil {
		return "", err
	}
	if pid != 0 {
		var text string
		err := s.with(ctx, "postgres", func(c *conn) error { return c.QueryRow(ctx, catalogueSQL).Scan(&text) })
		return text, err
	}
	if ok, err := s.Prepared(); err != nil || !ok {
		return "", errors.Join(orrery.Errorf(orrery.KindConflict, "the parameters are asked of a prepared dataset").WithCode("not_prepared"), err)
	}
	out, err := s.single(ctx, s.data(), catalogueSQL)
	if err == nil {
		err = s.keepCatalogue(out)
	}
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(s.catalogueFile())
	return string(b), err
}

func parseCatalogue(text string) ([]orrery.Parameter, error) {
	var rows []struct {
		orrery.Parameter
		Context string `json:"context"`
	}
	if err := json.Unmarshal([]byte(text), &rows); err != nil {
		return nil, fmt.Errorf("read the parameters of PostgreSQL: %w", err)
	}
	list := make([]orrery.Parameter, len(rows))
	for i, r := range rows {
		p := r.Parameter
		p.Restart = r.Context == "postmaster"
		p.Managed = managed(p.Name)
		switch {
		case p.Managed != "":
		case r.Context == "internal":
			p.Managed = whyFixed
		case strings.HasPrefix(p.Category, "Developer"):
			p.Managed = whyDeveloper
		}
		if len(p.Values) == 0 {
			p.Values = nil
		}
		list[i] = p
	}
	return list, nil
}

// statStatements is preloaded where its library is installed (Debian has it in the server's package, others in contrib).
const statStatements = "pg_stat_statements"

func (s *server) hasStatStatements() bool {
	for _, dir := range []string{"lib", "lib/postgresql", "lib64"} {
		if _, err := os.Stat(filepath.Join(filepath.Dir(s.version.Dir), dir, statStatements+".so")); err == nil {
			return true
		}
	}
	return false
}

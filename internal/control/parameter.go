package control

import (
	"context"
	"maps"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/api"
	"github.com/orrery-db/orrery/internal/engine"
)

// maxParameters keeps a spec within what one transaction holds well.
const maxParameters = 500

// Catalogue gives the parameters of a version, as that version itself tells them.
func (c *Control) Catalogue(_ context.Context, name, version string) (*orrery.ParameterCatalogue, error) {
	if _, ok := c.engines[name]; !ok {
		return nil, orrery.NotFound("engine", name)
	}
	found := c.store.Catalogues.By("name", name+"-"+version)
	if len(found) > 0 {
		return found[0], nil
	}
	def := c.engines[name]
	for _, v := range c.offered(def) {
		if v == version {
			return nil, orrery.Errorf(orrery.KindUnavailable, "the parameters of %s %s are not known yet", def.Engine().Title, version).
				WithCode("catalogue_unknown").WithHint("A host tells them as soon as it has prepared its first place of this version; try again in a moment.")
		}
	}
	return nil, orrery.NotFound("version", version)
}

// checkParameters judges the parameters that a user set. A spec that keeps the ones it has is not judged again.
func (c *Control) checkParameters(def engine.Definition, spec, was *orrery.DatastoreSpec, plan orrery.Plan) error {
	if len(spec.Parameters) == 0 || was != nil && maps.Equal(spec.Parameters, was.Parameters) && spec.Plan == was.Plan {
		return nil
	}
	if len(spec.Parameters) > maxParameters {
		return orrery.Invalid("spec.parameters", "a datastore sets at most %d parameters", maxParameters)
	}
	cat, err := c.Catalogue(context.Background(), spec.Engine, spec.Version)
	if err != nil {
		return err
	}
	_, err = engine.CheckParameters(cat.Parameters, spec.Parameters, func(p orrery.Parameter, value string) error {
		return def.CheckParameter(p, value, *spec, plan)
	})
	return err
}

// Parameters lists all that a datastore's engine knows, with the values that were set.
func (c *Control) Parameters(ctx context.Context, project, datastore string) ([]*api.ParameterValue, error) {
	ds, err := c.datastore(project, datastore)
	if err != nil {
		return nil, err
	}
	cat, err := c.Catalogue(ctx, ds.Spec.Engine, ds.Spec.Version)
	if err != nil {
		return nil, err
	}
	out := make([]*api.ParameterValue, 0, len(cat.Parameters))
	for _, p := range cat.Parameters {
		v := &api.ParameterValue{Parameter: p}
		if set, ok := ds.Spec.Parameters[p.Name]; ok {
			v.Value = &set
		}
		out = append(out, v)
	}
	return out, nil
}

// SetParameters sets parameters, and takes those away that are nil.
func (c *Control) SetParameters(ctx context.Context, m api.Mutation, project, datastore string, values map[string]*string) (api.Changed, error) {
	part := func(*orrery.DatastoreSpec) string { return "spec.parameters" }
	return c.change(ctx, m, project, datastore, edit{part: part, spec: func(s *orrery.DatastoreSpec, _ *orrery.Datastore) error {
		s.Parameters = maps.Clone(s.Parameters)
		if s.Parameters == nil {
			s.Parameters = map[string]string{}
		}
		for name, value := range values {
			switch {
			case name == "":
				return orrery.Errorf(orrery.KindInvalid, "a parameter has no name").WithCode("parameter_unknown")
			case value == nil:
				delete(s.Parameters, name)
			default:
				s.Parameters[name] = *value
			}
		}
		if len(s.Parameters) == 0 {
			s.Parameters = nil
		}
		return nil
	}})
}

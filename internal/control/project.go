package control

import (
	"context"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/api"
	"github.com/orrery-db/orrery/internal/store"
)

// ListProjects lists projects.
func (c *Control) ListProjects(_ context.Context, o api.ListOptions) (api.Page[orrery.Project], error) {
	revision := c.store.Revision()
	return selected(c.store.Projects.List(), o, revision, func(p *orrery.Project) bool { return is(o, "name", p.Name) }), nil
}

// Project gives one project.
func (c *Control) Project(_ context.Context, project string) (*orrery.Project, error) {
	return c.project(project)
}

// CreateProject makes a project.
func (c *Control) CreateProject(ctx context.Context, m api.Mutation, n api.NewProject) (*orrery.Project, error) {
	if err := orrery.CheckName("name", n.Name); err != nil {
		return nil, err
	}
	if len(n.Description) > maxDescription {
		return nil, orrery.Invalid("description", "a description has at most %d bytes", maxDescription)
	}
	labels, err := checkLabels(nil, toPatch(n.Labels))
	if err != nil {
		return nil, err
	}
	id := orrery.NewID(orrery.PrefixProject)
	p, _, err := mutate(ctx, c, m, same, func(tx *store.Tx) (*orrery.Project, error) {
		p := &orrery.Project{Meta: orrery.Meta{ID: id, Name: n.Name, Labels: labels}, Description: n.Description}
		return p, nameTaken(c.store.Projects.Insert(tx, p))
	})
	return p, err
}

// UpdateProject changes a project's description and labels.
func (c *Control) UpdateProject(ctx context.Context, m api.Mutation, project string, patch api.ProjectPatch) (*orrery.Project, error) {
	found, err := c.project(project)
	if err != nil {
		return nil, err
	}
	p, _, err := mutate(ctx, c, m, same, func(tx *store.Tx) (*orrery.Project, error) {
		p, err := c.store.Projects.TxGet(tx, found.ID)
		if err != nil {
			return nil, err
		}
		if err := checkMatch(m, &p.Meta); err != nil {
			return nil, err
		}
		if p.Labels, err = checkLabels(p.Labels, patch.Labels); err != nil {
			return nil, err
		}
		if patch.Description != nil && *patch.Description != p.Description {
			if len(*patch.Description) > maxDescription {
				return nil, orrery.Invalid("description", "a description has at most %d bytes", maxDescription)
			}
			p.Description = *patch.Description
			p.Generation++
		}
		return p, c.store.Projects.Put(tx, p)
	})
	return p, err
}

// DeleteProject removes a project that has no datastores.
func (c *Control) DeleteProject(ctx context.Context, m api.Mutation, project string) error {
	found, err := c.project(project)
	if err != nil {
		return err
	}
	if found.Name == DefaultProject {
		return orrery.Errorf(orrery.KindConflict, "the project %q stays", DefaultProject).WithCode("project_default")
	}
	_, _, err = mutate(ctx, c, m, same, func(tx *store.Tx) (struct{}, error) {
		p, err := c.store.Projects.TxGet(tx, found.ID)
		if err != nil {
			return struct{}{}, err
		}
		if err := checkMatch(m, &p.Meta); err != nil {
			return struct{}{}, err
		}
		if n := c.store.Datastores.CountBy("project", p.ID); n > 0 {
			return struct{}{}, orrery.Errorf(orrery.KindConflict, "project %q has %d datastores", p.Name, n).WithCode("project_not_empty").
				WithHint("Delete its datastores first.")
		}
		return struct{}{}, c.store.Projects.Delete(tx, p.ID)
	})
	return err
}

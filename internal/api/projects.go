package api

import (
	"context"
	"net/http"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/iam"
)

// Projects is what the operations on projects ask for.
type Projects interface {
	ListProjects(ctx context.Context, o ListOptions) (Page[orrery.Project], error)
	Project(ctx context.Context, project string) (*orrery.Project, error)
	CreateProject(ctx context.Context, m Mutation, n NewProject) (*orrery.Project, error)
	UpdateProject(ctx context.Context, m Mutation, project string, p ProjectPatch) (*orrery.Project, error)
	// DeleteProject refuses while the project has datastores.
	DeleteProject(ctx context.Context, m Mutation, project string) error
}

// NewProject is a project to create.
type NewProject struct {
	Name        string            `json:"name"`
	Description string            `json:"description,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
}

// ProjectPatch is the JSON merge patch that a project takes.
type ProjectPatch struct {
	Labels      map[string]*string `json:"labels,omitempty"`
	Description *string            `json:"description,omitempty"`
}

func (a *API) projectEndpoints() []*endpoint {
	const tag, one = "projects", "/v1/projects/{project}"
	return []*endpoint{
		{id: "list-projects", method: http.MethodGet, path: "/v1/projects", tag: tag, summary: "List projects",
			permission: iam.ProjectsRead, result: listBody[orrery.Project]{}, handle: a.listProjects,
			query: params(listParams, []queryParam{{"name", "Only this name."}})},
		{id: "create-project", method: http.MethodPost, path: "/v1/projects", tag: tag, summary: "Create a project",
			permission: iam.ProjectsCreate, body: NewProject{}, status: http.StatusCreated, result: orrery.Project{}, handle: a.createProject},
		{id: "get-project", method: http.MethodGet, path: one, tag: tag, summary: "Get a project",
			permission: iam.ProjectsRead, result: orrery.Project{}, handle: a.getProject},
		{id: "update-project", method: http.MethodPatch, path: one, tag: tag, summary: "Change a project's description or labels",
			permission: iam.ProjectsUpdate, body: ProjectPatch{}, result: orrery.Project{}, handle: a.updateProject},
		{id: "delete-project", method: http.MethodDelete, path: one, tag: tag, summary: "Delete an empty project",
			permission: iam.ProjectsDelete, status: http.StatusNoContent, handle: a.deleteProject},
	}
}

func (a *API) listProjects(c *call) error {
	o, err := listOptions(c.values, "name", []string{"name"})
	if err != nil {
		return err
	}
	page, err := a.Backend.ListProjects(c.ctx(), o)
	if err != nil {
		return err
	}
	return sendPage(c, o, page)
}

func (a *API) getProject(c *call) error {
	p, err := a.Backend.Project(c.ctx(), c.project())
	if err != nil {
		return err
	}
	return sendObject(c, p)
}

func (a *API) createProject(c *call) error {
	var n NewProject
	m, err := c.readInto(&n)
	if err != nil {
		return err
	}
	p, err := a.Backend.CreateProject(c.ctx(), m, n)
	if err != nil {
		return err
	}
	c.w.Header().Set("ETag", etag(&p.Meta))
	return c.send(http.StatusCreated, p)
}

func (a *API) updateProject(c *call) error {
	var patch ProjectPatch
	m, err := c.readInto(&patch)
	if err != nil {
		return err
	}
	p, err := a.Backend.UpdateProject(c.ctx(), m, c.project(), patch)
	if err != nil {
		return err
	}
	c.w.Header().Set("ETag", etag(&p.Meta))
	return c.send(http.StatusOK, p)
}

func (a *API) deleteProject(c *call) error {
	m, _, err := c.read()
	if err != nil {
		return err
	}
	if err := a.Backend.DeleteProject(c.ctx(), m, c.project()); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

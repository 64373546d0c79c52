package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/orrery-db/orrery/internal/api/docs"
)

// newDocument makes the frame of the OpenAPI document.
func newDocument(cfg Config) *huma.OpenAPI {
	doc := &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{Title: "Orrery", Version: cfg.Version,
			Description: "The API of an Orrery plane.\n\nA change that takes time answers 202 with the object as it will be and the job that makes it so; follow it with GET /v1/jobs/{job}?watch. Names and IDs are taken alike wherever an object is named. Errors are application/problem+json with a stable code. Unknown fields are refused.",
			License:     &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}},
		Components: &huma.Components{
			Schemas: huma.NewMapRegistry("#/components/schemas/", schemaName),
			SecuritySchemes: map[string]*huma.SecurityScheme{
				"token": {Type: "http", Scheme: "bearer", Description: "A token, as in orr_<id>_<secret>."}},
		},
	}
	if cfg.OpenAPIServer != "" {
		doc.Servers = []*huma.Server{{URL: cfg.OpenAPIServer}}
	}
	return doc
}

// schemaName names types as they are, and instances of generic ones by what they hold.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	if rest, ok := strings.CutPrefix(name, "ListBody"); ok {
		return rest + "List"
	}
	return name
}

// document adds an operation to the OpenAPI document.
func (a *API) document(e *endpoint) {
	registry := a.doc.Components.Schemas
	op := &huma.Operation{OperationID: e.id, Method: e.method, Path: e.path, Tags: []string{e.tag}, Summary: e.summary,
		Description: e.doc, Responses: map[string]*huma.Response{}}
	if e.permission != "" {
		op.Security = []map[string][]string{{"token": {}}}
	}
	for _, part := range strings.Split(e.path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			name = strings.TrimSuffix(name, "}")
			op.Parameters = append(op.Parameters, &huma.Param{Name: name, In: "path", Required: true,
				Description: pathDoc(name), Schema: &huma.Schema{Type: huma.TypeString}})
		}
	}
	for _, q := range e.query {
		op.Parameters = append(op.Parameters, &huma.Param{Name: q.name, In: "query", Description: q.doc, Schema: &huma.Schema{Type: huma.TypeString}})
	}
	header := func(name, doc string) {
		op.Parameters = append(op.Parameters, &huma.Param{Name: name, In: "header", Description: doc, Schema: &huma.Schema{Type: huma.TypeString}})
	}
	switch e.method {
	case http.MethodPost:
		header("Idempotency-Key", "Makes repeating the request safe for 24 hours: the same key and body give the first answer again, without secrets.")
	case http.MethodPatch, http.MethodDelete:
		header("If-Match", "Do it only if the object still has this ETag (of which the generation counts); else 412.")
	}
	if e.body != nil {
		media := "application/json"
		if e.method == http.MethodPatch {
			media = "application/merge-patch+json"
		}
		op.RequestBody = &huma.RequestBody{Required: !e.bodyOptional,
			Content: map[string]*huma.MediaType{media: {Schema: registry.Schema(typeOf(e.body), true, e.id+"Body")}}}
	}
	status := e.status
	if status == 0 {
		status = http.StatusOK
	}
	ok := &huma.Response{Description: http.StatusText(status), Content: map[string]*huma.MediaType{}}
	switch {
	case e.text != "":
		ok.Content[e.text] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
	case e.result != nil:
		ok.Content["application/json"] = &huma.MediaType{Schema: registry.Schema(typeOf(e.result), true, e.id+"Answer")}
	}
	if e.watch {
		ok.Content["text/event-stream"] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
	}
	op.Responses[strconv.Itoa(status)] = ok
	op.Responses["default"] = &huma.Response{Description: "A problem", Content: map[string]*huma.MediaType{
		"application/problem+json": {Schema: registry.Schema(typeOf(Problem{}), true, "Problem")}}}
	a.doc.AddOperation(op)
}

func pathDoc(name string) string {
	switch name {
	case "cidr":
		return "The network, URL-escaped, as in 10.0.0.0%2F8."
	case "job", "token":
		return "ID."
	}
	return "Name or ID."
}

// registerDocuments serves the document and the pages that show it. They need no token: they hold nothing of this plane.
func (a *API) registerDocuments() error {
	asJSON, err := json.Marshal(a.doc)
	if err != nil {
		return fmt.Errorf("encode the OpenAPI document: %w", err)
	}
	asYAML, err := a.doc.YAML()
	if err != nil {
		return fmt.Errorf("encode the OpenAPI document as YAML: %w", err)
	}
	a.file("/openapi.json", "application/openapi+json", "", asJSON)
	a.file("/openapi.yaml", "application/openapi+yaml", "", asYAML)
	files, err := docs.Files()
	if err != nil {
		return err //nolint:wrapcheck // says what it is about
	}
	for _, f := range files {
		a.file(f.Path, f.Type, docs.Policy, f.Data)
	}
	return nil
}

// file serves bytes that never change while the server runs.
func (a *API) file(path, media, policy string, data []byte) {
	a.methods[path] = []string{http.MethodGet}
	a.paths.HandleFunc(path, http.NotFound)
	a.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", media)
		h.Set("Content-Length", strconv.Itoa(len(data)))
		if policy != "" {
			h.Set("Content-Security-Policy", policy)
		}
		_, _ = w.Write(data) // the client went away
	})
}

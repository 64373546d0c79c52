package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/iam"
)

// endpoint is one operation: what it is called, who may, what goes in and comes out.
type endpoint struct {
	id, method, path string
	tag, summary     string
	doc              string
	permission       iam.Permission // empty: no token is asked for
	query            []queryParam
	body             any // a value of the body's type; nil where there is none
	bodyOptional     bool
	status           int // of success; 200 where 0
	result           any // a value of the answer's type; nil where it has no body
	text             string
	watch            bool
	handle           func(c *call) error
}

type queryParam struct{ name, doc string }

const (
	headerRequestID = "X-Request-Id"
	// mutationTime bounds how long a change may take: one transaction, with its repetitions.
	mutationTime = 20 * time.Second
)

// call is one request on its way through an endpoint.
type call struct {
	a         *API
	ep        *endpoint
	w         http.ResponseWriter
	r         *http.Request
	principal iam.Principal
	values    url.Values
}

func (a *API) register(e *endpoint) {
	a.endpoints = append(a.endpoints, e)
	a.methods[e.path] = append(a.methods[e.path], e.method)
	if len(a.methods[e.path]) == 1 {
		a.paths.HandleFunc(e.path, http.NotFound)
	}
	a.mux.HandleFunc(e.method+" "+e.path, func(w http.ResponseWriter, r *http.Request) {
		if err := a.serve(e, w, r); err != nil {
			a.fail(w, r, err)
		}
	})
	a.document(e)
}

func (a *API) serve(e *endpoint, w http.ResponseWriter, r *http.Request) error {
	c := &call{a: a, ep: e, w: w, r: r}
	if l, ok := w.(*recorder); ok {
		l.call = c
	}
	if e.permission != "" {
		p, err := a.Backend.Authenticate(r.Header.Get("Authorization"))
		if err != nil {
			return err
		}
		c.principal = p
		if err := iam.Authorize(p, e.permission, iam.Object{Project: r.PathValue("project")}); err != nil {
			return err
		}
	}
	if r.URL.RawQuery != "" {
		if err := c.readQuery(); err != nil {
			return err
		}
	}
	if e.method == http.MethodGet {
		return e.handle(c)
	}
	ctx, cancel := context.WithTimeout(iam.WithPrincipal(r.Context(), c.principal), mutationTime)
	defer cancel()
	c.r = r.WithContext(ctx)
	return e.handle(c)
}

// readQuery refuses parameters that the operation does not know.
func (c *call) readQuery() error {
	values, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return orrery.Errorf(orrery.KindInvalid, "the query cannot be read").WithCode("query_malformed").WithCause(err)
	}
	for name, given := range values {
		known := slices.ContainsFunc(c.ep.query, func(q queryParam) bool { return q.name == name })
		if !known {
			names := make([]string, 0, len(c.ep.query))
			for _, q := range c.ep.query {
				names = append(names, q.name)
			}
			e := orrery.Invalid(orrery.Shorten(name, 60), "there is no query parameter %q here", orrery.Shorten(name, 60)).WithCode("query_unknown")
			if len(names) > 0 {
				e = e.WithHint("The parameters are: %s.", strings.Join(names, ", "))
			}
			return e
		}
		if len(given) > 1 {
			return orrery.Invalid(name, "the query parameter is given more than once").WithCode("query_malformed")
		}
	}
	c.values = values
	return nil
}

func (c *call) ctx() context.Context      { return c.r.Context() }
func (c *call) path(name string) string   { return c.r.PathValue(name) }
func (c *call) project() string           { return c.r.PathValue("project") }
func (c *call) datastore() string         { return c.r.PathValue("datastore") }
func (c *call) param(name string) string  { return c.values.Get(name) }
func (c *call) given(name string) bool    { return c.values.Has(name) }
func (c *call) header(name string) string { return c.r.Header.Get(name) }

// read reads the body, if the operation has one, and what comes with every change.
func (c *call) read() (Mutation, []byte, error) {
	m := Mutation{Principal: c.principal}
	var body []byte
	var err error
	if c.ep.body != nil {
		if err := c.checkContentType(); err != nil {
			return m, nil, err
		}
		if body, err = readBody(c.w, c.r); err != nil {
			return m, nil, err
		}
		if len(body) == 0 && c.ep.bodyOptional {
			body = []byte("{}")
		}
	} else if c.r.ContentLength > 0 {
		data, err := readBody(c.w, c.r)
		if err != nil {
			return m, nil, err
		}
		if t := strings.TrimSpace(string(data)); t != "" && t != "{}" && t != "null" {
			return m, nil, orrery.Errorf(orrery.KindInvalid, "this operation takes no body").WithCode("body_unexpected")
		}
	}
	if m.IfMatch, err = ifMatch(c.header("If-Match")); err != nil {
		return m, nil, err
	}
	if key := c.header("Idempotency-Key"); key != "" && c.r.Method == http.MethodPost {
		if len(key) > 200 {
			return m, nil, orrery.Invalid("Idempotency-Key", "the header is longer than 200 bytes")
		}
		sum := sha256.New()
		fmt.Fprintf(sum, "%s %s\n", c.r.Method, c.r.URL.Path)
		sum.Write(body)
		m.Key, m.Hash = key, hex.EncodeToString(sum.Sum(nil))
	}
	return m, body, nil
}

// readInto reads the body into v, strictly.
func (c *call) readInto(v any) (Mutation, error) {
	m, body, err := c.read()
	if err != nil {
		return m, err
	}
	return m, decode(body, v, refuseReadOnly)
}

func (c *call) checkContentType() error {
	ct := c.header("Content-Type")
	if ct == "" {
		return nil
	}
	media, _, err := mime.ParseMediaType(ct)
	if err == nil && (media == "application/json" || media == "application/merge-patch+json" && c.r.Method == http.MethodPatch) {
		return nil
	}
	return &httpError{http.StatusUnsupportedMediaType, orrery.Invalid("Content-Type", "a body of type %q is not understood", orrery.Shorten(ct, 60)).
		WithCode("unsupported_media_type").WithHint("Send application/json.")}
}

// ifMatch reads the generation out of an If-Match header: "<generation>", or an ETag as it was given.
func ifMatch(header string) (int64, error) {
	if header == "" || header == "*" {
		return 0, nil
	}
	tag := strings.Trim(strings.TrimPrefix(header, "W/"), `"`)
	tag, _, _ = strings.Cut(tag, ".")
	n, err := strconv.ParseInt(tag, 10, 64)
	if err != nil || n < 1 {
		return 0, orrery.Invalid("If-Match", "%q is not an ETag of this API", orrery.Shorten(header, 60)).
			WithHint("Give the ETag of the answer that showed you the object, or its generation in quotes.")
	}
	return n, nil
}

// etag of an object: its generation, which is all that If-Match looks at, and its revision, so that If-None-Match
// notices a changed status too.
func etag(m *orrery.Meta) string {
	b := make([]byte, 0, 32)
	b = append(b, '"')
	b = strconv.AppendInt(b, m.Generation, 10)
	b = append(b, '.')
	b = strconv.AppendInt(b, m.Revision, 10)
	return string(append(b, '"'))
}

// send answers with v, encoded as it is.
func (c *call) send(status int, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer of %s: %w", c.ep.id, err)
	}
	c.write(status, data)
	return nil
}

func (c *call) write(status int, data []byte) {
	h := c.w.Header()
	h["Content-Type"] = jsonContentType
	h["Content-Length"] = []string{strconv.Itoa(len(data))}
	c.w.WriteHeader(status)
	_, _ = c.w.Write(data) // the client went away: nobody is left to tell
}

var jsonContentType = []string{"application/json"} // never changed; spares an allocation per answer

// typeOf is the type of a documented value.
func typeOf(v any) reflect.Type { return reflect.TypeOf(v) }

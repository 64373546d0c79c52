package api

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/orrery-db/orrery"
)

// recorder notes what was answered, for the access log.
type recorder struct {
	http.ResponseWriter
	call   *call // nil before an endpoint was found
	status int
	bytes  int
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
		w.ResponseWriter.WriteHeader(status)
	}
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += n
	return n, err //nolint:wrapcheck // an http.ResponseWriter answers as the one below it
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// ServeHTTP answers one request: with security headers and a request ID, with a line in the access log, and with a
// problem where a handler panics.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	rec := &recorder{ResponseWriter: w}
	id := requestID(r.Header.Get(headerRequestID))
	setHeaders(w.Header(), id)
	defer func() {
		if v := recover(); v != nil && v != http.ErrAbortHandler { //nolint:errorlint // compared as net/http does
			a.log.LogAttrs(r.Context(), slog.LevelError, "request panicked", slog.String("request_id", id),
				slog.String("panic", fmt.Sprint(v)), slog.String("stack", string(debug.Stack())))
			if rec.status == 0 {
				a.fail(rec, r, orrery.Errorf(orrery.KindInternal, "something went wrong within Orrery").
					WithHint("Give the request ID to whoever runs this server; its log tells more."))
			}
		}
		a.logAccess(r, rec, id, began)
	}()
	if !cleanPath(r.URL.Path) || r.URL.Host != "" {
		a.fail(rec, r, noSuchPath())
		return
	}
	a.mux.ServeHTTP(rec, r)
}

// logAccess writes what changed something or failed at info, mere reads at debug. Texts of the request are values of
// attributes, which every slog handler escapes; headers, bodies and queries are never logged.
func (a *API) logAccess(r *http.Request, rec *recorder, id string, began time.Time) {
	level := slog.LevelInfo
	if rec.status < http.StatusBadRequest && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		level = slog.LevelDebug
	}
	if !a.log.Enabled(r.Context(), level) {
		return
	}
	operation, principal := "", ""
	if rec.call != nil {
		operation, principal = rec.call.ep.id, rec.call.principal.String()
	}
	a.log.LogAttrs(r.Context(), level, "request", slog.String("request_id", id), slog.String("method", r.Method),
		slog.String("path", orrery.Shorten(r.URL.Path, 200)), slog.String("operation", operation), slog.Int("status", rec.status),
		slog.Int("bytes", rec.bytes), slog.Duration("took", time.Since(began)), slog.String("principal", principal),
		slog.String("remote", r.RemoteAddr))
}

// requestID takes the caller's where it is harmless, and makes one otherwise.
func requestID(given string) string {
	ok := len(given) > 0 && len(given) <= 64 && !strings.ContainsFunc(given, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '-' && r != '_' && r != '.'
	})
	if ok {
		return given
	}
	return rand.Text()[:16]
}

// setHeaders sets what every answer carries. Answers are for the asker alone, at this moment, and never a page to be
// run, but for the documents, which loosen the policy for themselves.
func setHeaders(h http.Header, id string) {
	h[headerRequestID] = []string{id}
	h["Cache-Control"] = noStore
	h["Content-Security-Policy"] = strictPolicy
	h["X-Content-Type-Options"] = noSniff
	h["X-Frame-Options"] = denyFrames
	h["Referrer-Policy"] = noReferrer
	h["Strict-Transport-Security"] = httpsOnly
}

// Header values, never changed; they spare an allocation per answer.
var (
	noStore      = []string{"no-store"}
	strictPolicy = []string{"default-src 'none'; frame-ancestors 'none'"}
	noSniff      = []string{"nosniff"}
	denyFrames   = []string{"DENY"}
	noReferrer   = []string{"no-referrer"}
	httpsOnly    = []string{"max-age=31536000"}
)

// cleanPath tells whether a path is as it should be. The mux would answer others with a redirection, which is no
// answer to a program.
func cleanPath(p string) bool {
	return strings.HasPrefix(p, "/") && !strings.Contains(p, "//") && !strings.Contains(p+"/", "/./") && !strings.Contains(p+"/", "/../")
}

func noSuchPath() error {
	return orrery.Errorf(orrery.KindNotFound, "there is nothing at this path").WithCode("path_not_found").
		WithHint("/docs lists all there is.")
}

// unrouted answers what no operation is for: with 405 where the path has others.
func (a *API) unrouted(w http.ResponseWriter, r *http.Request) {
	_, path := a.paths.Handler(r)
	methods := slices.Clone(a.methods[path])
	if len(methods) == 0 {
		a.fail(w, r, noSuchPath())
		return
	}
	if slices.Contains(methods, http.MethodGet) {
		methods = append(methods, http.MethodHead)
	}
	slices.Sort(methods)
	allowed := strings.Join(methods, ", ")
	w.Header().Set("Allow", allowed)
	a.fail(w, r, &httpError{http.StatusMethodNotAllowed, orrery.Errorf(orrery.KindInvalid, "%s cannot be done here", orrery.Shorten(r.Method, 20)).
		WithCode("method_not_allowed").WithHint("This path takes %s.", allowed)})
}

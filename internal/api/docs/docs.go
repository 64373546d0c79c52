// Package docs holds the pages that show the API's document in a browser. They load nothing from outside and work
// without a network. Folder dist is third-party: the built files of swagger-ui-dist under its own licence, fetched by
// refresh.sh and never edited.
package docs

import (
	"embed"
	"fmt"
)

//go:generate ./refresh.sh

//go:embed index.html start.js dist
var files embed.FS

// Policy is the Content-Security-Policy of the pages: they may run their own scripts, ask their own server, and nothing
// else. Swagger UI draws its icons from data: URLs and sets style attributes from its script, which needs no loosening.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// File is one file as it is served.
type File struct {
	Path, Type string
	Data       []byte
}

// Files gives all there is to serve.
func Files() ([]File, error) {
	var out []File
	for _, f := range []struct{ path, name, media string }{
		{"/docs", "index.html", "text/html; charset=utf-8"},
		{"/docs/start.js", "start.js", "text/javascript; charset=utf-8"},
		{"/docs/swagger-ui-bundle.js", "dist/swagger-ui-bundle.js", "text/javascript; charset=utf-8"},
		{"/docs/swagger-ui.css", "dist/swagger-ui.css", "text/css; charset=utf-8"},
		{"/docs/favicon.png", "dist/favicon-32x32.png", "image/png"},
		{"/docs/LICENSE", "dist/LICENSE", "text/plain; charset=utf-8"},
	} {
		data, err := files.ReadFile(f.name)
		if err != nil {
			return nil, fmt.Errorf("read the docs' file %s: %w", f.name, err)
		}
		out = append(out, File{f.path, f.media, data})
	}
	return out, nil
}

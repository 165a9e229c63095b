package gateway

import (
	"embed"
	"io"
	"net/http"
	"strconv"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/swaggest/swgui/v5/static"
)

// What is ours of the page that renders the document: what it begins with, how Swagger UI is set up, and the document. What
// Swagger UI consists of stays in the module that ships it, compressed as it comes, and is never unpacked here.
//
//go:embed page openapi/openapi.json
var own embed.FS

// A file is what one path is answered with.
type file struct {
	path, kind, name string
	from             embed.FS
}

var files = []file{
	{"/", "text/html; charset=utf-8", "page/index.html", own},
	{"/openapi.json", "application/json", "openapi/openapi.json", own},
	{"/page/start.js", "text/javascript; charset=utf-8", "page/start.js", own},
	{"/page/style.css", "text/css; charset=utf-8", "page/style.css", own},
	{"/page/icon.svg", "image/svg+xml", "page/icon.svg", own},
	{"/page/swagger-ui.js", "text/javascript; charset=utf-8", "swagger-ui-bundle.js.gz", static.FS},
	{"/page/swagger-ui.css", "text/css; charset=utf-8", "swagger-ui.css.gz", static.FS},
}

// contentPolicy lets the page load its own files and ask its own probed, and nothing else, and be put into nobody's frame.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

// isFile tells whether a request is for a file. Those are part of the release, the same for everybody, and have no effect: so
// nobody is asked who they are, which a browser could not say when it loads a page, and a link of another origin may lead here.
func isFile(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	for _, f := range files {
		if f.path == r.URL.Path {
			return true
		}
	}
	return false
}

func registerFiles(mux *runtime.ServeMux) error {
	for _, f := range files {
		if err := mux.HandlePath(http.MethodGet, f.path, func(w http.ResponseWriter, _ *http.Request, _ map[string]string) { f.serve(w) }); err != nil {
			return err
		}
	}
	return nil
}

// serve sends the file piece by piece out of the program: who reads slowly holds no copy of it.
func (f file) serve(w http.ResponseWriter) {
	content, err := f.from.Open(f.name)
	if err != nil {
		writeError(w, err)
		return
	}
	defer func() { _ = content.Close() }() // it is no file of an operating system
	info, err := content.Stat()
	if err != nil {
		writeError(w, err)
		return
	}
	header := w.Header()
	header.Set("Content-Type", f.kind)
	header.Set("Content-Length", strconv.FormatInt(info.Size(), 10))
	header.Set("Content-Security-Policy", contentPolicy)
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Referrer-Policy", "no-referrer")
	if f.from == static.FS {
		header.Set("Content-Encoding", "gzip") // as it comes; every browser takes it
		header.Set("Cache-Control", "max-age=3600")
	}
	// A client that went away needs no file.
	_, _ = io.Copy(w, content)
}

package gateway

import (
	"crypto/sha256"
	"embed"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

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
	tag              func() string // tells its content from others, worked out when it is asked for first
}

var files = tagged([]file{
	{"/", "text/html; charset=utf-8", "page/index.html", own, nil},
	{"/openapi.json", "application/json", "openapi/openapi.json", own, nil},
	{"/page/start.js", "text/javascript; charset=utf-8", "page/start.js", own, nil},
	{"/page/style.css", "text/css; charset=utf-8", "page/style.css", own, nil},
	{"/page/icon.svg", "image/svg+xml", "page/icon.svg", own, nil},
	{"/page/swagger-ui.js", "text/javascript; charset=utf-8", "swagger-ui-bundle.js.gz", static.FS, nil},
	{"/page/swagger-ui.css", "text/css; charset=utf-8", "swagger-ui.css.gz", static.FS, nil},
})

func tagged(files []file) []file {
	for i, f := range files {
		files[i].tag = sync.OnceValue(f.sum)
	}
	return files
}

// sum is an entity tag (RFC 9110, section 8.8.3) of the content.
func (f file) sum() string {
	content, err := f.from.Open(f.name)
	if err != nil {
		return ""
	}
	defer func() { _ = content.Close() }()
	sum := sha256.New()
	if _, err := io.Copy(sum, content); err != nil {
		return ""
	}
	return fmt.Sprintf(`"%x"`, sum.Sum(nil)[:16])
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
		if err := mux.HandlePath(http.MethodGet, f.path, func(w http.ResponseWriter, r *http.Request, _ map[string]string) { f.serve(w, r) }); err != nil {
			return err
		}
	}
	return nil
}

// serve sends the file piece by piece out of the program: who reads slowly holds no copy of it. Who has it already is told so: it is
// asked for each time, so that what a page is made of is of one release.
func (f file) serve(w http.ResponseWriter, r *http.Request) {
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
	header.Set("Cache-Control", "no-cache") // kept, and asked about
	header.Set("Etag", f.tag())
	if f.from == static.FS {
		header.Set("Content-Encoding", "gzip") // as it comes; every browser takes it
	}
	http.ServeContent(w, r, "", time.Time{}, content.(io.ReadSeeker)) //nolint:forcetypeassert // package embed has it so
}

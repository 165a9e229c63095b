package gateway

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"testing"
)

// The page, and what it is made of, is there for whoever may reach the listener, also by a link from elsewhere; and nothing of it
// may load anything from elsewhere.
func TestPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tags := map[string]bool{}
	for _, f := range files {
		response, text := w.ask(t, http.MethodGet, f.path, "", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Accept-Encoding", "gzip")
		if response.StatusCode != http.StatusOK || text == "" || response.Header.Get("Content-Type") != f.kind {
			t.Errorf("%s: %s, %v", f.path, response.Status, response.Header)
		}
		for name, want := range map[string]string{
			"Content-Security-Policy":      contentPolicy,
			"X-Content-Type-Options":       "nosniff",
			"Cross-Origin-Opener-Policy":   "same-origin",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Referrer-Policy":              "no-referrer",
			"Access-Control-Allow-Origin":  "",
		} {
			if got := response.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", f.path, name, got, want)
			}
		}
		if response.Header.Get("Content-Encoding") == "gzip" {
			unpacked, err := gzip.NewReader(strings.NewReader(text))
			if err != nil {
				t.Fatalf("%s: %v", f.path, err)
			}
			if _, err := io.Copy(io.Discard, unpacked); err != nil {
				t.Errorf("%s: %v", f.path, err)
			}
		}
		tag := response.Header.Get("Etag")
		for _, again := range []struct {
			name, method, query, has string
			status                   int
		}{
			{"a query", http.MethodGet, "?v=2", "", http.StatusOK},
			{"the same", http.MethodGet, "", tag, http.StatusNotModified},
			{"the same, changed on the way", http.MethodHead, "?v=2", `"x", W/` + tag, http.StatusNotModified},
			{"another", http.MethodGet, "", `"x"`, http.StatusOK},
		} {
			response, got := w.ask(t, again.method, f.path+again.query, "", "If-None-Match", again.has, "Accept-Encoding", "gzip")
			if want := map[int]string{http.StatusOK: text}[again.status]; response.StatusCode != again.status || got != want || tag == "" ||
				response.Header.Get("Etag") != tag || response.Header.Get("Cache-Control") != "no-cache" {
				t.Errorf("%s, %s: %s, %v, %d bytes", f.path, again.name, response.Status, response.Header, len(got))
			}
		}
		if tags[tag] {
			t.Errorf("%s: the tag %s is that of another file", f.path, tag)
		}
		tags[tag] = true
		for _, refused := range []struct {
			method, path string
			header       []string
			status       int
		}{
			{http.MethodGet, f.path, []string{"Host", "evil.example"}, http.StatusForbidden},
			{http.MethodPost, f.path, nil, http.StatusMethodNotAllowed},
			{http.MethodPost, f.path, []string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		} {
			if response, text := w.ask(t, refused.method, refused.path, "", refused.header...); response.StatusCode != refused.status {
				t.Errorf("%+v: %s %s", refused, response.Status, text)
			}
		}
	}
	// What is no file is refused to another origin as before.
	if response, _ := w.ask(t, http.MethodGet, "/v1/hostname", "", "Sec-Fetch-Site", "cross-site"); response.StatusCode != http.StatusForbidden {
		t.Errorf("a lookup of another origin: %s", response.Status)
	}
	if w.calls() != 0 {
		t.Errorf("%d calls for files", w.calls())
	}
	index, _ := own.ReadFile("page/index.html")
	for _, inline := range []string{"style=", "<style", "javascript:", "onload", "onclick", "//"} {
		if bytes.Contains(index, []byte(inline)) {
			t.Errorf("index.html has %s, which its policy does not let it", inline)
		}
	}
}

package gateway

import (
	"strings"
	"testing"
)

var offers = []string{formatLines, formatJSON, formatRaw, formatEvents}

func TestNegotiate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		accept []string
		want   string // empty: none
	}{
		{"no header", nil, formatLines},
		{"an empty one", []string{""}, formatLines},
		{"anything", []string{"*/*"}, formatLines},
		{"curl's", []string{"*/*"}, formatLines},
		{"raw", []string{"application/octet-stream"}, formatRaw},
		{"case", []string{"Application/Octet-Stream"}, formatRaw},
		{"parameters", []string{"text/event-stream; charset=utf-8"}, formatEvents},
		{"json", []string{"application/json"}, formatJSON},
		{"a type", []string{"text/*"}, formatEvents},
		{"first of equals", []string{"application/octet-stream, application/x-ndjson"}, formatLines},
		{"the type of several", []string{"application/*"}, formatLines},
		{"quality", []string{"application/x-ndjson;q=0.5, application/octet-stream;q=0.8"}, formatRaw},
		{"quality against everything", []string{"application/octet-stream;q=0.2, */*;q=0.1"}, formatRaw},
		{"the more specific counts, not the better", []string{"*/*, application/x-ndjson;q=0.1, application/json;q=0"}, formatRaw},
		{"the type before everything", []string{"*/*;q=0.9, application/*;q=0.1"}, formatEvents},
		{"refused", []string{"application/octet-stream;q=0"}, ""},
		{"refused, everything else", []string{"application/x-ndjson;q=0, */*"}, formatJSON},
		{"all refused", []string{"*/*;q=0"}, ""},
		{"unknown", []string{"text/html"}, ""},
		{"a browser's", []string{"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}, formatLines},
		{"several headers", []string{"text/html", "text/event-stream"}, formatEvents},
		{"quality over 1", []string{"application/octet-stream;q=2, */*;q=0.1"}, formatLines},
		{"no number", []string{"application/octet-stream;q=x, application/json;q=0.1"}, formatJSON},
		{"not a number", []string{"application/octet-stream;q=NaN"}, ""},
		{"negative", []string{"application/octet-stream;q=-1"}, ""},
		{"a capital Q", []string{"application/octet-stream;Q=0.1, application/json;Q=0.2"}, formatJSON},
		{"space", []string{" application/octet-stream ; q=0.1 ,\tapplication/json ; q=0.2 "}, formatJSON},
		{"three decimals", []string{"application/octet-stream;q=0.001, application/json;q=0.002"}, formatJSON},
		{"garbage beside it", []string{";;;, /, application/octet-stream"}, formatRaw},
		{"garbage alone", []string{";;;"}, ""},
		{"a wildcard that is none", []string{"*/json"}, ""},
	} {
		got, ok := negotiate(tt.accept, offers)
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("%s: %q: %q, %v; want %q", tt.name, tt.accept, got, ok, tt.want)
		}
	}
}

func FuzzNegotiate(f *testing.F) {
	for _, seed := range []string{
		"", "*/*", "application/json;q=0.5, text/*", "text/event-stream;q=0", ";;", "a/b;q=\"0.5\"", "application/*;q=1e-3",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, accept string) {
		got, ok := negotiate([]string{accept}, offers)
		if ok != (got != "") {
			t.Fatalf("%q, %v", got, ok)
		}
		lower := strings.ToLower(accept)
		if !ok {
			return
		}
		// What is chosen was asked for, by itself, by its type, or by everything.
		kind, _, _ := strings.Cut(got, "/")
		if strings.TrimSpace(accept) != "" && !strings.Contains(lower, got) && !strings.Contains(lower, kind+"/*") && !strings.Contains(lower, "*/*") {
			t.Fatalf("%q chose %q", accept, got)
		}
		// Told twice it is the same, and told alone it is taken.
		if again, _ := negotiate([]string{accept, accept}, offers); strings.TrimSpace(accept) != "" && again != got {
			t.Fatalf("%q: %q, twice %q", accept, got, again)
		}
	})
}

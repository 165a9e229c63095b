package probetest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const (
	outcomeOK = `{"outcome": {"ok": true, "phase": "PHASE_CLOSE", "endedBy": "ENDED_BY_PEER_CLOSED", "timings": {"total": "1s"}}}`
	aStatus   = `{"code": 14, "message": "gone"}`
)

// What REST answers is looked at in every format, and nothing of it is missed.
func TestWitnessOfREST(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, path, kind, body string
		trailers               bool
		outcomes               int
		want                   string // in what is found; empty: nothing is
	}{
		{name: "lines", path: "/v1/exchange", kind: "application/x-ndjson", body: `{"result":` + outcomeOK + "}\n", outcomes: 1},
		{name: "lines that break off", path: "/v1/exchange", kind: "application/x-ndjson", body: `{"error":` + aStatus + "}\n"},
		{name: "lines without an outcome", path: "/v1/exchange", kind: "application/x-ndjson", body: `{"result":{"resolved":{}}}` + "\n", want: "1 events, and no outcome"},
		{name: "two outcomes", path: "/v1/exchange", kind: "application/x-ndjson", body: strings.Repeat(`{"result":`+outcomeOK+"}\n", 2), outcomes: 2, want: "after the outcome"},
		{name: "a line of something", path: "/v1/exchange", kind: "application/x-ndjson", body: "hello\n", want: "neither an event nor an error"},
		{name: "half a line", path: "/v1/exchange", kind: "application/x-ndjson", body: `{"result":` + outcomeOK + "}\n{", outcomes: 1, want: "the events end amid"},
		{name: "an event nobody knows", path: "/v1/exchange", kind: "application/x-ndjson", body: `{"result":{"news":{}}}` + "\n", want: "news"},
		{name: "server-sent", path: "/v1/exchange", kind: "text/event-stream", body: "event: outcome\ndata: " + outcomeOK + "\n\n", outcomes: 1},
		{name: "server-sent, broken off", path: "/v1/exchange", kind: "text/event-stream", body: "event: error\ndata: " + aStatus + "\n\n"},
		{name: "server-sent without an outcome", path: "/v1/exchange", kind: "text/event-stream", body: "event: resolved\ndata: {\"resolved\": {}}\n\n", want: "1 events, and no outcome"},
		{name: "raw", path: "/v1/exchange", kind: "application/octet-stream", body: "bytes", trailers: true},
		{name: "raw without an outcome", path: "/v1/exchange", kind: "application/octet-stream", body: "bytes", want: "as if all were well"},
		{name: "connect", path: "/v1/connect", kind: "application/json", body: outcomeOK, outcomes: 1},
		{name: "connect, not ok", path: "/v1/connect", kind: "application/json", body: `{"outcome": {"ok": false}}`, outcomes: 1, want: "ok false"},
		{name: "connect, no JSON", path: "/v1/connect", kind: "application/json", body: `{`, want: "{"},
		{name: "another path", path: "/v1/dns", kind: "application/json", body: "hello"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tt.kind)
				if tt.trailers {
					w.Header().Set("Trailer", "Probe-Ok, Probe-Reason")
					defer func() {
						w.Header().Set("Probe-Ok", "true")
						w.Header().Set("Probe-Reason", "REASON_UNSPECIFIED")
					}()
				}
				_, _ = io.WriteString(w, tt.body)
			}))
			defer server.Close()
			notes := &noting{TB: t}
			witness := NewWitness(notes)
			client := http.Client{Transport: witness.HTTP(&http.Transport{})}
			defer client.CloseIdleConnections()
			response, err := client.Post(server.URL+tt.path, "application/json", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if got, err := io.ReadAll(response.Body); err != nil || string(got) != tt.body {
				t.Errorf("%q, %v", got, err)
			}
			found := strings.Join(notes.errors, "\n")
			if tt.want == "" && found != "" || !strings.Contains(found, tt.want) || witness.Outcomes() != tt.outcomes {
				t.Errorf("found %q and %d outcomes, want %q and %d", found, witness.Outcomes(), tt.want, tt.outcomes)
			}
		})
	}
}

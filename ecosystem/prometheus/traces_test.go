package prometheus

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collector takes spans, and remembers which traces they are of.
type collector struct {
	*httptest.Server

	mu     sync.Mutex
	traces map[string]bool
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{traces: make(map[string]bool)}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

// ServeHTTP takes some.
func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(r.Body) // not compressed, unless it is told to be
	request := &collectorpb.ExportTraceServiceRequest{}
	if err == nil {
		err = proto.Unmarshal(text, request)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range request.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				c.traces[hex.EncodeToString(span.GetTraceId())] = true
			}
		}
	}
}

func (c *collector) has(trace string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.traces[trace]
}

// exemplars of each histogram name traces that the collector has. suffix is what Prometheus puts behind its name.
func (s *server) exemplars(t *testing.T, c *collector, suffix string) {
	t.Helper()
	type exemplar struct {
		Labels map[string]string
		Value  string
	}
	for _, name := range []string{"probed_dial_duration_seconds", "probed_lookup_duration_seconds", "grpc_server_handling_seconds"} {
		name += suffix
		var found exemplar
		s.eventually(t, "an exemplar of "+name+" names a trace that was sent", func() bool {
			var data []struct{ Exemplars []exemplar }
			now := time.Now()
			if err := s.get(t, "/api/v1/query_exemplars", url.Values{
				"query": {name}, "start": {strconv.FormatInt(now.Add(-time.Hour).Unix(), 10)}, "end": {strconv.FormatInt(now.Add(time.Hour).Unix(), 10)},
			}, &data); err != nil {
				t.Fatalf("%s: %v", s.name, err)
			}
			for _, series := range data {
				for _, found = range series.Exemplars {
					if c.has(found.Labels["trace_id"]) {
						return true
					}
				}
			}
			return false
		})
		t.Logf("%s, %s: %v s of trace %s", s.name, name, found.Value, found.Labels["trace_id"])
	}
}

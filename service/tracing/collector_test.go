package tracing

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // which those who send may choose
	"google.golang.org/protobuf/proto"
)

// collector takes spans as one of OpenTelemetry does, by gRPC or by HTTP.
type collector struct {
	collectorpb.UnimplementedTraceServiceServer
	url string

	mu       sync.Mutex
	requests []*collectorpb.ExportTraceServiceRequest
	headers  []string // x-tenant, of each request
}

// collectAt starts one at an address, which speaks TLS if it has certificates.
func collectAt(t *testing.T, protocol, address string, certificates ...tls.Certificate) *collector {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{url: "http://" + listener.Addr().String()}
	if certificates != nil {
		c.url = "https://" + listener.Addr().String()
		listener = tls.NewListener(listener, &tls.Config{Certificates: certificates, NextProtos: []string{"h2", "http/1.1"}})
	}
	if protocol == protocolGRPC {
		server := grpc.NewServer()
		collectorpb.RegisterTraceServiceServer(server, c)
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(server.Stop)
		return c
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", c.serveHTTP)
	server := &http.Server{Handler: mux, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return c
}

func collect(t *testing.T, protocol string) *collector {
	t.Helper()
	return collectAt(t, protocol, "127.0.0.1:0")
}

// Export is the RPC of a collector.
func (c *collector) Export(_ context.Context, request *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = append(c.requests, request)
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

func (c *collector) serveHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = unzipped
	}
	text, err := io.ReadAll(body)
	request := &collectorpb.ExportTraceServiceRequest{}
	if err == nil {
		err = proto.Unmarshal(text, request)
	}
	if err != nil || r.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, "no spans", http.StatusBadRequest)
		return
	}
	_, _ = c.Export(r.Context(), request)
	c.mu.Lock()
	c.headers = append(c.headers, r.Header.Get("X-Tenant"))
	c.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// span is one that came.
type span struct {
	*tracepb.Span
	id, parent string
	attributes map[string]string
}

// spans are those that have come, by their trace, in the order in which they began.
func (c *collector) spans() map[string][]span {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := make(map[string][]span)
	for _, request := range c.requests {
		for _, from := range request.GetResourceSpans() {
			for _, scope := range from.GetScopeSpans() {
				for _, s := range scope.GetSpans() {
					trace := hex.EncodeToString(s.GetTraceId())
					found[trace] = append(found[trace], span{s, hex.EncodeToString(s.GetSpanId()), hex.EncodeToString(s.GetParentSpanId()), texts(s.GetAttributes())})
				}
			}
		}
	}
	for _, spans := range found {
		slices.SortFunc(spans, func(a, b span) int { return int(a.GetStartTimeUnixNano()) - int(b.GetStartTimeUnixNano()) })
	}
	return found
}

// origin is what the spans say of where they are from.
func (c *collector) origin() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.requests) == 0 {
		return nil
	}
	return texts(c.requests[0].GetResourceSpans()[0].GetResource().GetAttributes())
}

// all is all that has come, as bytes to look for something in.
func (c *collector) all(t *testing.T) string {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var all strings.Builder
	for _, request := range c.requests {
		text, err := proto.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}

// texts are attributes, each value as a text.
func texts(attributes []*commonpb.KeyValue) map[string]string {
	all := make(map[string]string)
	for _, a := range attributes {
		switch v := a.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			all[a.GetKey()] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			all[a.GetKey()] = strconv.FormatInt(v.IntValue, 10)
		case *commonpb.AnyValue_BoolValue:
			all[a.GetKey()] = strconv.FormatBool(v.BoolValue)
		}
	}
	return all
}

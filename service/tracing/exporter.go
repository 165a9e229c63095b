package tracing

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
)

// complainEvery is how often at most it is logged that the collector does not take spans.
const complainEvery = time.Minute

// newExporter returns what sends spans to the collector of the environment, by connections that are the operator's. It reads
// by itself what the environment says about headers and compression, and for gRPC about TLS.
func newExporter(ctx context.Context, e *environment, config Config) (sdk.SpanExporter, error) {
	if config.HostRoots != nil && e.endpoint.Scheme == "https" {
		config.HostRoots()
	}
	if e.protocol == protocolGRPC {
		options := []otlptracegrpc.Option{
			// Not by a resolver of gRPC, which would look the name up by itself.
			otlptracegrpc.WithEndpoint("passthrough:///" + e.address("4317")),
			otlptracegrpc.WithTimeout(e.timeout),
			otlptracegrpc.WithDialOption(grpc.WithNoProxy(), grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
				return config.Dial(ctx, "tcp", address)
			})),
		}
		if e.endpoint.Scheme == "http" {
			options = append(options, otlptracegrpc.WithInsecure())
		}
		return otlptracegrpc.New(ctx, options...)
	}
	security, err := e.tls()
	if err != nil {
		return nil, err
	}
	options := []otlptracehttp.Option{otlptracehttp.WithHTTPClient(&http.Client{ //nolint:forbidigo // it dials by config.Dial
		// A batch every five seconds at most needs no connection that is kept, and there is none to be closed at the end.
		Transport: &http.Transport{DialContext: config.Dial, TLSClientConfig: security, DisableKeepAlives: true}, //nolint:forbidigo // the same
		Timeout:   e.timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("a collector does not redirect")
		},
	})}
	return otlptracehttp.New(ctx, append(options, otlptracehttp.WithEndpointURL(e.endpoint.String()))...)
}

// exporter is one whose failures are logged, now and then, and are no one else's.
type exporter struct {
	sdk.SpanExporter
	log  *slog.Logger
	over context.Context // ends when what has not been sent is given up

	// The SDK sends one batch at a time.
	told time.Time // when it was last logged that spans were lost
	lost int       // spans, since then
	why  error     // the last of them
}

// ExportSpans sends a batch.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.over, cancel)()
	err := e.SpanExporter.ExportSpans(ctx, spans)
	if err == nil {
		return nil
	}
	e.lost, e.why = e.lost+len(spans), err
	if e.told.IsZero() || time.Since(e.told) >= complainEvery {
		e.complain()
	}
	return nil // it has been told
}

// Shutdown ends it. What was lost and not told yet is told now.
func (e *exporter) Shutdown(ctx context.Context) error {
	if e.lost > 0 {
		e.complain()
	}
	return e.SpanExporter.Shutdown(ctx)
}

func (e *exporter) complain() {
	e.log.Warn("the collector of traces did not take what it was sent", "spans_lost", e.lost, "error", e.why.Error())
	e.told, e.lost = time.Now(), 0
}

package tracing

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// complainEvery is how often at most it is logged that the collector does not take spans.
const complainEvery = time.Minute

// newExporter returns what sends spans to the collector of the environment, by connections that are the operator's. It reads
// by itself what the environment says about headers.
func newExporter(ctx context.Context, e *environment, config Config) (sdk.SpanExporter, error) {
	if config.HostRoots != nil && e.endpoint.Scheme == "https" {
		config.HostRoots()
	}
	security, err := e.tls()
	if err != nil {
		return nil, err
	}
	if e.protocol == protocolGRPC {
		transport := insecure.NewCredentials()
		if e.endpoint.Scheme == "https" {
			transport = credentials.NewTLS(security)
		}
		options := []otlptracegrpc.Option{
			// Not by a resolver of gRPC, which would look the name up by itself.
			otlptracegrpc.WithEndpoint("passthrough:///" + e.address("4317")),
			otlptracegrpc.WithTimeout(e.timeout),
			otlptracegrpc.WithTLSCredentials(transport),
			otlptracegrpc.WithDialOption(grpc.WithNoProxy(), grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
				return config.Dial(ctx, "tcp", address)
			})),
		}
		if e.gzip {
			options = append(options, otlptracegrpc.WithCompressor("gzip"))
		}
		return otlptracegrpc.New(ctx, options...)
	}
	options := []otlptracehttp.Option{otlptracehttp.WithHTTPClient(&http.Client{ //nolint:forbidigo // it dials by config.Dial
		// A batch every five seconds at most needs no connection that is kept, and there is none to be closed at the end.
		Transport: &http.Transport{DialContext: config.Dial, TLSClientConfig: security, DisableKeepAlives: true}, //nolint:forbidigo // the same
		Timeout:   e.timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("a collector does not redirect")
		},
	})}
	if e.gzip {
		options = append(options, otlptracehttp.WithCompression(otlptracehttp.GzipCompression))
	}
	return otlptracehttp.New(ctx, append(options, otlptracehttp.WithEndpointURL(e.endpoint.String()))...)
}

// queue hands spans on to be sent, and counts those that are lost. It bounds by itself how many wait, at as many as the SDK
// does, of which nobody learns how many it has dropped.
type queue struct {
	sdk.SpanProcessor
	most    int64
	waiting atomic.Int64 // those that have ended, and are neither sent nor lost
	losses  *losses
}

// OnEnd takes a span that has ended.
func (q *queue) OnEnd(span sdk.ReadOnlySpan) {
	switch {
	case !span.SpanContext().IsSampled():
	case q.waiting.Add(1) > q.most:
		q.waiting.Add(-1)
		q.losses.add(1, errFull)
	default:
		q.SpanProcessor.OnEnd(span)
	}
}

var errFull = errors.New("too many spans wait")

// exporter is one whose failures are logged, now and then, and are no one else's.
type exporter struct {
	sdk.SpanExporter
	queue *queue
	over  context.Context // ends when what has not been sent is given up
}

// ExportSpans sends a batch.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.over, cancel)()
	err := e.SpanExporter.ExportSpans(ctx, spans)
	e.queue.waiting.Add(-int64(len(spans)))
	if err != nil {
		e.queue.losses.add(len(spans), err)
	}
	return nil // it has been told
}

// losses are the spans that nobody gets.
type losses struct {
	log   *slog.Logger
	count func(spans int) // may be nil

	mu     sync.Mutex
	told   time.Time // when it was last logged that spans were lost
	untold int       // spans, since then
	why    error     // the last of them
}

// add counts some, and says so, but not often.
func (l *losses) add(spans int, why error) {
	if l.count != nil {
		l.count(spans)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.untold += spans
	if l.why == nil || !errors.Is(why, errFull) { // why they have to wait says more
		l.why = why
	}
	if l.told.IsZero() || time.Since(l.told) >= complainEvery {
		l.tell()
	}
}

// end says what has not been said.
func (l *losses) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.untold > 0 {
		l.tell()
	}
}

func (l *losses) tell() {
	l.log.Warn("the collector of traces did not take what it was sent", "spans_lost", l.untold, "error", l.why.Error())
	l.told, l.untold, l.why = time.Now(), 0, nil
}

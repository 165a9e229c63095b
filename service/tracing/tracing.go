// Package tracing tells what calls did, as spans of OpenTelemetry: when they began, how long each part took, and why it failed.
//
// Whether it does, and where the spans go, is said by the environment, in the variables that OpenTelemetry has for it. With none
// of them [Open] makes nothing, and there is nothing of it on the way of a call.
//
// A program makes one [Tracing], hands its hooks to the chain and to the engines, and closes it when all calls have ended. The
// engines know nothing of it: they call optional functions.
//
// The names of attributes are those of OpenTelemetry's semantic conventions where there are some, else they begin with
// "probe.". None ever has a payload, a credential, or what a peer has said.
package tracing

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/stats"

	"probed/service"
)

// flushPatience is how long Close takes at most to send what is left.
const flushPatience = 2 * time.Second

// Config is what a Tracing is made of. All but HostRoots and Lost are required.
type Config struct {
	// Getenv reads the environment as far as it decides whether there are spans, and by which protocol they go. What the
	// SDK of OpenTelemetry reads by itself is the environment of the process.
	Getenv func(string) string
	// Dial opens the connections to the collector: where it is, the operator says, and no caller has a part in it.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// HostRoots makes those ready whom this host trusts; nil: nothing has to be done.
	HostRoots func()
	// Vantage is where the spans are from.
	Vantage service.Vantage
	// Trusted tells whether the trace of a caller goes on here, and with it the caller's word that it is to be kept. For
	// others a trace of its own begins, which the sampler decides about, with a link to the caller's.
	Trusted func(context.Context) bool
	// Log is told which variable says what cannot be meant, and when the collector does not take what it is sent.
	Log *slog.Logger
	// Lost is called when that many spans are lost: the collector did not take them, or they found no room to wait. May be nil.
	Lost func(spans int)
}

// Tracing makes spans and sends them.
type Tracing struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	rpcs     stats.Handler
	losses   *losses
	giveUp   context.CancelFunc // sending, at once
}

// Open returns a Tracing, or nil when the environment asks for none. It connects to nothing yet. An error says which variable
// names a file of TLS that cannot be used; what else is wrong with them is told to the log.
func Open(config Config) (*Tracing, error) {
	// What goes wrong in there is told to the whole process, or by it to stderr, with the values of variables, which may be
	// credentials: what is wrong with these is told by us, without.
	otel.SetLogger(logr.FromSlogHandler(messages{config.Log.Handler()}))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {}))
	e := readEnvironment(config.Getenv, config.Log)
	if !e.on {
		return nil, nil //nolint:nilnil // that is what is asked for
	}
	ctx := context.Background()
	to, err := newExporter(ctx, e, config)
	if err != nil {
		return nil, err
	}
	from, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(origin(config.Vantage)...),
		resource.WithFromEnv(), // last: what the operator says decides
	)
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, err
	}
	over, giveUp := context.WithCancel(ctx) //nolint:gosec // Close calls it
	waiting := &queue{most: int64(e.queue), losses: &losses{log: config.Log, count: config.Lost}}
	waiting.SpanProcessor = sdk.NewBatchSpanProcessor(&exporter{SpanExporter: to, queue: waiting, over: over}, sdk.WithMaxQueueSize(e.queue))
	provider := sdk.NewTracerProvider(sdk.WithResource(from), sdk.WithSpanProcessor(waiting))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { config.Log.Warn("tracing", "error", err.Error()) }))
	return &Tracing{
		provider: provider,
		tracer:   provider.Tracer("probed", trace.WithInstrumentationVersion(config.Vantage.Version)),
		rpcs: otelgrpc.NewServerHandler(
			otelgrpc.WithTracerProvider(provider),
			otelgrpc.WithMeterProvider(noop.NewMeterProvider()), // there are metrics of calls, of one source
			otelgrpc.WithPropagators(e.propagator),
			otelgrpc.WithPublicEndpointFn(func(ctx context.Context, _ *stats.RPCTagInfo) bool { return !config.Trusted(ctx) }),
		),
		losses: waiting.losses,
		giveUp: giveUp,
	}, nil
}

// messages is a handler of a log that has no more of a line than its message.
type messages struct{ slog.Handler }

// Handle leaves out the rest.
func (h messages) Handle(ctx context.Context, line slog.Record) error {
	return h.Handler.Handle(ctx, slog.NewRecord(line.Time, line.Level, "OpenTelemetry: "+line.Message, line.PC))
}

// WithAttrs leaves them out.
func (h messages) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup leaves it out.
func (h messages) WithGroup(string) slog.Handler { return h }

// origin is what is known of where spans are from.
func origin(v service.Vantage) []attribute.KeyValue {
	attributes := []attribute.KeyValue{attribute.String("service.name", "probed")}
	for _, a := range []struct{ key, value string }{
		{"service.version", v.Version},
		{"host.name", v.Hostname},
		{"k8s.pod.name", v.Pod},
		{"k8s.namespace.name", v.Namespace},
		{"k8s.node.name", v.Node},
	} {
		if a.value != "" {
			attributes = append(attributes, attribute.String(a.key, a.value))
		}
	}
	return attributes
}

// Close sends what is left, within ctx and not for long, and ends all that Open began. Spans that end later are lost. It may be
// called twice, and of nothing.
func (t *Tracing) Close(ctx context.Context) {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, flushPatience)
	defer cancel()
	// What waits for the collector ends then; the rest of the way Shutdown goes to its end, and leaves nothing running.
	context.AfterFunc(ctx, t.giveUp)
	// The exporter has told why.
	_ = t.provider.Shutdown(context.WithoutCancel(ctx))
	t.losses.end()
}

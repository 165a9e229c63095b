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
	"fmt"
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

// Config is what a Tracing is made of. All but HostRoots are required.
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
	// Log is told when the collector does not take what it is sent.
	Log *slog.Logger
}

// Tracing makes spans and sends them.
type Tracing struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	rpcs     stats.Handler
	giveUp   context.CancelFunc // sending, at once
}

// Open returns a Tracing, or nil when the environment asks for none. It connects to nothing yet. An error says which variable
// is wrong.
func Open(config Config) (*Tracing, error) {
	e, err := readEnvironment(config.Getenv)
	if err != nil || !e.on {
		return nil, err
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
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	// What else goes wrong in there is told to the whole process, or by it to stderr.
	otel.SetLogger(logr.FromSlogHandler(config.Log.Handler()))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { config.Log.Warn("tracing", "error", err.Error()) }))

	over, giveUp := context.WithCancel(ctx) //nolint:gosec // Close calls it
	provider := sdk.NewTracerProvider(sdk.WithResource(from), sdk.WithBatcher(&exporter{SpanExporter: to, log: config.Log, over: over}))
	return &Tracing{
		provider: provider,
		tracer:   provider.Tracer("probed", trace.WithInstrumentationVersion(config.Vantage.Version)),
		rpcs: otelgrpc.NewServerHandler(
			otelgrpc.WithTracerProvider(provider),
			otelgrpc.WithMeterProvider(noop.NewMeterProvider()), // there are metrics of calls, of one source
			otelgrpc.WithPropagators(e.propagator),
			otelgrpc.WithPublicEndpointFn(func(ctx context.Context, _ *stats.RPCTagInfo) bool { return !config.Trusted(ctx) }),
		),
		giveUp: giveUp,
	}, nil
}

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
}

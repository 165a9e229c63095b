package metrics

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"probed/service"
)

// rpcs counts RPCs by the names that the servers of grpc-ecosystem have for them (go-grpc-middleware), so that their
// dashboards work. What these look up by its labels five times a call, and twice a chunk, is looked up once a method here.
type rpcs struct {
	started, handled, received, sent *prometheus.CounterVec
	handling                         *prometheus.HistogramVec
	observe                          func(context.Context, prometheus.Observer, time.Duration)

	mu      sync.RWMutex
	methods map[string]*rpc // by the full name
}

// rpc is what is counted of one method.
type rpc struct {
	started, received, sent prometheus.Counter
	handled                 [codes.Unauthenticated + 1]prometheus.Counter // by code
	handling                func() prometheus.Observer                    // whose series the first call makes: they are many
}

func newRPCs() *rpcs {
	return &rpcs{
		started: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grpc_server_started_total", Help: "RPCs that have begun.",
		}, []string{"grpc_type", "grpc_service", "grpc_method"}),
		handled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grpc_server_handled_total", Help: "RPCs that have ended, by the code of their status.",
		}, []string{"grpc_type", "grpc_service", "grpc_method", "grpc_code"}),
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grpc_server_msg_received_total", Help: "Messages of callers.",
		}, []string{"grpc_type", "grpc_service", "grpc_method"}),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grpc_server_msg_sent_total", Help: "Messages to callers.",
		}, []string{"grpc_type", "grpc_service", "grpc_method"}),
		handling: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "grpc_server_handling_seconds", Help: "How long an RPC took, of a stream until its end.",
			Buckets:                     []float64{.001, .005, .025, .1, .5, 2.5, 10, 60}, // for each method, so they are few
			NativeHistogramBucketFactor: nativeFactor, NativeHistogramMaxBucketNumber: nativeMost, NativeHistogramMinResetDuration: nativeReset,
		}, []string{"grpc_type", "grpc_service", "grpc_method"}),
		methods: make(map[string]*rpc),
	}
}

// Describe tells what Collect collects.
func (r *rpcs) Describe(to chan<- *prometheus.Desc) {
	for _, vec := range r.vecs() {
		vec.Describe(to)
	}
}

// Collect collects what was counted.
func (r *rpcs) Collect(to chan<- prometheus.Metric) {
	for _, vec := range r.vecs() {
		vec.Collect(to)
	}
}

func (r *rpcs) vecs() []prometheus.Collector {
	return []prometheus.Collector{r.started, r.handled, r.received, r.sent, r.handling}
}

// initialize makes the series of every RPC of server that is probed's own. Those that come with gRPC, as health and reflection,
// have them from their first call on: they would be as many again.
func (r *rpcs) initialize(server *grpc.Server) {
	for name, info := range server.GetServiceInfo() {
		if !strings.HasPrefix(name, "probe.") {
			continue
		}
		for _, method := range info.Methods {
			r.method("/"+name+"/"+method.Name, method.IsClientStream, method.IsServerStream)
		}
	}
}

// method returns what is counted of a method, with every code there is. Only those that are registered come here.
func (r *rpcs) method(fullMethod string, clientStreams, serverStreams bool) *rpc {
	r.mu.RLock()
	m := r.methods[fullMethod]
	r.mu.RUnlock()
	if m != nil {
		return m
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.methods[fullMethod]; m != nil {
		return m
	}
	service, name, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	kind := "unary"
	switch {
	case clientStreams && serverStreams:
		kind = "bidi_stream"
	case clientStreams:
		kind = "client_stream"
	case serverStreams:
		kind = "server_stream"
	}
	m = &rpc{
		started:  r.started.WithLabelValues(kind, service, name),
		received: r.received.WithLabelValues(kind, service, name),
		sent:     r.sent.WithLabelValues(kind, service, name),
		handling: sync.OnceValue(func() prometheus.Observer { return r.handling.WithLabelValues(kind, service, name) }),
	}
	for code := range m.handled {
		m.handled[code] = r.handled.WithLabelValues(kind, service, name, codes.Code(code).String())
	}
	r.methods[fullMethod] = m
	return m
}

// end counts the end of a call.
func (r *rpcs) end(ctx context.Context, m *rpc, begin time.Time, err error) {
	r.observe(ctx, m.handling(), time.Since(begin))
	code := status.Code(err)
	if code == codes.Unknown {
		code = status.FromContextError(err).Code() // Unknown for others
	}
	if int(code) >= len(m.handled) { // of no gRPC that we know
		code = codes.Unknown
	}
	m.handled[code].Inc()
}

func (r *rpcs) interceptors() service.Interceptors {
	return service.Interceptors{
		Unary: func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			m := r.method(info.FullMethod, false, false)
			begin := time.Now()
			m.started.Inc()
			m.received.Inc()
			answer, err := handler(ctx, request)
			if err == nil {
				m.sent.Inc()
			}
			r.end(ctx, m, begin, err)
			return answer, err
		},
		Stream: func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			m := r.method(info.FullMethod, info.IsClientStream, info.IsServerStream)
			begin := time.Now()
			m.started.Inc()
			err := handler(server, &countedStream{stream, m})
			r.end(stream.Context(), m, begin, err)
			return err
		},
	}
}

// countedStream is a stream whose messages are counted.
type countedStream struct {
	grpc.ServerStream
	rpc *rpc
}

// SendMsg sends one.
func (s *countedStream) SendMsg(message any) error {
	err := s.ServerStream.SendMsg(message)
	if err == nil {
		s.rpc.sent.Inc()
	}
	return err
}

// RecvMsg receives one.
func (s *countedStream) RecvMsg(message any) error {
	err := s.ServerStream.RecvMsg(message)
	if err == nil {
		s.rpc.received.Inc()
	}
	return err
}

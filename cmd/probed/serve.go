package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/keepalive"

	"probed/service"
	"probed/service/blackbox"
	"probed/service/exchange"
	"probed/service/gateway"
	"probed/service/guard"
	"probed/service/metrics"
	"probed/service/policy"
	"probed/service/resolve"
	"probed/service/roots"
	"probed/service/tracing"
)

const (
	// Windows of HTTP/2 are fixed. Left to grow, a few hundred streams that nobody reads hold gigabytes. What a connection
	// can hold is the window of the connection; that of a stream decides how fast one runs. (500 MB into a conversation, on
	// a busy machine: 5.9 s with 64 KiB, 4.6 s with 256 KiB, 4.5 s with 1 MiB.)
	streamWindow     = 256 << 10
	connectionWindow = 1 << 20
	// aroundMessage is what a request takes beside its largest field.
	aroundMessage = 64 << 10
	// headerSlop is what net/http reads beyond MaxHeaderBytes.
	headerSlop = 4 << 10
	// opsConnections is how many connections the operations listener has at a time: it is open to who reaches it, and must
	// not take the descriptors that callers need.
	opsConnections = 64
	// streamWorkers is how many goroutines stay to carry out the next call. The stack of a new one has to grow on the way
	// through the chain, four times: of a look-up's 315,000 instructions that took 120,000. A call that finds none waiting gets
	// a new one. Those that wait take 64 × 8 KiB.
	streamWorkers = 64
	// idleConnection is how long a connection on which nobody asks anything is kept.
	idleConnection = 2 * time.Minute
	// oldConnection is when a client is asked to connect anew, with the certificates of then. What is under way goes on.
	oldConnection = 30 * time.Minute
)

// server is probed, put together.
type server struct {
	options   options
	begun     *config // what it began with; but for what prepare takes from a later one, that is how it stays
	limits    limits
	log       *slog.Logger
	calls     *slog.Logger // for the chain
	counts    *metrics.Metrics
	listeners *listeners
	accepted  connections // of gRPC and REST
	rules     atomic.Pointer[rules]
	grpcTLS   listenerTLS
	httpTLS   listenerTLS
	audit     *guard.Audit     // nil: no log is kept
	tracing   *tracing.Tracing // nil: nothing is traced
	service   *service.Service
	grpc      *grpc.Server
	health    *health.Server
	endless   *endless
	gateway   *gateway.Gateway
	http      *http.Server
	ops       *http.Server
	ready     atomic.Bool // whether new calls are welcome

	getenv  func(string) string
	watched watched         // the files of the configuration, as it was read last; watch's alone
	running context.Context // ends with close
	stop    context.CancelFunc
	retired sync.WaitGroup // of what a reload has put out of force, until it is closed
}

// serve runs probed until a signal, or the failure of a listener, ends it.
func serve(ctx context.Context, o options, stderr, stdout io.Writer, getenv func(string) string, signals <-chan os.Signal) error {
	level, err := o.level()
	if err != nil {
		return err
	}
	log, calls, flush := newLogger(stderr, level)
	defer flush()
	if err := checkUnixPaths(o.unixPaths); err != nil {
		return err
	}
	c := &config{}
	if len(o.config) > 0 {
		if c, err = readConfig(o.config, getenv); err != nil {
			return err
		}
	}
	if c.policy != nil && len(o.unixPaths) > 0 {
		return usageError{fmt.Errorf("--unix-path lets every caller reach a socket, and %s says who may do what: list it there, in the unix_paths of a rule", strings.Join(o.config, ", "))}
	}
	o.fill(c)
	// One that an earlier run has left would be taken for this one's.
	if err := os.Remove(o.listenFile); o.listenFile != "" && err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("--listen-file: %w", err)
	}
	counts := metrics.New(programVersion())
	listeners, err := listen(ctx, o, counts.EchoHooks())
	if err != nil {
		return err
	}
	defer listeners.close()
	o.fillDrain(c, listeners.reachable > 0)
	s := newServer(o, c, getenv, log, calls, listeners, counts)
	if err := checkExposure(s.exposure(c)); err != nil {
		return err
	}
	if c.audit != "" {
		if s.audit, err = openAudit(c.audit, stdout, log, counts.AuditWritten); err != nil {
			return err
		}
		defer func() {
			if err := s.audit.Close(); err != nil {
				log.Error("the end of the audit log", "error", err.Error())
			}
		}()
	}
	defer func() { s.tracing.Close(context.Background()) }()
	if err := s.assemble(); err != nil {
		return err
	}
	defer s.close()
	s.announceRisks()
	return s.run(ctx, signals)
}

// newServer returns a server that is yet to be assembled.
func newServer(o options, c *config, getenv func(string) string, log, calls *slog.Logger, l *listeners, counts *metrics.Metrics) *server {
	s := &server{
		options: o, begun: c, getenv: getenv, watched: c.watched, limits: limitsOf(c.limits, l.reachable > 0),
		log: log, calls: calls, counts: counts, listeners: l, health: health.NewServer(), endless: newEndless(),
	}
	s.running, s.stop = context.WithCancel(context.Background())
	return s
}

// close ends what tells callers apart.
func (s *server) close() {
	s.stop()
	s.retired.Wait()
	s.rules.Load().authenticator.Close()
}

// announceRisks says in the log what an operator has asked for and might not have meant.
func (s *server) announceRisks() {
	insecure := 0
	if s.options.insecureNoAuth {
		insecure = s.listeners.reachable
	}
	s.counts.Insecure(insecure)
	if insecure > 0 {
		s.log.Warn("listening without authentication: whoever reaches this address can make connections from here", "listeners", insecure)
	}
	for _, warning := range s.begun.warnings {
		s.log.Warn("configuration", "warning", warning.String())
	}
}

// assemble wires the rooms together. Nothing is served yet.
func (s *server) assemble() error {
	hostname, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("the name of this host: %w", err)
	}
	vantage := service.Vantage{
		Hostname: hostname, Version: programVersion(),
		Pod: s.getenv("PROBED_POD"), Namespace: s.getenv("PROBED_NAMESPACE"), Node: s.getenv("PROBED_NODE"),
	}
	apply, err := s.prepare(s.begun)
	if err != nil {
		return err
	}
	apply()
	s.accepted.most, s.accepted.mostPerAddress = s.limits.Connections, s.limits.ConnectionsPerAddress
	s.accepted.refused = s.counts.ConnectionRefused
	rules := func() *policy.Policy { return s.rules.Load().policy }
	limiter := guard.NewLimiter(guard.Limits{
		Calls: s.limits.Calls, CallsPerCaller: s.limits.CallsPerCaller,
		Sessions: s.limits.Sessions, SessionsPerCaller: s.limits.SessionsPerCaller,
		DialsPerSecond: s.limits.DialsPerSecond, TargetsPerMinute: s.limits.TargetsPerMinute,
	})
	s.countLimits(limiter)
	s.counts.Ready(s.ready.Load)
	hooks, exchanges := s.counts.ServiceHooks(), s.counts.ExchangeHooks()
	lookups := resolve.Config{Timeout: s.limits.DNSTimeout}
	if err := s.openTracing(vantage); err != nil {
		return err
	}
	if s.tracing != nil {
		s.counts.Exemplars()
		lookups.Walked, exchanges.Begin = s.tracing.Walked, s.tracing.Part
	}
	s.service = service.New(service.Config{
		Policy:  rules,
		Limiter: limiter,
		Audit:   s.audit,
		Resolve: lookups,
		Exchange: exchange.Limits{
			Timeout: s.limits.ExchangeTimeout, MaxTimeout: s.limits.ExchangeTimeoutMax, Idle: s.limits.ConversationIdle,
			BytesSent: s.limits.SessionBytes, BytesReceived: s.limits.SessionBytes,
		},
		ConnectTimeout: s.limits.DialTimeout,
		Vantage:        vantage,
		HostRoots:      roots.Load,
		Hooks:          hooks,
		ExchangeHooks:  exchanges,
	})
	calls := service.ChainConfig{
		Logger: s.calls, Metrics: s.counts.Interceptors(), Vantage: vantage,
		Authenticator: func() *guard.Authenticator { return s.rules.Load().authenticator },
		Policy:        rules,
		Limiter:       limiter, Limited: hooks.Limited, Unauthenticated: s.counts.Unauthenticated,
	}
	if s.tracing != nil {
		calls.Trace = s.tracing.Call
	}
	chain, err := service.Chain(calls)
	if err != nil {
		return err
	}
	s.grpc = grpc.NewServer(chain.ServerOptions(s.grpcOptions()...)...)
	registrar := service.BeforeMessage(s.grpc, chain)
	s.service.Register(registrar)
	s.registerStandard(registrar)
	s.counts.Initialize(s.grpc)

	s.gateway, err = gateway.New(gateway.Config{
		Conn:         service.Local(chain, s.service.Register),
		AllowedHosts: s.options.allowedHosts,
		Enter: func(r *http.Request) (context.Context, func(), bool) {
			return calls.Enter(s.traceContextOf(credentialsOf(r), r))
		},
		Admits:          calls.Admits,
		Answered:        s.answered,
		RequestID:       service.NewRequestID,
		MaxBody:         2 * int64(s.limits.MessageBytes), // as base64, and room around it
		ExchangeTimeout: s.limits.ExchangeTimeout, ExchangeTimeoutMax: s.limits.ExchangeTimeoutMax,
		Modules: func() blackbox.Modules { return s.rules.Load().modules },
	})
	if err != nil {
		return err
	}
	s.http = s.httpServer(notREST(s.partingFrom(s.gateway)))
	s.ops = s.httpServer(opsHandler(s.counts.Handler(), &s.ready))
	return nil
}

// grpcOptions are all there are that bound what one connection, or one call, can make probed hold. What is not here is
// as grpc has it: buffers of 32 KiB a connection for reading, none for writing while it is idle, HPACK tables of 4 KiB, a
// goroutine a call above the first, and answers of any size, since their size is ours.
func (s *server) grpcOptions() []grpc.ServerOption {
	options := []grpc.ServerOption{
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connectionWindow),
		grpc.MaxRecvMsgSize(s.limits.MessageBytes + aroundMessage),
		grpc.MaxConcurrentStreams(s.limits.StreamsPerConnection),
		grpc.MaxHeaderListSize(uint32(s.limits.HeaderBytes)), // the schema holds it to 1 MiB
		grpc.ConnectionTimeout(s.limits.HandshakeTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second, MaxConnectionIdle: idleConnection, MaxConnectionAge: oldConnection}),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.WaitForHandlers(true), // so that nothing of a call is left when Stop returns
	}
	security := insecure.NewCredentials()
	if s.begun.grpc.tls != nil {
		security = credentials.NewTLS(s.grpcTLS.config())
	}
	return append(options, grpc.Creds(pacing{security}))
}

// credentialsOf is the context of the calls that are made for a REST request: what there is to show who sent it goes along
// in the process, and nothing else of the request.
func credentialsOf(r *http.Request) context.Context {
	remote, _ := netip.ParseAddrPort(r.RemoteAddr) // of a TCP connection, it always reads
	return guard.WithCredentials(r.Context(), guard.Credentials{
		TLS: r.TLS, Authorization: strings.Join(r.Header.Values("Authorization"), ", "), Remote: remote.Addr().Unmap(),
	})
}

func (s *server) httpServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: s.limits.HandshakeTimeout, // the TLS handshake has as long
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    max(s.limits.HeaderBytes-headerSlop, 1),
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		// HTTP/2 would bring windows of its own to bound, for nothing that REST needs.
		Protocols: http1(),
	}
}

func http1() *http.Protocols {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &protocols
}

// run serves until a signal comes or a listener fails, and then ends everything. Each goroutine it starts has ended
// when it returns.
func (s *server) run(ctx context.Context, signals <-chan os.Signal) error {
	// When one listener fails, the context of the group ends, and with it the others.
	group, ctx := errgroup.WithContext(ctx)
	if s.listeners.grpc != nil {
		group.Go(func() error { return ignoreClosed(s.grpc.Serve(s.accepted.of(s.listeners.grpc))) })
	}
	if s.listeners.http != nil {
		listener := s.accepted.of(s.listeners.http)
		if s.begun.http.tls != nil {
			listener = tls.NewListener(listener, s.httpTLS.config())
		}
		group.Go(func() error { return ignoreClosed(s.http.Serve(listener)) })
	}
	if s.listeners.ops != nil {
		scrapes := connections{most: opsConnections, refused: s.counts.ConnectionRefused}
		group.Go(func() error { return ignoreClosed(s.ops.Serve(scrapes.of(s.listeners.ops))) })
	}
	living, over := context.WithCancel(ctx)
	group.Go(func() error {
		defer over()
		s.watch(ctx, signals)
		return s.end(signals)
	})
	group.Go(func() error {
		giveMemoryBack(living)
		return nil
	})
	s.ready.Store(true)
	// Who waits for the file would wait for ever, so without it probed does not run.
	group.Go(s.announce)
	return group.Wait()
}

func (s *server) announce() error {
	for _, entry := range s.listeners.named() {
		s.log.Info("listening", "listener", entry[0], "addr", entry[1])
	}
	if s.options.listenFile == "" {
		return nil
	}
	if err := s.listeners.writeFile(s.options.listenFile); err != nil {
		return fmt.Errorf("--listen-file: %w", err)
	}
	return nil
}

// ignoreClosed leaves out that a server was told to end, be it before it began.
func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// exposure is how far c, with the flags, lets others reach this probed.
func (s *server) exposure(c *config) exposure {
	e := exposure{
		config: c, allowedHosts: s.options.allowedHosts,
		insecureNoAuth: s.options.insecureNoAuth, insecurePlaintext: s.options.insecurePlaintext,
	}
	for listener, where := range map[net.Listener]*string{s.listeners.grpc: &e.grpc, s.listeners.http: &e.http} {
		if listener != nil && isReachable(addrPort(listener).Addr()) {
			*where = listener.Addr().String()
		}
	}
	return e
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"probed/service"
	"probed/service/gateway"
	"probed/service/metrics"
	"probed/service/policy"
)

// Bounds on what a client may make probed hold.
const (
	maxStreams       = 100      // calls at a time on one gRPC connection
	maxHeader        = 16 << 10 // bytes of headers, gRPC and HTTP
	handshakeTimeout = 10 * time.Second
	// Windows of HTTP/2 are fixed. Left to grow, a few hundred streams that nobody reads hold gigabytes.
	streamWindow     = 64 << 10
	connectionWindow = 1 << 20
)

// server is probed, put together.
type server struct {
	options   options
	log       *slog.Logger
	listeners *listeners
	accepted  connections // of the gRPC listener
	service   *service.Service
	grpc      *grpc.Server
	rest      *grpc.Server // behind the gateway
	health    *healthService
	gateway   *gateway.Gateway
	http      *http.Server
	ops       *http.Server
	ready     atomic.Bool // whether new calls are welcome
}

// serve runs probed until a signal, or the failure of a listener, ends it.
func serve(ctx context.Context, o options, stderr io.Writer, getenv func(string) string, signals <-chan os.Signal) error {
	log, err := o.logger(stderr)
	if err != nil {
		return err
	}
	if err := checkUnixPaths(o.unixPaths); err != nil {
		return err
	}
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
	s, err := assemble(o, log, listeners, counts, getenv)
	if err != nil {
		return err
	}
	if listeners.reachable > 0 {
		log.Warn("listening without authentication: whoever reaches this address can make connections from here", "listeners", listeners.reachable)
	}
	return s.run(ctx, signals)
}

// assemble wires the rooms together. Nothing is served yet.
func assemble(o options, log *slog.Logger, listeners *listeners, counts *metrics.Metrics, getenv func(string) string) (*server, error) {
	hostname, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("the name of this host: %w", err)
	}
	vantage := service.Vantage{
		Hostname: hostname, Version: programVersion(),
		Pod: getenv("PROBED_POD"), Namespace: getenv("PROBED_NAMESPACE"), Node: getenv("PROBED_NODE"),
	}
	rules := &policy.Policy{Loopback: listeners.reachable == 0, Listeners: listeners.own(), UnixPaths: o.unixPaths}
	counts.Insecure(listeners.reachable)

	s := &server{options: o, log: log, listeners: listeners, accepted: connections{Listener: listeners.grpc}, health: newHealthService()}
	s.service = service.New(service.Config{
		Policy:        service.DialPolicy(rules, counts.Decided),
		Vantage:       vantage,
		Hooks:         counts.LookupHooks(),
		ExchangeHooks: counts.ExchangeHooks(),
	})
	chain, err := service.Chain(service.ChainConfig{Logger: log, Metrics: counts.Interceptors(), Vantage: vantage})
	if err != nil {
		return nil, err
	}
	chain = append(chain,
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connectionWindow),
		grpc.WaitForHandlers(true),
	)
	s.grpc = grpc.NewServer(slices.Concat(chain, []grpc.ServerOption{
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeader),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second}),
	})...)
	// All callers of REST share one connection, so what bounds one client's connection must not bound it.
	s.rest = grpc.NewServer(chain...)
	s.service.Register(s.grpc)
	s.service.Register(s.rest)
	grpc_health_v1.RegisterHealthServer(s.grpc, s.health)
	if listeners.grpc != nil && addrPort(listeners.grpc).Addr().IsLoopback() {
		reflection.Register(s.grpc)
	}
	counts.Initialize(s.grpc)

	local, err := service.Local(s.rest,
		grpc.WithInitialWindowSize(streamWindow), grpc.WithInitialConnWindowSize(connectionWindow))
	if err != nil {
		return nil, err
	}
	s.gateway, err = gateway.New(gateway.Config{Conn: local, AllowedHosts: o.allowedHosts})
	if err != nil {
		return nil, errors.Join(err, local.Close())
	}
	s.http = s.httpServer(s.gateway)
	s.ops = s.httpServer(opsHandler(counts.Handler(), &s.ready))
	return s, nil
}

func (s *server) httpServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: handshakeTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
}

// run serves until a signal comes or a listener fails, and then ends everything. Each goroutine it starts has ended
// when it returns.
func (s *server) run(ctx context.Context, signals <-chan os.Signal) error {
	// When one listener fails, the context of the group ends, and with it the others.
	group, ctx := errgroup.WithContext(ctx)
	if s.listeners.grpc != nil {
		group.Go(func() error { return ignoreClosed(s.grpc.Serve(&s.accepted)) })
	}
	if s.listeners.http != nil {
		group.Go(func() error { return ignoreClosed(s.http.Serve(s.listeners.http)) })
	}
	if s.listeners.ops != nil {
		group.Go(func() error { return ignoreClosed(s.ops.Serve(s.listeners.ops)) })
	}
	group.Go(func() error {
		select {
		case <-signals:
		case <-ctx.Done():
		}
		return s.end(signals)
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

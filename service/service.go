// Package service says what each RPC of probe.v1 means, in terms of the engines below it: names, resolve, exchange and
// dial. It is thin on purpose: a handler reads the request, asks an engine, and writes the answer. What can be known
// without gRPC belongs into an engine; what a failure looks like to a caller belongs into errors.go, and what happens
// around every call into chain.go.
//
// A program makes one [Service] from the engines, gives a gRPC server the [Chain], and registers the service with it.
// [Local] connects to a service within the same process, with the same chain.
package service

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	probev1 "probed/gen/probe/v1"
	"probed/service/dial"
	"probed/service/exchange"
	"probed/service/guard"
	"probed/service/names"
	"probed/service/policy"
	"probed/service/resolve"
)

// Config is what a Service is made of. With its zero value a Service answers from its tables, and denies all else.
type Config struct {
	// Policy returns what holds now about who may look up and reach what. It is asked about every name and every
	// connection of a caller; nil denies all.
	Policy func() *policy.Policy
	// Limiter bounds what each caller may have at once; nil: nothing is bounded.
	Limiter *guard.Limiter
	// Audit is told of every call that opens connections, and one that it cannot write down is refused; nil: no such
	// log is kept.
	Audit *guard.Audit
	// Names and Resolve say where the engines find their facts; the services of Resolve are those of Names.
	Names   names.Config
	Resolve resolve.Config
	// Exchange bounds what an exchange may take, and ConnectTimeout is what each address gets in it; the zero values are
	// those of package exchange.
	Exchange       exchange.Limits
	ConnectTimeout time.Duration
	// Vantage is where answers are given from.
	Vantage Vantage
	// HostRoots is called before a peer may be held to the authorities that this host trusts, for a program that has to make
	// these ready; nil: nothing has to be done.
	HostRoots func()
	// Hooks and ExchangeHooks observe, for metrics; ExchangeHooks may be nil.
	Hooks         Hooks
	ExchangeHooks *exchange.Hooks
}

// Vantage is the place a Service runs in, as the operator or the downward API tells it. All may be empty.
type Vantage struct {
	Hostname, Pod, Namespace, Node, Version string
}

// String is the vantage for a person: "web-7d9f in shop on node-2", or the host's name.
func (v Vantage) String() string {
	s := v.Hostname
	if v.Pod != "" {
		s = v.Pod
	}
	if v.Namespace != "" {
		s += " in " + v.Namespace
	}
	if v.Node != "" {
		s += " on " + v.Node
	}
	return s
}

// Hooks are called as the service works, for metrics. Each may be nil.
type Hooks struct {
	// Lookup is called after each lookup with the context of its call, its kind, as "service" or "host", and its reason: the
	// name of the error reason or "OK", from a closed set.
	Lookup func(ctx context.Context, kind, reason string, duration time.Duration)
	// Decided is called with each decision of the policy.
	Decided func(policy.Decision)
	// Limited is called when a call or a dial is refused because a limit is reached, with the limit's name, from a
	// closed set.
	Limited func(limit string)
}

// Service implements the services of probe.v1. It may be used by many goroutines at once.
type Service struct {
	names     *names.Tables
	resolver  *resolve.Resolver
	dialer    *dial.Dialer
	exchanges *exchange.Exchanger
	policy    func() *policy.Policy
	limiter   *guard.Limiter
	audit     *guard.Audit
	open      openSessions
	hooks     Hooks
	where     Vantage
	vantage   *probev1.Vantage // the same as a message, shared by all outcomes and never changed
	draining  atomic.Bool

	readerPatience time.Duration
	roots          func() // makes those ready whom this host trusts; may be nil
}

// New returns a Service. It opens nothing.
func New(config Config) *Service {
	tables := names.Open(config.Names)
	config.Resolve.ServicePort, config.Resolve.ServiceName = servicePorts(tables)
	resolver := resolve.New(config.Resolve)
	if config.Policy == nil {
		config.Policy = func() *policy.Policy { return nil }
	}
	s := &Service{
		names:    tables,
		resolver: resolver,
		policy:   config.Policy,
		limiter:  config.Limiter,
		audit:    config.Audit,
		hooks:    config.Hooks,
		where:    config.Vantage,
		vantage:  vantageMessage(config.Vantage),
		roots:    config.HostRoots,

		readerPatience: readerPatience,
	}
	s.dialer = &dial.Dialer{Policy: s.mayDial}
	s.exchanges = exchange.New(exchange.Config{
		Dial: s.dialer.Dial, Resolve: resolver.Addresses, Hooks: config.ExchangeHooks,
		Limits: config.Exchange, ConnectTimeout: config.ConnectTimeout,
	})
	return s
}

// Register makes a server answer with this service.
func (s *Service) Register(registrar grpc.ServiceRegistrar) {
	probev1.RegisterNameServiceServer(registrar, &nameServer{Service: s})
	probev1.RegisterResolverServiceServer(registrar, &resolverServer{Service: s})
	probev1.RegisterExchangeServiceServer(registrar, &exchangeServer{Service: s})
	probev1.RegisterPolicyServiceServer(registrar, &policyServer{Service: s})
}

// Drain ends every exchange under way, and those that begin later, with the reason DRAINED. Their callers get their
// last event; lookups are not touched.
func (s *Service) Drain() {
	s.draining.Store(true)
	for _, x := range s.open.list() {
		if x.drains.Load() {
			x.revoke(exchange.ErrDrained)
		}
	}
}

// lookup tells the hook how a lookup went, and passes err on as a status.
func (s *Service) lookup(ctx context.Context, kind string, begin time.Time, err error) error {
	if err != nil {
		err = statusOf(err)
	}
	if hook := s.hooks.Lookup; hook != nil {
		hook(ctx, kind, reasonOf(err), time.Since(begin))
	}
	return err
}

// servicePorts returns the service lookups of t in the form package resolve takes: what programs on this host get, the
// embedded registry left out.
func servicePorts(t *names.Tables) (port func(name, protocol string) (uint16, bool), name func(port uint16, protocol string) (string, bool)) {
	port = func(name, protocol string) (uint16, bool) {
		s, ok := t.GetServByName(name, protocol)
		return s.Port, ok
	}
	name = func(port uint16, protocol string) (string, bool) {
		s, ok := t.GetServByPort(port, protocol)
		return s.Name, ok
	}
	return port, name
}

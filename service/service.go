// Package service says what each RPC of probe.v1 means, in terms of the engines below it: names, resolve, exchange and
// dial. It is thin on purpose: a handler reads the request, asks an engine, and writes the answer. What can be known
// without gRPC belongs into an engine; what a failure looks like to a caller belongs into errors.go, and what happens
// around every call into chain.go.
//
// A program makes one [Service] from the engines, gives a gRPC server the options of [Chain], and registers the service
// with it. [Local] connects to such a server within the same process.
package service

import (
	"context"
	"time"

	"google.golang.org/grpc"

	probev1 "probed/gen/probe/v1"
	"probed/service/dial"
	"probed/service/exchange"
	"probed/service/names"
	"probed/service/policy"
	"probed/service/resolve"
)

// Config is what a Service is made of. The zero value answers lookups as this machine would, and may dial nothing.
type Config struct {
	// Policy is asked about every connection that a caller causes; nil denies all. See [DialPolicy].
	Policy dial.Policy
	// Names and Resolve say where the engines find their facts; the services of Resolve are those of Names.
	Names   names.Config
	Resolve resolve.Config
	// Vantage is where answers are given from.
	Vantage Vantage
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
	// Lookup is called after each lookup with its kind, as "service" or "host", and its reason: the name of the
	// error reason or "OK", from a closed set.
	Lookup func(kind, reason string, duration time.Duration)
}

// Service implements the services of probe.v1. It may be used by many goroutines at once.
type Service struct {
	names     *names.Tables
	resolver  *resolve.Resolver
	dialer    *dial.Dialer
	exchanges *exchange.Exchanger
	hooks     Hooks
	where     Vantage
	vantage   *probev1.Vantage // the same as a message, shared by all outcomes and never changed
	drained   context.Context
	drain     context.CancelCauseFunc
}

// New returns a Service. It opens nothing.
func New(config Config) *Service {
	tables := names.Open(config.Names)
	config.Resolve.ServicePort, config.Resolve.ServiceName = servicePorts(tables)
	resolver := resolve.New(config.Resolve)
	dialer := &dial.Dialer{Policy: config.Policy}
	s := &Service{
		names:    tables,
		resolver: resolver,
		dialer:   dialer,
		exchanges: exchange.New(exchange.Config{
			Dial: dialer.Dial, Resolve: resolver.Addresses, Hooks: config.ExchangeHooks,
		}),
		hooks:   config.Hooks,
		where:   config.Vantage,
		vantage: vantageMessage(config.Vantage),
	}
	s.drained, s.drain = context.WithCancelCause(context.Background())
	return s
}

// Register makes a server answer with this service.
func (s *Service) Register(registrar grpc.ServiceRegistrar) {
	probev1.RegisterNameServiceServer(registrar, &nameServer{Service: s})
	probev1.RegisterResolverServiceServer(registrar, &resolverServer{Service: s})
	probev1.RegisterExchangeServiceServer(registrar, &exchangeServer{Service: s})
}

// Drain ends every exchange under way, and those that begin later, with the reason DRAINED. Their callers get their
// last event; lookups are not touched.
func (s *Service) Drain() { s.drain(exchange.ErrDrained) }

// lookup tells the hook how a lookup went, and passes err on as a status.
func (s *Service) lookup(kind string, begin time.Time, err error) error {
	if err != nil {
		err = statusOf(err)
	}
	if hook := s.hooks.Lookup; hook != nil {
		hook(kind, reasonOf(err), time.Since(begin))
	}
	return err
}

// DialPolicy returns p as package dial asks it. decided, if not nil, is told each decision.
func DialPolicy(p *policy.Policy, decided func(policy.Decision)) dial.Policy {
	return func(_ context.Context, destination dial.Destination) error {
		decision := p.Decide(policy.Target(destination))
		if decided != nil {
			decided(decision)
		}
		return decision.Err()
	}
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

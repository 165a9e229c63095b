// Package exchange opens a connection, carries out steps on it, and tells how it ended: in which phase, for which
// reason, after how many bytes.
//
// An [Exchanger] runs one [Request] at a time per call of [Exchanger.Run], any number of calls at once. What happens is
// handed to the caller as it happens, one [Event] after the other, and the last event is always the [Outcome]. A target
// that cannot be reached is no error here: it is an outcome. What is wrong with the request itself is found beforehand,
// by [ParseTarget] and [Request.Validate].
//
// Events are handed over synchronously. Nothing is read from the peer while the caller has not taken the event before,
// so a caller who is slow slows down the peer, and nothing piles up in between. The one exception is a send that is stuck:
// meanwhile what the peer says is read, up to a bound, since a peer that waits to be read may not read either.
//
// Every socket is opened by package dial, under its policy. Until the policy has admitted an address, no event is
// handed out; when it admits none, none ever is, and the outcome says POLICY_DENIED, or LIMIT_REACHED with the limit that
// the policy named.
package exchange

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"probed/service/dial"
	"probed/service/resolve"
)

// Defaults of an exchange.
const (
	DefaultTimeout        = 60 * time.Second
	DefaultConnectTimeout = 10 * time.Second
	// DefaultIdle ends a conversation in which nothing passes.
	DefaultIdle = 5 * time.Minute
	// DefaultAttemptDelay is the Connection Attempt Delay that RFC 8305 recommends.
	DefaultAttemptDelay = 250 * time.Millisecond
)

// ErrDrained is the cause to cancel a context with when the process is about to end: an exchange that is cut off by it
// ends with [Drained] rather than [Cancelled].
var ErrDrained = errors.New("the service is shutting down")

// Config is what an Exchanger works with.
type Config struct {
	// Dial opens a socket. Required; [dial.Dialer.Dial], which asks the policy.
	Dial func(ctx context.Context, request dial.Request) (net.Conn, error)
	// Resolve turns a host into addresses, the one to try first leading; its error is a [resolve.Error]. Required;
	// [resolve.Resolver.Addresses].
	Resolve func(ctx context.Context, host string, family resolve.Family) (*resolve.HostResult, error)
	// Hooks observes; nil: nobody does.
	Hooks *Hooks
	// ConnectTimeout is what one address gets; zero: DefaultConnectTimeout.
	ConnectTimeout time.Duration
	// HandshakeTimeout is what a TLS handshake gets; zero: DefaultHandshakeTimeout.
	HandshakeTimeout time.Duration
	// AttemptDelay is how long the attempt on one address may take before the next one begins beside it; zero:
	// DefaultAttemptDelay.
	AttemptDelay time.Duration
	// Limits are what one exchange may take; the zero value bounds nothing.
	Limits Limits
}

// Hooks are called as an exchange proceeds, for metrics and traces. Each may be nil. They are called from several goroutines.
type Hooks struct {
	// SessionStart is called when an exchange begins, with the scheme of its target.
	SessionStart func(scheme string)
	// SessionEnd is called when it has ended; the outcome must not be changed.
	SessionEnd func(scheme string, outcome *Outcome)
	// Dialled is called when an attempt on an address has ended, with the context that Begin returned for it; of one that
	// succeeded the reason is None.
	Dialled func(ctx context.Context, scheme string, reason Reason, duration time.Duration)
	// Sent and Received are called with numbers of bytes as these pass.
	Sent, Received func(scheme string, bytes int)
	// Begin is called when a part of an exchange begins. The context that it returns takes the place of the one it was given,
	// for that part; end is called when the part has ended, unless a panic has ended it, and may be nil.
	Begin func(ctx context.Context, part Part) (_ context.Context, end func(PartEnd))
}

// Exchanger runs exchanges.
type Exchanger struct {
	config  Config
	buffers buffers
	router  router
}

// New returns an Exchanger. It opens nothing and starts no goroutine.
func New(config Config) *Exchanger {
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = DefaultConnectTimeout
	}
	if config.HandshakeTimeout == 0 {
		config.HandshakeTimeout = DefaultHandshakeTimeout
	}
	if config.AttemptDelay == 0 {
		config.AttemptDelay = DefaultAttemptDelay
	}
	if config.Hooks == nil {
		config.Hooks = &Hooks{}
	}
	return &Exchanger{config: config}
}

// Run carries out a request that is valid (see [Request.Validate]) and returns its outcome. It hands each event to emit
// as it happens, the outcome last, and nothing after that; emit may be nil. The data of a [Chunk] is valid until emit
// returns. When emit fails, the exchange ends as if ctx had been cancelled, and only the outcome is still handed to it.
//
// Run returns within a moment of the request's timeout or the end of ctx, provided that emit does; all its sockets are
// closed and all its goroutines have ended by then. Its sockets are closed soon after the timeout also when emit takes longer.
func (x *Exchanger) Run(ctx context.Context, request Request, emit func(Event) error) *Outcome {
	return x.session(ctx, request, request.sends(), emit, (*session).script)
}

// session opens the connection that a request asks for, lets talk use it, and tells how it ended. sends says whether talk
// may hand bytes of the caller's to the peer.
func (x *Exchanger) session(ctx context.Context, request Request, sends bool, emit func(Event) error, talk func(*session) *failure) *Outcome {
	hooks := x.config.Hooks
	scheme := request.Target.Scheme
	if hooks.SessionStart != nil {
		hooks.SessionStart(scheme)
	}
	x.router.begin()
	defer x.router.end()
	request.Timeout = x.config.Limits.timeout(request.Timeout)
	request.BufferSize = min(request.BufferSize, MaxBufferSize)
	callerCtx, leave := ctx, context.CancelCauseFunc(nil)
	if emit != nil { // and may fail
		callerCtx, leave = context.WithCancelCause(ctx)
		defer leave(nil)
	}
	ctx, cancel := context.WithTimeout(callerCtx, request.Timeout)
	defer cancel()

	s := &session{
		Exchanger: x,
		request:   &request,
		sends:     sends,
		callerCtx: callerCtx,
		ctx:       ctx,
		leave:     leave,
		sink:      emit,
		start:     time.Now(),
		outcome:   Outcome{FailedStep: NoStep},
	}
	crashed := true
	defer func() {
		if crashed {
			s.outcome.fail(&failure{phase: s.outcome.Phase, reason: Internal, text: "a failure of the service itself"}, request.Target)
		}
		if hooks.SessionEnd != nil {
			hooks.SessionEnd(scheme, &s.outcome)
		}
	}()
	if fault := s.run(talk); fault != nil {
		s.unheard(fault)
		s.outcome.fail(fault, request.Target)
	}
	crashed = false
	s.outcome.Timings.Total = time.Since(s.start)
	// What is held by now stays so: the policy has admitted nothing.
	if !s.outcome.Denied && s.outcome.Limit == nil && emit != nil && !s.wronged {
		// Whether anybody still listens makes no difference to what happened.
		_ = emit(&s.outcome)
	}
	return &s.outcome
}

// session is one exchange under way. It belongs to one goroutine.
type session struct {
	*Exchanger
	request   *Request
	sends     bool                    // for the policy: bytes of the caller's
	host      string                  // for the policy: the name that was asked for; empty when it was an address
	callerCtx context.Context         // ends when the caller wants no more of it
	ctx       context.Context         // ends also with the request's timeout
	leave     context.CancelCauseFunc // ends it; nil without a sink
	sink      func(Event) error       // nil: nobody listens
	start     time.Time
	outcome   Outcome

	released bool        // the policy has admitted an address
	held     []Event     // what happened before that
	gone     bool        // the sink has failed
	handing  atomic.Bool // an event to the sink
	wronged  bool        // the caller broke the rules, and gets an error in place of an outcome

	conn         *conn
	groups       groups        // for the sends that follow
	matchedBytes int           // in the outcome
	last         []byte        // the last of what came in this step
	words        firstWords    // of both, in plain text
	pending      []piece       // read from the peer, and taken by no step yet; each in memory of its own
	eof          bool          // the peer has closed its side; true only behind all that is pending
	readErr      error         // so did a read end, behind all that is pending; nil: none has
	eofSaid      bool          // the PeerClosed event is out
	offset       uint64        // bytes in chunks so far
	opened       time.Duration // when the connection was open, counted from start
}

func (s *session) run(talk func(*session) *failure) *failure {
	addresses, fault := s.resolve()
	if fault != nil {
		return fault
	}
	if s.request.AllAddresses {
		return s.checkAll(addresses)
	}
	netConn, fault := s.connect(addresses)
	if fault != nil {
		return fault
	}
	s.conn = newConn(netConn, s.request.Target, &s.buffers)
	s.conn.sending = allowance{most: s.config.Limits.BytesSent, what: sends}
	s.conn.receiving = allowance{most: s.config.Limits.BytesReceived, what: receives}
	defer s.close()
	if fault := s.open(); fault != nil {
		return fault
	}
	return talk(s)
}

// open is what comes between the connection and the first step.
func (s *session) open() *failure {
	if s.sink != nil || s.request.Target.Scheme == "tls" { // else nothing waits
		defer wokenBy(s.ctx, s.conn.Conn, s.letGo)()
	}
	s.opened = s.elapsed()
	local, remote := s.conn.addresses()
	s.outcome.Local, s.outcome.Remote = local, remote
	s.outcome.Socket = s.conn.socket
	if s.sink != nil && s.emit(Connected{Local: local, Remote: remote, Socket: s.conn.socket}) != nil {
		return s.cancelled(PhaseConnect)
	}
	if s.request.Target.Scheme == "tls" {
		fault := s.startTLS("")
		s.opened = s.elapsed()
		return fault
	}
	return nil
}

// script carries out the steps of the request.
func (s *session) script() *failure {
	if len(s.request.Steps) > 0 {
		defer wokenBy(s.ctx, s.conn.Conn, s.letGo)()
	}
	s.outcome.EndedBy = EndedByLastStep
	for i, step := range s.request.Steps {
		s.outcome.EndedBy = EndedByLastStep
		s.last = s.last[:0]
		end := s.beginStep(i, step)
		fault := s.misunderstood(s.step(i, step))
		end(fault)
		if fault != nil {
			s.outcome.FailedStep = i
			s.outcome.StepReceived = s.last
			return fault
		}
	}
	s.outcome.OK, s.outcome.Phase = true, PhaseClose
	return nil
}

func (s *session) step(i int, step Step) *failure {
	switch step := step.(type) {
	case Send:
		data := step.Data
		if step.Expand {
			expanded, fits := s.groups.expand(data)
			if !fits {
				return &failure{phase: PhaseSend, reason: LimitReached, text: fmt.Sprintf(
					"with its groups filled in, the text to send has more than %d bytes", mostExpanded)}
			}
			data = expanded
		}
		return s.send(i, data)
	case Expect:
		return s.expect(i, step)
	case StartTLS:
		return s.startTLS(step.ServerName)
	case HalfClose:
		return s.halfClose()
	case Receive:
		return s.receive(step)
	}
	return nil
}

// resolve returns the addresses to try; none for a unix socket, whose path the dial resolves.
func (s *session) resolve() ([]netip.AddrPort, *failure) {
	target := s.request.Target
	if target.IsUnix() {
		return nil, nil
	}
	begin := time.Now()
	family := target.family()
	if s.request.Family != resolve.AF_UNSPEC {
		family = s.request.Family
	}
	ctx, end := s.ctx, unheeded
	if s.config.Hooks.Begin != nil && !resolve.IsLiteral(target.Host) { // reading an address is no lookup
		ctx, end = s.begin(s.ctx, Part{Name: "resolve", Phase: PhaseResolve, Target: target, Step: NoStep})
	}
	result, err := s.config.Resolve(ctx, target.Host, family)
	duration := time.Since(begin)
	if err != nil {
		s.outcome.Timings.Resolve = duration
		fault := s.resolveFailure(err)
		end(PartEnd{Reason: fault.why()})
		return nil, fault
	}
	end(PartEnd{})
	canonical := result.CanonicalName
	if result.Source == "literal" { // an address has no name, and reading it is no lookup
		canonical, duration = "", 0
	} else {
		s.host = resolve.ASCII(target.Host)
	}
	s.outcome.Timings.Resolve = duration
	hosts := interleave(preferring(s.request.PreferredFamily, result.Addresses))
	if s.request.FirstAddressOnly {
		hosts = hosts[:min(len(hosts), 1)]
	}
	addresses := make([]netip.AddrPort, len(hosts))
	for i, host := range hosts {
		addresses[i] = netip.AddrPortFrom(host, target.Port)
	}
	if s.sink != nil && s.emit(Resolved{
		Host: target.Host, CanonicalName: canonical, Addresses: hosts, Source: result.Source, Duration: duration,
	}) != nil {
		return nil, s.cancelled(PhaseResolve)
	}
	return addresses, nil
}

// preferring puts the addresses of a family before the others, and changes their order in nothing else.
func preferring(family resolve.Family, addresses []netip.Addr) []netip.Addr {
	if family == resolve.AF_UNSPEC {
		return addresses
	}
	preferred := slices.Clone(addresses)
	rank := func(address netip.Addr) int {
		if address.Is4() == (family == resolve.AF_INET) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(preferred, func(a, b netip.Addr) int { return rank(a) - rank(b) })
	return preferred
}

// interleave keeps the order within each family and takes turns between the two, the family of the first address first,
// so that one family that is broken does not hold up the other (RFC 8305, section 4).
func interleave(addresses []netip.Addr) []netip.Addr {
	if len(addresses) < 2 {
		return addresses
	}
	var first, second []netip.Addr
	for _, address := range addresses {
		if address.Is4() == addresses[0].Is4() {
			first = append(first, address)
		} else {
			second = append(second, address)
		}
	}
	mixed := make([]netip.Addr, 0, len(addresses))
	for len(first) > 0 && len(second) > 0 {
		mixed = append(mixed, first[0], second[0])
		first, second = first[1:], second[1:]
	}
	return append(append(mixed, first...), second...)
}

func (s *session) halfClose() *failure {
	if err := s.conn.CloseWrite(); err != nil {
		return s.ioFailure(PhaseSend, s.lastWords(err))
	}
	s.conn.halfClosed.Store(true)
	return nil
}

// close reads off the socket what only an open one tells, and closes it.
func (s *session) close() {
	facts := s.conn.facts()
	s.outcome.TCPInfo, s.outcome.SocketOptions = facts.tcpInfo, facts.options
	if remote := remoteAddress(s.conn); remote.Addr().IsValid() {
		s.outcome.Route = s.route(remote)
	}
	if facts.acknowledges {
		acknowledged := s.outcome.BytesSent - min(facts.unacknowledged, s.outcome.BytesSent)
		s.outcome.BytesAcknowledged = &acknowledged
	}
	for _, piece := range s.pending {
		s.outcome.BytesUnread += uint64(len(piece.data))
	}
	_ = s.conn.Close()
}

// unheard is for who has waited in vain: whether what was sent has arrived decides who is to blame, and by the reason alone
// it would be the server.
func (s *session) unheard(f *failure) {
	tcp := s.outcome.TCPInfo
	if (f.reason == ReceiveTimeout || f.reason == SendTimeout) && tcp != nil && tcp.Retransmits > 0 && tcp.Unacknowledged > 0 && f.hint == "" {
		f.layer, f.hint = LayerTransport, hintUnheard
	}
}

// route is the way to an address that the exchange takes; nil when it is not to be known.
func (s *session) route(to netip.AddrPort) *Route {
	buffer := s.buffers.lend(minChunk)
	defer buffer.Release()
	return s.router.to(to, s.request.Source, s.request.Interface, buffer.data)
}

// emit hands an event to the caller, or keeps it back until the policy has admitted an address. Its error is
// errCallerGone, from the first time that the caller did not take one.
func (s *session) emit(event Event) error {
	switch {
	case s.sink == nil:
		return nil
	case s.gone:
		return errCallerGone
	case !s.released:
		s.held = append(s.held, event)
		return nil
	}
	s.handing.Store(true)
	err := s.sink(event)
	s.handing.Store(false)
	if err != nil {
		s.gone = true
		s.leave(err)
		return errCallerGone
	}
	return nil
}

// release hands out what was kept back. That the caller has gone ends the context.
func (s *session) release() {
	if s.released {
		return
	}
	s.released = true
	for _, event := range s.held {
		_ = s.emit(event)
	}
	s.held = nil
}

func (s *session) elapsed() time.Duration { return time.Since(s.start) }

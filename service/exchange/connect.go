package exchange

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"time"

	"probed/service/dial"
)

const (
	// mostAtOnce bounds the attempts that are under way when every address is checked.
	mostAtOnce = 32
	forever    = math.MaxInt64 * time.Nanosecond
)

// errOutrun is the cause for which an attempt is given up when another one has won.
var errOutrun = errors.New("another address connected first")

// connect tries the addresses, each a while after the one before and at once when that one failed, until one is
// connected (RFC 8305, section 5). Without addresses the target is a unix socket.
func (s *session) connect(addresses []netip.AddrPort) (net.Conn, *failure) {
	begin := time.Now()
	requests := s.dials(addresses)
	r := newRace(s, requests)
	conn := r.run()
	s.outcome.Timings.Connect = time.Since(begin)
	if conn != nil {
		return conn, nil
	}
	return nil, s.connectFailure()
}

// checkAll tries every address to the end, and keeps no connection.
func (s *session) checkAll(addresses []netip.AddrPort) *failure {
	begin := time.Now()
	requests := s.dials(addresses)
	r := newRace(s, requests)
	r.all = true
	r.run()
	s.outcome.Timings.Connect = time.Since(begin)
	failed := 0
	for _, attempt := range s.outcome.Attempts {
		if !attempt.OK {
			failed++
		}
	}
	if n := len(requests); failed > 0 || n == 0 || len(s.outcome.Attempts) < n {
		fault := s.connectFailure()
		if fault.phase >= PhaseConnect && failed < n {
			fault.text += fmt.Sprintf("; %d of them failed", failed)
		}
		return fault
	}
	s.outcome.OK, s.outcome.Phase, s.outcome.EndedBy = true, PhaseClose, EndedByLastStep
	return nil
}

// dials are what to ask package dial for.
func (s *session) dials(addresses []netip.AddrPort) []dial.Request {
	target := s.request.Target
	skipVerify := s.request.TLS != nil && s.request.TLS.SkipVerify
	if target.IsUnix() {
		return []dial.Request{{Network: target.network(), Path: target.Path, Send: s.sends, SkipVerify: skipVerify}}
	}
	requests := make([]dial.Request, len(addresses))
	for i, address := range addresses {
		requests[i] = dial.Request{
			Network: target.network(), Address: address, Host: s.host,
			Source: s.request.Source, Interface: s.request.Interface, Send: s.sends, SkipVerify: skipVerify,
		}
	}
	return requests
}

// race is the attempts of one exchange.
type race struct {
	*session
	requests []dial.Request
	admitted chan struct{} // one for each attempt that passed the policy; never blocks
	results  chan result   // one for each attempt; never blocks
	running  int
	all      bool // there is no winner: each attempt is an answer
	winner   net.Conn
	crashed  crash
}

func newRace(s *session, requests []dial.Request) *race {
	s.outcome.Attempts = make([]Attempt, 0, len(requests))
	return &race{session: s, requests: requests}
}

type result struct {
	index    int
	attempt  Attempt
	admitted bool // the policy has been asked, and has admitted the address
	conn     net.Conn
	crash    crash
}

// run returns the connection that won, or nil. No attempt is under way any more when it returns.
func (r *race) run() net.Conn {
	if len(r.requests) == 1 && r.sink == nil {
		// There is nobody to race, and nobody to tell anything meanwhile.
		r.running++
		index := r.next()
		r.take(r.try(r.ctx, index, r.outcome.Attempts[index], func() {}))
	} else {
		r.runAll()
	}
	if r.crashed.value != nil && r.winner != nil {
		_ = r.winner.Close()
	}
	r.crashed.again()
	return r.winner
}

func (r *race) runAll() {
	r.admitted, r.results = make(chan struct{}, len(r.requests)), make(chan result, len(r.requests))
	ctx, cancel := context.WithCancelCause(r.ctx)
	defer cancel(nil)
	next := func() {
		if len(r.outcome.Attempts) < len(r.requests) && ctx.Err() == nil {
			r.start(ctx)
		}
	}
	atOnce, delay := 1, r.config.AttemptDelay
	if r.all {
		atOnce, delay = mostAtOnce, forever
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for range atOnce {
		next()
	}
	for r.running > 0 {
		select {
		case <-r.admitted:
			r.release()
		case <-timer.C:
			next()
			timer.Reset(delay)
		case result := <-r.results:
			if result.conn != nil || result.crash.value != nil {
				cancel(errOutrun)
			}
			r.take(result)
			if result.conn == nil {
				next()
				timer.Reset(delay)
			}
		}
	}
}

// take notes what came of an attempt.
func (r *race) take(result result) {
	r.running--
	if result.crash.value != nil && r.crashed.value == nil {
		r.crashed = result.crash
	}
	r.outcome.Attempts[result.index] = result.attempt
	switch {
	case result.conn != nil && r.winner == nil:
		r.winner = result.conn
	case result.conn != nil: // it connected while the winner was being told
		_ = result.conn.Close()
	}
	if result.admitted { // which may be known before r.admitted has told
		r.release()
	}
	if r.sink != nil {
		// That the caller has gone ends the context, and with it the attempts.
		_ = r.emit(result.attempt)
	}
}

// next puts the next attempt on the list, and returns its index.
func (r *race) next() int {
	index := len(r.outcome.Attempts)
	request := r.requests[index]
	attempt := Attempt{Address: nameOf(request), Phase: PhaseConnect, Start: r.elapsed(), address: request.Address}
	r.outcome.Attempts = append(r.outcome.Attempts, attempt)
	return index
}

// nameOf is what a request leads to, in words.
func nameOf(r dial.Request) string {
	return dial.Destination{Network: r.Network, Address: r.Address, Path: r.Path}.String()
}

// start begins the next attempt. Its goroutine ends with its result, which run waits for.
func (r *race) start(ctx context.Context) {
	index := r.next()
	attempt := r.outcome.Attempts[index]
	r.running++
	go func() {
		r.results <- r.try(ctx, index, attempt, func() { r.admitted <- struct{}{} })
	}()
}

// try carries an attempt out. admit is called when the policy has admitted its address.
func (r *race) try(ctx context.Context, index int, attempt Attempt, admit func()) (out result) {
	out.index, out.attempt = index, attempt
	defer func() {
		if out.crash.value != nil && out.conn != nil {
			_ = out.conn.Close()
			out.conn = nil
		}
	}()
	defer out.crash.catch()
	request := r.requests[index]
	request.Admitted = func() {
		out.admitted = true
		admit()
	}
	begin := time.Now()
	var err error
	dialCtx, end := r.begin(ctx, Part{Name: "connect", Phase: PhaseConnect, Target: r.request.Target, Address: request.Address, Step: NoStep})
	out.conn, err = r.dial(dialCtx, request, &out.attempt)
	out.attempt.Duration = time.Since(begin)
	end(PartEnd{Reason: out.attempt.Reason, Local: out.attempt.Local})
	if err == nil && r.all {
		r.check(ctx, out.conn, &out.attempt, request.Address)
		out.conn = nil
	}
	if hook := r.config.Hooks.Dialled; hook != nil {
		hook(dialCtx, r.request.Target.Scheme, out.attempt.Reason, out.attempt.Duration)
	}
	return out
}

// dial opens the connection of an attempt.
func (r *race) dial(ctx context.Context, request dial.Request, attempt *Attempt) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, r.config.ConnectTimeout)
	defer cancel()
	conn, err := r.config.Dial(ctx, request)
	if err == nil && r.isPing() {
		if err = r.ping(ctx, conn); err != nil {
			_ = conn.Close()
		}
	}
	if err != nil {
		attempt.fail(r.attemptFailure(ctx, err))
		return nil, err
	}
	attempt.OK, attempt.Local = true, localName(conn)
	return conn, nil
}

// check is what an attempt has to go through besides the connection, which it closes.
func (r *race) check(ctx context.Context, conn net.Conn, attempt *Attempt, address netip.AddrPort) {
	defer conn.Close()
	if r.request.Target.Scheme != "tls" {
		return
	}
	attempt.Phase = PhaseTLS
	ctx, end := r.begin(ctx, Part{Name: "tls", Phase: PhaseTLS, Target: r.request.Target, Address: address, Step: NoStep})
	defer func() { end(PartEnd{Reason: attempt.Reason, TLS: attempt.TLS}) }()
	h := newHandshake(conn, r.request.TLS, "", r.request.Target)
	err := h.run(ctx, r.config.HandshakeTimeout)
	attempt.TLS, attempt.TLSDuration = &h.info, h.took
	switch {
	case err != nil && r.over():
		attempt.fail(h.interrupted(r.interrupted(PhaseTLS)))
	case err != nil:
		attempt.fail(h.failure(err))
	default:
		_ = h.conn.Close()
	}
}

// fail notes why an attempt failed.
func (a *Attempt) fail(f *failure) {
	a.OK, a.Reason, a.Errno, a.Error, a.ICMP = false, f.reason, f.errno, f.text, f.icmp
	a.layer, a.hint, a.limit = f.layer, f.hint, f.limit
	if f.limit != nil {
		a.Phase = PhasePolicy
	}
}

// rank orders the reasons of attempts by how much they tell: an answer of the host itself tells the most.
var rank = []Reason{
	TLSExpired, TLSUntrusted, TLSWrongName, TLSNotSpoken, TLSHandshake,
	ConnectionRefused, ConnectionReset, WrongSocketType, SocketNotFound, DeniedLocally, HostUnreachable, ConnectTimeout,
	NetworkUnreachable, AddressUnavailable, LimitReached, Drained, Cancelled, Internal, PolicyDenied,
}

// connectFailure is the failure of all attempts: that of the one that tells the most.
func (s *session) connectFailure() *failure {
	attempts := s.outcome.Attempts
	switch {
	case len(attempts) == 0 && s.ctx.Err() == nil:
		return &failure{phase: PhaseResolve, reason: NameHasNoAddress, text: "the name has no address"}
	case !s.released:
		return s.notAdmitted()
	}
	if f := s.interrupted(PhaseConnect); f != nil && f.reason != ConnectTimeout {
		return f
	}
	best := attempts[0]
	for _, reason := range rank {
		if i := indexOf(attempts, reason); i >= 0 {
			best = attempts[i]
			break
		}
	}
	f := &failure{
		phase: best.Phase, reason: best.Reason, errno: best.Errno,
		text:     fmt.Sprintf("%s: %s", best.Address, best.Error),
		hint:     best.hint,
		layer:    best.layer,
		icmp:     best.ICMP,
		deadline: s.over() && best.Reason == ConnectTimeout,
	}
	if best.address.IsValid() {
		s.outcome.Route = s.route(best.address)
	}
	if best.Reason == PolicyDenied { // admitted at first, and denied when the dial asked again
		f.phase = PhasePolicy
	}
	if len(attempts) > 1 {
		f.text += fmt.Sprintf(" (%d addresses tried)", len(attempts))
	}
	return f
}

// notAdmitted is the failure when the policy has admitted no address. One that it leaves for later, because of a limit,
// decides, since it may be admitted then; next one that it has denied, whatever else went wrong. When it has not been
// asked at all (the time was over, no socket could be had), the caller learns that, and no address: whether this one may
// know them is not decided.
func (s *session) notAdmitted() *failure {
	attempts := s.outcome.Attempts
	if i := slices.IndexFunc(attempts, func(a Attempt) bool { return a.limit != nil }); i >= 0 {
		s.outcome.Limit = attempts[i].limit
		return &failure{phase: PhasePolicy, reason: LimitReached, text: attempts[i].Address + ": " + attempts[i].Error, hint: hintDials}
	}
	if i := indexOf(attempts, PolicyDenied); i >= 0 {
		s.outcome.Denied = true
		return &failure{phase: PhasePolicy, reason: PolicyDenied, text: attempts[i].Address + ": " + attempts[i].Error}
	}
	s.outcome.Attempts = nil
	if f := s.interrupted(PhaseConnect); f != nil {
		return f
	}
	first := attempts[0]
	return &failure{phase: PhaseConnect, reason: first.Reason, errno: first.Errno, text: first.Error}
}

func indexOf(attempts []Attempt, reason Reason) int {
	return slices.IndexFunc(attempts, func(a Attempt) bool { return a.Reason == reason })
}

package exchange

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"probed/service/dial"
)

// errOutrun is the cause for which an attempt is given up when another one has won.
var errOutrun = errors.New("another address connected first")

// connect tries the addresses, each a while after the one before and at once when that one failed, until one is
// connected (RFC 8305, section 5). Without addresses the target is a unix socket.
func (s *session) connect(addresses []netip.AddrPort) (net.Conn, *failure) {
	begin := time.Now()
	target := s.request.Target
	requests := []dial.Request{{Network: target.network(), Path: target.Path}}
	if !target.IsUnix() {
		requests = make([]dial.Request, len(addresses))
		for i, address := range addresses {
			requests[i] = dial.Request{Network: target.network(), Address: address, Host: target.hostName()}
		}
	}
	r := &race{
		session:  s,
		requests: requests,
		admitted: make(chan struct{}, len(requests)),
		results:  make(chan result, len(requests)),
	}
	conn := r.run()
	s.outcome.Timings.Connect = time.Since(begin)
	if conn != nil {
		return conn, nil
	}
	if len(requests) == 0 {
		return nil, &failure{phase: PhaseResolve, reason: NameHasNoAddress, text: "the name has no address"}
	}
	return nil, s.connectFailure()
}

// hostName is the name the caller asked for; empty when it was an address.
func (t Target) hostName() string {
	if _, err := netip.ParseAddr(t.Host); err == nil {
		return ""
	}
	return t.Host
}

// race is the attempts of one exchange.
type race struct {
	*session
	requests []dial.Request
	admitted chan struct{} // one for each attempt that passed the policy; never blocks
	results  chan result   // one for each attempt; never blocks
	running  int
}

type result struct {
	index    int
	attempt  Attempt
	admitted bool // the policy has been asked, and has admitted the address
	conn     net.Conn
}

// run returns the connection that won, or nil. No attempt is under way any more when it returns.
func (r *race) run() net.Conn {
	ctx, cancel := context.WithCancelCause(r.ctx)
	defer cancel(nil)
	r.outcome.Attempts = make([]Attempt, 0, len(r.requests))
	next := func() {
		if len(r.outcome.Attempts) < len(r.requests) && ctx.Err() == nil {
			r.start(ctx)
		}
	}
	timer := time.NewTimer(r.config.AttemptDelay)
	defer timer.Stop()
	var winner net.Conn
	for next(); r.running > 0; {
		select {
		case <-r.admitted:
			r.release()
		case <-timer.C:
			next()
			timer.Reset(r.config.AttemptDelay)
		case result := <-r.results:
			r.running--
			r.outcome.Attempts[result.index] = result.attempt
			switch {
			case result.conn != nil && winner == nil:
				winner = result.conn
				cancel(errOutrun)
			case result.conn != nil: // it connected while the winner was being told
				_ = result.conn.Close()
			}
			if result.admitted { // which may be known before r.admitted has told
				r.release()
			}
			// That the caller has gone ends the context, and with it the attempts.
			_ = r.emit(result.attempt)
			if result.conn == nil {
				next()
				timer.Reset(r.config.AttemptDelay)
			}
		}
	}
	return winner
}

// start begins the next attempt. Its goroutine ends with its result, which run waits for.
func (r *race) start(ctx context.Context) {
	index := len(r.outcome.Attempts)
	request := r.requests[index]
	attempt := Attempt{Address: request.Path, Start: r.elapsed()}
	if request.Address.IsValid() {
		attempt.Address = request.Address.String()
	}
	r.outcome.Attempts = append(r.outcome.Attempts, attempt)
	r.running++
	go func() {
		admitted := false
		request.Admitted = func() {
			admitted = true
			r.admitted <- struct{}{}
		}
		ctx, cancel := context.WithTimeout(ctx, r.config.ConnectTimeout)
		defer cancel()
		begin := time.Now()
		conn, err := r.config.Dial(ctx, request)
		attempt.Duration = time.Since(begin)
		attempt.OK = err == nil
		if err != nil {
			attempt.Reason, attempt.Errno, attempt.Error = r.attemptFailure(ctx, err)
		}
		if hook := r.config.Hooks.Dialled; hook != nil {
			hook(r.request.Target.Scheme, attempt.Reason, attempt.Duration)
		}
		r.results <- result{index: index, attempt: attempt, admitted: admitted, conn: conn}
	}()
}

// rank orders the reasons of attempts by how much they tell: an answer of the host itself tells the most.
var rank = []Reason{
	ConnectionRefused, ConnectionReset, WrongSocketType, SocketNotFound, DeniedLocally, HostUnreachable, ConnectTimeout,
	NetworkUnreachable, AddressUnavailable, LimitReached, Drained, Cancelled, Internal, PolicyDenied,
}

// connectFailure is the failure of all attempts: that of the one that tells the most.
func (s *session) connectFailure() *failure {
	attempts := s.outcome.Attempts
	if !s.released {
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
		phase: PhaseConnect, reason: best.Reason, errno: best.Errno,
		text:     fmt.Sprintf("%s: %s", best.Address, best.Error),
		deadline: s.over() && best.Reason == ConnectTimeout,
	}
	if best.Reason == PolicyDenied { // admitted at first, and denied when the dial asked again
		f.phase = PhasePolicy
	}
	if len(attempts) > 1 {
		f.text += fmt.Sprintf(" (%d addresses tried)", len(attempts))
	}
	return f
}

// notAdmitted is the failure when the policy has admitted no address. One that it has denied decides, whatever else
// went wrong. When it has not been asked at all (the time was over, no socket could be had), the caller learns that,
// and no address: whether this one may know them is not decided.
func (s *session) notAdmitted() *failure {
	attempts := s.outcome.Attempts
	if i := indexOf(attempts, PolicyDenied); i >= 0 {
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

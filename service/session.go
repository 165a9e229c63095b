package service

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	codepb "google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/status"

	"probed/service/dial"
	"probed/service/exchange"
	"probed/service/guard"
	"probed/service/policy"
)

// session is one call that opens connections for its caller: it counts against limits, every dial of it is decided for
// that caller, and there is one record of it in the audit log.
type session struct {
	begin   time.Time
	record  *guard.Session // nil: no audit log is kept
	release func()

	mu    sync.Mutex
	rules map[string]string // which rule decided, by the name, address or path that it was about
	last  string            // the rule that decided last
}

// sessionKey is the key of a session in the context of its call.
type sessionKey struct{}

// session begins one, and tells what is asked for to the audit log before anything is done about it. The error is a
// status: the limits are reached, or nothing can be written down. Whoever called has to end it.
func (s *Service) session(ctx context.Context, rpc, target string) (context.Context, *session, error) {
	caller := guard.CallerFrom(ctx)
	x := &session{begin: time.Now(), release: func() {}}
	if s.limiter != nil {
		release, err := s.limiter.Session(keyOf(caller))
		if limit, ok := errors.AsType[*guard.LimitError](err); ok {
			s.limited(limit.Limit)
			return ctx, nil, statusOf(err)
		}
		x.release = release
	}
	if s.audit != nil {
		record, err := s.audit.Begin(ctx, guard.Record{
			ID: requestID(ctx), Subject: subjectOf(ctx), RPC: rpc, Target: target, Remote: guard.RemoteFrom(ctx),
		})
		if err != nil {
			x.release()
			return ctx, nil, statusOf(err)
		}
		x.record = record
	}
	return context.WithValue(ctx, sessionKey{}, x), x, nil
}

// end closes the record with what came of the session, and gives back its place. It fills in which rule decided.
func (x *session) end(result guard.Result) {
	defer x.release()
	if x.record == nil {
		return
	}
	x.mu.Lock()
	result.Rule = cmp.Or(x.rules[result.Address], x.last)
	x.mu.Unlock()
	result.Duration = time.Since(x.begin)
	x.record.End(result)
}

// exchanged is what the audit log keeps of an exchange. err is the status its caller gets. A call that panicked has
// neither outcome nor error.
func exchanged(outcome *exchange.Outcome, err error) guard.Result {
	code := codeName(err)
	if outcome == nil && err == nil {
		code = codepb.Code_INTERNAL.String()
	}
	if outcome == nil {
		return guard.Result{Code: code}
	}
	reason := ""
	if outcome.Reason != exchange.None {
		reason = outcome.Reason.String()
	}
	return guard.Result{
		OK:            outcome.OK && err == nil,
		Code:          code,
		Reason:        reason,
		Address:       outcome.Remote,
		BytesSent:     int64(outcome.BytesSent),     //nolint:gosec // bytes that have passed are fewer than 1<<63
		BytesReceived: int64(outcome.BytesReceived), //nolint:gosec // likewise
	}
}

// codeName is the name of the code of a status, as the contract spells it: PERMISSION_DENIED.
func codeName(err error) string { return codepb.Code(status.Code(err)).String() } //nolint:gosec // a code is small

// decided notes which rule decided about a name, an address or a path.
func (x *session) decided(what, rule string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.rules == nil {
		x.rules = make(map[string]string)
	}
	x.rules[what], x.last = rule, rule
}

// denial is the last denial of a session that was denied everything.
func (x *session) denial() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return &policy.DeniedError{Rule: x.last}
}

// subjectOf is who the caller is to the policy.
func subjectOf(ctx context.Context) string {
	return cmp.Or(guard.CallerFrom(ctx).Subject, guard.Anonymous)
}

// keyOf is whose limits a call counts against.
func keyOf(caller guard.Caller) string { return cmp.Or(caller.Key, caller.Subject) }

// mayDial decides about one connect, in the name of the session's caller. It is asked by package dial about the very
// address that is being connected.
func (s *Service) mayDial(ctx context.Context, destination dial.Destination) error {
	target := destination.Path
	if destination.Address.IsValid() {
		target = destination.Address.String()
	}
	decision := s.policy().Decide(subjectOf(ctx), policy.Target(destination))
	if err := s.tell(ctx, target, decision); err != nil || s.limiter == nil {
		return err
	}
	caller := guard.CallerFrom(ctx)
	if limit, ok := errors.AsType[*guard.LimitError](s.limiter.Dial(keyOf(caller), target)); ok {
		s.limited(limit.Limit)
		return &dial.LimitError{Limit: limit.Limit, RetryAfter: limit.RetryAfter}
	}
	return nil
}

// mayLookUpName decides whether the caller may ask about a name. Nobody is asked anything before.
func (s *Service) mayLookUpName(ctx context.Context, host string) error {
	return s.tell(ctx, host, s.policy().DecideName(subjectOf(ctx), host))
}

// mayLookUpAddress decides whether the caller may ask for the names of an address.
func (s *Service) mayLookUpAddress(ctx context.Context, address netip.Addr) error {
	return s.tell(ctx, address.String(), s.policy().DecideAddress(subjectOf(ctx), address))
}

// tell passes a decision on to those who keep count of it, and to the caller as an error when it is a denial.
func (s *Service) tell(ctx context.Context, what string, decision policy.Decision) error {
	if s.hooks.Decided != nil {
		s.hooks.Decided(decision)
	}
	if x, ok := ctx.Value(sessionKey{}).(*session); ok {
		x.decided(what, decision.Rule)
	}
	return decision.Err()
}

func (s *Service) limited(limit string) {
	if s.hooks.Limited != nil {
		s.hooks.Limited(limit)
	}
}

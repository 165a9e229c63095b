package service

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	codepb "google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/status"

	"probed/service/dial"
	"probed/service/exchange"
	"probed/service/guard"
	"probed/service/policy"
	"probed/service/resolve"
)

// session is one call that opens connections for its caller: it counts against limits, every dial of it is decided for
// that caller, and there is one record of it in the audit log.
type session struct {
	begin   time.Time
	record  *guard.Session
	release func()

	// What it takes to hold it against the rules of later, see Recheck.
	rpc    string // full method
	ctx    context.Context
	revoke context.CancelCauseFunc
	drains atomic.Bool // it ends with the service

	// Of the server that a query goes to; of an exchange the outcome tells.
	sent, received atomic.Int64

	mu    sync.Mutex
	rules map[string]string // which rule decided, by the name, address or path that it was about
	last  string            // the rule that decided last
	asked string            // the server that a query last went to

	targets []policy.Target // that it was let connect to
}

// sessionKey is the key of a session in the context of its call.
type sessionKey struct{}

// sessionFrom is the session that ctx belongs to; nil: none.
func sessionFrom(ctx context.Context) *session {
	x, _ := ctx.Value(sessionKey{}).(*session)
	return x
}

// session begins one, and tells what is asked for to the audit log before anything is done about it. The error says that
// the limits are reached, or that nothing can be written down. Whoever called has to end it.
func (s *Service) session(ctx context.Context, rpc, target string) (context.Context, *session, error) {
	caller := guard.CallerFrom(ctx)
	x := &session{begin: time.Now(), release: func() {}, rpc: rpc}
	if s.limiter != nil {
		release, err := s.limiter.Session(keyOf(caller))
		if limit, ok := errors.AsType[*guard.LimitError](err); ok {
			s.limited(limit.Limit)
			return ctx, nil, limit
		}
		x.release = release
	}
	if s.audit != nil {
		var err error
		x.record, err = s.audit.Begin(ctx, guard.Record{
			ID: requestID(ctx), Subject: subjectOf(ctx), RPC: rpc, Target: target, Remote: guard.RemoteFrom(ctx),
		})
		if err != nil {
			x.release()
			return ctx, nil, err
		}
	}
	x.ctx, x.revoke = context.WithCancelCause(context.WithValue(ctx, sessionKey{}, x))
	s.open.add(x)
	release := x.release
	x.release = func() {
		s.open.remove(x)
		x.revoke(nil)
		release()
	}
	return x.ctx, x, nil
}

// end closes the record with what came of the session, and gives back its place. It fills in which rule decided.
func (x *session) end(result guard.Result) {
	defer x.release()
	if x.record == nil { // nothing is written down
		return
	}
	x.mu.Lock()
	var rules []string
	for address := range strings.SplitSeq(result.Address, addressSeparator) {
		if rule := cmp.Or(x.rules[address], x.last); !slices.Contains(rules, rule) {
			rules = append(rules, rule)
		}
	}
	result.Rule = strings.Join(rules, addressSeparator)
	x.mu.Unlock()
	result.Duration = time.Since(x.begin)
	x.record.End(result)
}

// addressSeparator stands between addresses, and between rules, in the audit log.
const addressSeparator = ","

// exchanged is what the audit log keeps of an exchange. err is the status its caller gets.
func exchanged(outcome *exchange.Outcome, err error) guard.Result {
	if outcome == nil {
		return failed(err)
	}
	result := guard.Result{
		OK:            outcome.OK && err == nil,
		Code:          codeName(err),
		Address:       outcome.Remote,
		BytesSent:     int64(outcome.BytesSent),
		BytesReceived: int64(outcome.BytesReceived),
	}
	if outcome.Reason != exchange.None {
		result.Reason = outcome.Reason.String()
	}
	if result.Address == "" { // when all addresses are checked, no connection is kept
		var connected []string
		for _, attempt := range outcome.Attempts {
			if attempt.OK || attempt.Local != "" {
				connected = append(connected, attempt.Address)
			}
		}
		result.Address = strings.Join(connected, addressSeparator)
	}
	return result
}

// queried is what the audit log keeps of a query to a server of the caller's choice. err is the status its caller gets.
func (x *session) queried(answer *resolve.Response, err error) guard.Result {
	result := guard.Result{OK: true, Code: codeName(nil)}
	if answer == nil {
		result = failed(err)
	}
	x.mu.Lock()
	result.Address = x.asked
	x.mu.Unlock()
	result.BytesSent, result.BytesReceived = x.sent.Load(), x.received.Load()
	return result
}

// failed is the result of a call that came to nothing. One that panicked has no error either.
func failed(err error) guard.Result {
	if err == nil {
		internal := codepb.Code_INTERNAL.String()
		return guard.Result{Code: internal, Reason: internal}
	}
	return guard.Result{Code: codeName(err), Reason: strings.TrimPrefix(reasonOf(err), "ERROR_REASON_")}
}

// counted is conn, a connection to a server that is asked in the session, if there is one, with its bytes counted there.
func (x *session) counted(server netip.AddrPort, conn net.Conn) net.Conn {
	if x == nil {
		return conn
	}
	x.mu.Lock()
	x.asked = server.String()
	x.mu.Unlock()
	return &countedConn{conn, x}
}

type countedConn struct {
	net.Conn
	session *session
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.session.received.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.session.sent.Add(int64(n))
	return n, err
}

// codeName is the name of the code of a status, as the contract spells it: PERMISSION_DENIED.
func codeName(err error) string { return codepb.Code(status.Code(err)).String() }

// decided notes which rule decided about a name, an address or a path.
func (x *session) decided(what, rule string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.rules == nil {
		x.rules = make(map[string]string)
	}
	x.rules[what], x.last = rule, rule
}

// denial is the denial of an exchange that was denied all it tried: that of the first address.
func (x *session) denial(attempts []exchange.Attempt) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, attempt := range attempts {
		if rule := x.rules[attempt.Address]; rule != "" && attempt.Reason == exchange.PolicyDenied {
			return &policy.DeniedError{Rule: rule}
		}
	}
	if x.last == "" { // an abstract unix socket, which package dial denies by itself
		x.last = policy.RuleDenyUnixPath
	}
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
	target := destination.String()
	decision := s.policy().Decide(subjectOf(ctx), policy.Target(destination))
	if err := s.tell(ctx, target, decision); err != nil {
		return err
	}
	if x := sessionFrom(ctx); x != nil {
		x.reaches(policy.Target(destination))
	}
	if s.limiter == nil {
		return nil
	}
	caller := guard.CallerFrom(ctx)
	if limit, ok := errors.AsType[*guard.LimitError](s.limiter.Dial(keyOf(caller), target)); ok {
		s.limited(limit.Limit)
		return &dial.LimitError{Limit: limit.Limit, RetryAfter: limit.RetryAfter, Err: limit}
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
	if x := sessionFrom(ctx); x != nil {
		x.decided(what, decision.Rule)
	}
	return decision.Err()
}

func (s *Service) limited(limit string) {
	if s.hooks.Limited != nil {
		s.hooks.Limited(limit)
	}
}

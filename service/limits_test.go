package service

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/service/exchange"
	"probed/service/guard"
	"probed/service/policy"
)

// withLimits gives the world callers who may do everything, and bounds on how much.
func withLimits(limits guard.Limits, names ...string) func(*settings) {
	return func(s *settings) {
		withRoles(&policy.Policy{Loopback: true, Open: true}, names...)(s)
		s.Limiter = guard.NewLimiter(limits)
	}
}

// checkLimited holds an answer against what callers learn of a limit that is reached.
func checkLimited(t *testing.T, c caller, a *answer, limit string) {
	t.Helper()
	info, retry := limited(a.err)
	if status.Code(a.err) != codes.ResourceExhausted || info.GetReason() != "ERROR_REASON_LIMIT_REACHED" || info.GetMetadata()["limit"] != limit {
		t.Errorf("%v: %v, want the limit %s", c, a.err, limit)
		return
	}
	for _, detail := range status.Convert(a.err).Details() {
		if quota, ok := detail.(*errdetails.QuotaFailure); ok {
			v := quota.GetViolations()[0]
			ofAll := limit == guard.LimitSessions || limit == guard.LimitCalls
			if len(quota.GetViolations()) != 1 || v.GetQuotaId() != limit || v.GetQuotaValue() <= 0 || v.GetDescription() == "" || v.GetSubject() == "" || (v.GetSubject() == ErrorDomain) != ofAll {
				t.Errorf("%v: %v", c, quota)
			}
			info = nil
		}
	}
	if info != nil {
		t.Errorf("%v: no quota in %v", c, a.err)
	}
	after := retry.GetRetryDelay().AsDuration()
	if after <= 0 || after > time.Minute {
		t.Errorf("%v: to be tried again after %v", c, after)
	}
	if len(a.messages) != 0 {
		t.Errorf("%v: %v", c, a.messages)
	}
	if c.by == "REST" {
		seconds := fmt.Sprint(int((after + time.Second - 1) / time.Second))
		if got := a.header["status"][0]; got != "429 Too Many Requests" || !slices.Equal(a.header["retry-after"], []string{seconds}) {
			t.Errorf("%v: %s, Retry-After %v of %v", c, got, a.header["retry-after"], after)
		}
	}
}

func limited(err error) (info *errdetails.ErrorInfo, retry *errdetails.RetryInfo) {
	for _, detail := range status.Convert(err).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			info = detail
		case *errdetails.RetryInfo:
			retry = detail
		}
	}
	return info, retry
}

// held holds sessions open until release is called, which waits for the calls.
type held struct {
	cancel context.CancelFunc
	calls  sync.WaitGroup
}

// hold opens n sessions, and returns when they are connected.
func hold(t *testing.T, c caller, n int, target string, tally *nettest.Tally) *held {
	t.Helper()
	before := tally.Conns.Load()
	ctx, cancel := context.WithCancel(t.Context())
	h := &held{cancel: cancel}
	for range n {
		h.calls.Go(func() { c.call(ctx, t, &probev1.ExchangeRequest{Target: target}) })
	}
	soon(t, fmt.Sprintf("%v: %d sessions", c, n), func() bool { return tally.Conns.Load() == before+int64(n) })
	return h
}

func (h *held) release() {
	h.cancel()
	h.calls.Wait()
}

// The session that is one too many is refused, for one caller and for all together, and when one has ended there is room
// again.
func TestSessionLimits(t *testing.T) {
	t.Parallel()
	var tally nettest.Tally
	silent, echo := nettest.TCP(t, tally.Count(nettest.Silent)).String(), nettest.TCP(t, nettest.Echo).String()
	dns := knowingServer(t)
	var refused atomic.Int64
	w := newWorld(t, withLimits(guard.Limits{Sessions: 64, SessionsPerCaller: 32}, "a", "b", "c", "d"), func(s *settings) {
		s.Hooks.Limited = func(string) { refused.Add(1) }
	})
	a, b := w.by("a"), w.by("b")
	requests := []proto.Message{
		&probev1.ConnectRequest{Target: echo},
		&probev1.ExchangeRequest{Target: echo},
		&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: echo}}},
		&probev1.QueryDNSRequest{Name: "name.test", Server: dns.Addr.String()},
	}
	each := func(calls []caller, check func(c caller, a *answer)) {
		t.Helper()
		for _, c := range calls {
			for _, request := range requests {
				if _, converses := request.(*probev1.ConverseRequest); !converses || c.by != "REST" {
					check(c, c.call(t.Context(), t, request))
				}
			}
		}
	}
	well := func(c caller, a *answer) {
		t.Helper()
		if a.err != nil {
			t.Errorf("%v: %v", c, a.err)
		}
	}
	first, second := hold(t, a[0], 16, silent, &tally), hold(t, a[1], 16, silent, &tally)
	each(a, func(c caller, a *answer) { checkLimited(t, c, a, guard.LimitSessionsPerCaller) })
	each(b, well)
	// What opens nothing is not counted.
	if a := a[0].call(t.Context(), t, &probev1.ExplainPolicyRequest{Target: echo}); a.err != nil {
		t.Error(a.err)
	}
	third := hold(t, b[0], 31, silent, &tally)
	fourth := hold(t, w.by("c")[1], 1, silent, &tally)
	each(w.by("d"), func(c caller, a *answer) { checkLimited(t, c, a, guard.LimitSessions) })
	each(w.by("c"), func(c caller, a *answer) { checkLimited(t, c, a, guard.LimitSessions) })
	each(a, func(c caller, a *answer) { checkLimited(t, c, a, guard.LimitSessionsPerCaller) })
	if n := refused.Load(); n != 4*7 {
		t.Errorf("%d refusals were told", n)
	}
	// A caller who has gone takes its session along; its end is not waited for.
	for _, h := range []*held{first, second, third, fourth} {
		h.release()
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		soon(t, name, func() bool {
			return w.by(name)[0].call(t.Context(), t, requests[0]).err == nil
		})
	}
	soon(t, "room for all", func() bool {
		h := &held{}
		h.cancel = func() {}
		var failed atomic.Bool
		for i := range 32 {
			h.calls.Go(func() {
				if w.by("a")[i%2].call(t.Context(), t, requests[0]).err != nil {
					failed.Store(true)
				}
			})
		}
		h.release()
		return !failed.Load()
	})
}

// Whatever the end of a session, its place is free again: where there is one alone, the next call has it.
func TestSessionsAreGivenBack(t *testing.T) {
	t.Parallel()
	echo := nettest.TCP(t, nettest.Echo).String()
	dns := knowingServer(t)
	var tally nettest.Tally
	silent := nettest.TCP(t, tally.Count(nettest.Silent)).String()
	w := newWorld(t, withHosts("127.0.0.1 dialled.test\n"), withLimits(guard.Limits{SessionsPerCaller: 1}, "a"), func(s *settings) {
		rules := &policy.Policy{Loopback: true, Roles: []policy.Role{{Name: "r", Subjects: []string{"*"}, Rules: []policy.Rule{
			{Name: "n", Hosts: []string{"dialled.test", "name.test"}, Verbs: policy.Resolve},
			{Name: "a", Prefixes: prefixes("127.0.0.1/32"), Verbs: policy.Connect | policy.Send},
		}}}}
		s.Policy = func() *policy.Policy { return rules }
		s.Exchange.MaxTimeout = time.Minute
		s.Hooks.Decided = func(d policy.Decision) {
			if d.Rule == policy.RuleDenyMetadata {
				panic("a bug")
			}
		}
	})
	open := func(target string) *probev1.ConverseRequest {
		return &probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: target}}}
	}
	ends := []struct {
		name    string
		request proto.Message
		code    codes.Code
	}{
		{"ok", &probev1.ConnectRequest{Target: echo}, codes.OK},
		{"exchange", &probev1.ExchangeRequest{Target: echo, Payload: &probev1.ExchangeRequest_Text{Text: "x"}}, codes.OK},
		{"conversation", open(echo), codes.OK},
		{"refused", &probev1.ConnectRequest{Target: nettest.Refused(t).String()}, codes.OK},
		{"no such name", &probev1.ExchangeRequest{Target: "name.test:80"}, codes.OK},
		{"timeout", &probev1.ExchangeRequest{Target: silent, Timeout: durationpb.New(20 * time.Millisecond)}, codes.OK},
		{"name denied", &probev1.ConnectRequest{Target: "other.test:80"}, codes.PermissionDenied},
		{"address denied", &probev1.ExchangeRequest{Target: "127.0.0.2:80"}, codes.PermissionDenied},
		{"path denied", &probev1.ConnectRequest{Target: "unix:///no/such"}, codes.PermissionDenied},
		{"abstract", &probev1.ConnectRequest{Target: "unix://@x"}, codes.PermissionDenied},
		{"conversation denied", open("127.0.0.2:80"), codes.PermissionDenied},
		{"not valid", &probev1.ConnectRequest{}, codes.InvalidArgument},
		{"no target", &probev1.ExchangeRequest{Target: "x"}, codes.InvalidArgument},
		{"too long", &probev1.ExchangeRequest{Target: echo, Timeout: durationpb.New(2 * time.Minute)}, codes.InvalidArgument},
		{"panic", &probev1.ExchangeRequest{Target: "169.254.169.254:80"}, codes.Internal},
		{"panic in a conversation", open("169.254.169.254:80"), codes.Internal},
		{"query", &probev1.QueryDNSRequest{Name: "name.test", Server: dns.Addr.String()}, codes.OK},
		{"query denied", &probev1.QueryDNSRequest{Name: "other.test", Server: dns.Addr.String()}, codes.PermissionDenied},
		{"server denied", &probev1.QueryDNSRequest{Name: "name.test", Server: "127.0.0.2:53"}, codes.PermissionDenied},
		{"no server", &probev1.QueryDNSRequest{Name: "name.test", Server: nettest.RefusedUDP(t).String()}, codes.Unavailable},
		{"panic in a query", &probev1.QueryDNSRequest{Name: "name.test", Server: "169.254.169.254"}, codes.Internal},
	}
	for _, c := range w.by("a") {
		for _, end := range ends {
			if _, converses := end.request.(*probev1.ConverseRequest); converses && c.by == "REST" {
				continue
			}
			for range 2 {
				if a := c.call(t.Context(), t, end.request); status.Code(a.err) != end.code {
					t.Errorf("%v, %s: %v", c, end.name, a.err)
				}
			}
		}
		for range 2 { // who goes away
			h := hold(t, c, 1, silent, &tally)
			checkLimited(t, c, c.call(t.Context(), t, ends[0].request), guard.LimitSessionsPerCaller)
			h.release()
			soon(t, "the end of what nobody waits for", func() bool { return c.call(t.Context(), t, ends[0].request).err == nil })
		}
		conversation := func(frame *probev1.ConverseRequest) codes.Code { // which breaks the rules
			stream := converse(asCaller(t.Context(), "a"), t, w, open(echo), frame)
			_, err := hear(stream)
			return status.Code(err)
		}
		for _, frame := range []*probev1.ConverseRequest{open(echo), {}} {
			for range 2 {
				if code := conversation(frame); code != codes.InvalidArgument {
					t.Errorf("%v: %v", frame, code)
				}
			}
		}
	}
}

// A caller that is at its limit, and does not stop calling, is refused; another one is not.
func TestOneCallerDoesNotHinderAnother(t *testing.T) {
	t.Parallel()
	var tally nettest.Tally
	silent, echo := nettest.TCP(t, tally.Count(nettest.Silent)).String(), nettest.TCP(t, nettest.Echo).String()
	w := newWorld(t, withLimits(guard.Limits{Sessions: 8, SessionsPerCaller: 4, DialsPerSecond: 1000, TargetsPerMinute: 2}, "a", "b"))
	request := &probev1.ConnectRequest{Target: echo}
	ask := func() {
		for i := range 60 {
			if a := w.by("b")[i%2].call(t.Context(), t, request); a.err != nil {
				t.Errorf("the other: %v", a.err)
			}
		}
	}
	h := hold(t, w.by("a")[0], 4, silent, &tally)
	ctx, stop := context.WithCancel(t.Context())
	var hammering sync.WaitGroup
	var refused, let atomic.Int64
	for i := range 4 {
		hammering.Go(func() {
			for c := w.by("a")[i%2]; ctx.Err() == nil; {
				switch err := c.call(ctx, t, request).err; {
				case status.Code(err) == codes.ResourceExhausted:
					refused.Add(1)
				case err == nil:
					let.Add(1)
				}
			}
		})
	}
	soon(t, "a refusal", func() bool { return refused.Load() > 0 })
	ask()
	stop()
	hammering.Wait()
	h.release()
	if n := let.Load(); n != 0 {
		t.Errorf("%d calls beyond the limit", n)
	}
}

// Dials and targets are counted address by address: what is within the limit is dialled, and what is not says so.
func TestDialLimits(t *testing.T) {
	t.Parallel()
	const addresses = 8
	var hosts strings.Builder
	for i := range addresses {
		fmt.Fprintf(&hosts, "127.0.1.%d many.test\n127.0.2.%d others.test\n", i+1, i+1)
	}
	port := nettest.Refused(t).Port()
	for i, by := range []string{"gRPC", "REST"} {
		var told atomic.Value
		w := newWorld(t, withHosts(hosts.String()), withLimits(guard.Limits{TargetsPerMinute: 5}, "a", "b"), func(s *settings) {
			s.Hooks.Limited = func(limit string) { told.Store(limit) }
		})
		c := w.by("a")[i]
		for range 2 { // the second time it may dial what it has dialled before
			a := c.call(t.Context(), t, &probev1.ConnectRequest{Target: fmt.Sprintf("many.test:%d", port), AllAddresses: true})
			reasons := map[probev1.Reason]int{}
			for _, attempt := range a.outcome().GetAttempts() {
				reasons[attempt.GetReason()]++
			}
			if a.err != nil || len(reasons) != 2 || reasons[probev1.Reason_REASON_LIMIT_REACHED] != addresses-5 {
				t.Errorf("%s: %v, %v", by, a.err, reasons)
			}
		}
		if told.Load() != guard.LimitTargetsPerMinute {
			t.Errorf("told of %v", told.Load())
		}
		for _, all := range []bool{true, false} {
			a := c.call(t.Context(), t, &probev1.ConnectRequest{Target: fmt.Sprintf("others.test:%d", port), AllAddresses: all})
			checkLimited(t, c, a, guard.LimitTargetsPerMinute)
		}
		checkLimited(t, c, c.call(t.Context(), t, &probev1.ExchangeRequest{Target: fmt.Sprintf("127.0.3.1:%d", port)}), guard.LimitTargetsPerMinute)
		// Each caller has an allowance of its own.
		if a := w.by("b")[i].call(t.Context(), t, &probev1.ConnectRequest{Target: fmt.Sprintf("127.0.3.1:%d", port)}); a.err != nil {
			t.Error(a.err)
		}

		w = newWorld(t, withLimits(guard.Limits{DialsPerSecond: 1}, "a"))
		c = w.by("a")[i]
		var a *answer
		soon(t, "a refusal", func() bool {
			a = c.call(t.Context(), t, &probev1.ConnectRequest{Target: fmt.Sprintf("127.0.0.1:%d", port)})
			return a.err != nil
		})
		checkLimited(t, c, a, guard.LimitDialsPerSecond)
	}
}

// So are name servers that a caller chooses.
func TestQueryLimits(t *testing.T) {
	t.Parallel()
	first, second := knowingServer(t), knowingServer(t)
	w := newWorld(t, withHosts("127.0.0.2 both.test\n127.0.0.1 both.test\n127.0.0.3 none.test\n127.0.0.4 none.test\n"), withLimits(guard.Limits{TargetsPerMinute: 1}, "a", "b-gRPC", "b-REST"))
	for _, c := range w.by("a") {
		for _, transport := range []probev1.DNSTransport{0, probev1.DNSTransport_DNS_TRANSPORT_UDP, probev1.DNSTransport_DNS_TRANSPORT_TCP} {
			query := func(server string) *answer {
				return c.call(t.Context(), t, &probev1.QueryDNSRequest{Name: "name.test", Server: server, Transport: transport})
			}
			if a := query(first.Addr.String()); a.err != nil {
				t.Errorf("%v, %v: %v", c, transport, a.err)
			}
			// One of the addresses may be asked.
			if a := query(fmt.Sprintf("both.test:%d", first.Addr.Port())); a.err != nil {
				t.Errorf("%v, %v: %v", c, transport, a.err)
			}
			checkLimited(t, c, query(second.Addr.String()), guard.LimitTargetsPerMinute)
			checkLimited(t, c, query(fmt.Sprintf("none.test:%d", first.Addr.Port())), guard.LimitTargetsPerMinute)
		}
		// One that may be asked, and is not there, says more than one that may not be asked now.
		refused := nettest.RefusedUDP(t).Port()
		other := w.by("b-" + c.by)[0]
		for _, server := range []string{"127.0.0.2", "both.test"} {
			a := other.call(t.Context(), t, &probev1.QueryDNSRequest{Name: "name.test", Server: fmt.Sprintf("%s:%d", server, refused)})
			if status.Code(a.err) != codes.Unavailable || errorInfo(a.err) != "ERROR_REASON_DNS_UNREACHABLE" {
				t.Errorf("%v, %s: %v", c, server, a.err)
			}
		}
		checkLimited(t, c, c.call(t.Context(), t, &probev1.QueryDNSRequest{
			Name: "name.test", Server: second.Addr.String(), Transport: probev1.DNSTransport_DNS_TRANSPORT_TLS,
		}), guard.LimitTargetsPerMinute)
	}
	if n := second.UDP.Load() + second.TCP.Load(); n != 0 {
		t.Errorf("%d queries", n)
	}
}

// What one exchange may take is bounded, and asking for more is wrong.
func TestExchangeLimits(t *testing.T) {
	t.Parallel()
	flood, echo := nettest.TCP(t, nettest.Flood(1<<20)).String(), nettest.TCP(t, nettest.Echo).String()
	w := newWorld(t, withLimits(guard.Limits{}, "a"), func(s *settings) {
		s.Exchange = exchange.Limits{MaxTimeout: 10 * time.Second, Idle: 50 * time.Millisecond, MaxIdle: 10 * time.Second, BytesSent: 1000, BytesReceived: 2000}
	})
	seconds := func(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Second) }
	for _, c := range w.by("a") {
		a := c.call(t.Context(), t, &probev1.ExchangeRequest{Target: flood})
		if o := a.outcome(); a.err != nil || o.GetReason() != probev1.Reason_REASON_LIMIT_REACHED || o.GetBytesReceived() != 2000 {
			t.Errorf("%v: %v, %v", c, a.err, a.outcome())
		}
		a = c.call(t.Context(), t, &probev1.ExchangeRequest{Target: echo, Payload: &probev1.ExchangeRequest_Data{Data: make([]byte, 1001)}})
		if o := a.outcome(); a.err != nil || o.GetReason() != probev1.Reason_REASON_LIMIT_REACHED || o.GetBytesSent() != 1000 {
			t.Errorf("%v: %v, %v", c, a.err, a.outcome())
		}
		for _, test := range []struct {
			request proto.Message
			field   string
		}{
			{&probev1.ConnectRequest{Target: echo, Timeout: seconds(11)}, "timeout"},
			{&probev1.ExchangeRequest{Target: echo, Timeout: seconds(11)}, "timeout"},
			{&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: echo, Timeout: seconds(11)}}}, "open.timeout"},
			{&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: echo, Idle: seconds(11)}}}, "open.idle"},
			{&probev1.ConnectRequest{Target: echo, Timeout: seconds(10)}, ""},
			{&probev1.ExchangeRequest{Target: echo, Timeout: seconds(10)}, ""},
			{&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: echo, Timeout: seconds(10), Idle: seconds(10)}}}, ""},
		} {
			if _, converses := test.request.(*probev1.ConverseRequest); converses && c.by == "REST" {
				continue
			}
			a := c.call(t.Context(), t, test.request)
			if (test.field != "") != (status.Code(a.err) == codes.InvalidArgument) || violations(a.err) != test.field {
				t.Errorf("%v, %v: %v", c, test.request, a.err)
			}
		}
	}
	// A conversation in which nothing passes ends by itself.
	all, err := hear(converse(asCaller(t.Context(), "a"), t, w, &probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: echo}}}))
	if err != nil || len(all) == 0 || all[len(all)-1].GetOutcome().GetEndedBy() != probev1.EndedBy_ENDED_BY_IDLE {
		t.Errorf("%v, %v", all, err)
	}
}

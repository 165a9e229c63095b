package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/internal/probetest"
	"probed/service/guard"
	"probed/service/policy"
)

// auditLog is the log of a world. Its lines are read as they are written.
type auditLog struct {
	*guard.Audit
	mu       sync.Mutex
	text     bytes.Buffer
	fail     atomic.Bool
	outcomes int // that callers were told
}

// newAuditLog returns one that has to have one record a session in the end.
func newAuditLog(t testing.TB) *auditLog {
	t.Helper()
	l := &auditLog{}
	var err error
	l.Audit, err = guard.NewAudit(guard.AuditConfig{Open: func() (io.WriteCloser, error) { return l, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Audit.Close(); err != nil {
			t.Error(err)
		}
		probetest.CheckAudit(t, probetest.Records(t, l.text.Bytes()), l.outcomes)
	})
	return l
}

func (l *auditLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail.Load() {
		return 0, errors.New("no space left")
	}
	return l.text.Write(line)
}

// Close is for the writer of the log; there is nothing to close.
func (*auditLog) Close() error { return nil }

// auditRecord is a line of the log.
type auditRecord struct {
	Event, ID, Subject, RPC, Target, Remote string
	Address, Rule, Reason, Code             string
	OK                                      bool
	BytesSent, BytesReceived                int64
	DurationSeconds                         float64
}

func (l *auditLog) all(t *testing.T) (records []auditRecord) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(l.text.Bytes()) {
		var r auditRecord
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		records = append(records, r)
	}
	return records
}

// of waits for the end of a session, and returns its two records.
func (l *auditLog) of(t *testing.T, id string) (begin, end auditRecord) {
	t.Helper()
	soon(t, "the end of "+id, func() bool {
		for _, r := range l.all(t) {
			if r.ID == id && r.Event == "end" {
				return true
			}
		}
		return false
	})
	n := 0
	for _, r := range l.all(t) {
		if r.ID != id {
			continue
		}
		n++
		if r.Event == "begin" {
			begin = r
		} else {
			end = r
		}
	}
	if n != 2 {
		t.Errorf("%d records of %s", n, id)
	}
	return begin, end
}

func (a *answer) id() string {
	if ids := a.header[RequestIDHeader]; len(ids) == 1 {
		return ids[0]
	}
	return ""
}

// One record for each session, whatever came of it, and in it what came of it.
func TestAuditRecords(t *testing.T) {
	t.Parallel()
	var silentTally nettest.Tally
	echo, silent := nettest.TCP(t, nettest.Echo), nettest.TCP(t, silentTally.Count(nettest.Silent))
	flood, refused, refusedUDP := nettest.TCP(t, nettest.Flood(1<<20)), nettest.Refused(t), nettest.RefusedUDP(t)
	socket := nettest.Unix(t, "unix", nettest.Echo)
	dns := knowingServer(t)
	port := func(host string, p uint16) string { return fmt.Sprintf("%s:%d", host, p) }
	var tally nettest.Tally
	flag := make(chan struct{}, 100)
	held := nettest.TCP(t, tally.Count(func(c net.Conn) {
		_, _ = io.CopyN(io.Discard, c, 1) // then both sides know of the connection
		flag <- struct{}{}
		nettest.Silent(c)
	}))
	w := newWorld(t, withDNS(dns), withHosts("127.0.0.1 echo.test\n127.0.0.1 mixed.test\n127.0.0.2 mixed.test\n127.0.0.1 both.test\n127.0.0.3 both.test\n"), withLimits(guard.Limits{TargetsPerMinute: 20}, "a"), func(s *settings) {
		rules := &policy.Policy{Loopback: true, Roles: []policy.Role{{Name: "role", Subjects: []string{"token:a"}, Rules: []policy.Rule{
			{Name: "names", Hosts: []string{"*.test"}, Verbs: policy.Resolve},
			{Name: "one", Prefixes: prefixes("127.0.0.1/32"), Verbs: policy.Connect | policy.Send},
			{Name: "three", Prefixes: prefixes("127.0.0.3/32"), Verbs: policy.Connect},
			{Name: "socket", UnixPaths: []string{socket}, Verbs: policy.Connect | policy.Send},
		}}}}
		s.Policy = func() *policy.Policy { return rules }
		s.Exchange.BytesReceived = 1000
		s.Hooks.Decided = func(d policy.Decision) {
			if d.Rule == policy.RuleDenyMetadata {
				panic("a bug")
			}
		}
	})
	log := w.audit
	const (
		connect  = "/probe.v1.ExchangeService/Connect"
		exchange = "/probe.v1.ExchangeService/Exchange"
		converse = "/probe.v1.ExchangeService/Converse"
		query    = "/probe.v1.ResolverService/QueryDNS"
	)
	text := &probev1.ExchangeRequest_Text{Text: "hello"}
	open := func(target string) *probev1.ConverseRequest {
		return &probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: target}}}
	}
	soonOver := durationpb.New(50 * time.Millisecond)
	for _, test := range []struct {
		name    string
		request proto.Message
		end     auditRecord
	}{
		{"connect", &probev1.ConnectRequest{Target: echo.String()}, auditRecord{RPC: connect, Target: echo.String(), Address: echo.String(), Rule: "role/one", Code: "OK", OK: true}},
		{"by name", &probev1.ConnectRequest{Target: port("ECHO.test", echo.Port())}, auditRecord{RPC: connect, Target: port("ECHO.test", echo.Port()), Address: echo.String(), Rule: "role/one", Code: "OK", OK: true}},
		{"exchange", &probev1.ExchangeRequest{Target: echo.String(), Payload: text}, auditRecord{RPC: exchange, Target: echo.String(), Address: echo.String(), Rule: "role/one", Code: "OK", OK: true, BytesSent: 5, BytesReceived: 5}},
		{"unix", &probev1.ExchangeRequest{Target: "unix://" + socket, Payload: text}, auditRecord{RPC: exchange, Target: "unix://" + socket, Address: socket, Rule: "role/socket", Code: "OK", OK: true, BytesSent: 5, BytesReceived: 5}},
		{"conversation", open(echo.String()), auditRecord{RPC: converse, Target: echo.String(), Address: echo.String(), Rule: "role/one", Code: "OK", OK: true}},
		{"one address of two", &probev1.ConnectRequest{Target: port("mixed.test", echo.Port()), AllAddresses: true}, auditRecord{RPC: connect, Target: port("mixed.test", echo.Port()), Address: echo.String(), Rule: "role/one", Code: "OK", Reason: "POLICY_DENIED"}},
		{"one address that is there", &probev1.ConnectRequest{Target: port("both.test", echo.Port()), AllAddresses: true}, auditRecord{RPC: connect, Target: port("both.test", echo.Port()), Address: echo.String(), Rule: "role/one", Code: "OK", Reason: "CONNECTION_REFUSED"}},
		{"refused", &probev1.ConnectRequest{Target: refused.String()}, auditRecord{RPC: connect, Target: refused.String(), Rule: "role/one", Code: "OK", Reason: "CONNECTION_REFUSED"}},
		{"timeout", &probev1.ExchangeRequest{Target: silent.String(), Payload: text, Timeout: soonOver}, auditRecord{RPC: exchange, Target: silent.String(), Address: silent.String(), Rule: "role/one", Code: "OK", Reason: "RECEIVE_TIMEOUT", BytesSent: 5}},
		{"limit of bytes", &probev1.ExchangeRequest{Target: flood.String()}, auditRecord{RPC: exchange, Target: flood.String(), Address: flood.String(), Rule: "role/one", Code: "OK", Reason: "LIMIT_REACHED", BytesReceived: 1000}},
		{"no such name", &probev1.ConnectRequest{Target: "none.test:80"}, auditRecord{RPC: connect, Target: "none.test:80", Rule: "role/names", Code: "OK", Reason: "NAME_NOT_FOUND"}},
		{"name denied", &probev1.ConnectRequest{Target: "x.example:80"}, auditRecord{RPC: connect, Target: "x.example:80", Rule: "deny-default", Code: "PERMISSION_DENIED", Reason: "POLICY_DENIED"}},
		{"address denied", &probev1.ExchangeRequest{Target: "udp://127.0.0.2:9"}, auditRecord{RPC: exchange, Target: "udp://127.0.0.2:9", Rule: "deny-default", Code: "PERMISSION_DENIED", Reason: "POLICY_DENIED"}},
		{"denied for all", open("[fe80::1]:80"), auditRecord{RPC: converse, Target: "[fe80::1]:80", Rule: "deny-link-local", Code: "PERMISSION_DENIED", Reason: "POLICY_DENIED"}},
		{"abstract", &probev1.ConnectRequest{Target: "unix://@x"}, auditRecord{RPC: connect, Target: "unix://@x", Rule: "deny-unix-path", Code: "PERMISSION_DENIED", Reason: "POLICY_DENIED"}},
		{"panic", &probev1.ConnectRequest{Target: "169.254.169.254:80"}, auditRecord{RPC: connect, Target: "169.254.169.254:80", Code: "INTERNAL", Reason: "INTERNAL"}},
		{"panic in a conversation", open("169.254.169.254:80"), auditRecord{RPC: converse, Target: "169.254.169.254:80", Code: "INTERNAL", Reason: "INTERNAL"}},
		{"query", &probev1.QueryDNSRequest{Name: "name.test", Server: dns.Addr.String()}, auditRecord{RPC: query, Target: dns.Addr.String(), Address: dns.Addr.String(), Rule: "role/one", Code: "OK", OK: true, BytesSent: 38, BytesReceived: 43}},
		{"query to a name", &probev1.QueryDNSRequest{Name: "name.test", Server: port("echo.test", dns.Addr.Port())}, auditRecord{RPC: query, Target: port("echo.test", dns.Addr.Port()), Address: dns.Addr.String(), Rule: "role/one", Code: "OK", OK: true, BytesSent: 38, BytesReceived: 43}},
		{"query denied", &probev1.QueryDNSRequest{Name: "x.example", Server: dns.Addr.String()}, auditRecord{RPC: query, Target: dns.Addr.String(), Rule: "deny-default", Code: "PERMISSION_DENIED", Reason: "POLICY_DENIED"}},
		{"server denied", &probev1.QueryDNSRequest{Name: "name.test", Server: "127.0.0.3:53"}, auditRecord{RPC: query, Target: "127.0.0.3:53", Rule: "deny-default", Code: "PERMISSION_DENIED", Reason: "POLICY_DENIED"}},
		{"no server", &probev1.QueryDNSRequest{Name: "name.test", Server: refusedUDP.String()}, auditRecord{RPC: query, Target: refusedUDP.String(), Address: refusedUDP.String(), Rule: "role/one", Code: "UNAVAILABLE", Reason: "DNS_UNREACHABLE", BytesSent: 76}},
		{"panic in a query", &probev1.QueryDNSRequest{Name: "name.test", Server: "169.254.169.254"}, auditRecord{RPC: query, Target: "169.254.169.254", Code: "INTERNAL", Reason: "INTERNAL"}},
		{"not valid", &probev1.ConnectRequest{Target: "x"}, auditRecord{}},
		{"no session", &probev1.LookupHostRequest{Host: "echo.test"}, auditRecord{}},
	} {
		for _, c := range w.by("a") {
			if _, converses := test.request.(*probev1.ConverseRequest); converses && c.by == "REST" {
				continue
			}
			before := len(log.all(t))
			a := c.call(t.Context(), t, test.request)
			if test.end.RPC == "" {
				if n := len(log.all(t)); n != before {
					t.Errorf("%s by %s: %d records", test.name, c.by, n-before)
				}
				continue
			}
			begin, end := log.of(t, a.id())
			want := test.end
			want.ID, want.Subject, want.Remote = a.id(), "token:a", "127.0.0.1"
			if want.Event = "end"; end.DurationSeconds <= 0 || end.DurationSeconds > 20 {
				t.Errorf("%s by %s: it took %v s", test.name, c.by, end.DurationSeconds)
			}
			if end.DurationSeconds = 0; test.name == "panic" || strings.HasPrefix(test.name, "panic in") {
				end.Rule = "" // which may be known or not
			}
			if end != want {
				t.Errorf("%s by %s:\n%+v\nwant\n%+v", test.name, c.by, end, want)
			}
			wantBegin := auditRecord{Event: "begin", ID: want.ID, Subject: want.Subject, RPC: want.RPC, Target: want.Target, Remote: want.Remote}
			if begin != wantBegin {
				t.Errorf("%s by %s:\n%+v\nwant\n%+v", test.name, c.by, begin, wantBegin)
			}
			if code := status.Code(a.err).String(); strings.ReplaceAll(strings.ToLower(want.Code), "_", "") != strings.ToLower(code) {
				t.Errorf("%s by %s: the caller got %s", test.name, c.by, code)
			}
		}
	}

	// A conversation whose second frame opens another one.
	_, err := hear(conversationOf(t, w, "a", open(echo.String()), open(echo.String())))
	checkLast(t, log, auditRecord{RPC: converse, Address: echo.String(), Code: "INVALID_ARGUMENT", Reason: "CANCELLED"})
	if status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
	// Who goes away, and what is drained.
	for _, c := range w.by("a") {
		ctx, cancel := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		calls.Go(func() { c.call(ctx, t, &probev1.ExchangeRequest{Target: held.String(), Payload: text}) })
		<-flag
		cancel()
		calls.Wait()
		checkLast(t, log, auditRecord{RPC: exchange, Address: held.String(), Code: "CANCELLED", Reason: "CANCELLED"})
	}
	var calls sync.WaitGroup
	for _, c := range w.by("a") {
		calls.Go(func() {
			if a := c.call(t.Context(), t, &probev1.ExchangeRequest{Target: held.String(), Payload: text}); a.outcome().GetReason() != probev1.Reason_REASON_DRAINED {
				t.Errorf("%v: %v, %v", c, a.err, a.outcome())
			}
		})
		<-flag
	}
	w.service.Drain()
	calls.Wait()
	checkLast(t, log, auditRecord{RPC: exchange, Address: held.String(), Code: "OK", Reason: "DRAINED"})

	// Each begin has its one end.
	ids := map[string][2]int{}
	for _, r := range log.all(t) {
		n := ids[r.ID]
		n[map[string]int{"begin": 0, "end": 1}[r.Event]]++
		ids[r.ID] = n
	}
	for id, n := range ids {
		if n != [2]int{1, 1} || len(id) != 16 {
			t.Errorf("%q: %d times begun, %d times ended", id, n[0], n[1])
		}
	}
}

func conversationOf(t *testing.T, w *world, name string, frames ...*probev1.ConverseRequest) conversation {
	t.Helper()
	return converse(asCaller(t.Context(), name), t, w, frames...)
}

// checkLast waits until all sessions have ended, and holds the last end against want, as far as that says.
func checkLast(t *testing.T, log *auditLog, want auditRecord) {
	t.Helper()
	var last auditRecord
	soon(t, "the end of all", func() bool {
		open := 0
		for _, r := range log.all(t) {
			if r.Event == "begin" {
				open++
			} else {
				open, last = open-1, r
			}
		}
		return open == 0
	})
	got := auditRecord{RPC: last.RPC, Address: last.Address, Code: last.Code, Reason: last.Reason}
	if got != want {
		t.Errorf("%+v\nwant\n%+v", got, want)
	}
}

// Before anything is dialled it stands in the file who has it dialled, and that it has not ended.
func TestAuditComesBeforeTheDial(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	audit, err := guard.NewAudit(guard.AuditConfig{Open: func() (io.WriteCloser, error) {
		return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = audit.Close() })
	var seen atomic.Int64
	look := func(target string) {
		text, err := os.ReadFile(path)
		begun, ended := 0, 0
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, fmt.Sprintf("%q:%q", "target", target)) {
				begun += strings.Count(line, `"event":"begin"`)
				ended += strings.Count(line, `"event":"end"`)
			}
		}
		if err != nil || begun != ended+1 {
			t.Errorf("dialled while %d sessions had begun and %d ended: %v", begun, ended, err)
		}
		seen.Add(1)
	}
	var asked atomic.Pointer[nettest.DNSServer] // known when it runs
	peer := nettest.TCP(t, func(c net.Conn) {
		look(c.LocalAddr().String())
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	})
	dns := nettest.DNS(t, func(x *nettest.DNSExchange) {
		look(asked.Load().Addr.String())
		x.Send(x.Answer())
	})
	asked.Store(dns)
	target, server := peer.String(), dns.Addr.String()
	w := newWorld(t, withLimits(guard.Limits{}, "a"), func(s *settings) { s.Audit = audit })
	receive := []*probev1.Step{{Step: &probev1.Step_Receive{Receive: &probev1.Receive{}}}}
	for range 5 {
		for _, c := range w.by("a") {
			for i, request := range []proto.Message{
				&probev1.ExchangeRequest{Target: target, Steps: receive},
				&probev1.QueryDNSRequest{Name: "x.test", Server: server},
				&probev1.QueryDNSRequest{Name: "x.test", Server: server, Transport: probev1.DNSTransport_DNS_TRANSPORT_TCP},
			} {
				before := seen.Load()
				if a := c.call(t.Context(), t, request); a.err != nil || seen.Load() != before+1 {
					t.Errorf("%v, %d: %v, seen %d times", c, i, a.err, seen.Load()-before)
				}
				// The next one is to find this one ended.
				soon(t, "the end", func() bool {
					text, _ := os.ReadFile(path)
					return strings.Count(string(text), `"event":"begin"`) == strings.Count(string(text), `"event":"end"`)
				})
			}
		}
	}
}

// What cannot be written down does not take place, and leaves nothing behind.
func TestAuditThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	var tally nettest.Tally
	peer := nettest.TCP(t, tally.Count(nettest.Echo)).String()
	dns := knowingServer(t)
	w := newWorld(t, withLimits(guard.Limits{SessionsPerCaller: 1}, "a"))
	log := w.audit
	requests := []proto.Message{
		&probev1.ConnectRequest{Target: peer},
		&probev1.ExchangeRequest{Target: peer},
		&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: peer}}},
		&probev1.QueryDNSRequest{Name: "name.test", Server: dns.Addr.String()},
	}
	log.fail.Store(true)
	for _, c := range w.by("a") {
		for _, request := range requests {
			if _, converses := request.(*probev1.ConverseRequest); converses && c.by == "REST" {
				continue
			}
			a := c.call(t.Context(), t, request)
			if status.Code(a.err) != codes.Unavailable || errorInfo(a.err) != "ERROR_REASON_UNAVAILABLE" || strings.Contains(a.text(), "space") {
				t.Errorf("%v, %T: %v", c, request, a.err)
			}
			if c.by == "REST" && a.header["status"][0] != "503 Service Unavailable" {
				t.Errorf("%v", a.header)
			}
		}
		// What opens nothing goes on.
		if a := c.call(t.Context(), t, &probev1.LookupPortRequest{Port: 80}); a.err != nil {
			t.Error(a.err)
		}
	}
	if n, queries := tally.Conns.Load(), dns.UDP.Load()+dns.TCP.Load(); n != 0 || queries != 0 {
		t.Errorf("%d connections, %d queries", n, queries)
	}
	log.fail.Store(false)
	for _, request := range requests {
		a := w.by("a")[0].call(t.Context(), t, request)
		if a.err != nil {
			t.Errorf("%T: %v", request, a.err)
		}
		log.of(t, a.id())
	}
}

// Neither what is sent nor what comes back is in the log, nor a key or a token.
func TestAuditHasNoSecrets(t *testing.T) {
	t.Parallel()
	var tally nettest.Tally
	peer, secured := nettest.TCP(t, nettest.Echo), tlsSink(t, &tally)
	w := newWorld(t, withLimits(guard.Limits{}, "a"))
	log := w.audit
	const secret = "the-secret"
	certificate, key := selfSigned(t)
	for _, c := range w.by("a") {
		for _, request := range []proto.Message{
			&probev1.ExchangeRequest{Target: peer.String(), Payload: &probev1.ExchangeRequest_Text{Text: secret}},
			&probev1.ExchangeRequest{Target: "tls://" + secured.String(), Payload: &probev1.ExchangeRequest_Data{Data: []byte(secret)},
				Tls: &probev1.TlsOptions{InsecureSkipVerify: true, Certificate: certificate, PrivateKey: key, ServerName: "name.test"}},
		} {
			a := c.call(t.Context(), t, request)
			if a.err != nil || !a.outcome().GetOk() {
				t.Errorf("%v: %v, %v", c, a.err, a.outcome())
			}
			log.of(t, a.id())
		}
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	text := log.text.String()
	for _, hidden := range []string{secret, "dGhlLXNlY3JldA", tokenOf("a"), "PRIVATE KEY", "BEGIN", "Bearer"} {
		if strings.Contains(text, hidden) {
			t.Errorf("%q is in %s", hidden, text)
		}
	}
}

package endurance

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/internal/probetest"
	"probed/internal/promise"
)

// dnsFault is one way in which a name server can fail those that ask it.
type dnsFault struct {
	label   string // the first of its names
	handle  func(*nettest.DNSExchange)
	code    codes.Code
	reason  probev1.ErrorReason // of a lookup
	outcome probev1.Reason      // of an exchange
	steps   []string            // some that the trace must have, as "udp NOERROR"
	records int                 // how many addresses there are, when it does not fail
}

func dnsFaults(timeout time.Duration) []dnsFault {
	const (
		notFound    = codes.NotFound
		unavailable = codes.Unavailable

		dnsTimeout = probev1.Reason_REASON_DNS_TIMEOUT
		dnsFailure = probev1.Reason_REASON_DNS_FAILURE
	)
	many, records := dnsMany(10_000)
	return []dnsFault{
		{"silence", nettest.DNSSilence, unavailable, probev1.ErrorReason_ERROR_REASON_DNS_TIMEOUT, dnsTimeout, nil, 0},
		{"servfail", nettest.DNSRcode(dns.RcodeServerFailure), unavailable, probev1.ErrorReason_ERROR_REASON_DNS_SERVER_FAILURE, dnsFailure, []string{"udp SERVFAIL"}, 0},
		{"refused", nettest.DNSRcode(dns.RcodeRefused), unavailable, probev1.ErrorReason_ERROR_REASON_DNS_REFUSED, dnsFailure, []string{"udp REFUSED"}, 0},
		{"nxdomain", nettest.DNSRcode(dns.RcodeNameError), notFound, probev1.ErrorReason_ERROR_REASON_NAME_NOT_FOUND, probev1.Reason_REASON_NAME_NOT_FOUND, []string{"udp NXDOMAIN"}, 0},
		{"nodata", nettest.DNSRcode(dns.RcodeSuccess), notFound, probev1.ErrorReason_ERROR_REASON_NAME_HAS_NO_ADDRESS, probev1.Reason_REASON_NAME_HAS_NO_ADDRESS, []string{"udp NOERROR"}, 0},
		{"truncated", overTCP(localA), codes.OK, 0, 0, []string{"udp NOERROR", "tcp NOERROR"}, 1},
		{"many", many, codes.OK, 0, 0, []string{"udp NOERROR", "tcp NOERROR"}, records},
		{"loop", nettest.DNSLoop, unavailable, probev1.ErrorReason_ERROR_REASON_DNS_LOOPED, dnsFailure, []string{"udp NOERROR"}, 0},
		{"wrongid", nettest.DNSWrongID, unavailable, probev1.ErrorReason_ERROR_REASON_DNS_MISMATCHED, dnsFailure, nil, 0},
		{"wrongname", nettest.DNSWrongQuestion, unavailable, probev1.ErrorReason_ERROR_REASON_DNS_MISMATCHED, dnsFailure, nil, 0},
		{"wrongidbytcp", overTCP(nettest.DNSWrongID), unavailable, probev1.ErrorReason_ERROR_REASON_DNS_MISMATCHED, dnsFailure, []string{"udp NOERROR", "tcp "}, 0},
		{"garbage", nettest.DNSGarbage, unavailable, probev1.ErrorReason_ERROR_REASON_DNS_MALFORMED, dnsFailure, nil, 0},
		{"hangup", nettest.DNSHangUp, unavailable, probev1.ErrorReason_ERROR_REASON_DNS_UNREACHABLE, dnsFailure, []string{"udp NOERROR", "tcp "}, 0},
		{"drip", nettest.DNSDrip(timeout / 10), unavailable, probev1.ErrorReason_ERROR_REASON_DNS_TIMEOUT, dnsTimeout, []string{"udp NOERROR", "tcp "}, 0},
		{"lies", lies, codes.OK, 0, 0, []string{"udp NOERROR"}, 1},
	}
}

// localA answers that the name has the one address 127.0.0.1.
func localA(x *nettest.DNSExchange) {
	if x.Type == dns.TypeA {
		x.Send(x.Answer(x.Name + " 60 IN A 127.0.0.1"))
	} else {
		x.Send(x.Answer())
	}
}

// lies answers wrongly before it answers truly.
func lies(x *nettest.DNSExchange) {
	nettest.DNSWrongID(x)
	nettest.DNSWrongQuestion(x)
	nettest.DNSShort(x)
	localA(x)
}

// overTCP is truncated over UDP.
func overTCP(handle func(*nettest.DNSExchange)) func(*nettest.DNSExchange) {
	return func(x *nettest.DNSExchange) {
		if x.Transport == "udp" {
			nettest.DNSTruncate(x)
			return
		}
		handle(x)
	}
}

// dnsMany answers with n addresses of 127.0.0.0/8, or with as many as a message has room for, and with none of IPv6. The
// message is made but once.
func dnsMany(n int) (handle func(*nettest.DNSExchange), records int) {
	const name = "many.a.example."
	m := &dns.Msg{Compress: true}
	m.SetQuestion(name, dns.TypeA)
	m.Response, m.RecursionAvailable = true, true
	hdr := dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}
	const header, question, record = 12, len(name) + 1 + 4, 16
	for i := range min(n, (dns.MaxMsgSize-1-header-question)/record) {
		m.Answer = append(m.Answer, &dns.A{Hdr: hdr, A: net.IPv4(127, byte(i>>16), byte(i>>8), byte(i)+1)})
	}
	wire, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return overTCP(func(x *nettest.DNSExchange) {
		if x.Type != dns.TypeA {
			x.Send(x.Answer())
			return
		}
		answer := slices.Clone(wire)
		binary.BigEndian.PutUint16(answer, x.Query.Id)
		x.SendBytes(answer)
	}), len(m.Answer)
}

// What is wrong with a name server is told for what it is, and in time, by lookups and by exchanges.
func TestDNSFaults(t *testing.T) {
	timeout := promise.Times(2*time.Second, 5*time.Second)
	each := promise.Times(1, 7)
	nettest.ResolvConf(t, "nameserver 127.0.0.1\nsearch a.example b.example\n")
	faults := dnsFaults(timeout)
	nettest.DNSAt(t, "127.0.0.1:53", func(x *nettest.DNSExchange) {
		label, _, _ := strings.Cut(x.Name, ".")
		if i := slices.IndexFunc(faults, func(f dnsFault) bool { return f.label == label }); i >= 0 {
			faults[i].handle(x)
		}
	})
	echo := nettest.Listen(t, "tcp4", "0.0.0.0:0", nettest.Echo)
	_, port, err := net.SplitHostPort(echo.String())
	if err != nil {
		t.Fatal(err)
	}
	p := probetest.Start(t, probetest.Options{Config: fmt.Sprintf("limits:\n  dns_timeout: %v\n", timeout)})
	warm(t, p)

	names, asks := []string{".a.example.", ""}, []dnsAsk{lookUp, exchangeWith} // absolute, and by the search list
	var slowest longest
	askAll := func(f dnsFault) {
		callers := p.Callers() // a connection has room for 100 calls
		var running sync.WaitGroup
		for i := range 8 * each {
			caller, name, ask := callers[i%2], f.label+names[i/2%2], asks[i/4%2]
			running.Go(func() {
				began := time.Now()
				err := ask(t, caller, f, name, port)
				took, most := time.Since(began), timeout
				if !promise.Long() { // other tests run beside the short form
					most += slack()
				}
				if err != nil || took > most {
					t.Errorf("%q, %v: took %v of %v; %v", name, caller, took, timeout, err)
				}
				slowest.note(took)
			})
		}
		running.Wait()
	}
	var waiting sync.WaitGroup
	for _, f := range faults {
		if f.waits() {
			waiting.Go(func() { askAll(f) })
		} else {
			askAll(f)
		}
	}
	waiting.Wait()
	promise.DNSFaults.Reached(t, "%d faults × %d at once, absolute names and the search list, lookups and exchanges, gRPC and REST; timeout %v, slowest %v",
		len(faults), 8*each, timeout, &slowest)
}

// dnsAsk asks by one of the ways there are, and tells in what the answer is not that of the fault.
type dnsAsk func(t *testing.T, caller probetest.Caller, f dnsFault, name, port string) error

// waits tells that nothing comes before the time is over.
func (f dnsFault) waits() bool {
	return f.reason == probev1.ErrorReason_ERROR_REASON_DNS_TIMEOUT || f.reason == probev1.ErrorReason_ERROR_REASON_DNS_MISMATCHED
}

// lookUp looks the name up, and holds what it is told against the fault.
func lookUp(t *testing.T, caller probetest.Caller, f dnsFault, name, _ string) error {
	answer, err := caller.LookupHost(t.Context(), name)
	if f.code == codes.OK {
		if err != nil {
			return err
		}
		if got := len(answer.GetAddresses()); got != f.records {
			return fmt.Errorf("%d addresses, want %d", got, f.records)
		}
		return f.check(answer.GetTrace())
	}
	s := status.Convert(err)
	if s.Code() != f.code {
		return fmt.Errorf("%v, want %v (%s)", s.Code(), f.code, s.Message())
	}
	for _, detail := range s.Details() {
		if failure, ok := detail.(*probev1.ResolutionFailure); ok {
			return f.checkFailure(failure)
		}
	}
	return fmt.Errorf("no ResolutionFailure in %v", s.Details())
}

// exchangeWith asks a peer of that name for an echo.
func exchangeWith(t *testing.T, caller probetest.Caller, f dnsFault, name, port string) error {
	s := caller.Exchange(t.Context(), t, &probev1.ExchangeRequest{
		Target: net.JoinHostPort(name, port), Payload: &probev1.ExchangeRequest_Text{Text: "x"},
	})
	o := s.Rest()
	switch {
	case o == nil:
		return fmt.Errorf("no outcome: %w", s.Err)
	case o.GetReason() != f.outcome:
		return fmt.Errorf("%v in %v, want %v: %s", o.GetReason(), o.GetPhase(), f.outcome, o.GetError())
	case f.code == codes.OK:
		if s.Received != 1 {
			return fmt.Errorf("%d bytes came", s.Received)
		}
		return nil
	case o.GetPhase() != probev1.Phase_PHASE_RESOLVE || s.Received > 0 || len(o.GetAttempts()) > 0:
		return fmt.Errorf("in %v, attempts %v", o.GetPhase(), o.GetAttempts())
	}
	return f.checkFailure(o.GetResolution())
}

func (f dnsFault) checkFailure(failure *probev1.ResolutionFailure) error {
	if failure.GetReason() != f.reason.String() || failure.GetHint() == "" {
		return fmt.Errorf("%s, want %v; hint %q", failure.GetReason(), f.reason, failure.GetHint())
	}
	return f.check(failure.GetTrace())
}

// check holds the trace against the steps.
func (f dnsFault) check(trace []*probev1.TraceStep) error {
	var steps []string
	for _, step := range trace {
		if step.GetSource() == "dns" {
			steps = append(steps, step.GetTransport()+" "+step.GetRcode())
		}
	}
	for _, want := range f.steps {
		if !slices.Contains(steps, want) {
			return fmt.Errorf("steps %q, want %q", steps, want)
		}
	}
	if len(steps) == 0 {
		return fmt.Errorf("no steps of DNS: %v", trace)
	}
	return nil
}

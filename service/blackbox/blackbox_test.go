package blackbox

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/miekg/dns"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	configv1 "probed/gen/probe/config/v1"
	probev1 "probed/gen/probe/v1"
)

func module(t testing.TB, config *configv1.Module) *Module {
	t.Helper()
	m, problems := New("m", config, TLSFiles{})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return m
}

// service answers as it was told to, and keeps what it was asked.
type service struct {
	connect  *probev1.ConnectRequest
	exchange *probev1.ExchangeRequest
	events   []*probev1.ExchangeResponse
	outcome  *probev1.Outcome
	err      error
	// answer makes of a question, of which the id is known only now, what comes; nil: nothing.
	answer func(*dns.Msg) *dns.Msg
}

func (s *service) Connect(_ context.Context, r *probev1.ConnectRequest, _ ...grpc.CallOption) (*probev1.ConnectResponse, error) {
	s.connect = r
	return &probev1.ConnectResponse{Outcome: s.outcome}, s.err
}

func (s *service) Exchange(_ context.Context, r *probev1.ExchangeRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[probev1.ExchangeResponse], error) {
	s.exchange = r
	events := slices.Clone(s.events)
	if s.answer != nil {
		asked := new(dns.Msg)
		if err := asked.Unpack(r.GetSteps()[0].GetSend().GetData()); err != nil {
			return nil, err
		}
		wire, err := s.answer(asked).Pack()
		if err != nil {
			return nil, err
		}
		events = append(events,
			&probev1.ExchangeResponse{Event: &probev1.ExchangeResponse_Sent{Sent: &probev1.Sent{Elapsed: durationpb.New(30 * time.Millisecond)}}},
			&probev1.ExchangeResponse{Event: &probev1.ExchangeResponse_Chunk{Chunk: &probev1.Chunk{Data: wire, Elapsed: durationpb.New(40 * time.Millisecond)}}})
	}
	if s.outcome != nil {
		events = append(events, &probev1.ExchangeResponse{Event: &probev1.ExchangeResponse_Outcome{Outcome: s.outcome}})
	}
	return &stream{events: events, err: s.err}, nil
}

type stream struct {
	grpc.ClientStream
	events []*probev1.ExchangeResponse
	err    error
}

func (s *stream) Recv() (*probev1.ExchangeResponse, error) {
	if len(s.events) == 0 {
		if s.err != nil {
			return nil, s.err
		}
		return nil, io.EOF
	}
	event := s.events[0]
	s.events = s.events[1:]
	return event, nil
}

// text are the series of a result but for the time that it took.
func text(t *testing.T, r *Result) string {
	t.Helper()
	r.took = 0
	gatherer, err := r.Gatherer()
	if err != nil {
		t.Fatal(err)
	}
	families, err := gatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(&b, family); err != nil {
			t.Fatal(err)
		}
	}
	return regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(b.String(), "")
}

// What a module asks for is what is asked.
func TestRequests(t *testing.T) {
	t.Parallel()
	no := false
	for name, test := range map[string]struct {
		config           *configv1.Module
		target, hostname string
		want             proto.Message
	}{
		"a connection": {
			&configv1.Module{Prober: "tcp"}, "a.test:22", "ignored",
			&probev1.ConnectRequest{Target: "tcp://a.test:22", PreferredFamily: probev1.AddressFamily_AF_INET6},
		},
		"of one family, from an address": {
			&configv1.Module{Prober: "tcp", Tcp: &configv1.TcpModule{PreferredIpProtocol: "ip4", IpProtocolFallback: &no, SourceIpAddress: "192.0.2.1"}},
			"a.test:22", "",
			&probev1.ConnectRequest{Target: "tcp://a.test:22", Family: probev1.AddressFamily_AF_INET, Source: "192.0.2.1"},
		},
		"by TLS": {
			&configv1.Module{Prober: "tcp", Tcp: &configv1.TcpModule{Tls: true, TlsConfig: &configv1.ModuleTls{MinVersion: "TLS11", MaxVersion: "TLS12", InsecureSkipVerify: true}}},
			"[::1]:443", "name.test",
			&probev1.ConnectRequest{Target: "tls://[::1]:443", PreferredFamily: probev1.AddressFamily_AF_INET6, Tls: &probev1.TlsOptions{
				ServerName: "name.test", InsecureSkipVerify: true,
				MinVersion: probev1.TlsVersion_TLS_VERSION_1_1, MaxVersion: probev1.TlsVersion_TLS_VERSION_1_2,
			}},
		},
		"the module's name goes before": {
			&configv1.Module{Prober: "tcp", Tcp: &configv1.TcpModule{Tls: true, TlsConfig: &configv1.ModuleTls{ServerName: "module.test"}}}, "a:1", "name.test",
			&probev1.ConnectRequest{Target: "tls://a:1", PreferredFamily: probev1.AddressFamily_AF_INET6, Tls: &probev1.TlsOptions{ServerName: "module.test"}},
		},
		"steps": {
			&configv1.Module{Prober: "tcp", Tcp: &configv1.TcpModule{PreferredIpProtocol: "ip4", QueryResponse: []*configv1.QueryResponse{
				{Expect: "^220 (.*)", Send: []byte("EHLO $1"), Starttls: true},
				{ExpectBytes: []byte("\xff"), Send: []byte("$1")},
			}}}, "a:25", "name.test",
			&probev1.ExchangeRequest{
				Target: "tcp://a:25", PreferredFamily: probev1.AddressFamily_AF_INET, Tls: &probev1.TlsOptions{ServerName: "name.test"},
				Steps: []*probev1.Step{
					{Step: &probev1.Step_Expect{Expect: &probev1.Expect{Pattern: &probev1.Expect_Regex{Regex: "^220 (.*)"}}}},
					{Step: &probev1.Step_Send{Send: &probev1.Send{Content: &probev1.Send_Text{Text: "EHLO ${1}\n"}}}},
					{Step: &probev1.Step_StartTls{StartTls: &probev1.StartTls{}}},
					{Step: &probev1.Step_Expect{Expect: &probev1.Expect{Pattern: &probev1.Expect_Data{Data: []byte("\xff")}}}},
					{Step: &probev1.Step_Send{Send: &probev1.Send{Content: &probev1.Send_Data{Data: []byte("$1\n")}}}},
				},
			},
		},
	} {
		s := &service{outcome: &probev1.Outcome{Ok: true}}
		_, err := module(t, test.config).Probe(t.Context(), s, Request{Target: test.target, Hostname: test.hostname, Timeout: time.Second})
		var got proto.Message = s.connect
		switch want := test.want.(type) {
		case *probev1.ConnectRequest:
			want.Timeout, want.FirstAddressOnly = durationpb.New(time.Second), true
		case *probev1.ExchangeRequest:
			want.Timeout, want.FirstAddressOnly = durationpb.New(time.Second), true
			got = s.exchange
		}
		if err != nil || !proto.Equal(got, test.want) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, test.want)
		}
	}
}

// The error of a call says nothing about the target, and is no result.
func TestErrors(t *testing.T) {
	t.Parallel()
	denied := status.Error(codes.PermissionDenied, "no")
	send := &configv1.Module{Prober: "tcp", Tcp: &configv1.TcpModule{QueryResponse: []*configv1.QueryResponse{{Send: []byte("x")}}}}
	for name, test := range map[string]struct {
		config  *configv1.Module
		service service
		target  string
		want    func(error) bool
	}{
		"a connection denied": {&configv1.Module{Prober: "tcp"}, service{err: denied}, "a:1", func(err error) bool { return errors.Is(err, denied) }},
		"an exchange denied":  {send, service{err: denied}, "a:1", func(err error) bool { return errors.Is(err, denied) }},
		"probed ends":         {&configv1.Module{Prober: "tcp"}, ended(probev1.Reason_REASON_DRAINED), "a:1", isStatus(codes.Unavailable)},
		"probed fails":        {send, ended(probev1.Reason_REASON_INTERNAL), "a:1", isStatus(codes.Internal)},
		"nobody waits":        {send, ended(probev1.Reason_REASON_CANCELLED), "a:1", isStatus(codes.Canceled)},
		"no outcome":          {send, service{}, "a:1", func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		"no target":           {send, service{}, "", isRequestError},
		"no port":             {send, service{}, "a", isRequestError},
		"encoded twice":       {send, service{}, "a%3A1", isRequestError},
	} {
		if r, err := module(t, test.config).Probe(t.Context(), &test.service, Request{Target: test.target}); r != nil || !test.want(err) {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
}

func ended(reason probev1.Reason) service { return service{outcome: &probev1.Outcome{Reason: reason}} }

func isStatus(code codes.Code) func(error) bool {
	return func(err error) bool { return status.Code(err) == code }
}

func isRequestError(err error) bool {
	_, ok := errors.AsType[*RequestError](err)
	return ok
}

func TestSeriesOfTCP(t *testing.T) {
	t.Parallel()
	step := uint32(1)
	s := &service{outcome: &probev1.Outcome{
		Phase: probev1.Phase_PHASE_RECEIVE, Layer: probev1.Layer_LAYER_APPLICATION, Reason: probev1.Reason_REASON_EXPECT_FAILED, FailedStep: &step,
		Remote:   "192.0.2.1:25",
		Attempts: []*probev1.Attempt{{Address: "192.0.2.1:25"}},
		Timings: &probev1.Timings{
			Resolve: durationpb.New(time.Second), Connect: durationpb.New(2 * time.Second), Tls: durationpb.New(3 * time.Second), Total: durationpb.New(10 * time.Second),
		},
		Matches: []*probev1.Match{{Step: 0, Groups: [][]byte{[]byte("220 \xff"), []byte("\xff")}}},
		Tls: &probev1.TlsInfo{Version: "TLS 1.3", Cipher: "C", Verified: true, VerifiedUntil: &timestamppb.Timestamp{Seconds: 100}, Chain: []*probev1.Certificate{
			{Subject: "CN=a", Issuer: "CN=b", DnsNames: []string{"a", "c"}, Names: []string{"a", "c", "192.0.2.1"}, NotAfter: &timestamppb.Timestamp{Seconds: 300}, Sha256: "ab", SerialNumber: "01"},
			{NotAfter: &timestamppb.Timestamp{Seconds: 200}},
		}},
	}}
	m := module(t, &configv1.Module{Prober: "tcp", Tcp: &configv1.TcpModule{Tls: true, QueryResponse: []*configv1.QueryResponse{
		{Expect: "220 (.*)", Labels: []*configv1.ExpectLabel{{Name: "all", Value: "<$1>"}}}, {Expect: "more"},
	}}})
	r, err := m.Probe(t.Context(), s, Request{Target: "a:25", Timeout: 4 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	want := `probe_dns_lookup_time_seconds 1
probe_duration_seconds 0
probe_expect_info{all="<` + "\uFFFD" + `>"} 1
probe_failed_due_to_regex 1
probe_failed_query_response_index 1
probe_failure_info{layer="APPLICATION",phase="RECEIVE",reason="EXPECT_FAILED"} 1
probe_ip_addr_hash 1.969986452e+09
probe_ip_protocol 4
probe_ssl_earliest_cert_expiry 200
probe_ssl_last_chain_expiry_timestamp_seconds 100
probe_ssl_last_chain_info{fingerprint_sha256="ab",issuer="CN=b",serialnumber="01",subject="CN=a",subjectalternative="a,c"} 1
probe_success 0
probe_tcp_duration_seconds{phase="connect"} 2
probe_tcp_duration_seconds{phase="query_response"} 4
probe_tcp_duration_seconds{phase="resolve"} 1
probe_tcp_duration_seconds{phase="tls"} 3
probe_timeout_seconds 4
probe_tls_cipher_info{cipher="C"} 1
probe_tls_version_info{version="TLS 1.3"} 1
`
	if got := text(t, r); got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
	s.outcome.EndedBy = probev1.EndedBy_ENDED_BY_DEADLINE // the peer had more to say, perhaps
	if got := text(t, r); !strings.Contains(got, "probe_failed_due_to_regex 0\n") {
		t.Error(got)
	}
}

// What was not come to took no time.
func TestQueryResponseTakesNoTime(t *testing.T) {
	t.Parallel()
	asks := []*configv1.QueryResponse{{Expect: "220"}}
	for name, test := range map[string]struct {
		entries []*configv1.QueryResponse
		outcome *probev1.Outcome
		want    string
	}{
		"TLS is not spoken": {asks, &probev1.Outcome{Phase: probev1.Phase_PHASE_TLS, Reason: probev1.Reason_REASON_TLS_NOT_SPOKEN}, "0"},
		"nothing is said":   {nil, &probev1.Outcome{Ok: true}, "0"},
		"all is said":       {asks, &probev1.Outcome{Ok: true}, "7"},
		"the first fails":   {asks, &probev1.Outcome{Phase: probev1.Phase_PHASE_RECEIVE, FailedStep: proto.Uint32(0)}, "7"},
	} {
		test.outcome.Remote = "192.0.2.1:25"
		test.outcome.Timings = &probev1.Timings{Connect: durationpb.New(2 * time.Second), Tls: durationpb.New(time.Second), Total: durationpb.New(10 * time.Second)}
		m := module(t, &configv1.Module{Prober: "tcp", Tcp: &configv1.TcpModule{Tls: true, QueryResponse: test.entries}})
		r, err := m.Probe(t.Context(), &service{outcome: test.outcome}, Request{Target: "a:25"})
		if err != nil {
			t.Fatal(err)
		}
		if got := text(t, r); !strings.Contains(got, `{phase="query_response"} `+test.want+"\n") {
			t.Errorf("%s: want %s in %s", name, test.want, got)
		}
	}
}

func TestSeriesOfDNS(t *testing.T) {
	t.Parallel()
	s := &service{
		outcome: &probev1.Outcome{Ok: true, Remote: "[2001:db8::1]:53", Attempts: []*probev1.Attempt{{Address: "[2001:db8::1]:53"}}, Timings: &probev1.Timings{
			Resolve: durationpb.New(time.Second), Connect: durationpb.New(2 * time.Second), Total: durationpb.New(4 * time.Second),
		}},
		answer: func(asked *dns.Msg) *dns.Msg {
			answer := new(dns.Msg).SetReply(asked)
			soa, err := dns.NewRR("a.test. 60 IN SOA ns.a.test. x. 7 1 1 1 1")
			if err != nil {
				t.Error(err)
			}
			answer.Answer = []dns.RR{soa}
			return answer
		},
	}
	m := module(t, &configv1.Module{Prober: "dns", Dns: &configv1.DnsModule{QueryName: "a.test", QueryType: "SOA"}})
	r, err := m.Probe(t.Context(), s, Request{Target: "2001:db8::1", Timeout: time.Second})
	if err != nil || s.exchange.GetTarget() != "udp://[2001:db8::1]:53" {
		t.Fatal(err, s.exchange)
	}
	want := `probe_dns_additional_rrs 0
probe_dns_answer_rrs 1
probe_dns_authority_rrs 0
probe_dns_duration_seconds{phase="connect"} 2
probe_dns_duration_seconds{phase="request"} 0.01
probe_dns_duration_seconds{phase="resolve"} 1
probe_dns_lookup_time_seconds 1
probe_dns_query_succeeded 1
probe_dns_serial 7
probe_duration_seconds 0
probe_ip_addr_hash 1.851458804e+09
probe_ip_protocol 6
probe_success 1
probe_timeout_seconds 1
`
	if got := text(t, r); got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
	// An answer to something else is none.
	s.answer = func(asked *dns.Msg) *dns.Msg {
		answer := new(dns.Msg).SetReply(asked)
		answer.Id++
		return answer
	}
	if r, err = m.Probe(t.Context(), s, Request{Target: "a", Timeout: time.Second}); err != nil {
		t.Fatal(err)
	}
	got := text(t, r)
	for _, line := range []string{"probe_dns_query_succeeded 0\n", "probe_success 0\n", `probe_failure_info{layer="APPLICATION",phase="RECEIVE",reason="EXPECT_FAILED"} 1`} {
		if !strings.Contains(got, line) {
			t.Errorf("there is no %q in %s", line, got)
		}
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		module time.Duration
		scrape string
		most   time.Duration
		want   time.Duration // 0: refused
	}{
		{0, "", 0, 119500 * time.Millisecond},
		{0, "0", 0, 119500 * time.Millisecond},
		{5 * time.Second, "", 0, 5 * time.Second},
		{5 * time.Second, "10", 0, 5 * time.Second},
		{5 * time.Second, "3", 0, 2500 * time.Millisecond},
		{0, "3.25", 0, 2750 * time.Millisecond},
		{5 * time.Second, "0.25", 0, 5 * time.Second}, // as blackbox_exporter has it
		{0, "0.25", 0, 250 * time.Millisecond},
		{0, "0.5", 0, 500 * time.Millisecond},
		{time.Hour, "7200", 0, 10 * time.Minute},
		{time.Minute, "", time.Second, time.Second},
		{0, "x", 0, 0}, {0, "-1", 0, 0}, {0, "NaN", 0, 0}, {0, "Inf", 0, 0}, {0, "1e300", 0, 0},
	} {
		m := module(t, &configv1.Module{Prober: "tcp", Timeout: durationpb.New(test.module)})
		if got, err := m.Timeout(test.scrape, test.most); got != test.want || (err != nil) != (test.want == 0) {
			t.Errorf("%v, %q, %v: %v, %v; want %v", test.module, test.scrape, test.most, got, err, test.want)
		}
	}
}

// What is the operator's alone is not shown to who debugs.
func TestDebugHasNoSecrets(t *testing.T) {
	t.Parallel()
	config := func() *configv1.Module {
		return &configv1.Module{Prober: "tcp", Tcp: &configv1.TcpModule{
			QueryResponse: []*configv1.QueryResponse{{Send: []byte("my-secret")}, {Expect: "seen", Send: []byte("my-secret")}},
			TlsConfig:     &configv1.ModuleTls{Key: "my-secret", Cert: "my-secret", CaFile: "my-secret", ServerName: "seen"},
		}, Dns: &configv1.DnsModule{TlsConfig: &configv1.ModuleTls{CertFile: "my-secret", KeyFile: "my-secret"}}}
	}
	read := config()
	shown := withoutSecrets(read)
	text := protojson.Format(shown)
	if strings.Contains(text, "my-secret") || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte("my-secret"))) ||
		strings.Count(text, "seen") != 2 || !proto.Equal(read, config()) {
		t.Error(text)
	}
}

// What a peer says does not drive the terminal of who debugs.
func TestDebugIsSafe(t *testing.T) {
	t.Parallel()
	s := &service{outcome: &probev1.Outcome{Error: "a\x1b[2J", Tls: &probev1.TlsInfo{Chain: []*probev1.Certificate{{Subject: "CN=\u009b2J\x7f"}}}}}
	r, err := module(t, &configv1.Module{Prober: "tcp"}).Probe(t.Context(), s, Request{Target: "a:1", Debug: true})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := r.Debug(&b); err != nil || !strings.Contains(b.String(), "the probe failed") {
		t.Fatal(err, b.String())
	}
	text, _, _ := strings.Cut(b.String(), "Metrics that would") // which are as every scrape has them
	if i := strings.IndexFunc(text, func(c rune) bool { return unicode.IsControl(c) && c != '\n' }); i >= 0 {
		t.Errorf("%q", text[i:])
	}
}

// What is sent behind an expression is what Expand makes of it, with what the contract does with ${name}.
func FuzzSend(f *testing.F) {
	expression := regexp.MustCompile(`^(a)(?P<name>b)?(?P<b_2>c*)`)
	for _, template := range []string{"x", "$1", "${1}", "$1x", "${1}x", "$$", "$$1", "$${1}", "$$$1", "$name-${b_2}", "$", "${", "${}", "${1", "$é", "${9}", "$0${0}", "\xff$1", "\xff", "${name}}", "${${1}"} {
		f.Add(template, "abcc")
		f.Add(template, "a")
	}
	f.Fuzz(func(t *testing.T, template, line string) {
		match := expression.FindStringSubmatchIndex(line)
		if match == nil {
			return
		}
		send, err := sendOf(template, expression)
		if err != nil {
			return
		}
		got := string(send.GetData())
		if _, ok := send.GetContent().(*probev1.Send_Text); ok {
			got = reference.ReplaceAllStringFunc(send.GetText(), func(name string) string {
				return string(expression.ExpandString(nil, name, line, match))
			})
		}
		if want := string(expression.ExpandString(nil, template, line, match)); got != want {
			t.Errorf("%q of %q: %q, want %q", template, line, got, want)
		}
	})
}

// A target stays the target of its module, whatever it is.
func FuzzTarget(f *testing.F) {
	for _, target := range []string{"a:1", "::1", "[::1]", "[::1]:53", "unix:///run/x", "a:b:c", "%25", "a%3A1", "[", "udp://a:1", ""} {
		f.Add(target)
	}
	tcp := module(f, &configv1.Module{Prober: "tcp"})
	ask := module(f, &configv1.Module{Prober: "dns", Dns: &configv1.DnsModule{QueryName: "a."}})
	f.Fuzz(func(t *testing.T, target string) {
		s := &service{outcome: &probev1.Outcome{}}
		if _, err := tcp.Probe(t.Context(), s, Request{Target: target}); err == nil && !strings.HasPrefix(s.connect.GetTarget(), "tcp://") {
			t.Errorf("%q: %v", target, s.connect)
		}
		if _, err := ask.Probe(t.Context(), s, Request{Target: target}); err == nil && !strings.HasPrefix(s.exchange.GetTarget(), "udp://") {
			t.Errorf("%q: %v", target, s.exchange)
		}
	})
}

// Whatever a server says is an answer or none.
func FuzzAnswer(f *testing.F) {
	m := module(f, &configv1.Module{Prober: "dns", Dns: &configv1.DnsModule{QueryName: "a.", ValidateAnswerRrs: &configv1.RecordRules{FailIfMatchesRegexp: []string{"x"}, FailIfNoneMatchesRegexp: []string{"y"}}}})
	asked := m.dns.message()
	wire, err := new(dns.Msg).SetReply(asked).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wire)
	f.Add([]byte{})
	f.Fuzz(func(_ *testing.T, data []byte) {
		if answer, err := m.dns.read(asked, data); err == nil {
			_ = m.dns.judge(answer)
		}
	})
}

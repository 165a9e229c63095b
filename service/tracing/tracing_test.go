package tracing

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/internal/probetest"
	"probed/service"
)

const (
	patience = 30 * time.Second
	// caller is the span of who calls.
	caller = "b7ad6b7169203331"
	// secret stands in what must not be in any span.
	secret = "the-words-of-the-caller"
)

// traceID is the id of a trace, one a call.
func traceID(n int) string { return fmt.Sprintf("%032x", 0xca11<<32+n) }

func traceparent(trace, flags string) string { return "00-" + trace + "-" + caller + "-" + flags }

// asked is a call and what its trace is to be.
type asked struct {
	name    string
	method  string // of gRPC
	path    string // of REST, for POST; with a ? or without a request for GET; empty: there is none
	request proto.Message
	code    string // of its status
	reason  string
	// spans are those of its parts: [PARENT>]NAME REASON, with a ! when its status is Error. Those that are alike stand once.
	spans []string
}

// calls are some of every kind, and of every way to fail.
func calls(t *testing.T) []asked {
	t.Helper()
	refused, deaf := nettest.Refused(t), nettest.TCP(t, nettest.ReplyAfter(int64(len(secret)), []byte("no\n")))
	echo := nettest.TCP(t, nettest.Echo)
	expired := nettest.TCP(t, servingTLS(t, time.Now().Add(-time.Hour)))
	server := nettest.DNS(t, answer)
	dnsOf := func(parent string) []string { return []string{parent + "dns NO_DATA", parent + "dns OK"} }
	return []asked{
		{"a port", "NameService/LookupPort", "/v1/ports/22?", &probev1.LookupPortRequest{Port: 22}, "OK", "OK", nil},
		{"no service", "NameService/LookupService", "/v1/services/nosuch?", &probev1.LookupServiceRequest{Name: "nosuch"}, "NOT_FOUND", "SERVICE_NOT_FOUND", nil},
		{"no port", "NameService/LookupPort", "/v1/ports/70000?", &probev1.LookupPortRequest{Port: 70000}, "INVALID_ARGUMENT", "INVALID_FIELD", nil},
		{"a host", "ResolverService/LookupHost", "/v1/hosts/web.test?", &probev1.LookupHostRequest{Host: "web.test"}, "OK", "OK", dnsOf("")},
		{"address info", "ResolverService/GetAddressInfo", "/v1/addrinfo?host=web.test", &probev1.GetAddressInfoRequest{Host: proto.String("web.test")}, "OK", "OK", dnsOf("")},
		{"no host", "ResolverService/LookupHost", "/v1/hosts/nosuch.test?", &probev1.LookupHostRequest{Host: "nosuch.test"}, "NOT_FOUND", "NAME_NOT_FOUND", []string{"dns NAME_NOT_FOUND"}},
		{"a broken zone", "ResolverService/LookupHost", "/v1/hosts/broken.test?", &probev1.LookupHostRequest{Host: "broken.test"}, "UNAVAILABLE", "DNS_SERVER_FAILURE", []string{"dns SERVER_FAILURE!"}},
		{"a query", "ResolverService/QueryDNS", "/v1/dns", &probev1.QueryDNSRequest{Name: "web.test", Server: server.Addr.String()}, "OK", "OK", []string{"dns OK"}},
		{"refused", "ExchangeService/Connect", "/v1/connect", &probev1.ConnectRequest{Target: refused.String()}, "OK", "CONNECTION_REFUSED", []string{"connect CONNECTION_REFUSED!"}},
		{"by name", "ExchangeService/Connect", "/v1/connect", &probev1.ConnectRequest{Target: fmt.Sprint("web.test:", echo.Port())}, "OK", "OK",
			[]string{"connect OK", "resolve OK", "resolve>dns NO_DATA", "resolve>dns OK"}},
		{"no name", "ExchangeService/Connect", "/v1/connect", &probev1.ConnectRequest{Target: "nosuch.test:1"}, "OK", "NAME_NOT_FOUND",
			[]string{"resolve NAME_NOT_FOUND!", "resolve>dns NAME_NOT_FOUND"}},
		{"expired", "ExchangeService/Connect", "/v1/connect", &probev1.ConnectRequest{Target: "tls://" + expired.String()}, "OK", "TLS_EXPIRED", []string{"connect OK", "tls TLS_EXPIRED!"}},
		{"all addresses", "ExchangeService/Connect", "/v1/connect", &probev1.ConnectRequest{Target: "tls://" + expired.String(), AllAddresses: true}, "OK", "TLS_EXPIRED", []string{"connect OK", "tls TLS_EXPIRED!"}},
		{"denied", "ExchangeService/Connect", "/v1/connect", &probev1.ConnectRequest{Target: "169.254.1.1:80"}, "PERMISSION_DENIED", "POLICY_DENIED", []string{"connect POLICY_DENIED!"}},
		{"an exchange", "ExchangeService/Exchange", "/v1/exchange", &probev1.ExchangeRequest{Target: echo.String(), Payload: &probev1.ExchangeRequest_Text{Text: secret}}, "OK", "OK",
			[]string{"connect OK", "half_close OK", "receive OK", "send OK"}},
		{"something else", "ExchangeService/Exchange", "/v1/exchange", &probev1.ExchangeRequest{Target: deaf.String(), Steps: []*probev1.Step{
			{Step: &probev1.Step_Send{Send: &probev1.Send{Content: &probev1.Send_Text{Text: secret}}}},
			{Step: &probev1.Step_Expect{Expect: &probev1.Expect{Pattern: &probev1.Expect_Regex{Regex: "^" + secret + "$"}}}},
		}}, "OK", "EXPECT_FAILED", []string{"connect OK", "expect EXPECT_FAILED!", "send OK"}},
	}
}

// answer is that of a name server.
func answer(x *nettest.DNSExchange) {
	switch x.Name {
	case "web.test.":
		if x.Type == 1 {
			x.Send(x.Answer("web.test. 60 IN A 127.0.0.1"))
			return
		}
		x.Send(x.Answer())
	case "broken.test.":
		nettest.DNSRcode(2)(x)
	default:
		nettest.DNSRcode(3)(x)
	}
}

// servingTLS handles a connection with a certificate that is good until then.
func servingTLS(t *testing.T, until time.Time) func(net.Conn) {
	t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{certificate(t, until)}}
	return func(c net.Conn) { _ = tls.Server(c, config).Handshake() }
}

// certificate is one of this host that is its own authority.
func certificate(t *testing.T, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "collector.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: until.Add(-2 * time.Hour), NotAfter: until, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// start starts a probed that sends its spans to c at the very end, and the environment beside that.
func start(t *testing.T, c *collector, env []string, config string, args ...string) *probetest.Probed {
	t.Helper()
	env = append([]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.url, "OTEL_BSP_SCHEDULE_DELAY=3600000", "OTEL_BSP_MAX_QUEUE_SIZE=100000", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=50000",
	}, env...)
	return probetest.Start(t, probetest.Options{Env: env, Config: config, Args: append([]string{"--log-level=info"}, args...), Dies: true})
}

// end ends it in good order, and returns what it logged.
func end(t *testing.T, p *probetest.Probed) (log string) {
	t.Helper()
	p.Signal(syscall.SIGTERM)
	code, log := p.Wait(patience)
	if code != 0 {
		t.Errorf("exit code %d: %s", code, log)
	}
	return log
}

// byGRPC makes a call, of which the trace of the caller is told.
func byGRPC(t *testing.T, conn *grpc.ClientConn, a asked, headers ...string) {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(t.Context(), headers...)
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/probe.v1."+a.method)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(stream.SendMsg(a.request), stream.CloseSend()); err != nil {
		t.Fatal(err)
	}
	for err == nil { // what the answer is, others test
		err = stream.RecvMsg(&emptypb.Empty{})
	}
}

// byREST is byGRPC by REST.
func byREST(t *testing.T, address string, a asked, headers ...string) {
	t.Helper()
	method, body := http.MethodGet, []byte(nil)
	if !strings.Contains(a.path, "?") {
		method = http.MethodPost
		var err error
		if body, err = protojson.Marshal(a.request); err != nil {
			t.Fatal(err)
		}
	}
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+strings.TrimSuffix(a.path, "?"), bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Error(err)
	}
}

// Each call, by gRPC and by REST, is a span in the trace of its caller, with one for each of its parts, and the reason; each
// collector gets them, at the very end too; nobody gets what was said, and the log has the trace.
func TestCalls(t *testing.T) {
	nettest.DNSAt(t, "127.0.0.1:53", answer)
	t.Run("by protocol", func(t *testing.T) {
		for _, protocol := range []string{protocolGRPC, protocolHTTP} {
			t.Run(protocol, func(t *testing.T) {
				t.Parallel()
				testCalls(t, protocol)
			})
		}
	})
}

func testCalls(t *testing.T, protocol string) {
	t.Helper()
	c := collect(t, protocol)
	p := start(t, c, []string{
		"OTEL_EXPORTER_OTLP_PROTOCOL=" + protocol, "OTEL_RESOURCE_ATTRIBUTES=deployment.environment=test", "OTEL_EXPORTER_OTLP_COMPRESSION=gzip",
		"OTEL_EXPORTER_OTLP_HEADERS=x-tenant=a", "PROBED_POD=web-1", "PROBED_NAMESPACE=shop", "PROBED_NODE=node-2",
	}, "")
	conn := p.GRPC().Conn
	var all []asked
	var via []string
	for _, a := range calls(t) {
		byGRPC(t, conn, a, "traceparent", traceparent(traceID(len(all)), "01"), "tracestate", "a=b")
		all, via = append(all, a), append(via, "grpc")
		byREST(t, p.HTTPAddress, a, "traceparent", traceparent(traceID(len(all)), "01"), "tracestate", "a=b")
		all, via = append(all, a), append(via, "rest")
	}
	converse(t, conn, traceparent(traceID(len(all)), "01"))
	all, via = append(all, asked{name: "a conversation", method: "ExchangeService/Converse", code: "OK", reason: "OK", spans: []string{"connect OK", "receive OK", "send OK"}}), append(via, "grpc")
	// Who only looks whether it serves is in no trace, nor who does not want to be.
	unseen := []string{traceID(1000), traceID(1001)}
	_, err := grpc_health_v1.NewHealthClient(conn).Check(metadata.AppendToOutgoingContext(t.Context(), "traceparent", traceparent(unseen[0], "01")), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Error(err)
	}
	byREST(t, p.HTTPAddress, all[0], "traceparent", traceparent(unseen[1], "00"))
	checkExemplars(t, p)
	if n := len(c.spans()); n != 0 {
		t.Errorf("%d traces before the end", n)
	}
	lines := logged(t, end(t, p))

	spans := c.spans()
	for i, a := range all {
		checkTrace(t, a, via[i], traceID(i), spans[traceID(i)], lines)
	}
	for _, trace := range unseen {
		if spans[trace] != nil {
			t.Errorf("%v", spans[trace])
		}
	}
	from := c.origin()
	for key, want := range map[string]string{
		"service.name": "probed", "k8s.pod.name": "web-1", "k8s.namespace.name": "shop", "k8s.node.name": "node-2",
		"deployment.environment": "test", "telemetry.sdk.name": "opentelemetry",
	} {
		if from[key] != want {
			t.Errorf("%s is %q, want %q", key, from[key], want)
		}
	}
	if from["service.version"] == "" || from["host.name"] == "" {
		t.Errorf("from %v", from)
	}
	if strings.Contains(c.all(t), secret) {
		t.Error("what the caller or the peer said is in the spans")
	}
	for _, tenant := range c.headers {
		if tenant != "a" {
			t.Errorf("x-tenant %q", tenant)
		}
	}
}

// logged are the lines of calls by their trace.
func logged(t *testing.T, log string) map[string]map[string]any {
	t.Helper()
	lines := make(map[string]map[string]any)
	for text := range strings.Lines(log) {
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if trace, ok := line["trace_id"].(string); ok {
			lines[trace] = line
		}
	}
	return lines
}

func checkTrace(t *testing.T, a asked, via, trace string, spans []span, lines map[string]map[string]any) {
	t.Helper()
	names := make(map[string]string) // by id
	var root span
	for _, s := range spans {
		names[s.id] = s.GetName() + ">"
		if s.parent == caller {
			names[s.id], root = "", s
		}
	}
	if root.Span == nil {
		t.Errorf("%s by %s: no span below that of the caller: %v", a.name, via, spans)
		return
	}
	if status := root.GetStatus().GetCode(); root.GetName() != "probe.v1."+a.method || root.GetKind() != 2 || status != 0 || root.GetStatus().GetMessage() != "" || root.GetTraceState() != map[bool]string{true: "a=b"}[a.request != nil] {
		t.Errorf("%s by %s: %v", a.name, via, root)
	}
	line := lines[trace]
	for key, want := range map[string]string{
		"rpc.response.status_code": a.code, "probe.reason": a.reason, "probe.via": via, "client.address": "127.0.0.1",
		"probe.request_id": fmt.Sprint(line["request_id"]),
	} {
		if root.attributes[key] != want {
			t.Errorf("%s by %s: %s is %q, want %q", a.name, via, key, root.attributes[key], want)
		}
	}
	if line["span_id"] != root.id || line["reason"] != a.reason || line["via"] != via {
		t.Errorf("%s by %s: %v of %v", a.name, via, line, root)
	}
	var parts []string
	for _, s := range spans {
		if s.id == root.id {
			continue
		}
		parent, known := names[s.parent]
		part := parent + s.GetName() + " " + s.attributes["probe.reason"]
		if s.GetStatus().GetCode() == 2 {
			part += "!"
			if s.attributes["error.type"] != s.attributes["probe.reason"] || s.GetStatus().GetMessage() != s.attributes["probe.reason"] {
				t.Errorf("%s by %s: %v", a.name, via, s)
			}
		}
		if !slices.Contains(parts, part) {
			parts = append(parts, part)
		}
		within := s.GetStartTimeUnixNano() >= root.GetStartTimeUnixNano() && s.GetEndTimeUnixNano() <= root.GetEndTimeUnixNano() && s.GetStartTimeUnixNano() <= s.GetEndTimeUnixNano()
		if !known || !within {
			t.Errorf("%s by %s: %v", a.name, via, s)
		}
		checkPart(t, s)
	}
	slices.Sort(parts)
	if !slices.Equal(parts, a.spans) {
		t.Errorf("%s by %s: %q, want %q", a.name, via, parts, a.spans)
	}
}

// checkPart asserts that a part says where it led to.
func checkPart(t *testing.T, s span) {
	t.Helper()
	want := []string{"server.address", "server.port", "network.transport", "probe.reason"}
	switch s.GetName() {
	case "dns":
		want = append(want, "network.peer.address", "dns.question.name", "probe.dns.type", "probe.dns.rcode")
	case "connect":
		want = append(want, "network.peer.address", "network.peer.port", "network.type", "probe.phase")
	case "tls":
		want = append(want, "network.peer.address", "tls.protocol.version", "tls.cipher", "tls.server.not_after", "probe.phase")
	case "send", "receive":
		want = append(want, "probe.bytes", "probe.phase")
	}
	if s.attributes["probe.reason"] == "POLICY_DENIED" && s.attributes["probe.phase"] != "POLICY" {
		t.Errorf("%s reads as if it had been dialled: %v", s.GetName(), s.attributes)
	}
	for _, key := range want {
		if s.attributes[key] == "" {
			t.Errorf("%s of %s without %s: %v", s.GetName(), s.parent, key, s.attributes)
		}
	}
}

// converse is a conversation of many frames.
func converse(t *testing.T, conn *grpc.ClientConn, traceparent string) {
	t.Helper()
	peer := nettest.TCP(t, nettest.Echo)
	stream, err := probev1.NewExchangeServiceClient(conn).Converse(metadata.AppendToOutgoingContext(t.Context(), "traceparent", traceparent))
	if err != nil {
		t.Fatal(err)
	}
	send := func(r *probev1.ConverseRequest) {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	send(&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: peer.String()}}})
	for range 50 {
		send(&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Data{Data: []byte(secret)}})
		for received := 0; received < len(secret); {
			event, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			received += len(event.GetChunk().GetData())
		}
	}
	send(&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Close{Close: &probev1.Close{}}})
	for err == nil {
		_, err = stream.Recv()
	}
	if !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// checkExemplars asserts that the durations that are scraped name a trace.
func checkExemplars(t *testing.T, p *probetest.Probed) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.OpsAddress+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", "application/openmetrics-text;version=1.0.0")
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, metric := range []string{"probed_dial_duration_seconds", "probed_lookup_duration_seconds", "grpc_server_handling_seconds"} {
		found := false
		for line := range strings.Lines(string(text)) {
			found = found || strings.HasPrefix(line, metric+"_bucket{") && strings.Contains(line, `# {trace_id="`+traceID(0)[:16])
		}
		if !found {
			t.Errorf("no exemplar of %s", metric)
		}
	}
	if strings.Contains(string(text), traceID(1001)) {
		t.Error("an exemplar of a trace that is not kept")
	}
}

// scraped is the value of a metric without labels.
func scraped(t *testing.T, p *probetest.Probed, name string) (value float64) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.OpsAddress+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, name+" %g", &value); err == nil {
			return value
		}
	}
	t.Errorf("there is no %s", name)
	return 0
}

// roles lets one caller in.
const roles = `
auth:
  tokens:
    - name: known
      sha256: sha256:%x
policy:
  roles:
    - name: all
      subjects: [token:known]
      rules:
        - name: names
          hosts: ["*"]
          verbs: [resolve]
`

// Who is refused has no span, whatever the flags of a trace say; nor do they decide for strangers that one is kept.
func TestStrangers(t *testing.T) {
	t.Parallel()
	a := asked{method: "NameService/LookupPort", path: "/v1/ports/22?", request: &probev1.LookupPortRequest{Port: 22}}
	hash := sha256.Sum256([]byte("thetoken"))
	known := []string{"authorization", "Bearer thetoken"}
	for name, tt := range map[string]struct {
		config  string
		args    []string
		sampler string
		headers []string
		traces  int  // that came of two calls
		goesOn  bool // the trace of the caller
	}{
		"on loopback":                  {traces: 2, goesOn: true},
		"on loopback, if asked to":     {sampler: "parentbased_always_off", traces: 2, goesOn: true},
		"known":                        {config: fmt.Sprintf(roles, hash), headers: known, sampler: "parentbased_always_off", traces: 2, goesOn: true},
		"unknown":                      {config: fmt.Sprintf(roles, hash)},
		"with another token":           {config: fmt.Sprintf(roles, hash), headers: []string{"authorization", "Bearer another"}},
		"from everywhere":              {args: []string{"--insecure-no-auth"}, traces: 2},
		"from everywhere, if asked to": {args: []string{"--insecure-no-auth"}, sampler: "parentbased_always_off"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := collect(t, protocolHTTP)
			if tt.args != nil {
				tt.args = append(tt.args, "--grpc-listen=0.0.0.0:0", "--http-listen=0.0.0.0:0", "--http-allowed-host=x.test", "--drain-delay=0s")
				tt.config = `policy: {roles: [{name: all, subjects: [anonymous], rules: [{name: names, hosts: ["*"], verbs: [resolve]}]}]}`
			}
			p := start(t, c, []string{"OTEL_TRACES_SAMPLER=" + tt.sampler}, tt.config, tt.args...)
			headers := append([]string{"traceparent", traceparent(traceID(1), "01")}, tt.headers...)
			byGRPC(t, p.GRPC().Conn, a, headers...)
			headers[1] = traceparent(traceID(2), "01")
			byREST(t, p.HTTPAddress, a, headers...)
			end(t, p)
			spans := c.spans()
			if len(spans) != tt.traces {
				t.Errorf("%d traces, want %d", len(spans), tt.traces)
			}
			for trace, spans := range spans {
				theirs := trace == traceID(1) || trace == traceID(2)
				if theirs != tt.goesOn || theirs == (len(spans[0].GetLinks()) == 1) || theirs != (spans[0].parent == caller) {
					t.Errorf("trace %s: %v", trace, spans)
				}
				if !theirs && hex.EncodeToString(spans[0].GetLinks()[0].GetSpanId()) != caller {
					t.Errorf("%v", spans[0].GetLinks())
				}
			}
		})
	}
}

// A collector that is not there, or says nothing, or refuses, is no matter to a call, and little to the log; the end does not
// wait for it for long.
func TestCollectorDown(t *testing.T) {
	t.Parallel()
	refusing := &http.Server{Handler: http.NotFoundHandler()}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = refusing.Serve(listener) }()
	t.Cleanup(func() { _ = refusing.Close() })
	for name, address := range map[string]string{
		"refused": nettest.Refused(t).String(), "silent": nettest.TCP(t, nettest.Silent).String(),
		"unreachable": nettest.Backlog(t).String(), "no such path": listener.Addr().String(), "no such name": "nosuch.test:4317",
	} {
		for _, protocol := range []string{protocolGRPC, protocolHTTP} {
			t.Run(name+" "+protocol, func(t *testing.T) {
				t.Parallel()
				p := start(t, &collector{url: "http://" + address}, []string{"OTEL_EXPORTER_OTLP_PROTOCOL=" + protocol, "OTEL_BSP_SCHEDULE_DELAY=5", "OTEL_BSP_MAX_QUEUE_SIZE=10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=5"}, "")
				conn := p.GRPC().Conn
				for range 100 {
					if _, err := probev1.NewNameServiceClient(conn).LookupPort(t.Context(), &probev1.LookupPortRequest{Port: 22}); err != nil {
						t.Fatal(err)
					}
				}
				// No more than ten wait.
				if n := scraped(t, p, "probed_trace_spans_lost_total"); n < 90 && strings.HasPrefix(name, "silent") {
					t.Errorf("%v spans counted as lost", n)
				}
				p.Signal(syscall.SIGTERM)
				code, log := p.Wait(patience)
				complaints, lost := 0, 0
				for text := range strings.Lines(log) {
					var line struct {
						Level string
						Lost  int `json:"spans_lost"`
					}
					if err := json.Unmarshal([]byte(text), &line); err != nil {
						t.Errorf("%s: %v", text, err)
					}
					if line.Level == "WARN" {
						complaints, lost = complaints+1, lost+line.Lost
					}
				}
				// One at first, one at the end.
				if code != 0 || complaints > 2 || lost != 100 {
					t.Errorf("exit code %d, %d complaints of %d spans: %s", code, complaints, lost, log)
				}
			})
		}
	}
}

// A collector may be spoken to by TLS, and only one that is trusted gets anything.
func TestTLS(t *testing.T) {
	t.Parallel()
	authority := certificate(t, time.Now().Add(time.Hour))
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, protocol := range []string{protocolGRPC, protocolHTTP} {
		for env, want := range map[string]int{"OTEL_EXPORTER_OTLP_CERTIFICATE=" + file: 1, "OTEL_EXPORTER_OTLP_CERTIFICATE=": 0} {
			t.Run(protocol, func(t *testing.T) {
				t.Parallel()
				c := collectAt(t, protocol, "127.0.0.1:0", authority)
				p := start(t, c, []string{env, "OTEL_EXPORTER_OTLP_PROTOCOL=" + protocol}, "")
				byREST(t, p.HTTPAddress, asked{path: "/v1/ports/22?"})
				end(t, p)
				if n := len(c.spans()); n != want {
					t.Errorf("%s: %d traces, want %d", env, n, want)
				}
			})
		}
	}
}

// Without a variable, or with one that says no, nothing is made and nobody is connected to.
func TestOff(t *testing.T) {
	for _, protocol := range []string{protocolGRPC, protocolHTTP} {
		t.Run(protocol, func(t *testing.T) {
			c := collectAt(t, protocol, map[string]string{protocolGRPC: "127.0.0.1:4317", protocolHTTP: "127.0.0.1:4318"}[protocol])
			for env, want := range map[string]int{
				"OTEL_SERVICE_NAME=x": 0,
				"OTEL_TRACES_EXPORTER=none OTEL_EXPORTER_OTLP_ENDPOINT=" + c.url:                                            0,
				"OTEL_SDK_DISABLED=true OTEL_TRACES_EXPORTER=otlp":                                                          0,
				"OTEL_TRACES_EXPORTER=otlp OTEL_EXPORTER_OTLP_PROTOCOL=" + protocol:                                         1,
				"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=" + c.url + "/v1/traces OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=" + protocol: 1,
			} {
				before := len(c.spans())
				p := probetest.Start(t, probetest.Options{Env: strings.Fields(env), Dies: true})
				byREST(t, p.HTTPAddress, asked{path: "/v1/ports/22?"})
				end(t, p)
				if n := len(c.spans()) - before; n != want {
					t.Errorf("%s: %d traces, want %d", env, n, want)
				}
			}
		})
	}
}

// What cannot be meant is told, and left out; where one cannot know what is meant there are no traces. With files of TLS that
// cannot be used nothing starts.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	const on = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 "
	const pairs = "it is NAME=VALUE,NAME=VALUE, the values escaped as in a URL: what is not is left out"
	const noURL = "it is no URL, as http://HOST:PORT or https://HOST:PORT: there are no traces"
	for env, want := range map[string]string{
		"":                              "off",
		"OTEL_TRACES_EXPORTER=none":     "off",
		"OTEL_EXPORTER_OTLP_PROTOCOL=x": "off",
		on + "OTEL_SDK_DISABLED=TRUE":   "off",
		on + "OTEL_SDK_DISABLED=yes":    `on; OTEL_SDK_DISABLED: "yes" is neither true nor false, and is taken for the second`,
		on:                              "on",
		on + "OTEL_PROPAGATORS=none":    "on",
		on + "OTEL_TRACES_SAMPLER=Parentbased_TraceIDRatio OTEL_TRACES_SAMPLER_ARG=0.1": "on",
		"OTEL_TRACES_EXPORTER=OTLP":                                                           "on",
		"OTEL_TRACES_EXPORTER=otlp,console":                                                   `on; OTEL_TRACES_EXPORTER: "console" is neither otlp nor none, and is left out`,
		on + "OTEL_TRACES_EXPORTER=jaeger":                                                    `off; OTEL_TRACES_EXPORTER: "jaeger" is neither otlp nor none, and is left out`,
		on + "OTEL_EXPORTER_OTLP_PROTOCOL=GRPC":                                               "on",
		on + "OTEL_EXPORTER_OTLP_PROTOCOL=http/json":                                          `on; OTEL_EXPORTER_OTLP_PROTOCOL: "http/json" is neither grpc nor http/protobuf, and is taken for the second`,
		on + "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=x":                                           `on; OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: "x" is neither grpc nor http/protobuf, and is taken for the second`,
		"OTEL_EXPORTER_OTLP_ENDPOINT=collector:4317":                                          "off; OTEL_EXPORTER_OTLP_ENDPOINT: " + noURL,
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://u:s3cr3t":                                         "off; OTEL_EXPORTER_OTLP_ENDPOINT: " + noURL,
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=unix:///run/otlp":                                 "off; OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: " + noURL,
		on + "OTEL_EXPORTER_OTLP_TIMEOUT=10s":                                                 `on; OTEL_EXPORTER_OTLP_TIMEOUT: "10s" is no number of milliseconds: it is 10s`,
		on + "OTEL_EXPORTER_OTLP_COMPRESSION=GZIP":                                            "on",
		on + "OTEL_EXPORTER_OTLP_COMPRESSION=zstd":                                            `on; OTEL_EXPORTER_OTLP_COMPRESSION: "zstd" is neither gzip nor none: there is none`,
		on + "OTEL_EXPORTER_OTLP_HEADERS=a=b,c=d%20e":                                         "on",
		on + "OTEL_EXPORTER_OTLP_HEADERS=a:b":                                                 "on; OTEL_EXPORTER_OTLP_HEADERS: " + pairs,
		on + "OTEL_EXPORTER_OTLP_TRACES_HEADERS=a=b%zz":                                       "on; OTEL_EXPORTER_OTLP_TRACES_HEADERS: " + pairs,
		on + "OTEL_RESOURCE_ATTRIBUTES=a=b,foo":                                               "on; OTEL_RESOURCE_ATTRIBUTES: " + pairs,
		on + "OTEL_TRACES_SAMPLER=jaeger_remote":                                              `on; OTEL_TRACES_SAMPLER: "jaeger_remote" is none of always_on, always_off, traceidratio, and these behind parentbased_: it is parentbased_always_on`,
		on + "OTEL_TRACES_SAMPLER=traceidratio OTEL_TRACES_SAMPLER_ARG=2":                     `on; OTEL_TRACES_SAMPLER_ARG: "2" is no number from 0 to 1: it is 1`,
		on + "OTEL_BSP_SCHEDULE_DELAY=abc":                                                    `on; OTEL_BSP_SCHEDULE_DELAY: "abc" is no number, and is left out`,
		on + "OTEL_EXPORTER_OTLP_CERTIFICATE=/nosuch":                                         "OTEL_EXPORTER_OTLP_CERTIFICATE: open /nosuch: no such file or directory",
		on + "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE=/nosuch":                           "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE: open /nosuch: no such file or directory",
		on + "OTEL_EXPORTER_OTLP_PROTOCOL=grpc OTEL_EXPORTER_OTLP_CERTIFICATE=/nosuch":        "OTEL_EXPORTER_OTLP_CERTIFICATE: open /nosuch: no such file or directory",
		on + "OTEL_EXPORTER_OTLP_PROTOCOL=grpc OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=/nosuch": "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE: open /nosuch: no such file or directory",
	} {
		variables := make(map[string]string)
		for variable := range strings.FieldsSeq(env) {
			name, value, _ := strings.Cut(variable, "=")
			variables[name] = value
		}
		var log bytes.Buffer
		tracing, err := Open(Config{
			Getenv: func(name string) string { return variables[name] }, Log: slog.New(slog.NewJSONHandler(&log, nil)),
			Dial: func(context.Context, string, string) (net.Conn, error) {
				return nil, errors.New("nobody is to be dialled")
			},
			Trusted: func(context.Context) bool { return true },
		})
		got := "on"
		switch {
		case err != nil:
			got = err.Error()
		case tracing == nil:
			got = "off"
		}
		for text := range strings.Lines(log.String()) {
			var line struct{ Variable, Warning string }
			if err := json.Unmarshal([]byte(text), &line); err != nil {
				t.Error(err)
			}
			got += "; " + line.Variable + ": " + line.Warning
		}
		if got != want {
			t.Errorf("%s: %q, want %q", env, got, want)
		}
		tracing.Close(t.Context())
	}
}

// What may be a credential is in no line, however it is misspelt, and none of what others inject keeps anything from starting.
func TestSecretsInTheEnvironment(t *testing.T) {
	t.Parallel()
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1"
	for _, env := range [][]string{
		{endpoint, "OTEL_EXPORTER_OTLP_HEADERS=authorization: Bearer s3cr3t"},
		{endpoint, "OTEL_EXPORTER_OTLP_HEADERS=a=b", "OTEL_EXPORTER_OTLP_TRACES_HEADERS=s3cr3t"},
		{endpoint, "OTEL_EXPORTER_OTLP_HEADERS=authorization=%zzs3cr3t"},
		{endpoint, "OTEL_EXPORTER_OTLP_HEADERS=s3 cr3t=s3cr3t"},
		{endpoint, "OTEL_RESOURCE_ATTRIBUTES=s3cr3t"},
		{endpoint, "OTEL_RESOURCE_ATTRIBUTES=a=%zzs3cr3t"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=u:s3cr3t@127.0.0.1:1"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://u:s3cr3t"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://u:s3cr3t@127.0.0.1:1"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://u:s3cr3t", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://127.0.0.1:1"},
	} {
		for _, protocol := range []string{protocolGRPC, protocolHTTP} {
			t.Run(protocol, func(t *testing.T) {
				t.Parallel()
				env := append([]string{"OTEL_EXPORTER_OTLP_PROTOCOL=" + protocol}, env...)
				p := probetest.Start(t, probetest.Options{Env: env, Args: []string{"--log-level=debug"}, Dies: true})
				byREST(t, p.HTTPAddress, asked{path: "/v1/ports/22?"})
				log := end(t, p)
				logged(t, log) // all of it is JSON
				if strings.Contains(log, "3cr3t") || strings.Contains(log, "zz") {
					t.Errorf("%q: %s", env, log)
				}
			})
		}
	}
}

// What is wrong with probed itself is an Error, and what else comes of a call is none; the text of an error is in no span.
func TestFaults(t *testing.T) {
	t.Parallel()
	c := collect(t, protocolHTTP)
	tracing, err := Open(Config{
		Getenv: func(name string) string { return map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": c.url}[name] },
		Dial:   (&net.Dialer{}).DialContext, Trusted: func(context.Context) bool { return true }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range []struct {
		code   codes.Code
		reason string
		status tracepb.Status_StatusCode
	}{
		{codes.Internal, "INTERNAL", 2},
		{codes.Unknown, "INTERNAL", 2},
		{codes.Unavailable, "UNAVAILABLE", 2}, // the audit log cannot be written, say
		{codes.Unavailable, "DNS_UNREACHABLE", 0},
		{codes.DeadlineExceeded, "CANCELLED", 0},
		{codes.ResourceExhausted, "LIMIT_REACHED", 0},
	} {
		s, err := status.New(fault.code, secret).WithDetails(&errdetails.ErrorInfo{Reason: "ERROR_REASON_" + fault.reason})
		if err != nil {
			t.Fatal(err)
		}
		call := &service.Call{Method: "/probe.v1.ResolverService/QueryDNS"}
		_, ended := tracing.Call(t.Context(), call)
		ended(s.Err())
		defer func() {
			spans := c.spans()[call.TraceID]
			if len(spans) != 1 {
				t.Fatalf("%v: %v", fault, spans)
			}
			message := map[bool]string{true: fault.reason}[fault.status == 2]
			if got := spans[0].GetStatus(); got.GetCode() != fault.status || got.GetMessage() != message || spans[0].attributes["error.type"] != message {
				t.Errorf("%v: %v", fault, spans[0])
			}
		}()
	}
	tracing.Close(t.Context())
	if strings.Contains(c.all(t), secret) {
		t.Error("the text of an error is in a span")
	}
}

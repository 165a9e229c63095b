package metrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protodelim"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/service"
	"probed/service/policy"
)

// world is a whole service whose doings are counted.
type world struct {
	*Metrics
	conn *service.LocalConn
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newTracedWorld(t, nil)
}

func newTracedWorld(t *testing.T, trace func(context.Context, *service.Call) (context.Context, func(error))) *world {
	t.Helper()
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 here.test\n169.254.1.1 mixed.test\n127.0.0.1 mixed.test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := &world{Metrics: New("v1.2.3")}
	var config service.Config
	config.Policy = func() *policy.Policy { return &policy.Policy{Loopback: true, Open: true} }
	config.Hooks, config.ExchangeHooks = w.ServiceHooks(), w.ExchangeHooks()
	config.Resolve.Hosts = hosts
	config.Resolve.Nsswitch = filepath.Join(t.TempDir(), "nsswitch.conf")
	if err := os.WriteFile(config.Resolve.Nsswitch, []byte("hosts: files\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	chain, err := service.Chain(service.ChainConfig{Logger: slog.New(slog.DiscardHandler), Metrics: w.Interceptors(), Trace: trace})
	if err != nil {
		t.Fatal(err)
	}
	answers := service.New(config)
	server := grpc.NewServer()
	answers.Register(server)
	w.Initialize(server)
	w.conn = service.Local(chain, answers.Register)
	t.Cleanup(func() { _ = w.conn.Close() })
	return w
}

// exchange carries one out. What comes of it does not matter here.
func (w *world) exchange(t *testing.T, request *probev1.ExchangeRequest) {
	t.Helper()
	stream, err := probev1.NewExchangeServiceClient(w.conn).Exchange(t.Context(), request)
	for err == nil {
		_, err = stream.Recv()
	}
	if ctxErr := t.Context().Err(); ctxErr != nil {
		t.Fatal(ctxErr)
	}
}

func (w *world) lookupService(t *testing.T, name string) {
	t.Helper()
	_, _ = probev1.NewNameServiceClient(w.conn).LookupService(t.Context(), &probev1.LookupServiceRequest{Name: name})
}

func (w *world) lookupHost(t *testing.T, name string) {
	t.Helper()
	_, _ = probev1.NewResolverServiceClient(w.conn).LookupHost(t.Context(), &probev1.LookupHostRequest{Host: name})
}

func (w *world) gather(t *testing.T) []*dto.MetricFamily {
	t.Helper()
	families, err := w.Metrics.gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// series are all that begin with a prefix, and what they count; of a histogram, its observations.
func (w *world) series(t *testing.T, prefix string) map[string]float64 {
	t.Helper()
	found := map[string]float64{}
	for _, family := range w.gather(t) {
		if !strings.HasPrefix(family.GetName(), prefix) {
			continue
		}
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetName()+"="+label.GetValue())
			}
			value := metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount())
			found[family.GetName()+"{"+strings.Join(labels, ",")+"}"] = value
		}
	}
	return found
}

var fromTheStart = regexp.MustCompile(`^probed_(sessions_active|sessions_total\{.*reason=(OK|INTERNAL)\}|(policy_decisions|limits_reached|unauthenticated|http_answers)_total)`)

// A series that begins with its first event hides it from rate() and increase(): those with few labels, and those that
// somebody may be woken by, are there before.
func TestFromTheStart(t *testing.T) {
	t.Parallel()
	m := New("v1.2.3")
	got := (&world{Metrics: m}).series(t, "probed_")
	for _, c := range []struct{ file, prefix, series string }{
		{"../policy/policy.go", "Rule", "probed_policy_decisions_total{decision=%s}"},
		{"../guard/limits.go", "Limit", "probed_limits_reached_total{limit=%s}"},
		{"../guard/unauthenticated.go", "Reason", "probed_unauthenticated_total{reason=%s}"},
	} {
		values := constants(t, c.file, c.prefix)
		if len(values) < 5 {
			t.Errorf("%s has only %q", c.file, values)
		}
		for _, value := range values {
			if count, ok := got[fmt.Sprintf(c.series, value)]; !ok || count != 0 {
				t.Errorf(c.series+" is not there: %v, %v", value, count, ok)
			}
		}
	}
	for _, name := range []string{
		"probed_policy_decisions_total{decision=allow-role}", "probed_sessions_active{network=icmp6}",
		"probed_sessions_total{network=tls,reason=INTERNAL}", "probed_sessions_total{network=unix,reason=OK}",
	} {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is not there", name)
		}
	}
}

// constants are the values of the string constants of a file whose names begin with prefix.
func constants(t *testing.T, file, prefix string) (values []string) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 || !strings.HasPrefix(spec.Names[0].Name, prefix) {
			return true
		}
		if literal, ok := spec.Values[0].(*ast.BasicLit); ok && literal.Kind == token.STRING {
			values = append(values, strings.Trim(literal.Value, `"`))
		}
		return true
	})
	return values
}

// A reload that fails leaves the time of the one that did not.
func TestReloaded(t *testing.T) {
	t.Parallel()
	w := &world{Metrics: New("v1.2.3")}
	w.reloadedAt.Set(1)
	const at = "probed_config_last_reload_success_timestamp_seconds"
	w.Reloaded(false)
	if got := w.series(t, "probed_config_last"); got[at+"{}"] != 1 || got["probed_config_last_reload_successful{}"] != 0 {
		t.Errorf("after a failure: %v", got)
	}
	w.Reloaded(true)
	if got := w.series(t, "probed_config_last"); got[at+"{}"] < 1_000_000_000 || got["probed_config_last_reload_successful{}"] != 1 {
		t.Errorf("after a success: %v", got)
	}
}

// After a script of calls, exactly these series are there, with exactly these numbers.
func TestSeries(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	peer := nettest.TCP(t, nettest.Reply([]byte("seven..")))
	echo := nettest.UDP(t, nettest.EchoPacket)
	refused := nettest.Refused(t)
	w.lookupService(t, "ssh")
	w.lookupService(t, "ssh")
	w.lookupService(t, "nosuch")
	w.lookupHost(t, "nosuch.test")
	w.exchange(t, &probev1.ExchangeRequest{Target: peer.String(), Payload: &probev1.ExchangeRequest_Text{Text: "five."}})
	w.exchange(t, &probev1.ExchangeRequest{Target: "udp4://" + echo.String(), Payload: &probev1.ExchangeRequest_Text{Text: "ping"}})
	w.exchange(t, &probev1.ExchangeRequest{Target: refused.String()})
	w.exchange(t, &probev1.ExchangeRequest{Target: "169.254.169.254:80"})
	w.exchange(t, &probev1.ExchangeRequest{Target: "unix:///run/x.sock"})
	w.exchange(t, &probev1.ExchangeRequest{Target: "nosuch.test:80"})
	w.exchange(t, &probev1.ExchangeRequest{Target: "no target"})
	far := w.EchoHooks()
	far.Opened("tcp")
	far.Opened("tcp")
	far.Echoed("tcp", 5)
	far.Echoed("tcp", 6)
	far.Closed("tcp")
	w.Insecure(2)
	w.Limit("sessions", 256, func() int { return 3 })
	w.Limit("sessions_per_caller", 32, nil)
	w.Limit("calls", 0, func() int { return 5 })
	w.Ready(func() bool { return true })
	w.SpansLost(3)
	for _, status := range []int{400, 404, 503} {
		w.Answered(status)
	}
	w.Certificate("grpc", time.Unix(4_000_000_000, 0))

	want := map[string]float64{
		"probed_audit_writes_total{result=error}":                               0,
		"probed_audit_writes_total{result=ok}":                                  0,
		"probed_config_last_reload_successful{}":                                1,
		"probed_certificate_expiration_timestamp_seconds{listener=grpc}":        4_000_000_000,
		"probed_limit_max{limit=sessions}":                                      256,
		"probed_limit_max{limit=sessions_per_caller}":                           32,
		"probed_limit_used{limit=calls}":                                        5,
		"probed_limit_used{limit=sessions}":                                     3,
		"probed_trace_spans_lost_total{}":                                       3,
		"probed_http_answers_total{status=4xx}":                                 2,
		"probed_http_answers_total{status=5xx}":                                 1,
		"probed_ready{}":                                                        1,
		"probed_config_reloads_total{result=error}":                             0,
		"probed_config_reloads_total{result=ok}":                                0,
		"probed_issuer_requests_total{result=error}":                            0,
		"probed_issuer_requests_total{result=ok}":                               0,
		"probed_connections_refused_total{}":                                    0,
		"probed_build_info{goversion=" + runtime.Version() + ",version=v1.2.3}": 1,
		"probed_dial_duration_seconds{network=tcp}":                             3,
		"probed_dial_duration_seconds{network=udp4}":                            1,
		"probed_dial_duration_seconds{network=unix}":                            1,
		"probed_dials_total{network=tcp,reason=OK}":                             1,
		"probed_dials_total{network=tcp,reason=CONNECTION_REFUSED}":             1,
		"probed_dials_total{network=tcp,reason=POLICY_DENIED}":                  1,
		"probed_dials_total{network=udp4,reason=OK}":                            1,
		"probed_dials_total{network=unix,reason=POLICY_DENIED}":                 1,
		"probed_echo_bytes_total{network=tcp}":                                  11,
		"probed_echo_connections_active{network=tcp}":                           1,
		"probed_echo_connections_total{network=tcp}":                            2,
		"probed_insecure_listeners{}":                                           2,
		"probed_lookup_duration_seconds{kind=host}":                             1,
		"probed_lookup_duration_seconds{kind=service}":                          3,
		"probed_lookups_total{kind=host,reason=NAME_NOT_FOUND}":                 1,
		"probed_lookups_total{kind=service,reason=SERVICE_NOT_FOUND}":           1,
		"probed_lookups_total{kind=service,reason=OK}":                          2,
		"probed_policy_decisions_total{decision=allow-all}":                     5,
		"probed_policy_decisions_total{decision=deny-metadata}":                 1,
		"probed_policy_decisions_total{decision=deny-unix-path}":                1,
		"probed_session_bytes_total{direction=received,network=tcp}":            7,
		"probed_session_bytes_total{direction=received,network=udp4}":           4,
		"probed_session_bytes_total{direction=sent,network=tcp}":                5,
		"probed_session_bytes_total{direction=sent,network=udp4}":               4,
		"probed_sessions_active{network=tcp}":                                   0,
		"probed_sessions_active{network=udp4}":                                  0,
		"probed_sessions_active{network=unix}":                                  0,
		"probed_sessions_total{network=tcp,reason=OK}":                          1,
		"probed_sessions_total{network=tcp,reason=CONNECTION_REFUSED}":          1,
		"probed_sessions_total{network=tcp,reason=POLICY_DENIED}":               1,
		"probed_sessions_total{network=tcp,reason=NAME_NOT_FOUND}":              1,
		"probed_sessions_total{network=udp4,reason=OK}":                         1,
		"probed_sessions_total{network=unix,reason=POLICY_DENIED}":              1,
	}
	got := w.series(t, "probed_")
	if at := got["probed_config_last_reload_success_timestamp_seconds{}"]; at < 1_000_000_000 {
		t.Errorf("the configuration is in force since %v", at)
	}
	delete(got, "probed_config_last_reload_success_timestamp_seconds{}")
	// What was there from the start, and did not grow.
	for name, value := range got {
		if _, ok := want[name]; !ok && value == 0 && fromTheStart.MatchString(name) {
			delete(got, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if value, ok := want[name]; !ok || value != got[name] {
			t.Errorf("%s is %v, want %v (%v)", name, got[name], value, ok)
		}
	}
	for name := range want {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}

	// Of the RPCs there is one count, refusals in it, and a series for each method from the start.
	rpcs := w.series(t, "grpc_")
	for name, value := range map[string]float64{
		"grpc_server_handled_total{grpc_code=OK,grpc_method=LookupService,grpc_service=probe.v1.NameService,grpc_type=unary}":                      2,
		"grpc_server_handled_total{grpc_code=NotFound,grpc_method=LookupService,grpc_service=probe.v1.NameService,grpc_type=unary}":                1,
		"grpc_server_handled_total{grpc_code=OK,grpc_method=Exchange,grpc_service=probe.v1.ExchangeService,grpc_type=server_stream}":               4,
		"grpc_server_handled_total{grpc_code=PermissionDenied,grpc_method=Exchange,grpc_service=probe.v1.ExchangeService,grpc_type=server_stream}": 2,
		"grpc_server_handled_total{grpc_code=InvalidArgument,grpc_method=Exchange,grpc_service=probe.v1.ExchangeService,grpc_type=server_stream}":  1,
		"grpc_server_handled_total{grpc_code=OK,grpc_method=QueryDNS,grpc_service=probe.v1.ResolverService,grpc_type=unary}":                       0,
		"grpc_server_handling_seconds{grpc_method=LookupService,grpc_service=probe.v1.NameService,grpc_type=unary}":                                3,
		"grpc_server_handling_seconds{grpc_method=Exchange,grpc_service=probe.v1.ExchangeService,grpc_type=server_stream}":                         7,
	} {
		if got, ok := rpcs[name]; !ok || got != value {
			t.Errorf("%s is %v (%v), want %v", name, got, ok, value)
		}
	}
}

// While an exchange is under way it is active.
func TestActive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	peer := nettest.TCP(t, nettest.Silent)
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := probev1.NewExchangeServiceClient(w.conn).Exchange(ctx, &probev1.ExchangeRequest{Target: "tcp4://" + peer.String()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if got := w.series(t, "probed_sessions_active"); got["probed_sessions_active{network=tcp4}"] != 1 {
		t.Errorf("%v", got)
	}
	cancel()
	for err == nil {
		_, err = stream.Recv()
	}
	// The server's handler may end a moment after the client knows.
	for w.series(t, "probed_sessions_active")["probed_sessions_active{network=tcp4}"] != 0 {
		runtime.Gosched()
	}
	if got := w.series(t, "probed_sessions_total"); got["probed_sessions_total{network=tcp4,reason=CANCELLED}"] != 1 {
		t.Errorf("%v", got)
	}
}

// A conversation is a session like any other, also one that its caller breaks.
func TestConversations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	type frame = probev1.ConverseRequest
	open := &frame{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: "tcp4://" + nettest.TCP(t, nettest.Echo).String()}}}
	data := &frame{Frame: &probev1.ConverseRequest_Data{Data: []byte("hello")}}
	for _, last := range []*frame{{Frame: &probev1.ConverseRequest_Close{Close: &probev1.Close{}}}, open} {
		stream, err := probev1.NewExchangeServiceClient(w.conn).Converse(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []*frame{open, data} {
			if err := stream.Send(f); err != nil {
				t.Fatal(err)
			}
		}
		for event := (&probev1.ExchangeResponse{}); event.GetChunk() == nil; {
			if event, err = stream.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		if got := w.series(t, "probed_sessions_active"); got["probed_sessions_active{network=tcp4}"] != 1 {
			t.Errorf("while it goes on: %v", got)
		}
		if err := stream.Send(last); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = stream.Recv()
		}
	}
	for w.series(t, "probed_sessions_active")["probed_sessions_active{network=tcp4}"] != 0 {
		runtime.Gosched()
	}
	for name, want := range map[string]float64{
		"probed_dials_total{network=tcp4,reason=OK}":                                                                                            2,
		"probed_session_bytes_total{direction=sent,network=tcp4}":                                                                               10,
		"probed_session_bytes_total{direction=received,network=tcp4}":                                                                           10,
		"probed_sessions_total{network=tcp4,reason=OK}":                                                                                         1,
		"probed_sessions_total{network=tcp4,reason=CANCELLED}":                                                                                  1,
		"grpc_server_handled_total{grpc_code=OK,grpc_method=Converse,grpc_service=probe.v1.ExchangeService,grpc_type=bidi_stream}":              1,
		"grpc_server_handled_total{grpc_code=InvalidArgument,grpc_method=Converse,grpc_service=probe.v1.ExchangeService,grpc_type=bidi_stream}": 1,
	} {
		prefix, _, _ := strings.Cut(name, "{")
		got := w.series(t, prefix)
		for ; got[name] < want && t.Context().Err() == nil; got = w.series(t, prefix) { // it counts a moment after it has ended
			runtime.Gosched()
		}
		if got[name] != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

// However many targets and names there are, the number of series stays what it is.
func TestCardinality(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	closed := nettest.Refused(t).Port()
	count := func() (n int) {
		for _, family := range w.gather(t) {
			if strings.HasPrefix(family.GetName(), "probed_") || strings.HasPrefix(family.GetName(), "grpc_") {
				n += len(family.GetMetric())
			}
		}
		return n
	}
	random := rand.New(rand.NewPCG(1, 2))
	octet := func() int { return 1 + random.IntN(253) }
	calls := []func(){
		func() {
			a := netip.AddrFrom4([4]byte{127, byte(octet()), byte(octet()), byte(octet())})
			w.exchange(t, &probev1.ExchangeRequest{Target: netip.AddrPortFrom(a, closed).String()})
		},
		func() {
			w.exchange(t, &probev1.ExchangeRequest{Target: fmt.Sprintf("169.254.%d.%d:%d", octet(), octet(), octet())})
		},
		func() {
			w.exchange(t, &probev1.ExchangeRequest{Target: fmt.Sprintf("n%x.test:%d", random.Uint64(), octet())})
		},
		func() {
			w.exchange(t, &probev1.ExchangeRequest{Target: fmt.Sprintf("unix:///run/%x", random.Uint64())})
		},
		func() { w.exchange(t, &probev1.ExchangeRequest{Target: fmt.Sprintf("s%x://h:1", random.Uint64())}) },
		func() { w.lookupService(t, fmt.Sprintf("s%x", random.Uint64())) },
		func() { w.lookupHost(t, fmt.Sprintf("h%x.test", random.Uint64())) },
		func() {
			method := fmt.Sprintf("/probe.v1.NameService/M%x", random.Uint64())
			_ = w.conn.Invoke(t.Context(), method, &probev1.LookupServiceRequest{}, &probev1.LookupServiceResponse{})
		},
	}
	for _, call := range calls {
		call()
	}
	before := count()
	for i := range 1000 {
		calls[i%len(calls)]()
	}
	if after := count(); after != before {
		t.Errorf("%d series before, %d after", before, after)
	}
}

// Every metric that is promised is there, says what it is, and is named as Prometheus wants it.
func TestHelpAndNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	peer := nettest.TCP(t, nettest.Reply([]byte("x")))
	w.exchange(t, &probev1.ExchangeRequest{Target: peer.String(), Payload: &probev1.ExchangeRequest_Text{Text: "x"}})
	w.lookupService(t, "ssh")
	w.EchoHooks().Opened("unix")
	w.EchoHooks().Echoed("udp", 1)
	help := map[string]string{}
	for _, family := range w.gather(t) {
		help[family.GetName()] = family.GetHelp()
	}
	for _, name := range []string{
		"probed_dials_total", "probed_dial_duration_seconds", "probed_session_bytes_total", "probed_sessions_active", "probed_sessions_total",
		"probed_lookups_total", "probed_lookup_duration_seconds", "probed_policy_decisions_total", "probed_build_info", "probed_echo_bytes_total",
		"probed_echo_connections_active", "probed_echo_connections_total", "probed_insecure_listeners", "grpc_server_handled_total", "go_goroutines", "process_open_fds",
	} {
		if _, ok := help[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	for name, text := range help {
		if text == "" {
			t.Errorf("%s has no help", name)
		}
	}
	problems, err := promlint.NewWithMetricFamilies(w.gather(t)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		t.Errorf("%s: %s", problem.Metric, problem.Text)
	}
}

// Those who scrape by protobuf get native histograms and classic ones, the others the classic ones.
func TestHistograms(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.lookupService(t, "ssh")
	server := httptest.NewServer(w.Handler())
	t.Cleanup(server.Close)
	scrape := func(accept string) (string, []byte) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept", accept)
		response, err := server.Client().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("%s, %v: %s", response.Status, err, text)
		}
		return response.Header.Get("Content-Type"), text
	}

	contentType, text := scrape("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	found := false
	for reader := bytes.NewReader(text); ; {
		family := &dto.MetricFamily{}
		err := protodelim.UnmarshalFrom(reader, family)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", contentType, err)
		}
		if family.GetName() != "probed_lookup_duration_seconds" {
			continue
		}
		found = true
		h := family.GetMetric()[0].GetHistogram()
		if len(h.GetBucket()) < 10 || h.Schema == nil || len(h.GetPositiveSpan())+int(h.GetZeroCount()) == 0 || h.GetSampleCount() != 1 {
			t.Errorf("%v", h)
		}
	}
	if !found {
		t.Errorf("no lookups in %s", contentType)
	}

	for accept, end := range map[string]string{
		"text/plain;version=0.0.4":                   "\n",
		"application/openmetrics-text;version=1.0.0": "# EOF\n",
		"*/*": "\n",
	} {
		if _, text := scrape(accept); !strings.Contains(string(text), `probed_lookup_duration_seconds_bucket{kind="service",le="30`) || !strings.HasSuffix(string(text), end) {
			t.Errorf("%s: %.500s", accept, text)
		}
	}
}

// What is observed of a call in a trace that is kept names it, in classic and in native histograms.
func TestExemplars(t *testing.T) {
	t.Parallel()
	const trace = "0123456789abcdef0123456789abcdef"
	sampled := false // the calls that follow
	w := newTracedWorld(t, func(ctx context.Context, call *service.Call) (context.Context, func(error)) {
		call.TraceID, call.Sampled = trace, sampled
		return ctx, func(error) {}
	})
	w.Exemplars()
	look := func(name string) {
		t.Helper()
		if _, err := probev1.NewNameServiceClient(w.conn).LookupService(t.Context(), &probev1.LookupServiceRequest{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	connect := func() {
		t.Helper()
		if _, err := probev1.NewExchangeServiceClient(w.conn).Connect(t.Context(), &probev1.ConnectRequest{Target: nettest.Refused(t).String()}); err != nil {
			t.Fatal(err)
		}
	}
	exemplars := func() (classic, native []string) {
		t.Helper()
		families, err := w.Metrics.gather()
		if err != nil {
			t.Fatal(err)
		}
		named := func(name string, exemplar *dto.Exemplar) string {
			return name + " " + exemplar.GetLabel()[0].GetName() + "=" + exemplar.GetLabel()[0].GetValue()
		}
		for _, family := range families {
			for _, metric := range family.GetMetric() {
				for _, bucket := range metric.GetHistogram().GetBucket() {
					if bucket.GetExemplar() != nil {
						classic = append(classic, named(family.GetName(), bucket.GetExemplar()))
					}
				}
				for _, exemplar := range metric.GetHistogram().GetExemplars() {
					native = append(native, named(family.GetName(), exemplar))
				}
			}
		}
		return classic, native
	}
	look("ssh")
	connect()
	if classic, native := exemplars(); len(classic)+len(native) != 0 {
		t.Errorf("of no trace that is kept: %v, %v", classic, native)
	}
	sampled = true
	look("ssh")
	connect()
	want := []string{"grpc_server_handling_seconds trace_id=" + trace, "grpc_server_handling_seconds trace_id=" + trace, "probed_dial_duration_seconds trace_id=" + trace, "probed_lookup_duration_seconds trace_id=" + trace}
	if classic, native := exemplars(); !slices.Equal(classic, want) || !slices.Equal(native, want) {
		t.Errorf("%v, %v, want %v", classic, native, want)
	}
}

// Two of them do not get in each other's way, and none uses the registry of the process.
func TestOwnRegistry(t *testing.T) {
	t.Parallel()
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() { New("x").Handler() })
	}
	group.Wait()
	m := New("x")
	m.Handler()
	m.Handler() // twice is as good as once
	if got := (&world{Metrics: m}).series(t, "probed_build_info"); len(got) != 1 {
		t.Errorf("%v", got)
	}
}

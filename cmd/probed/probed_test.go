package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/channelz/grpc_channelz_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
)

// The ready file has each listener on a line, and behind each is what it says.
func TestListeners(t *testing.T) {
	t.Parallel()
	socket := nettest.SocketDir(t) + "/echo"
	p := start(t, "--echo=tcp://127.0.0.1:0", "--echo=udp://127.0.0.1:0", "--echo=unix://"+socket)
	text, err := os.ReadFile(p.readyFile)
	if err != nil {
		t.Fatal(err)
	}
	const loopback = `127\.0\.0\.1:\d+\n`
	if want := `^grpc=` + loopback + `http=` + loopback + `ops=` + loopback + `echo=tcp://` + loopback + `echo=udp://` + loopback + `echo=unix://` + socket + `\n$`; !regexp.MustCompile(want).Match(text) {
		t.Errorf("%s, want %s", text, want)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(p.readyFile), ".listen-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if lines := p.logged(t, "listening"); len(lines) != 6 || lines[0]["listener"] != "grpc" || lines[0]["addr"] != p.addresses["grpc"] {
		t.Errorf("%v", lines)
	}

	// gRPC, health, and on loopback reflection.
	ctx := t.Context()
	ssh, err := probev1.NewNameServiceClient(p.conn).LookupService(ctx, &probev1.LookupServiceRequest{Name: "ssh"})
	if err != nil || ssh.GetServices()[0].GetPort() != 22 {
		t.Errorf("%v, %v", ssh, err)
	}
	health, err := grpc_health_v1.NewHealthClient(p.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil || health.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("%v, %v", health, err)
	}
	services, err := reflected(ctx, p.conn)
	if err != nil || !strings.Contains(services, "probe.v1.ExchangeService") {
		t.Errorf("%s, %v", services, err)
	}

	// REST.
	if code, body := p.get(t, "http", "/v1/ports/22"); code != http.StatusOK || !strings.Contains(body, `"ssh"`) {
		t.Errorf("%d: %s", code, body)
	}

	// Operations, and nothing else.
	for path, want := range map[string]int{
		"/livez": 200, "/readyz": 200, "/metrics": 200, "/": 404, "/livez/x": 404, "/v1/ports/22": 404, "/openapi.json": 404,
		"/debug/pprof/": 404, "/debug/vars": 404, "/healthz": 404,
	} {
		if code, body := p.get(t, "ops", path); code != want {
			t.Errorf("%s: %d %s, want %d", path, code, body, want)
		}
		if code, _ := p.do(t, http.MethodPost, "ops", path, "x"); code != http.StatusMethodNotAllowed && code != http.StatusNotFound {
			t.Errorf("POST %s: %d", path, code)
		}
	}
	if got := p.metric(t, "probed_insecure_listeners"); got != "0" {
		t.Errorf("probed_insecure_listeners %s", got)
	}
	if got := p.metric(t, `probed_lookups_total{kind="port",reason="OK"}`); got != "1" {
		t.Errorf("lookups by port: %s", got)
	}

	// The echo listeners may be reached through it, and count.
	for _, target := range regexp.MustCompile(`echo=(tcp|udp)(.*)`).FindAllStringSubmatch(string(text), -1) {
		_, body := p.do(t, http.MethodPost, "http", "/v1/exchange", fmt.Sprintf(`{"target": %q, "text": "hello"}`, target[1]+target[2]))
		if !strings.Contains(body, `"aGVsbG8="`) {
			t.Errorf("%s: %s", target, body)
		}
		// What is echoed is counted a moment after it has gone.
		series := `probed_echo_bytes_total{network="` + target[1] + `"}`
		for deadline := time.Now().Add(patience); p.metric(t, series) != "5"; {
			if time.Now().After(deadline) {
				t.Fatalf("%s is %s, want 5", series, p.metric(t, series))
			}
		}
	}
	if got := p.metric(t, `probed_echo_connections_total{network="tcp"}`); got != "1" {
		t.Errorf("echo connections: %s", got)
	}
	// Unix sockets need a path that a policy lists.
	if code, body := p.do(t, http.MethodPost, "http", "/v1/connect", fmt.Sprintf(`{"target": "unix://%s"}`, socket)); code != http.StatusForbidden {
		t.Errorf("%d: %s", code, body)
	}
	// Its own listeners may not be reached.
	for _, name := range []string{"grpc", "http", "ops"} {
		_, err := probev1.NewExchangeServiceClient(p.conn).Connect(ctx, &probev1.ConnectRequest{Target: p.addresses[name]})
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := p.metric(t, `probed_policy_decisions_total{decision="deny-own-listener"}`); got != "3" {
		t.Errorf("decisions: %s", got)
	}
}

// reflected asks a server for its services.
func reflected(ctx context.Context, conn *grpc.ClientConn) (string, error) {
	stream, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		return "", err
	}
	err = stream.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}})
	if err != nil && !errors.Is(err, io.EOF) { // when the call has ended already, Recv tells why
		return "", err
	}
	response, err := stream.Recv()
	if err != nil {
		return "", err
	}
	if err := stream.CloseSend(); err != nil {
		return "", err
	}
	_, err = stream.Recv()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return response.String(), err
}

// A listener for gRPC or REST that others can reach does not start by itself, and what to do is said.
func TestReachableIsRefused(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"--grpc-listen", "--http-listen"} {
		for _, host := range reachable(t) {
			code, stderr := runToEnd(t, flag, host+":0")
			what := map[string]string{"--grpc-listen": "gRPC", "--http-listen": "REST"}[flag]
			for _, want := range []string{
				"probed: " + what + " on ", " would be reachable from outside of this host:\n",
				"nobody would be asked who they are: auth is needed (or --insecure-no-auth, ", "a policy with a role is needed\n",
				"Listen on loopback, or have in the file of --config, ", "\nauth:\n", "\npolicy:\n",
			} {
				if code != 64 || !strings.Contains(stderr, want) {
					t.Errorf("%s %s: exit code %d: %s\nwant %s", flag, host, code, stderr, want)
				}
			}
		}
	}
	// The operations listener is for others to reach.
	for _, host := range reachable(t) {
		if code, stderr := runToEnd(t, "--ops-listen", host+":0"); code != 0 || stderr != "" {
			t.Errorf("--ops-listen %s: exit code %d: %s", host, code, stderr)
		}
	}
}

// With --insecure-no-auth it does, and that is told in the log and as a metric. What is only safe on loopback is off.
func TestInsecure(t *testing.T) {
	t.Parallel()
	p := start(t, "--insecure-no-auth", "--grpc-listen=0.0.0.0:0", "--http-listen=[::]:0", "--echo=tcp://127.0.0.1:0", "--http-allowed-host=Probe.Example")
	for _, name := range []string{"grpc", "http"} { // to reach it from here
		_, port, err := net.SplitHostPort(p.addresses[name])
		if err != nil {
			t.Fatal(err)
		}
		p.addresses[name] = "127.0.0.1:" + port
	}
	if lines := p.logged(t, "listening without authentication: whoever reaches this address can make connections from here"); len(lines) != 1 || lines[0]["level"] != "WARN" || lines[0]["listeners"] != 2.0 {
		t.Errorf("%v", lines)
	}
	if got := p.metric(t, "probed_insecure_listeners"); got != "2" {
		t.Errorf("probed_insecure_listeners %s", got)
	}
	// Who may connect from here may know by which calls.
	if services, err := reflected(t.Context(), p.conn); err != nil || !strings.Contains(services, "probe.v1.ExchangeService") {
		t.Errorf("reflection: %s, %v", services, err)
	}
	// Who else does so is nobody's business.
	if _, err := grpc_channelz_v1.NewChannelzClient(p.conn).GetServers(t.Context(), &grpc_channelz_v1.GetServersRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("channelz: %v", err)
	}
	if code, body := p.get(t, "http", "/v1/ports/22"); code != http.StatusOK {
		t.Errorf("%d: %s", code, body)
	}
	// Nothing of this machine may be reached: neither what listens on loopback, nor its own listeners by any address.
	targets := []string{p.addresses["echo"], p.addresses["grpc"], p.addresses["http"], p.addresses["ops"]}
	for _, host := range reachable(t)[3:] {
		targets = append(targets, strings.Replace(p.addresses["grpc"], "127.0.0.1", host, 1))
	}
	for _, target := range targets {
		code, body := p.do(t, http.MethodPost, "http", "/v1/connect", fmt.Sprintf(`{"target": %q}`, target))
		if code != http.StatusForbidden || !strings.Contains(body, "ERROR_REASON_POLICY_DENIED") {
			t.Errorf("%s: %d: %s", target, code, body)
		}
	}
	// Requests for a name that was allowed come through, those for another do not.
	for host, want := range map[string]int{"probe.example": 200, "evil.example": 403} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url("http", "/v1/ports/22"), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = host
		response, err := p.http.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %s", host, response.Status)
		}
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	taken := nettest.TCP(t, nettest.Echo).String()
	missing := filepath.Join(t.TempDir(), "none", "ready")
	for _, tt := range []struct {
		args   []string
		code   int
		stderr string // after "probed: "
	}{
		{[]string{"--no-such-flag"}, 64, "unknown flag: --no-such-flag"},
		{[]string{"serve"}, 64, `unexpected argument "serve": probed takes flags only`},
		{[]string{"--drain-timeout", "5"}, 64, `invalid argument "5" for "--drain-timeout" flag: time: missing unit in duration "5"`},
		{[]string{"--log-level", "loud"}, 64, `--log-level "loud": it is debug, info, warn or error`},
		{[]string{"--grpc-listen", "127.0.0.1"}, 64, "--grpc-listen: listen tcp: address 127.0.0.1: missing port in address"},
		{[]string{"--http-listen", "::1:8080"}, 64, "--http-listen: listen tcp: address ::1:8080: too many colons in address"},
		{[]string{"--ops-listen", "127.0.0.1:99999"}, 64, "--ops-listen: listen tcp: address 99999: invalid port"},
		{[]string{"--echo", "127.0.0.1:7"}, 64, `--echo 127.0.0.1:7: echo address "127.0.0.1:7": it is tcp://HOST:PORT, udp://HOST:PORT or unix://PATH`},
		{[]string{"--echo", "tcp://127.0.0.1"}, 64, "--echo tcp://127.0.0.1: listen tcp: address 127.0.0.1: missing port in address"},
		{[]string{"--http-listen", taken}, 1, "--http-listen: listen tcp " + taken + ": bind: address already in use"},
		{[]string{"--ops-listen", taken}, 1, "--ops-listen: listen tcp " + taken + ": bind: address already in use"},
		{[]string{"--echo", "tcp://" + taken}, 1, "--echo tcp://" + taken + ": listen tcp " + taken + ": bind: address already in use"},
		{[]string{"--grpc-listen", "192.0.2.1:0"}, 1, "--grpc-listen: listen tcp 192.0.2.1:0: bind: cannot assign requested address"},
		{[]string{"--listen-file", missing}, 1, "--listen-file: open "},
		{nil, 0, ""},
		{[]string{"--grpc-listen", "", "--http-listen", "", "--ops-listen", ""}, 0, ""},
	} {
		code, stderr := runToEnd(t, tt.args...)
		want := "probed: " + tt.stderr
		if tt.stderr == "" {
			want = ""
		}
		if code != tt.code || !strings.HasPrefix(stderr, want) || strings.Count(stderr, "\n") > 1 || want == "" && stderr != "" {
			t.Errorf("%q: exit code %d, %q; want %d, %q", tt.args, code, stderr, tt.code, want)
		}
	}
}

// Where it runs is told by the environment, and comes with every answer.
func TestVantage(t *testing.T) {
	t.Parallel()
	p := startIn(t.Context(), t, map[string]string{"PROBED_POD": "web-0", "PROBED_NAMESPACE": "shop", "PROBED_NODE": "n1"})
	response, err := p.http.Get(p.url("http", "/v1/vantage"))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.Header.Get("Probe-Vantage") != "web-0 in shop on n1" || !strings.Contains(string(text), `"web-0"`) {
		t.Errorf("%v: %s: %v", response.Header, text, err)
	}
}

// A file that an earlier run has left is not taken for this one's.
func TestStaleReadyFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ready")
	if err := os.WriteFile(file, []byte("grpc=127.0.0.1:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	taken := nettest.TCP(t, nettest.Echo).String()
	if code, stderr := runToEnd(t, "--listen-file", file, "--grpc-listen", taken); code != 1 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if _, err := os.Lstat(file); !os.IsNotExist(err) {
		t.Errorf("the file is there: %v", err)
	}
}

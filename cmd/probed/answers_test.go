package main

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"probed/internal/nettest"
)

// Each request is a line of the log, one that has become no call as well, by the id that its answer has.
func TestEveryRequestIsLogged(t *testing.T) {
	t.Parallel()
	p := start(t, "--log-level=debug", "--config="+file(t, probeModules))
	echo := nettest.TCP(t, nettest.Echo).String()
	long := "/" + strings.Repeat("x", 2000)
	const bad = "HTTP_REQUEST"
	want := make(map[string]map[string]any) // by id
	refused := 0
	for _, test := range []struct {
		method, path, body string
		header             [2]string
		status             int    // of HTTP
		logged             string // the method
		reason             string
		called             bool
	}{
		{"POST", "/v1/connect", "{bad", [2]string{}, 400, "POST /v1/connect", "INVALID_FIELD", false},
		{"POST", "/v1/exchange", "{bad", [2]string{}, 400, "POST /v1/exchange", "INVALID_FIELD", false},
		{"POST", "/v1/exchange", "{}", [2]string{"Accept", "image/png"}, 406, "POST /v1/exchange", bad, false},
		{"POST", "/v1/connect", "{}", [2]string{"Origin", "http://evil.test"}, 403, "POST /v1/connect", bad, false},
		{"GET", "/v1/ports/22", "", [2]string{"Host", "evil.test"}, 403, "GET /v1/ports/22", bad, false},
		{"GET", "/v1/ports/zz", "", [2]string{}, 400, "GET /v1/ports/{port}", "INVALID_FIELD", false},
		{"GET", "/v1/ports/22?x=y", "", [2]string{}, 400, "GET /v1/ports/{port}", "INVALID_FIELD", false},
		{"GET", long, "", [2]string{}, 404, "GET " + long[:64], bad, false},
		{"FOO", "/v1/ports/22", "", [2]string{}, 405, "OTHER /v1/ports/22", bad, false},
		{"GET", "/", "", [2]string{}, 200, "GET /", "OK", false},
		{"GET", "/probe?module=nosuch&target=a:1", "", [2]string{}, 400, "GET /probe", bad, false},
		{"GET", "/probe?module=tcp", "", [2]string{}, 400, "GET /probe", bad, false},
		{"GET", "/probe?module=tcp&target=a", "", [2]string{}, 400, "GET /probe", bad, false},
		{"GET", "/probe?module=missing&target=" + echo, "", [2]string{}, 500, "GET /probe", "INTERNAL", false},
		{"POST", "/probe?module=tcp&target=" + echo, "", [2]string{}, 405, "POST /probe", bad, false},

		{"GET", "/probe?module=tcp&target=" + echo, "", [2]string{}, 200, "probe.v1.ExchangeService/Connect", "OK", true},
		{"GET", "/v1/ports/22", "", [2]string{}, 200, "probe.v1.NameService/LookupPort", "OK", true},
		{"GET", "/v1/ports/70000", "", [2]string{}, 400, "probe.v1.NameService/LookupPort", "INVALID_FIELD", true},
		{"POST", "/v1/exchange", `{"target": "x"}`, [2]string{}, 400, "probe.v1.ExchangeService/Exchange", "INVALID_TARGET", true},
	} {
		request, err := http.NewRequestWithContext(t.Context(), test.method, p.url("http", test.path), strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		switch name, value := test.header[0], test.header[1]; name {
		case "":
		case "Host":
			request.Host = value
		default:
			request.Header.Set(name, value)
		}
		response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			t.Error(err)
		}
		id := response.Header.Get("Probe-Request-Id")
		if response.StatusCode != test.status || id == "" || want[id] != nil {
			t.Errorf("%s %s: %s, id %q", test.method, test.path, response.Status, id)
		}
		if response.Header.Get("Content-Type") == "application/json" && test.status >= 400 && !strings.Contains(string(body), `"requestId":"`+id+`"`) {
			t.Errorf("%s %s: without its id: %s", test.method, test.path, body)
		}
		want[id] = map[string]any{"method": test.logged, "reason": test.reason, "via": "rest", "remote": "127.0.0.1"}
		if !test.called {
			want[id]["status"] = float64(test.status)
			if test.status/100 == 4 {
				refused++
			}
		}
	}
	byGRPC := func(method, logged, level, reason string, code codes.Code) {
		var trailer metadata.MD
		err := p.conn.Invoke(t.Context(), method, &emptypb.Empty{}, &grpc_health_v1.HealthCheckResponse{}, grpc.Trailer(&trailer), grpc.Header(&trailer))
		if len(trailer["probe-request-id"]) == 0 {
			t.Fatalf("%s: no id: %v", method, trailer)
		}
		if status.Code(err) != code {
			t.Errorf("%s: %v", method, err)
		}
		want[trailer["probe-request-id"][0]] = map[string]any{"method": logged, "level": level, "reason": reason, "via": "grpc", "remote": "127.0.0.1"}
	}
	byGRPC("/grpc.health.v1.Health/Check", "grpc.health.v1.Health/Check", "DEBUG", "OK", codes.OK)
	byGRPC("/probe.v1.NameService"+long, ("probe.v1.NameService" + long)[:100], "INFO", "UNIMPLEMENTED", codes.Unimplemented)
	if n := p.metric(t, `probed_http_answers_total{status="4xx"}`); n != strconv.Itoa(refused) {
		t.Errorf("%s answers counted, want %d", n, refused)
	}
	p.signals <- syscall.SIGTERM
	p.wait(t)
	lines := p.logged(t, "call")
	if len(lines) != len(want) {
		t.Errorf("%d lines, want %d", len(lines), len(want))
	}
	for _, line := range lines {
		id, _ := line["request_id"].(string)
		for key, value := range want[id] {
			if line[key] != value {
				t.Errorf("%s is %v, want %v: %v", key, line[key], value, line)
			}
		}
		// Who is refused for where they come from, or for the method of HTTP, is not asked who they are.
		known := line["subject"] != nil || line["status"] == 403.0 || line["status"] == 405.0
		if seconds, ok := line["duration_seconds"].(float64); !ok || seconds <= 0 || want[id] == nil || !known {
			t.Errorf("%v", line)
		}
		if text, _ := line["error"].(string); len(text) > 1000 {
			t.Errorf("an error of %d bytes", len(text))
		}
	}
}

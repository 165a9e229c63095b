package gateway

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"probed/internal/nettest"

	probev1 "probed/gen/probe/v1"
)

// What is wrong with a request is told in one shape, with the HTTP status that goes with it.
func TestErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const (
		invalid  = "ERROR_REASON_INVALID_FIELD"
		target   = "ERROR_REASON_INVALID_TARGET"
		refused  = "ERROR_REASON_HTTP_REQUEST"
		tooLarge = 2<<20 + 1
	)
	exchange := func(rest string) string { return `{"target": "127.0.0.1:9", ` + rest + `}` }
	for _, tt := range []struct {
		name, method, path, body string
		header                   []string
		status, code             int
		reason, field            string
		message                  string // a part of it
	}{
		// The body.
		{name: "unknown field", method: "POST", path: "/v1/exchange", body: `{"targt": "x"}`, status: 400, code: 3, reason: invalid, field: "targt", message: `unknown field "targt"`},
		{name: "unknown field, deep", method: "POST", path: "/v1/exchange", body: exchange(`"steps": [{"halfClose": {}}, {"receive": {"idel": "1s"}}]`), status: 400, code: 3, reason: invalid, field: "steps[1].receive.idel"},
		{name: "unknown field of connect", method: "POST", path: "/v1/connect", body: exchange(`"steps": []`), status: 400, code: 3, reason: invalid, field: "steps"},
		{name: "twice the same field", method: "POST", path: "/v1/connect", body: exchange(`"target": "127.0.0.1:9"`), status: 400, code: 3, reason: invalid, field: "target"},
		{name: "base64", method: "POST", path: "/v1/exchange", body: exchange(`"data": "***"`), status: 400, code: 3, reason: invalid, field: "data"},
		{name: "base64, deep", method: "POST", path: "/v1/exchange", body: exchange(`"steps": [{"send": {"data": "a"}}]`), status: 400, code: 3, reason: invalid, field: "steps[0].send.data"},
		{name: "duration without unit", method: "POST", path: "/v1/exchange", body: exchange(`"timeout": "5"`), status: 400, code: 3, reason: invalid, field: "timeout", message: `as "90s"`},
		{name: "duration as number", method: "POST", path: "/v1/connect", body: exchange(`"timeout": 5`), status: 400, code: 3, reason: invalid, field: "timeout"},
		{name: "duration in milliseconds", method: "POST", path: "/v1/exchange", body: exchange(`"steps": [{"receive": {"idle": "300ms"}}]`), status: 400, code: 3, reason: invalid, field: "steps[0].receive.idle"},
		{name: "text for a number", method: "POST", path: "/v1/exchange", body: exchange(`"bufferSize": "many"`), status: 400, code: 3, reason: invalid, field: "bufferSize"},
		{name: "number too large", method: "POST", path: "/v1/exchange", body: exchange(`"bufferSize": 3000000000`), status: 400, code: 3, reason: invalid, field: "bufferSize"},
		{name: "two of a oneof", method: "POST", path: "/v1/exchange", body: exchange(`"text": "a", "data": "YQ=="`), status: 400, code: 3, reason: invalid, field: "data"},
		{name: "bad enum in a body", method: "POST", path: "/v1/dns", body: `{"name": "x", "transport": "DNS_TRANSPORT_PIGEON"}`, status: 400, code: 3, reason: invalid, field: "transport"},
		{name: "unknown number of an enum in a body", method: "POST", path: "/v1/dns", body: `{"name": "x", "transport": 99}`, status: 400, code: 3, reason: invalid, field: "transport"},
		{name: "not JSON", method: "POST", path: "/v1/connect", body: `target=x`, status: 400, code: 3, reason: invalid},
		{name: "half of it", method: "POST", path: "/v1/exchange", body: `{"target": "127.0.0.1:9", "steps": [{"send": {"text": "a`, status: 400, code: 3, reason: invalid, message: "ends before"},
		{name: "an array", method: "POST", path: "/v1/exchange", body: `[]`, status: 400, code: 3, reason: invalid},
		{name: "more than one value", method: "POST", path: "/v1/connect", body: `{"target": "127.0.0.1:9"}{}`, status: 400, code: 3, reason: invalid},
		{name: "not UTF-8", method: "POST", path: "/v1/exchange", body: "{\"target\": \"\xff\"}", status: 400, code: 3, reason: invalid, field: "target"},
		{name: "no body", method: "POST", path: "/v1/exchange", status: 400, code: 3, reason: target, field: "target"},
		{name: "no body for connect", method: "POST", path: "/v1/connect", status: 400, code: 3, reason: target, field: "target"},
		{name: "too large", method: "POST", path: "/v1/exchange", body: strings.Repeat(" ", tooLarge), status: 413, code: 8, reason: refused},
		{name: "too large for connect", method: "POST", path: "/v1/connect", body: strings.Repeat(" ", tooLarge), status: 413, code: 8, reason: refused},

		// What is easily got wrong.
		{name: "empty target", method: "POST", path: "/v1/exchange", body: `{"target": ""}`, status: 400, code: 3, reason: target, field: "target"},
		{name: "unknown scheme", method: "POST", path: "/v1/exchange", body: `{"target": "gopher://127.0.0.1:70"}`, status: 400, code: 3, reason: target, field: "target", message: "gopher"},
		{name: "port 70000", method: "POST", path: "/v1/exchange", body: `{"target": "127.0.0.1:70000"}`, status: 400, code: 3, reason: target, field: "target", message: "70000"},
		{name: "negative buffer", method: "POST", path: "/v1/exchange", body: exchange(`"bufferSize": -1`), status: 400, code: 3, reason: invalid, field: "buffer_size", message: "bufferSize"},
		{name: "two end rules that exclude each other", method: "POST", path: "/v1/exchange", body: exchange(`"steps": [{"receive": {"length": "5", "delimiter": "x"}}]`), status: 400, code: 3, reason: invalid, field: "steps[0].receive", message: "exclude each other"},
		{name: "data beside steps", method: "POST", path: "/v1/exchange", body: exchange(`"data": "YQ==", "steps": [{"halfClose": {}}]`), status: 400, code: 3, reason: invalid, field: "data"},
		{name: "an expression that is none", method: "POST", path: "/v1/exchange", body: exchange(`"steps": [{"expect": {"regex": "("}}]`), status: 400, code: 3, reason: "ERROR_REASON_INVALID_FIELD", field: "steps[0].expect.regex"},

		// The query and the path.
		{name: "unknown parameter", method: "GET", path: "/v1/services/ssh?protokol=tcp", status: 400, code: 3, reason: invalid, field: "protokol"},
		{name: "unknown parameter where there are none", method: "GET", path: "/v1/hostname?verbose=1", status: 400, code: 3, reason: invalid, field: "verbose"},
		{name: "parameter of the path", method: "GET", path: "/v1/services/ssh?name=http", status: 400, code: 3, reason: invalid, field: "name"},
		{name: "parameters of POST", method: "POST", path: "/v1/exchange?timeout=5s", body: exchange(`"text": ""`), status: 400, code: 3, reason: invalid, field: "timeout"},
		{name: "parameters of connect", method: "POST", path: "/v1/connect?target=127.0.0.1:9", status: 400, code: 3, reason: invalid, field: "target"},
		{name: "twice", method: "GET", path: "/v1/services?pageSize=1&pageSize=2", status: 400, code: 3, reason: invalid, field: "page_size"},
		{name: "twice, by both names", method: "GET", path: "/v1/services?pageSize=1&page_size=2", status: 400, code: 3, reason: invalid, field: "page_size"},
		{name: "as a map", method: "GET", path: "/v1/addrinfo?flags[1]=AI_ALL", status: 400, code: 3, reason: invalid, field: "flags[1]"},
		{name: "malformed", method: "GET", path: "/v1/services?protocol=%zz", status: 400, code: 3, reason: invalid},
		{name: "semicolons", method: "GET", path: "/v1/services?pageSize=1;protocol=tcp", status: 400, code: 3, reason: invalid},
		{name: "bad enum", method: "GET", path: "/v1/services?portClass=WELL_KNOWN", status: 400, code: 3, reason: invalid, field: "port_class", message: "WELL_KNOWN"},
		{name: "unknown number of an enum", method: "GET", path: "/v1/addrinfo?family=99", status: 400, code: 3, reason: invalid, field: "family"},
		{name: "bad enum in a list", method: "GET", path: "/v1/addrinfo?flags=AI_PASSIVE&flags=AI_X", status: 400, code: 3, reason: invalid, field: "flags"},
		{name: "no number", method: "GET", path: "/v1/ports/ssh", status: 400, code: 3, reason: invalid, field: "port", message: `parsing "ssh"`},
		{name: "negative port", method: "GET", path: "/v1/ports/-1", status: 400, code: 3, reason: invalid, field: "port"},
		{name: "port 65536", method: "GET", path: "/v1/ports/65536", status: 400, code: 3, reason: invalid, field: "port"},
		{name: "page size", method: "GET", path: "/v1/services?pageSize=1001", status: 400, code: 3, reason: invalid, field: "page_size", message: "pageSize"},
		{name: "page token", method: "GET", path: "/v1/services?pageToken=x", status: 400, code: 3, reason: invalid, field: "page_token", message: "pageToken"},
		{name: "no boolean", method: "GET", path: "/v1/hosts/web.test?trace", status: 400, code: 3, reason: invalid, field: "trace"},
		{name: "empty name", method: "GET", path: "/v1/services/", status: 400, code: 3, reason: invalid, field: "name"},
		{name: "no address", method: "GET", path: "/v1/addresses/web.test", status: 400, code: 3, reason: invalid, field: "address"},
		{name: "server by GET", method: "GET", path: "/v1/dns/dns.test?server=192.0.2.53", status: 400, code: 3, reason: invalid, field: "server", message: "POST /v1/dns"},
		{name: "type of record", method: "GET", path: "/v1/dns/dns.test?type=QUUX", status: 400, code: 3, reason: invalid, field: "type"},
		{name: "bad escape", method: "GET", path: "/v1/hosts/%25zz", status: 404, code: 5, reason: "ERROR_REASON_NAME_NOT_FOUND"},

		// What is not found.
		{name: "no such service", method: "GET", path: "/v1/services/nosuch", status: 404, code: 5, reason: "ERROR_REASON_SERVICE_NOT_FOUND"},
		{name: "no such protocol", method: "GET", path: "/v1/protocols/nosuch", status: 404, code: 5, reason: "ERROR_REASON_PROTOCOL_NOT_FOUND"},
		{name: "no such host", method: "GET", path: "/v1/hosts/nosuch.test", status: 404, code: 5, reason: "ERROR_REASON_NAME_NOT_FOUND"},
		{name: "no address of the family", method: "GET", path: "/v1/addrinfo?host=192.0.2.7&family=AF_INET6", status: 404, code: 5, reason: "EAI_ADDRFAMILY"},
		{name: "no name", method: "GET", path: "/v1/addrinfo?host=nosuch.test", status: 404, code: 5, reason: "EAI_NONAME"},

		// Who asks.
		{name: "foreign host", method: "GET", path: "/v1/services/ssh", header: []string{"Host", "evil.example"}, status: 403, code: 7, reason: refused, message: "evil.example"},
		{name: "a host that ends in an allowed one", method: "GET", path: "/v1/services/ssh", header: []string{"Host", "evil.localhost"}, status: 403, code: 7, reason: refused},
		{name: "a host that begins with an address", method: "GET", path: "/v1/services/ssh", header: []string{"Host", "127.0.0.1.evil.example"}, status: 403, code: 7, reason: refused},
		{name: "cross-origin", method: "POST", path: "/v1/connect", body: `{"target": "127.0.0.1:9"}`, header: []string{"Origin", "https://evil.example"}, status: 403, code: 7, reason: refused},
		{name: "cross-site", method: "POST", path: "/v1/exchange", body: exchange(`"text": ""`), header: []string{"Sec-Fetch-Site", "cross-site"}, status: 403, code: 7, reason: refused},
		{name: "policy", method: "POST", path: "/v1/exchange", body: `{"target": "169.254.169.254:80"}`, status: 403, code: 7, reason: "ERROR_REASON_POLICY_DENIED"},
		{name: "policy for connect", method: "POST", path: "/v1/connect", body: `{"target": "unix:///run/docker.sock"}`, status: 403, code: 7, reason: "ERROR_REASON_POLICY_DENIED"},
		{name: "policy for a name server", method: "POST", path: "/v1/dns", body: `{"name": "x.test", "server": "169.254.169.254"}`, status: 403, code: 7, reason: "ERROR_REASON_POLICY_DENIED"},
	} {
		formats := []string{"", "application/x-ndjson", "application/octet-stream", "text/event-stream"}
		if tt.path != "/v1/exchange" {
			formats = formats[:1]
		}
		for _, format := range formats {
			t.Run(tt.name+" "+format, func(t *testing.T) {
				t.Parallel()
				header := tt.header
				if format != "" {
					header = append([]string{"Accept", format}, header...)
				}
				response, text := w.ask(t, tt.method, tt.path, tt.body, header...)
				if response.StatusCode != tt.status || response.Header.Get("Content-Type") != "application/json" {
					t.Fatalf("%s, %s; want %d: %s", response.Status, response.Header.Get("Content-Type"), tt.status, text)
				}
				e := parseError(t, text)
				if e.Code != tt.code || e.reason() != tt.reason || e.field() != tt.field || !strings.Contains(e.Message, tt.message) || e.Message == "" {
					t.Errorf("code %d, reason %s, field %q; want %d, %s, %q, %q in the message: %s", e.Code, e.reason(), e.field(), tt.code, tt.reason, tt.field, tt.message, text)
				}
				if id := response.Header.Get("Probe-Request-Id"); e.requestID() != id {
					t.Errorf("the header has the id %q: %s", id, text)
				}
				if !strings.HasSuffix(text, "}\n") || strings.Contains(text, "strconv") || strings.Contains(text, "proto:") {
					t.Errorf("%q", text)
				}
			})
		}
	}
}

func TestNotAcceptable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	response, text := w.ask(t, "POST", "/v1/exchange", `{"target": "127.0.0.1:9"}`, "Accept", "text/html")
	if e := parseError(t, text); response.StatusCode != http.StatusNotAcceptable || e.Code != 3 || e.reason() != "ERROR_REASON_HTTP_REQUEST" {
		t.Errorf("%s: %s", response.Status, text)
	}
	if w.calls() != 0 {
		t.Error("the request came through")
	}
	// What looks up has one format only, and gives it.
	if response, text := w.ask(t, "GET", "/v1/services/ssh", "", "Accept", "text/html"); response.StatusCode != http.StatusOK {
		t.Errorf("%s: %s", response.Status, text)
	}
}

// Names that lead here: any address, localhost, and those that were allowed, however they are written.
func TestAllowedHosts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, host := range []string{
		"localhost", "localhost:8080", "LocalHost.", "127.0.0.1", "127.0.0.1:1", "[::1]:80", "[::1]", "10.1.2.3:8080",
		"probe.example", "PROBE.example.:80",
	} {
		if response, text := w.ask(t, "GET", "/v1/ports/22", "", "Host", host); response.StatusCode != http.StatusOK {
			t.Errorf("%s: %s: %s", host, response.Status, text)
		}
	}
	// A page that this very host served may ask.
	echo := nettest.TCP(t, nettest.Echo)
	response, text := w.ask(t, "POST", "/v1/connect", fmt.Sprintf(`{"target": %q}`, echo), "Origin", "http://"+w.address, "Sec-Fetch-Site", "same-origin")
	if response.StatusCode != http.StatusOK {
		t.Errorf("%s: %s", response.Status, text)
	}
}

func TestPathAt(t *testing.T) {
	t.Parallel()
	const text = `{"a": 1, "b": {"c": [10, {"d": "x"}, [true]], "e": null}, "f": "g"}`
	for mark, want := range map[string]string{
		`"a"`: "a", `1,`: "a", `"b"`: "b", `{"c"`: "b", `"c"`: "b.c", `10`: "b.c[0]", `{"d"`: "b.c[1]", `"d"`: "b.c[1].d",
		`"x"`: "b.c[1].d", `true`: "b.c[2][0]", `"e"`: "b.e", `null`: "b.e", `"f"`: "f", `"g"`: "f", `{"a"`: "",
	} {
		if got := pathAt([]byte(text), int64(strings.Index(text, mark))); got != want {
			t.Errorf("at %s: %q, want %q", mark, got, want)
		}
	}
	// Positions are told in lines and characters.
	if got := fieldAt([]byte("{\n \"é\": 1, \"é\": 2}"), "(line 2:10): duplicate"); got != "é" {
		t.Errorf("%q", got)
	}
}

// Whatever the body, reading it gives a request or an error, and the field that the error names is in the body.
func FuzzReadBody(f *testing.F) {
	for _, seed := range []string{
		"", "{}", `{"target": "a:1", "steps": [{"send": {"text": "x"}}, {"receive": {"idle": "0.3s"}}]}`, `{"data": "*"}`,
		"{\"target\":\n\n \"\xff\"", `[[[[`, `{"a":{"b":[1,{"c":`, `{"timeout": 5}`, `{"":1}`, `{"steps":[{}}`, "\u00a0", `{"target": "\ud800"}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		request := &probev1.ExchangeRequest{}
		err := readBody(strings.NewReader(body), request)
		if err == nil {
			if _, err := proto.Marshal(request); err != nil {
				t.Fatalf("it was read, and cannot be sent: %v", err)
			}
			return
		}
		if strings.HasPrefix(err.Error(), "proto:") || strings.Contains(err.Error(), "\u00a0") && !strings.Contains(body, "\u00a0") {
			t.Fatalf("%q", err)
		}
		_ = fieldIn(err.Error())
	})
}

// An error of which the header has an id has it in its details as well, once.
func TestRequestID(t *testing.T) {
	t.Parallel()
	const id = "5f0c8a52b1d6e937"
	of := withDetails(requestError(codes.Unavailable, "x"), &errdetails.RequestInfo{RequestId: id})
	for _, tt := range []struct {
		name, header string
		status       *status.Status
		want         string
		details      int
	}{
		{"no call", "", requestError(codes.NotFound, "x"), "", 1},
		{"a call", id, of, id, 2},
		{"a call that the end of probed came into", id, statusOf(status.Error(codes.Unavailable, "x")), id, 3},
	} {
		w := httptest.NewRecorder()
		if tt.header != "" {
			w.Header().Set("Probe-Request-Id", tt.header)
		}
		writeStatus(w, http.StatusServiceUnavailable, tt.status)
		if e := parseError(t, w.Body.String()); e.reason() == "" || e.requestID() != tt.want || len(e.Details) != tt.details {
			t.Errorf("%s: %s", tt.name, w.Body)
		}
	}
}

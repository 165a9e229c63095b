package gateway

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"probed/internal/nettest"
)

const sshEntry = `{"name": "ssh", "port": 22, "protocol": "tcp", "aliases": [], "description": "…",
	"portClass": "PORT_CLASS_SYSTEM", "source": "TABLE_SOURCE_FILE"}`

// Each path of the contract, and the whole JSON of its answer.
func TestRoutes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	echo := nettest.TCP(t, nettest.Echo)
	for _, tt := range []struct{ name, method, path, body, want string }{
		{"LookupService", "GET", "/v1/services/ssh?protocol=tcp", "", `{"services": [` + sshEntry + `]}`},
		{"LookupPort", "GET", "/v1/ports/22?protocol=tcp", "", `{"port": 22, "portClass": "PORT_CLASS_SYSTEM", "services": [` + sshEntry + `]}`},
		{"LookupPort nobody has", "GET", "/v1/ports/65535", "", `{"port": 65535, "portClass": "PORT_CLASS_DYNAMIC", "services": []}`},
		{"ListServices", "GET", "/v1/services?protocol=tcp&portClass=PORT_CLASS_SYSTEM&pageSize=2", "", `{"services": ["…", "…"], "nextPageToken": "…"}`},
		{"ListServices, numbers and the contract's spelling", "GET", "/v1/services?protocol=tcp&port_class=1&page_size=1", "", `{"services": ["…"], "nextPageToken": "…"}`},
		{"LookupProtocol", "GET", "/v1/protocols/6", "", `{"name": "tcp", "number": 6, "aliases": ["TCP"], "description": "transmission control protocol", "source": "TABLE_SOURCE_FILE"}`},
		{"ListConstants", "GET", "/v1/constants?prefix=AF_INET6", "", `{"platform": "…", "constants": [{"name": "AF_INET6", "value": 10, "description": "…"}]}`},
		{"GetHostname", "GET", "/v1/hostname", "", `{"hostname": "here.test", "canonicalName": "here.test", "addresses": ["127.0.0.1"]}`},
		{"DescribeVantage", "GET", "/v1/vantage", "", `{"hostname": "here.test", "pod": "web-0", "namespace": "shop", "node": "n1", "version": "v0",
			"interfaces": "…", "defaultRoutes": "…", "resolver": {"nameservers": ["192.0.2.53:53"], "search": "…", "ndots": 1, "timeout": "5s", "attempts": 2,
			"options": [], "sources": ["files", "dns"], "notes": []}}`},
		{"LookupHost", "GET", "/v1/hosts/web.test?trace=true&family=AF_INET", "", `{"canonicalName": "web.test", "aliases": ["www.test"], "addresses": ["192.0.2.7"], "source": "files",
			"trace": [{"source": "files", "name": "web.test", "type": "", "server": "", "transport": "", "rcode": "", "answers": ["192.0.2.7"], "duration": "…", "error": ""}],
			"duration": "…", "notes": []}`},
		{"LookupAddress", "GET", "/v1/addresses/192.0.2.7", "", `{"canonicalName": "web.test", "aliases": ["www.test"], "addresses": ["192.0.2.7"], "source": "files", "trace": [], "duration": "…", "notes": []}`},
		{"GetAddressInfo", "GET", "/v1/addrinfo?host=2001:db8::7&service=http&type=SOCK_STREAM&flags=AI_NUMERICHOST", "", `{"addresses": [{"family": "AF_INET6", "type": "SOCK_STREAM", "protocol": "IPPROTO_TCP", "canonicalName": "",
			"address": {"ip": "2001:db8::7", "port": 80, "flowInfo": 0, "scopeId": 0}}]}`},
		{"GetAddressInfo, numbers and two flags", "GET", "/v1/addrinfo?service=80&family=2&type=2&protocol=17&flags=AI_PASSIVE&flags=1024", "", `{"addresses": [{"family": "AF_INET", "type": "SOCK_DGRAM", "protocol": "IPPROTO_UDP", "canonicalName": "",
			"address": {"ip": "0.0.0.0", "port": 80, "flowInfo": 0, "scopeId": 0}}]}`},
		{"GetNameInfo", "GET", "/v1/nameinfo?address=192.0.2.7&port=80", "", `{"host": "web.test", "service": "http"}`},
		{"QueryDNS", "GET", "/v1/dns/dns.test?type=A", "", dnsAnswer},
		{"QueryDNS by POST", "POST", "/v1/dns", `{"name": "dns.test"}`, dnsAnswer},
		{"Connect", "POST", "/v1/connect", fmt.Sprintf(`{"target": "tcp://%s"}`, echo), `{"outcome": {
			"ok": true, "phase": "PHASE_CLOSE", "layer": "LAYER_UNSPECIFIED", "reason": "REASON_UNSPECIFIED", "errno": 0, "errnoName": "", "error": "", "hint": "",
			"endedBy": "ENDED_BY_LAST_STEP", "bytesSent": "0", "bytesReceived": "0", "bytesAcknowledged": "0", "bytesUnread": "0", "chunks": "0",
			"local": "…", "remote": "` + echo.String() + `", "family": "AF_INET", "type": "SOCK_STREAM", "protocol": "IPPROTO_TCP",
			"attempts": [{"address": "` + echo.String() + `", "ok": true, "reason": "REASON_UNSPECIFIED", "errno": 0, "errnoName": "", "error": "", "start": "…", "duration": "…",
				"icmp": null, "phase": "PHASE_CONNECT", "tls": null, "local": "…", "tlsDuration": null}],
			"timings": {"resolve": null, "connect": "…", "tls": null, "firstByte": null, "total": "…"},
			"tcpInfo": {"rtt": "…", "rttVar": "…", "retransmits": 0, "mss": "…", "pmtu": "…", "congestionWindow": "…", "unacknowledged": "…", "lost": 0}, "tls": null,
			"vantage": {"hostname": "here", "pod": "web-0", "namespace": "shop", "node": "n1", "version": "v0"}, "resolution": null,
			"failedStepReceived": "", "socketOptions": "…", "route": {"source": "127.0.0.1", "interface": "lo", "gateway": "", "mtu": "…"}, "icmp": null, "matches": []}}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			response, got := w.ask(t, tt.method, tt.path, tt.body, "Accept-Encoding", "gzip, br")
			if response.StatusCode != http.StatusOK {
				t.Fatalf("%s: %s", response.Status, got)
			}
			checkJSON(t, got, tt.want)
			for header, want := range map[string]string{
				"Content-Type": "application/json", "Probe-Vantage": "web-0 in shop on n1", "Content-Encoding": "", "X-Content-Type-Options": "nosniff",
			} {
				if got := response.Header.Get(header); got != want {
					t.Errorf("%s: %q, want %q", header, got, want)
				}
			}
			if id := response.Header.Get("Probe-Request-Id"); len(id) != 16 {
				t.Errorf("Probe-Request-Id: %q", id)
			}
		})
	}
}

const dnsAnswer = `{"rcode": "NOERROR", "flags": {"response": true, "authoritative": false, "truncated": false, "recursionDesired": true,
	"recursionAvailable": true, "authenticatedData": false, "checkingDisabled": false},
	"answers": [{"name": "dns.test.", "type": "A", "class": "IN", "ttl": 60, "data": "192.0.2.9"}],
	"authority": [], "additional": [], "server": "192.0.2.53:53", "transport": "DNS_TRANSPORT_UDP", "duration": "…"}`

// The contract's own list of paths is the one that is tested above, and the one that is published.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	response, text := w.ask(t, "GET", "/openapi.json", "")
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%s, %s", response.Status, response.Header.Get("Content-Type"))
	}
	var document struct {
		Paths map[string]map[string]any `json:"paths"`
	}
	if err := json.Unmarshal([]byte(text), &document); err != nil {
		t.Fatal(err)
	}
	published := 0
	for path, methods := range document.Paths {
		if path == probePath {
			continue // for Prometheus, where there are modules; it is no RPC
		}
		published += len(methods)
		for method := range methods {
			if _, ok := routes()[strings.ToUpper(method)+" "+path]; !ok {
				t.Errorf("%s %s is published and not served", method, path)
			}
		}
	}
	if served := len(routes()); served != published || served != 16 {
		t.Errorf("%d served, %d published, want 16", served, published)
	}
}

// What stands in a path arrives as it was meant.
func TestPathParameters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for path, want := range map[string]string{
		"/v1/addresses/::1":                            "::1",
		"/v1/addresses/2001:db8::7":                    "2001:db8::7",
		"/v1/addresses/2001%3Adb8%3a%3A7":              "2001:db8::7",
		"/v1/addresses/fe80::1%25eth0":                 "fe80::1%eth0",
		"/v1/hosts/fe80::1%25lo":                       "fe80::1%lo",
		"/v1/hosts/web.test.":                          "web.test.",
		"/v1/hosts/.":                                  ".",
		"/v1/hosts/..":                                 "..",
		"/v1/hosts/a%20b":                              "a b",
		"/v1/hosts/a+b":                                "a+b",
		"/v1/hosts/b%C3%BCcher.test":                   "bücher.test",
		"/v1/hosts/bücher.test":                        "bücher.test",
		"/v1/hosts/%252F":                              "%2F",
		"/v1/hosts/a:b:c":                              "a:b:c",
		"/v1/hosts/:":                                  ":",
		"/v1/services/nine%2Fp":                        "nine/p",
		"/v1/services/nine%2fp%252F":                   "nine/p%2F",
		"/v1/dns/0%2F25.2.0.192.in-addr.arpa?type=PTR": "0/25.2.0.192.in-addr.arpa",
		"/v1/dns/_sip._tcp.example?type=SRV":           "_sip._tcp.example",
		"/v1/dns/.?type=NS":                            ".",
		"/v1/protocols/ipv6-icmp":                      "ipv6-icmp",
		"/v1/hosts/%00":                                "\x00",
		"/v1/hosts/" + strings.Repeat("a", 1024):       strings.Repeat("a", 1024),
		"/v1/hosts/x?trace=1":                          "x",
		"/v1/hosts/%3Ftrace=1":                         "?trace=1",
		"/v1/hosts/%23":                                "#",
	} {
		// By hand: a client would tidy up the path, or refuse it.
		conn, err := net.Dial("tcp", w.address)
		if err != nil {
			t.Fatal(err)
		}
		before := w.calls()
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path)
		answer := readAll(t, conn)
		if w.calls() != before+1 {
			t.Errorf("%s: %d requests came through: %.300s", path, w.calls()-before, answer)
			continue
		}
		if got := firstField(w.lastRequest()); got != want {
			t.Errorf("%s: %q came through, want %q", path, got, want)
		}
	}
}

// firstField is the value of the string field numbered 1.
func firstField(message proto.Message) string {
	m := message.ProtoReflect()
	field := m.Descriptor().Fields().ByNumber(1)
	if field == nil || field.Kind() != protoreflect.StringKind {
		return ""
	}
	return m.Get(field).String()
}

// No header of a request reaches the service, whatever it is called, and none sets its deadline.
func TestHeadersStayOutside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	header := []string{
		"Authorization", "Bearer x", "Grpc-Metadata-Subject", "admin", "Grpc-Metadata-X-Forwarded-For", "10.0.0.1",
		"X-Forwarded-For", "10.0.0.1", "X-Forwarded-Host", "evil", "Cookie", "a=b", "Grpc-Timeout", "1n", "User-Agent", "me",
		"Grpc-Metadata-Bin-Bin", "AAAA", "Probe-Request-Id", "mine", "X-Http-Method-Override", "POST", "Te", "trailers",
	}
	if response, text := w.ask(t, "GET", "/v1/services/ssh", "", header...); response.StatusCode != http.StatusOK {
		t.Errorf("%s: %s", response.Status, text)
	}
	echo := nettest.TCP(t, nettest.Echo)
	response, text := w.ask(t, "POST", "/v1/exchange", fmt.Sprintf(`{"target": %q}`, echo), header...)
	if response.StatusCode != http.StatusOK {
		t.Errorf("%s: %s", response.Status, text)
	}
	if w.calls() != 2 || len(w.metadata) != 0 {
		t.Errorf("%d calls, want 2; %v came through", w.calls(), w.metadata)
	}
}

func TestMethods(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, tt := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"HEAD", "/v1/services/ssh", 200, ""},
		{"HEAD", "/openapi.json", 200, ""},
		{"HEAD", "/v1/connect", 405, "POST, OPTIONS"},
		{"OPTIONS", "/v1/services/ssh", 204, "GET, HEAD, OPTIONS"},
		{"OPTIONS", "/v1/exchange", 204, "POST, OPTIONS"},
		{"OPTIONS", "/v1/nothing", 404, ""},
		{"POST", "/v1/services/ssh", 405, "GET, HEAD, OPTIONS"},
		{"PUT", "/v1/hostname", 405, "GET, HEAD, OPTIONS"},
		{"DELETE", "/v1/exchange", 405, "POST, OPTIONS"},
		{"GET", "/v1/exchange", 405, "POST, OPTIONS"},
		{"GET", "/v1/connect", 405, "POST, OPTIONS"},
		{"GET", "/v1/dns", 405, "POST, OPTIONS"},
		{"POST", "/openapi.json", 405, "GET, HEAD, OPTIONS"},
		{"POST", "/", 405, "GET, HEAD, OPTIONS"},
		{"GET", "/page", 404, ""},
		{"GET", "/page/", 404, ""},
		{"GET", "/page/index.html", 404, ""},
		{"GET", "/v1", 404, ""},
		{"GET", "/v1//services", 404, ""},
		{"GET", "/v2/services/ssh", 404, ""},
		{"GET", "/v1/services/ssh/more", 404, ""},
		{"GET", "/metrics", 404, ""},
		{"GET", "/debug/pprof/", 404, ""},
		{"POST", "/probe.v1.NameService/LookupService", 404, ""},
		{"BREW", "/v1/hostname", 405, "GET, HEAD, OPTIONS"},
	} {
		response, text := w.ask(t, tt.method, tt.path, "")
		if response.StatusCode != tt.status || response.Header.Get("Allow") != tt.allow {
			t.Errorf("%s %s: %s, Allow %q; want %d, %q", tt.method, tt.path, response.Status, response.Header.Get("Allow"), tt.status, tt.allow)
		}
		switch {
		case tt.method == "HEAD":
			if text != "" || tt.status == http.StatusOK && response.ContentLength <= 0 {
				t.Errorf("HEAD %s: %d bytes, Content-Length %d", tt.path, len(text), response.ContentLength)
			}
		case tt.status == 404:
			if e := parseError(t, text); e.Code != 5 || e.reason() != "ERROR_REASON_HTTP_REQUEST" {
				t.Errorf("%s %s: %s", tt.method, tt.path, text)
			}
		case tt.status == 405:
			if e := parseError(t, text); e.Code != 12 || e.reason() != "ERROR_REASON_HTTP_REQUEST" {
				t.Errorf("%s %s: %s", tt.method, tt.path, text)
			}
		}
	}
}

// When its connection is closed, the gateway says so in the same shape.
func TestClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_ = w.gateway.Close()
	for _, body := range []struct{ method, path, body string }{
		{"GET", "/v1/services/ssh", ""},
		{"POST", "/v1/exchange", `{"target": "127.0.0.1:1"}`},
	} {
		response, text := w.ask(t, body.method, body.path, body.body)
		e := parseError(t, text)
		if response.StatusCode != http.StatusServiceUnavailable || e.Code != 14 || e.reason() != "ERROR_REASON_UNAVAILABLE" || e.Message != "probed is shutting down" || response.Header.Get("Retry-After") != "2" {
			t.Errorf("%s: %s, %v: %s", body.path, response.Status, response.Header, text)
		}
	}
}

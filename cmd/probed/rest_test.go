package main

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
)

// plainly sends bytes to REST as they are and returns the answer with its body; nil when there is none.
func (p *program) plainly(t *testing.T, text string) (*reply, string) {
	t.Helper()
	conn, err := net.Dial("tcp", p.addresses["http"])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return say(t, conn, text)
}

// A page whose own name leads here comes in under that name. It is answered under none but addresses, localhost and those
// that are allowed.
func TestForeignHosts(t *testing.T) {
	t.Parallel()
	p := start(t, "--http-allowed-host=Probe.Example.")
	const ok, denied, bad = http.StatusOK, http.StatusForbidden, http.StatusBadRequest
	for request, want := range map[string]int{
		"Host: localhost":                           ok,
		"Host: LOCALHOST:8080":                      ok,
		"Host: localhost.":                          ok,
		"Host: localhost.:8080":                     ok,
		"Host: 127.0.0.1":                           ok,
		"Host: 127.0.0.1:1":                         ok,
		"Host: [::1]":                               ok,
		"Host: [::1]:8080":                          ok,
		"Host: [fe80::1%25eth0]:8080":               ok,
		"Host: 192.0.2.1":                           ok, // no name that somebody could have
		"Host: probe.example":                       ok,
		"Host: PROBE.EXAMPLE.:8080":                 ok,
		"Host: evil.example":                        denied,
		"Host: evil.example:8080":                   denied,
		"Host: localhost.evil.example":              denied,
		"Host: evil-localhost":                      denied,
		"Host: localhost..":                         denied,
		"Host: a.probe.example":                     denied,
		"Host: probe.example.evil.example":          denied,
		"Host: 127.0.0.1.evil.example":              denied,
		"Host: 0x7f000001":                          denied,
		"Host: 2130706433":                          denied,
		"Host: 127.1":                               denied,
		"Host: localhost,evil.example":              denied,
		"Host: evil.example, localhost":             bad,
		"Host: localhost@evil.example":              bad,
		"Host: evil.example@localhost":              bad,
		"Host: xn--lclhost-9ta.example":             denied,
		"Host: ":                                    denied,
		"Host: :8080":                               denied,
		"Host: .":                                   denied,
		"Host: [localhost.evil.example]":            denied,
		"Host: local host":                          bad,
		"Host: localhost\r\nHost: localhost":        bad,
		"Host: localhost\r\nHost: evil.example":     bad,
		"Host: evil.example\r\nHost: localhost":     bad,
		"X-Forwarded-Host: localhost":               bad,
		"Host : localhost":                          bad,
		"Host: evil\r\nX-Forwarded-Host: 127.0.0.1": denied,
	} {
		response, text := p.plainly(t, "GET /v1/ports/22 HTTP/1.1\r\n"+request+"\r\nConnection: close\r\n\r\n")
		if response == nil || response.StatusCode != want {
			t.Errorf("%q: %s, want %d", request, text, want)
		} else if want == denied && (reasonIn(text) != "ERROR_REASON_HTTP_REQUEST" || strings.Contains(text, `"ssh"`)) {
			t.Errorf("%q: %s", request, text)
		}
	}
	// The target of the request says the host too, and then counts alone (RFC 9112, section 3.2.2).
	for request, want := range map[string]int{
		"GET http://localhost/v1/ports/22 HTTP/1.1\r\nHost: evil.example":             ok,
		"GET http://evil.example/v1/ports/22 HTTP/1.1\r\nHost: localhost":             denied,
		"GET http://evil.example@localhost/v1/ports/22 HTTP/1.1\r\nHost: a.test":      ok,
		"GET http://localhost@evil.example/v1/ports/22 HTTP/1.1\r\nHost: a.test":      denied,
		"GET //localhost/v1/ports/22 HTTP/1.1\r\nHost: evil.example":                  denied,
		"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost":                            bad,
		"CONNECT evil.example:22 HTTP/1.1\r\nHost: localhost":                         denied,
		"GET /v1/ports/22 HTTP/1.0":                                                   denied,
		"GET /v1/ports/22 HTTP/1.0\r\nHost: evil.example":                             denied,
		"GET /v1/ports/22 HTTP/1.0\r\nHost: localhost":                                ok,
		"OPTIONS * HTTP/1.1\r\nHost: evil.example":                                    ok, // answered by the server itself, and says nothing
		"POST /v1/connect HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0":        denied,
		"POST /v1/exchange HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0":       denied,
		"GET /openapi.json HTTP/1.1\r\nHost: evil.example":                            denied,
		"GET /nothing HTTP/1.1\r\nHost: evil.example":                                 denied,
		"GET /v1/ports/22 HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://localhost": denied,
	} {
		response, text := p.plainly(t, request+"\r\nConnection: close\r\n\r\n")
		if response == nil || response.StatusCode != want {
			status := "no answer"
			if response != nil {
				status = response.Status
			}
			t.Errorf("%q: %s, %s, want %d", request, status, text, want)
		}
	}
}

// A page of another origin makes no connections, and reads nothing: no answer says that it may.
func TestCrossOrigin(t *testing.T) {
	t.Parallel()
	p := start(t, "--http-allowed-host=probe.example")
	const sameOrigin, foreign = "same-origin", "foreign"
	for header, who := range map[string]string{
		"":                                   sameOrigin, // no browser
		"Sec-Fetch-Site: same-origin":        sameOrigin,
		"Sec-Fetch-Site: none":               sameOrigin, // typed in by a person
		"Origin: http://localhost:8080":      sameOrigin,
		"Sec-Fetch-Site: cross-site":         foreign,
		"Sec-Fetch-Site: same-site":          foreign,
		"Sec-Fetch-Site: nonsense":           foreign,
		"Origin: null":                       foreign,
		"Origin: http://evil.example":        foreign,
		"Origin: http://localhost":           foreign, // another port
		"Origin: http://localhost:8081":      foreign,
		"Origin: http://localhost.evil:8080": foreign,
		"Origin: http://localhost:8080@evil": foreign,
		"Origin: http://probe.example":       foreign, // a name that is allowed, and not the one of this request
		"Origin: nonsense":                   foreign,
		"Origin: ":                           sameOrigin,
		"Sec-Fetch-Site: cross-site\r\nOrigin: http://localhost:8080": foreign,
	} {
		if header != "" {
			header += "\r\n"
		}
		for _, path := range []string{"/v1/connect", "/v1/exchange", "/v1/dns"} {
			for _, contentType := range []string{"application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"} {
				response, text := p.plainly(t, "POST "+path+" HTTP/1.1\r\nHost: localhost:8080\r\nContent-Type: "+contentType+"\r\nContent-Length: 2\r\nConnection: close\r\n"+header+"\r\n{}")
				want := http.StatusBadRequest // there is no target in it
				if who == foreign {
					want = http.StatusForbidden
				}
				if response == nil || response.StatusCode != want || response.Header.Get("Access-Control-Allow-Origin") != "" {
					t.Errorf("POST %s as %s with %q: %v %s, want %d", path, contentType, header, response, text, want)
				}
			}
		}
		// A lookup can carry something out of a network, whether its answer can be read or not.
		response, text := p.plainly(t, "GET /v1/ports/22 HTTP/1.1\r\nHost: localhost:8080\r\nConnection: close\r\n"+header+"\r\n")
		want := http.StatusOK
		if who == foreign {
			want = http.StatusForbidden
		}
		if response == nil || response.StatusCode != want || response.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("GET with %q: %s", header, text)
		}
		// Nobody is told that another method or header were welcome.
		response, text = p.plainly(t, "OPTIONS /v1/connect HTTP/1.1\r\nHost: localhost:8080\r\nAccess-Control-Request-Method: POST\r\nConnection: close\r\n"+header+"\r\n")
		for _, grant := range []string{"Origin", "Methods", "Headers", "Credentials"} {
			if response == nil || response.Header.Get("Access-Control-Allow-"+grant) != "" {
				t.Errorf("OPTIONS with %q: %s", header, text)
			}
		}
	}
}

// A request is what its first line says, and nothing in it makes another method of it.
func TestMethodIsNotOverridden(t *testing.T) {
	t.Parallel()
	p := start(t)
	const form = "Content-Type: application/x-www-form-urlencoded\r\n"
	for request, want := range map[string]int{
		"GET /v1/connect?target=127.0.0.1:1 HTTP/1.1\r\nHost: localhost\r\nX-HTTP-Method-Override: POST\r\n\r\n":              http.StatusMethodNotAllowed,
		"GET /v1/connect?_method=POST&target=127.0.0.1:1 HTTP/1.1\r\nHost: localhost\r\n\r\n":                                 http.StatusMethodNotAllowed,
		"GET /v1/exchange HTTP/1.1\r\nHost: localhost\r\nX-Method-Override: POST\r\nContent-Length: 2\r\n\r\n{}":              http.StatusMethodNotAllowed,
		"HEAD /v1/connect HTTP/1.1\r\nHost: localhost\r\nX-HTTP-Method: POST\r\n\r\n":                                         http.StatusMethodNotAllowed,
		"POST /v1/ports/22 HTTP/1.1\r\nHost: localhost\r\nX-HTTP-Method-Override: GET\r\nContent-Length: 0\r\n\r\n":           http.StatusMethodNotAllowed,
		"POST /v1/ports/22 HTTP/1.1\r\nHost: localhost\r\n" + form + "Content-Length: 12\r\n\r\nprotocol=tcp":                 http.StatusMethodNotAllowed,
		"POST /v1/dns/localhost HTTP/1.1\r\nHost: localhost\r\n" + form + "Content-Length: 16\r\n\r\nserver=127.0.0.1":        http.StatusMethodNotAllowed,
		"POST /v1/policy HTTP/1.1\r\nHost: localhost\r\n" + form + "X-HTTP-Method-Override: GET\r\nContent-Length: 0\r\n\r\n": http.StatusMethodNotAllowed,
		"GET /v1/dns/localhost?server=127.0.0.1 HTTP/1.1\r\nHost: localhost\r\n\r\n":                                          http.StatusBadRequest,
	} {
		response, text := p.plainly(t, request)
		if response == nil || response.StatusCode != want {
			t.Errorf("%q: %v %s, want %d", request, response, text, want)
		}
	}
	if got := p.metric(t, `probed_dials_total{network="tcp",reason="CONNECTION_REFUSED"}`); got != "" && got != "0" {
		t.Errorf("%s dials", got)
	}
}

// Bodies and headers have bounds, to the byte where the bytes are ours to count; what is too large costs its sender alone.
func TestRequestBounds(t *testing.T) {
	t.Parallel()
	const most = 2 * 1024
	p := start(t, "--config="+file(t, "limits: {message_bytes: 1024, header_bytes: 4096}\n"))
	body := func(size int) string { return "{" + strings.Repeat(" ", size-2) + "}" }
	chunked := func(body string) string {
		var text strings.Builder
		for len(body) > 0 {
			n := min(len(body), 100)
			fmt.Fprintf(&text, "%x\r\n%s\r\n", n, body[:n])
			body = body[n:]
		}
		return text.String() + "0\r\n\r\n"
	}
	for _, path := range []string{"/v1/connect", "/v1/exchange", "/v1/dns"} {
		head := "POST " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept-Encoding: gzip, br, zstd\r\n"
		for size, want := range map[int]int{2: http.StatusBadRequest, most: http.StatusBadRequest, most + 1: http.StatusRequestEntityTooLarge, 100 * most: http.StatusRequestEntityTooLarge} {
			for form, request := range map[string]string{
				"with its length": fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, size, body(size)),
				"in chunks":       head + "Transfer-Encoding: chunked\r\n\r\n" + chunked(body(size)),
			} {
				response, text := p.plainly(t, request)
				if response == nil || response.StatusCode != want {
					t.Errorf("%s: %d bytes %s: %v %s, want %d", path, size, form, response, text, want)
					continue
				}
				if response.Header.Get("Content-Encoding") != "" { // what is secret and what is not would share a dictionary
					t.Errorf("%s is compressed", path)
				}
				if want == http.StatusRequestEntityTooLarge && !strings.Contains(text, "the most is 2048 bytes") {
					t.Errorf("%s: %s", path, text)
				}
			}
		}
		// Two lengths are none.
		if response, text := p.plainly(t, head+"Transfer-Encoding: chunked\r\n\r\nzz\r\n"); response == nil || response.StatusCode != http.StatusBadRequest || reasonIn(text) != "ERROR_REASON_INVALID_FIELD" {
			t.Errorf("%s with chunks that are none: %v %s", path, response, text)
		}
		for _, lengths := range []string{"Content-Length: 2\r\nContent-Length: 3\r\n", "Content-Length: -1\r\n", "Content-Length: x\r\n", "Transfer-Encoding: gzip, chunked\r\n"} {
			if response, text := p.plainly(t, head+lengths+"\r\n{}"); response == nil || response.StatusCode != http.StatusBadRequest && response.StatusCode != http.StatusNotImplemented {
				t.Errorf("%q: %v %s", lengths, response, text)
			}
		}
	}
	for request, want := range map[string]int{
		"X-Large: " + strings.Repeat("x", 3000):             http.StatusOK,
		"X-Large: " + strings.Repeat("x", 4096+8<<10):       http.StatusRequestHeaderFieldsTooLarge,
		strings.Repeat("X: x\r\n", (4096+8<<10)/6) + "X: x": http.StatusRequestHeaderFieldsTooLarge,
		"X-Large: " + strings.Repeat("x", 1<<20):            http.StatusRequestHeaderFieldsTooLarge,
		strings.Repeat("x", 1<<20):                          http.StatusRequestHeaderFieldsTooLarge,
	} {
		response, text := p.plainly(t, "GET /v1/ports/22 HTTP/1.1\r\nHost: localhost\r\n"+request+"\r\n\r\n")
		if response == nil && len(request) > 1<<16 { // it may be closed while it is being sent
			continue
		}
		if response == nil || response.StatusCode != want {
			t.Errorf("%.20q… %d bytes: %v %s, want %d", request, len(request), response, text, want)
		}
	}
	if code, text := p.get(t, "http", "/v1/ports/22"); code != http.StatusOK {
		t.Errorf("afterwards: %d %s", code, text)
	}
}

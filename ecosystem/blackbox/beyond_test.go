package blackbox

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"probed/internal/nettest"
	"probed/internal/probetest"
)

// later is of what later versions of blackbox_exporter have, and of what other probers may have in their file.
const later = `
modules:
  info:
    prober: tcp
    timeout: 5s
    tcp:
      query_response:
      - expect: "^SSH-([0-9.]+)-(?P<software>[^ ]*)"
        labels:
        - {name: version, value: "v$1"}
        - {name: software, value: "${software}"}
        - {name: nothing, value: "$9"}
        send: "SSH-2.0-probe"
  postgres:
    prober: tcp
    timeout: 5s
    tcp:
      query_response:
      - send: !!binary AAAACATSFi8=
      - expect_bytes: S
  named: {prober: tcp, timeout: 1m30s, tcp: {tls: true}}
  missing_ca: {prober: tcp, tcp: {tls: true, tls_config: {ca_file: /nowhere/ca.pem}}}
  http_2xx:
    prober: http
    timeout: 5s
    http: {method: GET, headers: {Host: a.example.com}, fail_if_ssl: false, valid_status_codes: [], basic_auth: {username: a, password: b}}
  ping: {prober: icmp, icmp: {preferred_ip_protocol: ip4, ttl: 64}}
  health: {prober: grpc, grpc: {tls: true, service: a}}
  socket: {prober: unix, unix: {query_response: [{send: PING}, {expect: PONG}]}}
  web: {prober: websocket, websocket: {}}
  empty: {prober: http, http: }
`

func TestBeyondExporter(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "blackbox.yml")
	if err := os.WriteFile(file, []byte(later), 0o600); err != nil {
		t.Fatal(err)
	}
	probed := probetest.Start(t, probetest.Options{Args: []string{"--config=" + file}})
	address := probed.HTTPAddress
	ssh := nettest.TCP(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "SSH-2.0-Open\"SSH\r\n")
		_, _ = io.Copy(io.Discard, c)
	}).String()

	t.Run("what was matched", func(t *testing.T) {
		got := scrape(t, address, probe{module: "info", target: ssh})
		want := map[string]float64{`{nothing="",software="Open\"SSH",version="v2.0"}`: 1}
		if info := got["probe_expect_info"]; !maps.Equal(samples(info), want) || info.GetHelp() != "Explicit content matched" {
			t.Errorf("%v, want %v", info, want)
		}
	})
	t.Run("bytes", func(t *testing.T) {
		request := make([]byte, 9)
		answers := func(text string) string {
			return nettest.TCP(t, func(c net.Conn) {
				if _, err := io.ReadFull(c, request); err == nil {
					_, _ = io.WriteString(c, text)
				}
			}).String()
		}
		for _, test := range []struct {
			answer           string
			success, byBytes float64
		}{{"S", 1, 0}, {"N", 0, 1}} {
			got := scrape(t, address, probe{module: "postgres", target: answers(test.answer)})
			if s, b := samples(got["probe_success"])["{}"], samples(got["probe_failed_due_to_bytes"])["{}"]; s != test.success || b != test.byBytes {
				t.Errorf("%s: success %v, failed due to bytes %v", test.answer, s, b)
			}
			if test.success == 0 {
				if at := samples(got["probe_failed_query_response_index"]); !maps.Equal(at, map[string]float64{"{}": 1}) {
					t.Errorf("failed at %v", at)
				}
			}
			if want, err := base64.StdEncoding.DecodeString("AAAACATSFi8K"); err != nil || !bytes.Equal(request, want) {
				t.Errorf("%x was sent", request)
			}
		}
	})
	t.Run("formats", func(t *testing.T) {
		query := url.Values{"module": {"info"}, "target": {ssh}}.Encode()
		_, header, text := get(t, address, query, http.Header{"Accept": {"application/openmetrics-text;version=1.0.0"}})
		if !strings.HasPrefix(header.Get("Content-Type"), "application/openmetrics-text") || !strings.HasSuffix(text, "# EOF\n") {
			t.Errorf("%s: %s", header, text)
		}
		_, header, text = get(t, address, query, http.Header{"Accept-Encoding": {"gzip"}})
		plain, err := gzip.NewReader(strings.NewReader(text))
		if err != nil || header.Get("Content-Encoding") != "gzip" {
			t.Fatalf("%s, %v", header, err)
		}
		if all, err := io.ReadAll(plain); err != nil || !strings.Contains(string(all), "probe_success 1\n") {
			t.Errorf("%s, %v", all, err)
		}
	})
	t.Run("debug", func(t *testing.T) {
		_, header, text := get(t, address, url.Values{"module": {"info"}, "target": {nettest.TCP(t, nettest.CloseAtOnce).String()}, "debug": {"true"}}.Encode(), nil)
		for _, part := range []string{"the probe failed in RECEIVE, PEER_CLOSED_EARLY: ", "probe_success 0\n", `"peerClosed":`, `"hint":`, "^SSH-([0-9.]+)-"} {
			if !strings.Contains(text, part) {
				t.Errorf("there is no %q in %s", part, text)
			}
		}
		if got := header.Get("Content-Type"); !strings.HasPrefix(got, "text/plain") {
			t.Errorf("it is %s", got)
		}
		if secret := base64.StdEncoding.EncodeToString([]byte("SSH-2.0-probe")); strings.Contains(text, secret) || strings.Contains(text, "SSH-2.0-probe") {
			t.Errorf("what the module sends is in %s", text)
		}
	})
	t.Run("hostname", func(t *testing.T) {
		name := make(chan string, 1)
		hello := nettest.TCP(t, func(c net.Conn) {
			first, err := bufio.NewReader(c).Peek(180)
			if err == nil {
				name <- string(first)
			}
		}).String()
		get(t, address, url.Values{"module": {"named"}, "target": {hello}, "hostname": {"name.probe.test"}}.Encode(), nil)
		if sent := <-name; !strings.Contains(sent, "name.probe.test") {
			t.Errorf("the hello is %q", sent)
		}
	})
	t.Run("the time that Prometheus waits", func(t *testing.T) {
		_, _, text := get(t, address, url.Values{"module": {"named"}, "target": {nettest.Backlog(t).String()}}.Encode(),
			http.Header{"X-Prometheus-Scrape-Timeout-Seconds": {"0.9"}})
		if !strings.Contains(text, "probe_timeout_seconds 0.4\n") || !strings.Contains(text, `reason="CONNECT_TIMEOUT"`) {
			t.Error(text)
		}
	})
	t.Run("refusals", func(t *testing.T) {
		for query, want := range map[string]string{
			"module=http_2xx&target=a:1":            `^400 the module "http_2xx" has the prober http, and probed has tcp and dns`,
			"module=ping&target=a":                  `^400 .* prober icmp`,
			"module=socket&target=/run/x":           `^400 .* prober unix`,
			"module=missing_ca&target=127.0.0.1:1":  `^500 the module "missing_ca" cannot be used; the log of probed has the cause[^/]*$`,
			"module=info&target=127.0.0.1":          `^400 the target "127.0.0.1" is not HOST:PORT: missing port`,
			"module=info&target=unix:///run/x:1":    `^400 `,
			"module=info&target=a:nosuchservice":    `^400 `,
			"module=info&target=%0Aa:1":             `^400 [^\n]*\n$`,
			"module=info&target=tcp://127.0.0.1:22": `^400 `,
			"module=nosuch&target=a:1":              `^400 unknown module "nosuch"`,
		} {
			code, header, text := get(t, address, query, nil)
			if !regexp.MustCompile(want).MatchString(fmt.Sprint(code) + " " + text) {
				t.Errorf("%s: %d %q, want %s", query, code, text, want)
			}
			if header.Get("Content-Type") != "text/plain; charset=utf-8" || header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s: %v", query, header)
			}
		}
		if code, _, _ := get(t, address, "module=info&target="+ssh, http.Header{"X-Prometheus-Scrape-Timeout-Seconds": {"soon"}}); code != http.StatusBadRequest {
			t.Errorf("a timeout that is none: %d", code)
		}
		if code, _, _ := get(t, address, "module=info&target="+ssh, http.Header{"Sec-Fetch-Site": {"cross-site"}}); code != http.StatusForbidden {
			t.Errorf("a page of another site: %d", code)
		}
	})
}

// What docs/blackbox.md has for Prometheus, promtool takes; what it has for probed, probed does.
func TestDocs(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/blackbox.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	block := func(first string) string {
		found := regexp.MustCompile("(?s)```yaml\n(" + regexp.QuoteMeta(first) + ".*?)```").FindSubmatch(text)
		if found == nil {
			t.Fatalf("there is no block that begins with %q", first)
		}
		return string(found[1])
	}
	root := write("ca.crt", "")
	certificates := &world{dir: dir}
	certificates.certificates(t)
	if root, err := os.ReadFile(filepath.Join(dir, "root.pem")); err == nil {
		write("ca.crt", string(root))
	}
	config := strings.NewReplacer("/etc/prometheus/probed.token", write("token", "secret"), "/etc/prometheus/probed-ca.crt", root).Replace(block("# prometheus.yml"))
	rules := "groups:\n- name: probes\n  rules:\n"
	for _, first := range []string{"- alert: ProbeNotAsked", "- alert: ProbeFailed"} {
		for line := range strings.Lines(block(first)) {
			rules += "  " + line
		}
	}
	for _, args := range [][]string{
		{"check", "config", write("prometheus.yml", config)},
		{"check", "rules", write("rules.yml", rules)},
	} {
		if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v: %s", args, err, out)
		}
	}
	for name, as := range map[string]string{"good.pem": "tls.crt", "good.key": "tls.key"} {
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(dir, as)); err != nil {
			t.Fatal(err)
		}
	}
	write("tokens.yaml", "tokens: [{name: prometheus, sha256: 'sha256:"+strings.Repeat("0a", 32)+"'}]\n")
	out, err := exec.Command(probetest.Binary(t), "check-config", write("probed.yaml", block("# probed.yaml")), write("blackbox.yml", later)).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "/probe serves info, missing_ca, named, postgres; not empty, health, http_2xx, ping, socket, web") {
		t.Errorf("%v: %s", err, out)
	}
}

package blackbox

import (
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"probed/internal/nettest"
)

// modules are those that both have.
const modules = `
modules:
  tcp: {prober: tcp, timeout: 5s}
  tcp_short: {prober: tcp, timeout: 700ms}
  tcp_ip4: {prober: tcp, timeout: 5s, tcp: {preferred_ip_protocol: ip4}}
  tcp_ip4_only: {prober: tcp, timeout: 5s, tcp: {preferred_ip_protocol: ip4, ip_protocol_fallback: false}}
  tcp_ip6_only: {prober: tcp, timeout: 5s, tcp: {ip_protocol_fallback: false}}
  tcp_source: {prober: tcp, timeout: 5s, tcp: {source_ip_address: 127.0.0.9}}
  tls: {prober: tcp, timeout: 5s, tcp: {tls: true, tls_config: {ca_file: DIR/root.pem}}}
  tls_named: {prober: tcp, timeout: 5s, tcp: {tls: true, tls_config: {ca_file: DIR/root.pem, server_name: ok.probe.test}}}
  tls_any: {prober: tcp, timeout: 5s, tcp: {tls: true, tls_config: {insecure_skip_verify: true}}}
  tls_host: {prober: tcp, timeout: 5s, tcp: {tls: true}}
  tls_13: {prober: tcp, timeout: 5s, tcp: {tls: true, tls_config: {ca_file: DIR/root.pem, min_version: TLS13}}}
  tls_mutual: {prober: tcp, timeout: 5s, tcp: {tls: true, tls_config: {ca_file: DIR/root.pem, cert_file: DIR/good.pem, key_file: DIR/good.key}}}
  ssh:
    prober: tcp
    timeout: 5s
    tcp:
      query_response:
      - expect: "^SSH-2.0-"
  ssh_short:
    prober: tcp
    timeout: 700ms
    tcp:
      query_response:
      - expect: "^SSH-2.0-"
  redis:
    prober: tcp
    timeout: 5s
    tcp:
      query_response:
      - send: "PING\r"
      - expect: "^\\+PONG$"
      - send: "INFO server\r"
      - expect: "^redis_mode:(?P<mode>\\w+)$"
        send: "ECHO ${1}-$mode-$1x-$$-${none}\r"
      - expect: "^standalone-standalone--\\$-$"
  smtp:
    prober: tcp
    timeout: 5s
    tcp:
      query_response:
      - expect: "^220 ([^ ]+) ESMTP (.+)$"
        send: "EHLO prober\r"
      - expect: "^250-STARTTLS"
      - send: "STARTTLS\r"
      - expect: "^220"
      - starttls: true
      - send: "EHLO prober\r"
      - expect: "^250 HELP"
      - send: "QUIT\r"
      tls_config:
        ca_file: DIR/root.pem
        server_name: ok.probe.test
  smtp_stranger:
    prober: tcp
    timeout: 5s
    tcp:
      query_response:
      - expect: "^220"
        send: "STARTTLS\r"
      - expect: "^220"
        starttls: true
      - send: "QUIT\r"
  dns: {prober: dns, timeout: 5s, dns: {query_name: v4.probe.test, query_type: A}}
  dns_any: {prober: dns, timeout: 5s, dns: {query_name: both.probe.test}}
  dns_alias: {prober: dns, timeout: 5s, dns: {query_name: alias.probe.test, query_type: A, recursion_desired: false}}
  dns_soa: {prober: dns, timeout: 5s, dns: {query_name: probe.test., query_type: SOA}}
  dns_no_soa: {prober: dns, timeout: 5s, dns: {query_name: v4.probe.test, query_type: SOA}}
  dns_tcp: {prober: dns, timeout: 5s, dns: {query_name: probe.test, query_type: SOA, transport_protocol: tcp, preferred_ip_protocol: ip4}}
  dns_tls: {prober: dns, timeout: 5s, dns: {query_name: probe.test, query_type: SOA, transport_protocol: tcp, dns_over_tls: true, tls_config: {ca_file: DIR/root.pem}}}
  dns_tls_host: {prober: dns, timeout: 5s, dns: {query_name: probe.test, query_type: SOA, transport_protocol: tcp, dns_over_tls: true}}
  dns_missing: {prober: dns, timeout: 5s, dns: {query_name: missing.probe.test, query_type: A}}
  dns_missing_is_good: {prober: dns, timeout: 5s, dns: {query_name: missing.probe.test, query_type: A, valid_rcodes: [NOERROR, NXDOMAIN]}}
  dns_elsewhere: {prober: dns, timeout: 5s, dns: {query_name: example.org, query_type: A}}
  dns_version: {prober: dns, timeout: 5s, dns: {query_name: version.bind, query_type: TXT, query_class: CH, validate_answer_rrs: {fail_if_not_matches_regexp: ['TXT\t"of a test"']}}}
  dns_short: {prober: dns, timeout: 700ms, dns: {query_name: v4.probe.test, query_type: A}}
  dns_matches: {prober: dns, timeout: 5s, dns: {query_name: v4.probe.test, query_type: A, validate_answer_rrs: {fail_if_matches_regexp: ["127[.]0[.]0[.]1"]}}}
  dns_matches_not: {prober: dns, timeout: 5s, dns: {query_name: v4.probe.test, query_type: A, validate_answer_rrs: {fail_if_matches_regexp: ["192[.]0"]}}}
  dns_all_match: {prober: dns, timeout: 5s, dns: {query_name: v4.probe.test, query_type: A, validate_answer_rrs: {fail_if_all_match_regexp: ["127[.]0", "v4"]}}}
  dns_not_all_match: {prober: dns, timeout: 5s, dns: {query_name: v4.probe.test, query_type: A, validate_answer_rrs: {fail_if_all_match_regexp: ["127[.]0", "v6"]}}}
  dns_not_matches: {prober: dns, timeout: 5s, dns: {query_name: v4.probe.test, query_type: A, validate_answer_rrs: {fail_if_not_matches_regexp: ["^v4[.]probe[.]test[.]\t300\tIN\tA\t127.0.0.1$"]}}}
  dns_not_matches_fails: {prober: dns, timeout: 5s, dns: {query_name: v4.probe.test, query_type: A, validate_answer_rrs: {fail_if_not_matches_regexp: ["AAAA"]}}}
  dns_none_matches: {prober: dns, timeout: 5s, dns: {query_name: both.probe.test, validate_answer_rrs: {fail_if_none_matches_regexp: ["AAAA\t::1"]}}}
  dns_none_matches_fails: {prober: dns, timeout: 5s, dns: {query_name: v4.probe.test, query_type: A, validate_answer_rrs: {fail_if_none_matches_regexp: ["AAAA", "MX"]}}}
  dns_authority: {prober: dns, timeout: 5s, dns: {query_name: v4.probe.test, query_type: AAAA, validate_authority_rrs: {fail_if_none_matches_regexp: ["SOA"]}}}
  dns_additional: {prober: dns, timeout: 5s, dns: {query_name: probe.test, query_type: NS, validate_additional_rrs: {fail_if_not_matches_regexp: ["127[.]0"]}}}
  dns_no_record: {prober: dns, timeout: 5s, dns: {query_name: v4.probe.test, query_type: MX, validate_answer_rrs: {fail_if_not_matches_regexp: ["."]}}}
`

// Series that this one has beyond blackbox_exporter 0.23: some that a later one has, and ours.
var beyond = map[string]bool{
	"probe_timeout_seconds": true, "probe_tls_cipher_info": true,
	"probe_tcp_duration_seconds": true, "probe_failure_info": true, "probe_failed_query_response_index": true,
}

// Series about certificates, which probed has also of a handshake that failed because of them, and of DNS over TLS.
var ofCertificates = map[string]bool{
	"probe_ssl_earliest_cert_expiry": true, "probe_tls_version_info": true, "probe_ssl_last_chain_info": true,
	"probe_ssl_last_chain_expiry_timestamp_seconds": true,
}

// Series whose value is a time that something took.
var durations = map[string]bool{"probe_duration_seconds": true, "probe_dns_lookup_time_seconds": true, "probe_dns_duration_seconds": true}

type probe struct {
	module, target string
	reason         string // why it fails; empty: it succeeds
	phase          string // where it does
	differs        string // why the answer of blackbox_exporter is another; its values are then not compared
}

func TestBesideExporter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modules)
	t.Run("refusals", func(t *testing.T) {
		for _, query := range []string{"module=tcp", "module=tcp&target=", "module=nosuch&target=a:1", "target=a:1"} {
			ours, _, text := get(t, w.probed.HTTPAddress, query, nil)
			theirs, _, _ := get(t, fmt.Sprintf("127.0.0.1:%d", exporterPort), query, nil)
			if ours != theirs || ours != http.StatusBadRequest || text == "" {
				t.Errorf("%s: %d %q, blackbox_exporter %d", query, ours, text, theirs)
			}
		}
	})
	open := nettest.TCP(t, nettest.Silent)
	open6 := nettest.TCP6(t, nettest.Silent)
	closes := nettest.TCP(t, nettest.HalfCloseThenRead(nil)).String()
	says := func(text string, stays bool) string {
		return nettest.TCP(t, func(c net.Conn) {
			_, _ = io.WriteString(c, text)
			if stays {
				_, _ = io.Copy(io.Discard, c)
			}
		}).String()
	}
	resets := nettest.TCP(t, nettest.Reset(int64(len("PING\r\n")))).String()
	refused, dropped := nettest.Refused(t).String(), nettest.Backlog(t).String()
	silentDNS := nettest.UDP(t, nettest.SilentPacket).String()
	smtp := w.smtp(t)
	port := func(host string, at any) string { return fmt.Sprintf("%s:%v", host, at) }
	for _, p := range []probe{
		{module: "tcp", target: open.String()},
		{module: "tcp", target: open6.String()},
		{module: "tcp", target: port("v4.probe.test", open.Port())},
		{module: "tcp", target: port("alias.probe.test", open.Port())},
		{module: "tcp", target: port("v6.probe.test", open6.Port())},
		{module: "tcp", target: port("both.probe.test", open6.Port())},
		{module: "tcp", target: port("both.probe.test", open.Port()), reason: "CONNECTION_REFUSED", phase: "CONNECT"}, // by the first address alone
		{module: "tcp_ip4", target: port("both.probe.test", open.Port())},
		{module: "tcp_ip4", target: port("v6.probe.test", open6.Port())},
		{module: "tcp_ip4_only", target: port("both.probe.test", open.Port())},
		{module: "tcp_ip4_only", target: port("v6.probe.test", open6.Port()), reason: "NAME_HAS_NO_ADDRESS", phase: "RESOLVE"},
		{module: "tcp_ip6_only", target: port("v4.probe.test", open.Port()), reason: "NAME_HAS_NO_ADDRESS", phase: "RESOLVE"},
		{module: "tcp", target: port("missing.probe.test", open.Port()), reason: "NAME_NOT_FOUND", phase: "RESOLVE"},
		{module: "tcp", target: port("example.org", open.Port()), reason: "DNS_FAILURE", phase: "RESOLVE"},
		{module: "tcp", target: refused, reason: "CONNECTION_REFUSED", phase: "CONNECT"},
		{module: "tcp_short", target: dropped, reason: "CONNECT_TIMEOUT", phase: "CONNECT"},
		{module: "tcp_source", target: open.String()},
		{module: "tcp_source", target: open6.String(), reason: "ADDRESS_UNAVAILABLE", phase: "CONNECT"},

		{module: "ssh", target: says("SSH-2.0-OpenSSH_9.2\r\n", true)},
		{module: "ssh", target: says("hello\r\nSSH-2.0-late\r\n", true)},
		{module: "ssh", target: says("SSH-2.0-no end of line", false)},
		{module: "ssh", target: says("SSH-2.0-no end of line", true), differs: "a line without an end is tried when the peer is silent"},
		{module: "ssh", target: says("220 not ssh\r\n", false), reason: "EXPECT_FAILED", phase: "RECEIVE"},
		{module: "ssh_short", target: says("220 not ssh\r\n", true), reason: "EXPECT_FAILED", phase: "RECEIVE"},
		{module: "ssh_short", target: open.String(), reason: "RECEIVE_TIMEOUT", phase: "RECEIVE"},
		{module: "ssh", target: closes, reason: "PEER_CLOSED_EARLY", phase: "RECEIVE"},
		{module: "redis", target: resets, reason: "CONNECTION_RESET", phase: "RECEIVE"},
		{module: "redis", target: port("127.0.0.1", redisPort)},
		{module: "ssh", target: says(strings.Repeat("filler\r\n", 9000)+"SSH-2.0-far\r\n", true), reason: "EXPECT_FAILED", phase: "RECEIVE", differs: "64 KiB are looked at"},
		{module: "smtp", target: smtp},
		{module: "smtp_stranger", target: smtp, reason: "TLS_UNTRUSTED", phase: "TLS"},
		{module: "smtp", target: refused, reason: "CONNECTION_REFUSED", phase: "CONNECT"},

		{module: "tls", target: port("127.0.0.1", goodPort)},
		{module: "tls", target: port("ok.probe.test", goodPort)},
		{module: "tls_named", target: port("v4.probe.test", goodPort)},
		{module: "tls", target: port("v4.probe.test", goodPort), reason: "TLS_WRONG_NAME", phase: "TLS"},
		{module: "tls", target: port("ok.probe.test", expiredPort), reason: "TLS_EXPIRED", phase: "TLS"},
		{module: "tls", target: port("ok.probe.test", namePort), reason: "TLS_WRONG_NAME", phase: "TLS"},
		{module: "tls", target: port("ok.probe.test", strangerPort), reason: "TLS_UNTRUSTED", phase: "TLS"},
		{module: "tls_host", target: port("ok.probe.test", goodPort), reason: "TLS_UNTRUSTED", phase: "TLS"},
		{module: "tls_any", target: port("ok.probe.test", expiredPort)},
		{module: "tls_any", target: port("ok.probe.test", strangerPort)},
		{module: "tls_any", target: port("127.0.0.1", goodPort)},
		{module: "tls_13", target: port("ok.probe.test", goodPort)},
		{module: "tls_13", target: port("ok.probe.test", oldPort), reason: "TLS_HANDSHAKE", phase: "TLS"},
		{module: "tls", target: port("ok.probe.test", oldPort)},
		{module: "tls_mutual", target: port("ok.probe.test", mutualPort)},
		{module: "tls", target: port("ok.probe.test", mutualPort), reason: "TLS_HANDSHAKE", phase: "TLS"},
		{module: "tls", target: says("220 plain\r\n", true), reason: "TLS_NOT_SPOKEN", phase: "TLS"},
		{module: "tls", target: refused, reason: "CONNECTION_REFUSED", phase: "CONNECT"},

		{module: "dns", target: "127.0.0.1"},
		{module: "dns", target: "127.0.0.1:53"},
		{module: "dns", target: "::1"},
		{module: "dns", target: "[::1]:53"},
		{module: "dns", target: "ns.probe.test"},
		{module: "dns", target: "missing.probe.test", reason: "NAME_NOT_FOUND", phase: "RESOLVE"},
		{module: "dns", target: nettest.RefusedUDP(t).String(), reason: "CONNECTION_REFUSED", phase: "RECEIVE"},
		{module: "dns_short", target: silentDNS, reason: "RECEIVE_TIMEOUT", phase: "RECEIVE"},
		{module: "dns_any", target: "127.0.0.1"},
		{module: "dns_alias", target: "127.0.0.1"},
		{module: "dns_soa", target: "127.0.0.1"},
		{module: "dns_no_soa", target: "127.0.0.1"},
		{module: "dns_tcp", target: "127.0.0.1"},
		{module: "dns_tcp", target: refused, reason: "CONNECTION_REFUSED", phase: "CONNECT"},
		{module: "dns_tcp", target: closes, reason: "PEER_CLOSED_EARLY", phase: "RECEIVE"},
		{module: "dns_tls", target: "ok.probe.test"},
		{module: "dns_tls_host", target: "ok.probe.test", reason: "TLS_UNTRUSTED", phase: "TLS"},
		{module: "dns_missing", target: "127.0.0.1", reason: "EXPECT_FAILED", phase: "RECEIVE"},
		{module: "dns_missing_is_good", target: "127.0.0.1"},
		{module: "dns_elsewhere", target: "127.0.0.1", reason: "EXPECT_FAILED", phase: "RECEIVE"},
		{module: "dns_version", target: "127.0.0.1"},
		{module: "dns_matches", target: "127.0.0.1", reason: "EXPECT_FAILED", phase: "RECEIVE"},
		{module: "dns_matches_not", target: "127.0.0.1"},
		{module: "dns_all_match", target: "127.0.0.1"},
		{module: "dns_not_all_match", target: "127.0.0.1", reason: "EXPECT_FAILED", phase: "RECEIVE"},
		{module: "dns_not_matches", target: "127.0.0.1"},
		{module: "dns_not_matches_fails", target: "127.0.0.1", reason: "EXPECT_FAILED", phase: "RECEIVE"},
		{module: "dns_none_matches", target: "127.0.0.1"},
		{module: "dns_none_matches_fails", target: "127.0.0.1", reason: "EXPECT_FAILED", phase: "RECEIVE"},
		{module: "dns_authority", target: "127.0.0.1"},
		{module: "dns_additional", target: "127.0.0.1"},
		{module: "dns_no_record", target: "127.0.0.1", reason: "EXPECT_FAILED", phase: "RECEIVE"},
	} {
		t.Run(p.module+" "+p.target, func(t *testing.T) {
			t.Parallel()
			compare(t, p, scrape(t, w.probed.HTTPAddress, p), scrape(t, fmt.Sprintf("127.0.0.1:%d", exporterPort), p))
		})
	}
}

type families = map[string]*dto.MetricFamily

func scrape(t *testing.T, address string, p probe) families {
	t.Helper()
	query := url.Values{"module": {p.module}, "target": {p.target}}.Encode()
	code, _, text := get(t, address, query, http.Header{"X-Prometheus-Scrape-Timeout-Seconds": {"10"}})
	if code != http.StatusOK {
		t.Fatalf("%s: %d: %s", address, code, text)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	read, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%s: %v in %s", address, err, text)
	}
	return read
}

// compare holds what probed answers to what blackbox_exporter does.
func compare(t *testing.T, p probe, ours, theirs families) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(theirs)) {
		mine, his := ours[name], theirs[name]
		if mine == nil {
			t.Errorf("there is no %s", name)
			continue
		}
		if mine.GetHelp() != his.GetHelp() || mine.GetType() != his.GetType() {
			t.Errorf("%s: %q, %v; want %q, %v", name, mine.GetHelp(), mine.GetType(), his.GetHelp(), his.GetType())
		}
		got, want := samples(mine), samples(his)
		if durations[name] {
			if !slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want))) {
				t.Errorf("%s: %v, want those of %v", name, got, want)
			}
			for labels, seconds := range got {
				if seconds < 0 || seconds > 6 {
					t.Errorf("%s%s took %v s", name, labels, seconds)
				}
			}
			continue
		}
		if p.differs == "" && !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	success := theirs["probe_success"].GetMetric()[0].GetGauge().GetValue() == 1
	for name, family := range ours {
		more := beyond[name] || ofCertificates[name] && (!success || strings.HasPrefix(p.module, "dns")) || p.differs != ""
		if theirs[name] == nil && !more {
			t.Errorf("%s is of neither: %v", name, samples(family))
		}
	}
	want := map[string]float64{}
	if p.reason != "" {
		layer := map[string]string{"CONNECTION_REFUSED": "TRANSPORT", "CONNECT_TIMEOUT": "TRANSPORT", "CONNECTION_RESET": "TRANSPORT", "ADDRESS_UNAVAILABLE": "INTERNET"}[p.reason]
		if layer == "" {
			layer = "APPLICATION"
		}
		want[fmt.Sprintf("{layer=%q,phase=%q,reason=%q}", layer, p.phase, p.reason)] = 1
	}
	if got := samples(ours["probe_failure_info"]); !maps.Equal(got, want) {
		t.Errorf("probe_failure_info: %v, want %v", got, want)
	}
	if got := samples(ours["probe_success"])["{}"]; (got == 1) != (p.reason == "") {
		t.Errorf("probe_success %v", got)
	}
	if p.reason == "" && !strings.HasPrefix(p.module, "dns") {
		took := samples(ours["probe_duration_seconds"])["{}"]
		for phase, seconds := range samples(ours["probe_tcp_duration_seconds"]) {
			took -= seconds
			if wanted := strings.Contains(phase, "connect") || strings.Contains(phase, "tls") && strings.HasPrefix(p.module, "tls"); wanted && seconds <= 0 {
				t.Errorf("probe_tcp_duration_seconds%s is %v", phase, seconds)
			}
		}
		if took < -0.001 {
			t.Errorf("the phases together took %v s longer than the probe", -took)
		}
	}
}

// samples are the values of a family by their labels; but the serial number of a certificate, which a later
// blackbox_exporter tells.
func samples(family *dto.MetricFamily) map[string]float64 {
	values := map[string]float64{}
	for _, metric := range family.GetMetric() {
		var labels []string
		for _, label := range metric.GetLabel() {
			if label.GetName() != "serialnumber" {
				labels = append(labels, fmt.Sprintf("%s=%q", label.GetName(), label.GetValue()))
			}
		}
		slices.Sort(labels)
		value := metric.GetGauge().GetValue()
		if math.IsNaN(value) {
			value = math.Inf(1) // equal to itself
		}
		values["{"+strings.Join(labels, ",")+"}"] = value
	}
	return values
}

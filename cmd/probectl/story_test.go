package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	probev1 "probed/gen/probe/v1"
)

// TestStory tells what no peer of the scripts does: a certificate that was not accepted, a datagram that was cut, bytes
// that nobody took, and a name server with a line of its own.
func TestStory(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	story := &story{printer: newPrinter(&out), steps: []string{"send:x", "receive:length=9"}, now: noon}
	failed, acknowledged := uint32(1), uint64(1)
	for _, event := range []*probev1.ExchangeResponse{
		{Event: &probev1.ExchangeResponse_Resolved{Resolved: &probev1.Resolved{
			Host: "web", CanonicalName: "web.shop.test\noutcome    ok", Addresses: []string{"192.0.2.10", "2001:db8::7"}, Source: "dns", Duration: ms(0.01),
		}}},
		{Event: &probev1.ExchangeResponse_Tls{Tls: &probev1.TlsInfo{
			Version: "TLS 1.3", Cipher: "TLS_AES_128_GCM_SHA256", KeyExchange: "X25519MLKEM768", Alpn: "h2", ServerName: "a.test",
			VerifyError: "certificate has expired", ClientCertificateRequested: true,
			Chain: []*probev1.Certificate{{
				Subject: "CN=\x1b[2J", Issuer: "CN=ca", Names: []string{"a.test", "b.test"}, SerialNumber: "0a", Sha256: "ff", KeyType: "RSA 2048",
				NotBefore: at(-100 * 24 * time.Hour), NotAfter: at(-50 * time.Hour),
			}, {
				Subject: "CN=ca", Issuer: "CN=ca", SerialNumber: "01", Sha256: "ee", KeyType: "Ed25519", Ca: true,
				NotBefore: at(time.Minute), NotAfter: at(24 * time.Hour),
			}},
		}}},
		{Event: &probev1.ExchangeResponse_Tls{Tls: &probev1.TlsInfo{ServerName: "b.test"}}},
		{Event: &probev1.ExchangeResponse_Attempt{Attempt: &probev1.Attempt{
			Address: "192.0.2.9:80", Reason: probev1.Reason_REASON_HOST_UNREACHABLE, Error: "no route to host", Duration: ms(3),
			Icmp: &probev1.IcmpError{From: "192.0.2.1", Type: 3, Code: 13, Meaning: "administratively prohibited"},
		}}},
		{Event: &probev1.ExchangeResponse_PeerClosed{PeerClosed: &probev1.PeerClosed{Elapsed: ms(1), Unclean: true}}},
		{Event: &probev1.ExchangeResponse_Chunk{Chunk: &probev1.Chunk{
			Data: []byte("x\noutcome    ok"), Offset: 1, Elapsed: ms(1500), Datagram: &probev1.Datagram{Truncated: true, Length: 70},
		}}},
		{Event: &probev1.ExchangeResponse_Outcome{Outcome: &probev1.Outcome{
			Phase: probev1.Phase_PHASE_RECEIVE, Layer: probev1.Layer_LAYER_TRANSPORT, Reason: probev1.Reason_REASON_CONNECTION_RESET,
			ErrnoName: "ECONNRESET", Error: "connection reset by peer", Hint: "It was reset.", FailedStep: &failed, Remote: "192.0.2.10:80",
			BytesSent: 1, BytesAcknowledged: &acknowledged, BytesReceived: 14, BytesUnread: 3, Chunks: 1,
			FailedStepReceived: []byte("502 no\\\r\n\x1b[2J"),
			Icmp:               &probev1.IcmpError{From: "192.0.2.1", Type: 3, Code: 1, Meaning: "host unreachable"},
			Route:              &probev1.NetworkRoute{Source: "10.0.0.5", Interface: "eth0", Gateway: "10.0.0.1", Mtu: 1500},
			Timings:            &probev1.Timings{Tls: ms(20), Total: ms(999.96)}, TcpInfo: &probev1.TcpInfo{Rtt: ms(0.5), Retransmits: 1, Mss: 1460, Pmtu: 1500},
		}}},
	} {
		if err := story.tell(event); err != nil {
			t.Fatal(err)
		}
	}
	want := `resolved   web, which is web.shop.test\noutcome    ok, to 192.0.2.10, 2001:db8::7 (dns, 0.010ms)
tls        TLS 1.3, TLS_AES_128_GCM_SHA256, X25519MLKEM768, ALPN h2
           not verified for a.test: certificate has expired
           the peer asked for a client certificate
           certificate CN=\x1b[2J (RSA 2048)
             for a.test, b.test
             issued by CN=ca
             valid from 2025-09-24 12:00 to 2025-12-31 10:00 UTC, expired 2 days ago
             serial 0a, sha256 ff
           certificate CN=ca (Ed25519, authority)
             issued by CN=ca
             valid from 2026-01-02 12:01 to 2026-01-03 12:00 UTC, begins in 1 minute
             serial 01, sha256 ee
tls        the handshake for b.test did not get as far as certificates
attempt    192.0.2.9:80: HOST_UNREACHABLE after 3.0ms: no route to host; by ICMP 192.0.2.1 says: administratively prohibited (type 3, code 13)
closed     by the peer at 1.0ms, without TLS saying so (no close_notify): what came may have been cut off
chunk      15 bytes at offset 1 at 1.50s, a message from an unnamed socket, cut off: it had 70 bytes
  | x\n
  | outcome    ok
outcome    failed: CONNECTION_RESET in phase RECEIVE, step receive:length=9, layer TRANSPORT: connection reset by peer (ECONNRESET)
           while it waited, this came (the last 13 bytes):
           | 502 no\\\r\n
           | \x1b[2J
           hint: It was reset.
           icmp: 192.0.2.1 says: host unreachable (type 3, code 1)
           sent 1 byte (1 acknowledged), received 14 bytes in 1 chunk; 3 bytes more came that no step took
           route: from 10.0.0.5 by eth0 through 10.0.0.1, mtu 1500
           tls 20.0ms, total 1000.0ms
           round trip 0.50ms, 1 retransmit, mss 1460, path mtu 1500
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

// noon is when the stories are told.
var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// ms is a time in milliseconds.
func ms(n float64) *durationpb.Duration {
	return durationpb.New(time.Duration(n * float64(time.Millisecond)))
}

// at is so long after noon.
func at(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(noon.Add(d)) }

func TestValidity(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		begin, end time.Duration
		want       string
	}{
		{-time.Hour, 36*24*time.Hour + time.Hour, "36 days left"},
		{-time.Hour, 48 * time.Hour, "2 days left"},
		{-time.Hour, 48*time.Hour - time.Second, "47 hours left"},
		{-time.Hour, time.Hour, "1 hour left"},
		{-time.Hour, 59 * time.Second, "0 minutes left"},
		{-time.Hour, 0, "0 minutes left"},
		{-time.Hour, -time.Second, "expired 0 minutes ago"},
		{-100 * 24 * time.Hour, -72 * time.Hour, "expired 3 days ago"},
		{72 * time.Hour, 96 * time.Hour, "begins in 3 days"},
	} {
		got := validity(&probev1.Certificate{NotBefore: at(test.begin), NotAfter: at(test.end)}, noon)
		if _, got, _ = strings.Cut(got, "UTC, "); got != test.want {
			t.Errorf("from %v to %v: %q, want %q", test.begin, test.end, got, test.want)
		}
	}
}

func TestWrap(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"":                      {""},
		"one two three":         {"one two", "three"},
		"  a  b\nc ":            {"a b c"},
		"longerthanaline a b":   {"longerthanaline", "a b"},
		"żółw żółw ab":          {"żółw żółw", "ab"},
		"12345678 1 12345678 1": {"12345678 1", "12345678 1"},
	} {
		if got := wrap(text, 10); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

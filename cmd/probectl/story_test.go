package main

import (
	"bytes"
	"slices"
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
	story := &story{printer: newPrinter(&out), steps: []string{"send:x", "receive:length=9"}}
	failed, acknowledged := uint32(1), uint64(1)
	ms := func(n float64) *durationpb.Duration {
		return durationpb.New(time.Duration(n * float64(time.Millisecond)))
	}
	for _, event := range []*probev1.ExchangeResponse{
		{Event: &probev1.ExchangeResponse_Resolved{Resolved: &probev1.Resolved{
			Host: "web", CanonicalName: "web.shop.test\noutcome    ok", Addresses: []string{"192.0.2.10", "2001:db8::7"}, Source: "dns", Duration: ms(0.01),
		}}},
		{Event: &probev1.ExchangeResponse_Tls{Tls: &probev1.TlsInfo{
			Version: "TLS 1.3", Cipher: "TLS_AES_128_GCM_SHA256", VerifyError: "certificate has expired",
			Chain: []*probev1.Certificate{{
				Subject: "CN=\x1b[2J", Issuer: "CN=ca", Names: []string{"a.test", "b.test"},
				NotAfter: timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)),
			}},
		}}},
		{Event: &probev1.ExchangeResponse_Chunk{Chunk: &probev1.Chunk{
			Data: []byte("x\noutcome    ok"), Offset: 1, Elapsed: ms(1500), Datagram: &probev1.Datagram{Truncated: true, Length: 70},
		}}},
		{Event: &probev1.ExchangeResponse_Outcome{Outcome: &probev1.Outcome{
			Phase: probev1.Phase_PHASE_RECEIVE, Layer: probev1.Layer_LAYER_TRANSPORT, Reason: probev1.Reason_REASON_CONNECTION_RESET,
			ErrnoName: "ECONNRESET", Error: "connection reset by peer", Hint: "It was reset.", FailedStep: &failed, Remote: "192.0.2.10:80",
			BytesSent: 1, BytesAcknowledged: &acknowledged, BytesReceived: 14, BytesUnread: 3, Chunks: 1,
			Timings: &probev1.Timings{Tls: ms(20), Total: ms(999.96)}, TcpInfo: &probev1.TcpInfo{Rtt: ms(0.5), Retransmits: 1, Mss: 1460, Pmtu: 1500},
		}}},
	} {
		if err := story.tell(event); err != nil {
			t.Fatal(err)
		}
	}
	want := `resolved   web, which is web.shop.test\noutcome    ok, to 192.0.2.10, 2001:db8::7 (dns, 0.010ms)
tls        TLS 1.3, TLS_AES_128_GCM_SHA256, not verified: certificate has expired
           certificate CN=\x1b[2J for a.test, b.test, until 2026-01-02, issued by CN=ca
chunk      15 bytes at offset 1 at 1.50s, a message from an unnamed socket, cut off: it had 70 bytes
  | x\n
  | outcome    ok
outcome    failed: CONNECTION_RESET in phase RECEIVE, step receive:length=9, layer TRANSPORT: connection reset by peer (ECONNRESET)
           hint: It was reset.
           sent 1 byte (1 acknowledged), received 14 bytes in 1 chunk; 3 bytes more came that no step took
           tls 20.0ms, total 1000.0ms
           round trip 0.50ms, 1 retransmit, mss 1460, path mtu 1500
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
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

package service

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
)

// The key that a caller gives is in no log and in no error, whatever comes of the call. (Go prints messages without
// regard to debug_redact, so whoever logs a request would show it.)
func TestKeysAreNotLogged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const secret = "c2VjcmV0IGtleQ"
	target := "tls://" + nettest.TCP(t, nettest.CloseAtOnce).String()
	for _, options := range []*probev1.TlsOptions{
		{PrivateKey: secret}, {Certificate: "x", PrivateKey: secret}, {PrivateKey: secret + long(1<<16)},
	} {
		for name, c := range w.transports() {
			_, err := c.connect(t.Context(), &probev1.ConnectRequest{Target: target, Tls: options})
			if status.Code(err) != codes.InvalidArgument || strings.Contains(err.Error(), secret) {
				t.Errorf("by %s: %v", name, err)
			}
		}
	}
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	if text := w.log.text.String(); text == "" || strings.Contains(text, secret) {
		t.Errorf("the log: %q", text)
	}
}

// Those whom this host trusts are made ready when a peer may be held to them, and not for the others.
func TestHostRoots(t *testing.T) {
	t.Parallel()
	asked := 0
	w := newWorld(t, func(s *settings) { s.HostRoots = func() { asked++ } })
	client := probev1.NewExchangeServiceClient(w.conn)
	peer := nettest.TCP(t, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)) }).String()
	exchange := func(scheme string, steps ...*probev1.Step) {
		t.Helper()
		stream, err := client.Exchange(t.Context(), &probev1.ExchangeRequest{Target: scheme + "://" + peer, Steps: steps})
		for err == nil {
			_, err = stream.Recv()
		}
		if !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	exchange("tcp")
	if asked != 0 {
		t.Error("they were made ready for plain text")
	}
	exchange("tls")
	exchange("tcp", &probev1.Step{Step: &probev1.Step_StartTls{StartTls: &probev1.StartTls{}}})
	if asked != 2 {
		t.Errorf("they were made ready %d times for two exchanges with TLS", asked)
	}
	stream, err := client.Converse(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, frame := range []*probev1.ConverseRequest{
		{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: "tcp://" + peer}}},
		{Frame: &probev1.ConverseRequest_StartTls{StartTls: &probev1.StartTls{}}},
	} {
		if err := stream.Send(frame); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if asked != 3 {
		t.Errorf("they were made ready %d times, with a conversation", asked)
	}
}

package service

import (
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

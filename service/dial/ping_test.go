package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
)

// The policy is asked about the address in one form, without a port, and before there is a socket: whether the host has
// any for us is not for those to know who are denied.
func TestPingIsAskedFor(t *testing.T) {
	t.Parallel()
	no := errors.New("not this one")
	limit := &LimitError{Limit: "50 dials a second"}
	for _, tt := range []struct {
		network, address string
		want             Destination
	}{
		{"icmp", "127.0.0.1:0", Destination{Network: "icmp4", Address: netip.MustParseAddrPort("127.0.0.1:0")}},
		{"icmp4", "127.0.0.1:80", Destination{Network: "icmp4", Address: netip.MustParseAddrPort("127.0.0.1:0")}},
		{"icmp", "[::ffff:127.0.0.1]:0", Destination{Network: "icmp4", Address: netip.MustParseAddrPort("127.0.0.1:0")}},
		{"icmp6", "[::1%lo]:0", Destination{Network: "icmp6", Address: netip.MustParseAddrPort("[::1]:0")}},
		{"icmp", "0.0.0.0:0", Destination{Network: "icmp4", Address: netip.MustParseAddrPort("0.0.0.0:0")}},
	} {
		for _, answer := range []error{no, limit} {
			a := asked{err: answer}
			d := Dialer{Policy: a.policy}
			c, err := d.Dial(t.Context(), Request{
				Network: tt.network, Address: netip.MustParseAddrPort(tt.address), Host: "a.example", Send: true,
				Admitted: func() { t.Error("admitted") },
			})
			if c != nil {
				t.Fatalf("%s: connected", tt.network)
			}
			_, denied := errors.AsType[*DeniedError](err)
			if denied != (errors.Is(answer, no)) || !errors.Is(err, answer) {
				t.Errorf("%s: %v, want %v", tt.network, err, answer)
			}
			op, ok := err.(*net.OpError) //nolint:errorlint // as it is returned
			if !ok || op.Op != "dial" || op.Net != tt.network || op.Addr.Network() != "ip" {
				t.Errorf("%s: %#v", tt.network, err)
			}
			tt.want.Host, tt.want.Send = "a.example", true
			if len(a.all) != 1 || a.all[0] != tt.want {
				t.Errorf("%s: the policy was asked %+v, want once %+v", tt.network, a.all, tt.want)
			}
		}
	}
	if _, err := new(Dialer).Dial(t.Context(), Request{Network: "icmp", Address: netip.MustParseAddrPort("127.0.0.1:0")}); !errors.Is(err, errNoPolicy) {
		t.Errorf("without a policy: %v", err)
	}
	if _, err := (&Dialer{Policy: admitAll}).Dial(t.Context(), Request{Network: "icmp"}); !errors.Is(err, errUnparsable) {
		t.Errorf("without an address: %v", err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	var a asked
	if _, err := (&Dialer{Policy: a.policy}).Dial(over, Request{Network: "icmp", Address: netip.MustParseAddrPort("127.0.0.1:0")}); !errors.Is(err, context.Canceled) || a.all != nil {
		t.Errorf("when it is over: %v, asked %v", err, a.all)
	}
}

func TestDestinationInWords(t *testing.T) {
	t.Parallel()
	for want, d := range map[string]Destination{
		"127.0.0.1:80":  {Network: "tcp4", Address: netip.MustParseAddrPort("127.0.0.1:80")},
		"127.0.0.1":     {Network: "icmp4", Address: netip.MustParseAddrPort("127.0.0.1:0")},
		"fe80::1%lo":    {Network: "icmp", Address: netip.MustParseAddrPort("[fe80::1%lo]:0")},
		"/run/app.sock": {Network: "unix", Path: "/run/app.sock"},
		"":              {Network: "tcp"},
	} {
		if got := d.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

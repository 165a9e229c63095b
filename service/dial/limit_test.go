package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"probed/internal/nettest"
)

// A policy that says "not now" is told apart from one that says no, and nothing is
// sent for either.
func TestLimit(t *testing.T) {
	t.Parallel()
	var tally nettest.Tally
	sink := nettest.TCP(t, tally.Count(nettest.Silent))
	var datagrams atomic.Int64
	packets := nettest.UDP(t, func(net.PacketConn, net.Addr, []byte) { datagrams.Add(1) })
	path := filepath.Join(nettest.SocketDir(t), "s")
	nettest.Listen(t, "unix", path, tally.Count(nettest.Silent))

	limit := &LimitError{Limit: "50 dials a second", RetryAfter: 20 * time.Millisecond}
	for _, answer := range []error{limit, fmt.Errorf("policy: %w", limit), errors.Join(errors.New("also"), limit)} {
		d := Dialer{Policy: func(context.Context, Destination) error { return answer }}
		for _, r := range []Request{
			{Network: "tcp", Address: sink}, {Network: "udp", Address: packets},
			{Network: "unix", Path: path}, {Network: "unix", Path: path + "-not-there"},
		} {
			r.Admitted = func() { t.Errorf("%s: admitted", r.Network) }
			c, err := d.Dial(t.Context(), r)
			if c != nil {
				t.Fatalf("%s: connected", r.Network)
			}
			if e, ok := errors.AsType[*LimitError](err); !ok || e != limit {
				t.Errorf("%s: %v, want the limit", r.Network, err)
			}
			if _, ok := errors.AsType[*DeniedError](err); ok {
				t.Errorf("%s: %v is a DeniedError", r.Network, err)
			}
			op, ok := err.(*net.OpError) //nolint:errorlint // as it is returned
			if !ok || op.Op != "dial" || op.Net != r.Network || op.Err != error(limit) || op.Timeout() {
				t.Errorf("%s: %#v, want a *net.OpError around the limit", r.Network, err)
			}
		}
	}
	// A connection that is let through arrives after any that should not have been.
	last, err := (&Dialer{Policy: admitAll}).Dial(t.Context(), Request{Network: "tcp", Address: sink})
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	for tally.Conns.Load() == 0 {
		time.Sleep(time.Millisecond) //nolint:forbidigo // asks again until it is so
	}
	if n, d := tally.Conns.Load(), datagrams.Load(); n != 1 || d != 0 {
		t.Errorf("%d connections and %d datagrams arrived, want 1 and 0", n, d)
	}
}

func TestLimitErrorText(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]*LimitError{
		"limit reached: 50 dials a second":                    {Limit: "50 dials a second"},
		"limit reached: 50 dials a second; try again in 20ms": {Limit: "50 dials a second", RetryAfter: 20 * time.Millisecond},
	} {
		if e.Error() != want {
			t.Errorf("%q, want %q", e, want)
		}
	}
}

package dial

import (
	"context"
	"runtime/debug"
	"strings"
	"testing"

	"probed/internal/nettest"
)

// A panic of whoever is asked comes out of Dial, and leaves no socket open. It runs alone, because descriptors belong to the
// process, and without the garbage collector, which closes those that are lost.
func TestPanicLeavesNoSocket(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	stream := nettest.TCP(t, nettest.Echo)
	requests := []Request{
		{Network: "tcp", Address: stream},
		{Network: "udp", Address: stream},
		{Network: "unix", Path: nettest.Unix(t, "unix", nettest.Echo)},
	}
	bug := func() { panic("a bug of the policy") }
	for _, r := range requests {
		nettest.FDs(t)
		before := nettest.FDs(t)
		for range 5 {
			for _, d := range []Dialer{
				{Policy: func(context.Context, Destination) error { bug(); return nil }},
				{Policy: admitAll},
			} {
				r.Admitted = bug
				func() {
					defer func() {
						text, ok := recover().(string)
						if !ok || !strings.HasPrefix(text, "a bug of the policy\n") || !strings.Contains(text, "panic_test.go") {
							t.Errorf("%s: recovered %q", r.Network, text)
						}
					}()
					_, err := d.Dial(t.Context(), r)
					t.Errorf("%s: no panic, but %v", r.Network, err)
				}()
			}
		}
		if after := nettest.FDs(t); after > before {
			t.Errorf("%s: %d descriptors before, %d after", r.Network, before, after)
		}
	}
}

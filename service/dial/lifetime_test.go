package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"probed/internal/nettest"
)

func TestDialEnds(t *testing.T) {
	t.Parallel()
	unanswered := nettest.Backlog(t)
	d := Dialer{Policy: admitAll}

	start := time.Now()
	_, err := d.Dial(timeout(t, 100*time.Millisecond), Request{Network: "tcp", Address: unanswered})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the deadline", err)
	}
	if took := time.Since(start); took < 100*time.Millisecond || took > 5*time.Second {
		t.Errorf("took %v, want 100 ms", took)
	}
	if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Timeout() {
		t.Errorf("%v is no timeout", err)
	}

	// A policy that runs out of time denies; that is not the dial's own timeout.
	d.Policy = func(ctx context.Context, _ Destination) error {
		<-ctx.Done()
		return &net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}
	}
	_, err = d.Dial(timeout(t, 20*time.Millisecond), Request{Network: "tcp", Address: unanswered})
	if _, ok := errors.AsType[*DeniedError](err); !ok {
		t.Errorf("%v, want a DeniedError", err)
	}
	d.Policy = admitAll

	ctx, cancel := context.WithCancel(t.Context())
	r := Request{Network: "tcp", Address: unanswered, Admitted: func() { time.AfterFunc(20*time.Millisecond, cancel) }}
	if _, err := d.Dial(ctx, r); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want cancelled", err)
	}

	// Over before it began: the policy is not even asked.
	var a asked
	if _, err := (&Dialer{Policy: a.policy}).Dial(ctx, r); !errors.Is(err, context.Canceled) || len(a.all) != 0 {
		t.Errorf("%v after %d questions, want cancelled after none", err, len(a.all))
	}
}

func TestConnectionOutlivesContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	c, err := (&Dialer{Policy: admitAll}).Dial(ctx, Request{Network: "tcp", Address: nettest.TCP(t, nettest.Echo)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	echoes(t, c)
}

func TestNothingIsLeftOpen(t *testing.T) {
	nettest.CheckFDs(t)
	address, refused, unanswered := nettest.TCP(t, nettest.Echo), nettest.Refused(t), nettest.Backlog(t)
	stream, datagram := nettest.Unix(t, "unix", nettest.Echo), nettest.Unixgram(t, nettest.EchoPacket)
	d := Dialer{Policy: admitAll}
	for range 20 {
		for _, r := range []Request{
			{Network: "tcp", Address: address},
			{Network: "tcp", Address: refused},
			{Network: "tcp", Address: address, Source: netip.MustParseAddr("198.51.100.77")},
			{Network: "tcp", Address: unanswered},
			{Network: "unix", Path: stream},
			{Network: "unixgram", Path: datagram},
			{Network: "unix", Path: datagram},
			{Network: "unix", Path: "/nowhere/at/all"},
			{Network: "unix", Path: t.TempDir()},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			if c, err := d.Dial(ctx, r); err == nil {
				c.Close()
			}
			if c, err := (&Dialer{}).Dial(ctx, r); err == nil {
				c.Close()
				t.Errorf("%+v: connected without a policy", r)
			}
			cancel()
		}
	}
}

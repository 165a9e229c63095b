package exchange

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"probed/internal/nettest"
	"probed/service/dial"
)

// talk is one conversation of a test.
type talk struct {
	request Request
	idle    time.Duration
	steps   []Step               // taken one after the other, and then io.EOF
	next    func() (Step, error) // in place of steps
	heard   func(Event) error    // called with each event
	limits  Limits
	ctx     context.Context
}

type said struct {
	*Outcome
	events []Event
	data   []byte
	err    error
	took   time.Duration
}

func (x talk) run(t testing.TB) said {
	t.Helper()
	ended := 0
	var open net.Conn
	connect := dialer(admitAll)
	var sent, received atomic.Int64
	exchanger := New(Config{
		Dial: func(ctx context.Context, r dial.Request) (net.Conn, error) {
			c, err := connect(ctx, r)
			open = c
			return c, err
		},
		Resolve: hosts(t, "127.0.0.1 localhost"),
		Limits:  x.limits,
		Hooks: &Hooks{
			SessionEnd: func(string, *Outcome) { ended++ },
			Sent:       func(_ string, n int) { sent.Add(int64(n)) },
			Received:   func(_ string, n int) { received.Add(int64(n)) },
		},
	})
	if x.next == nil {
		steps := slices.Clone(x.steps)
		x.next = func() (Step, error) {
			if len(steps) == 0 {
				return nil, io.EOF
			}
			step := steps[0]
			steps = steps[1:]
			return step, nil
		}
	}
	if x.ctx == nil {
		x.ctx = t.Context()
	}
	var s said
	begin := time.Now()
	s.Outcome, s.err = exchanger.Converse(x.ctx, Conversation{Request: x.request, Idle: x.idle, Next: x.next}, func(event Event) error {
		if chunk, ok := event.(Chunk); ok {
			s.data = append(s.data, chunk.Data...)
			chunk.Data = bytes.Clone(chunk.Data)
			event = chunk
		}
		s.events = append(s.events, event)
		if x.heard != nil {
			return x.heard(event)
		}
		return nil
	})
	s.took = time.Since(begin)
	if ended != 1 {
		t.Errorf("SessionEnd was called %d times", ended)
	}
	for i, event := range s.events {
		if _, ok := event.(*Outcome); ok != (i == len(s.events)-1 && s.err == nil) {
			t.Errorf("event %d of %d is %T", i, len(s.events), event)
		}
	}
	if open != nil && !errors.Is(open.SetDeadline(time.Time{}), net.ErrClosed) {
		t.Error("the connection is open still")
	}
	if uint64(sent.Load()) != s.BytesSent || uint64(received.Load()) != s.BytesReceived || s.BytesReceived != uint64(len(s.data)) {
		t.Errorf("hooks: %d and %d bytes; outcome: %d and %d; %d in chunks", sent.Load(), received.Load(), s.BytesSent, s.BytesReceived, len(s.data))
	}
	return s
}

func (s said) wants(t testing.TB, ok bool, phase Phase, reason Reason, by EndedBy) {
	t.Helper()
	if s.err != nil || s.OK != ok || s.Phase != phase || s.Reason != reason || s.EndedBy != by {
		t.Errorf("ok %v, phase %d, %v, ended by %d, %v: %s; want %v, %d, %v, %d", s.OK, s.Phase, s.Reason, s.EndedBy, s.err, s.Error, ok, phase, reason, by)
	}
}

func TestConverse(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"tcp", "tcp6", "unix", "unixpacket"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			target, tally := streamTarget(t, scheme, nettest.Echo)
			s := talk{request: Request{Target: target}, steps: []Step{
				Send{Data: []byte("one ")}, Send{Data: []byte("two")}, HalfClose{},
			}}.run(t)
			s.wants(t, true, PhaseClose, None, EndedByPeerClosed)
			if string(s.data) != "one two" || s.BytesSent != 7 || tally.Received.Load() != 7 {
				t.Errorf("%q came, %d bytes sent, %d arrived", s.data, s.BytesSent, tally.Received.Load())
			}
		})
	}
	for _, scheme := range []string{"udp", "udp6", "unixgram"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			target, _ := datagramTarget(t, scheme, nettest.EchoPacket)
			heard := make(chan struct{})
			count := 0
			steps := []Step{Send{Data: []byte("one")}, Send{}, Send{Data: []byte("two")}}
			s := talk{request: Request{Target: target}, next: func() (Step, error) {
				if len(steps) == 0 {
					<-heard
					return Close{}, nil
				}
				step := steps[0]
				steps = steps[1:]
				return step, nil
			}, heard: func(event Event) error {
				if _, ok := event.(Chunk); ok {
					if count++; count == 3 {
						close(heard)
					}
				}
				return nil
			}}.run(t)
			s.wants(t, true, PhaseClose, None, EndedByLastStep)
			if string(s.data) != "onetwo" || s.Chunks != 3 {
				t.Errorf("%q came in %d datagrams", s.data, s.Chunks)
			}
		})
	}
}

// Both directions at once, and each is slowed by its own far end alone: what is in flight is far more than all buffers.
func TestConverseBothWays(t *testing.T) {
	t.Parallel()
	const frame, frames = 64 << 10, 512
	for _, scheme := range []string{"tcp", "unix"} {
		target, _ := streamTarget(t, scheme, nettest.Echo)
		n := 0
		want := nettest.Data(frame)
		s := talk{request: Request{Target: target}, next: func() (Step, error) {
			if n++; n > frames {
				if n == frames+1 {
					return HalfClose{}, nil
				}
				return nil, io.EOF
			}
			return Send{Data: want}, nil
		}}.run(t)
		s.wants(t, true, PhaseClose, None, EndedByPeerClosed)
		if s.BytesSent != frame*frames || len(s.data) != frame*frames {
			t.Fatalf("%s: %d bytes sent, %d came back", scheme, s.BytesSent, len(s.data))
		}
		for i := range frames {
			if !bytes.Equal(s.data[i*frame:(i+1)*frame], want) {
				t.Fatalf("%s: frame %d is not what was sent", scheme, i)
			}
		}
	}
}

// A frame is taken when the one before is in the kernel, and not before: a peer that does not read stops the caller.
func TestConverseTakesNoMoreThanThePeer(t *testing.T) {
	t.Parallel()
	target, _ := streamTarget(t, "unix", nettest.NeverRead)
	var taken atomic.Int64
	s := talk{request: Request{Target: target}, idle: 300 * time.Millisecond, next: func() (Step, error) {
		taken.Add(1)
		return Send{Data: nettest.Data(64 << 10)}, nil
	}}.run(t)
	s.wants(t, false, PhaseSend, SendTimeout, EndedByNone)
	if n := taken.Load(); n > 64 {
		t.Errorf("%d frames of 64 KiB were taken", n)
	}
}

func TestConverseEnds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		peer   func(net.Conn)
		steps  []Step
		idle   time.Duration
		ok     bool
		phase  Phase
		reason Reason
		by     EndedBy
		data   string
	}{
		{name: "the peer closes", peer: nettest.Reply([]byte("bye")), steps: []Step{HalfClose{}}, ok: true, phase: PhaseClose, by: EndedByPeerClosed, data: "bye"},
		{name: "the peer closes, and we have more to say", peer: nettest.HalfCloseThenRead([]byte("bye")), ok: true, phase: PhaseClose, by: EndedByPeerClosed, data: "bye"},
		{name: "we close", peer: nettest.Silent, steps: []Step{Send{Data: []byte("x")}, Close{}}, ok: true, phase: PhaseClose, by: EndedByLastStep},
		{name: "silence", peer: nettest.Silent, steps: []Step{Send{Data: []byte("x")}}, idle: 100 * time.Millisecond, ok: true, phase: PhaseClose, by: EndedByIdle},
		{name: "reset", peer: nettest.Reset(1), steps: []Step{Send{Data: []byte("x")}}, phase: PhaseReceive, reason: ConnectionReset},
		{name: "reset behind words", peer: nettest.SendThenReset(1, []byte("bye")), steps: []Step{Send{Data: []byte("x")}}, phase: PhaseReceive, reason: ConnectionReset, data: "bye"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			target, _ := streamTarget(t, "tcp", tt.peer)
			s := talk{request: Request{Target: target}, idle: tt.idle, steps: tt.steps}.run(t)
			s.wants(t, tt.ok, tt.phase, tt.reason, tt.by)
			if string(s.data) != tt.data {
				t.Errorf("%q came, want %q", s.data, tt.data)
			}
		})
	}
}

// A peer that has closed its side may still listen: what the caller has to say is said to the end.
func TestConverseGoesOnBehindThePeersEnd(t *testing.T) {
	t.Parallel()
	heard := make(chan struct{})
	target, tally := streamTarget(t, "tcp", func(c net.Conn) {
		nettest.HalfCloseThenRead([]byte("bye"))(c)
		close(heard)
	})
	const frames = 64
	ended := make(chan struct{})
	n := 0
	s := talk{request: Request{Target: target}, next: func() (Step, error) {
		if n == 0 {
			<-ended
		}
		switch n++; {
		case n <= frames:
			return Send{Data: nettest.Data(64 << 10)}, nil
		case n == frames+1:
			return HalfClose{}, nil
		}
		return nil, io.EOF
	}, heard: func(event Event) error {
		if _, ok := event.(PeerClosed); ok {
			close(ended)
		}
		return nil
	}}.run(t)
	s.wants(t, true, PhaseClose, None, EndedByPeerClosed)
	<-heard
	if s.BytesSent != frames*64<<10 || tally.Received.Load() != frames*64<<10 {
		t.Errorf("%d bytes sent, %d arrived", s.BytesSent, tally.Received.Load())
	}
}

// A step that comes at the very end is not waited for, whatever it is.
func TestConverseStepAtTheEnd(t *testing.T) {
	t.Parallel()
	for range 200 {
		target, _ := streamTarget(t, "unix", nettest.CloseAtOnce)
		s := talk{request: Request{Target: target}, next: func() (Step, error) { return StartTLS{ServerName: "x.test"}, nil }}.run(t)
		if s.took > 5*time.Second {
			t.Fatalf("it took %v: %+v", s.took, s.Outcome)
		}
	}
}

// A reset that a write finds is no orderly end, though the read beside it looks like one.
func TestConverseResetWhileSending(t *testing.T) {
	t.Parallel()
	for range 20 {
		target, _ := streamTarget(t, "tcp", nettest.Reset(1<<20))
		s := talk{request: Request{Target: target}, next: func() (Step, error) {
			return Send{Data: nettest.Data(1 << 20)}, nil
		}}.run(t)
		if s.OK || s.Reason != ConnectionReset && s.Reason != BrokenPipe {
			t.Fatalf("%+v", s.Outcome)
		}
	}
}

// The caller's errors end it, without an outcome among the events.
func TestConverseOutOfOrder(t *testing.T) {
	t.Parallel()
	broken := errors.New("the line to the caller broke")
	for _, tt := range []struct {
		name   string
		scheme string
		steps  []Step
		field  string
		reason string
	}{
		{"data behind a half-close", "tcp", []Step{HalfClose{}, Send{Data: []byte("x")}}, "send", "closed already"},
		{"two half-closes", "tcp", []Step{HalfClose{}, HalfClose{}}, "half_close", "closed already"},
		{"TLS twice", "udp", []Step{StartTLS{}}, "start_tls", "over streams"},
		{"half-close of datagrams", "udp", []Step{HalfClose{}}, "half_close", "no half-close"},
		{"TLS without a name", "unix", []Step{StartTLS{}}, "start_tls.server_name", "give the name"},
		{"the line", "tcp", nil, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var target Target
			if tt.scheme == "udp" {
				target, _ = datagramTarget(t, "udp", nettest.EchoPacket)
			} else {
				target, _ = streamTarget(t, tt.scheme, nettest.Silent)
			}
			steps := slices.Clone(tt.steps)
			s := talk{request: Request{Target: target}, next: func() (Step, error) {
				if len(steps) == 0 {
					return nil, broken
				}
				step := steps[0]
				steps = steps[1:]
				return step, nil
			}}.run(t)
			var frame *FrameError
			switch {
			case tt.field == "" && !errors.Is(s.err, broken):
				t.Errorf("error %v", s.err)
			case tt.field != "" && (!errors.As(s.err, &frame) || frame.Field != tt.field || !strings.Contains(frame.Reason, tt.reason)):
				t.Errorf("error %v, want one about %s: %s", s.err, tt.field, tt.reason)
			}
		})
	}
}

func TestConverseCancelled(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{nil, ErrDrained} {
		ctx, cancel := context.WithCancelCause(t.Context())
		target, _ := streamTarget(t, "tcp", nettest.Silent)
		over := make(chan struct{})
		s := talk{ctx: ctx, request: Request{Target: target}, next: func() (Step, error) { <-over; return nil, io.EOF }, heard: func(event Event) error {
			if _, ok := event.(Connected); ok {
				cancel(cause)
			}
			return nil
		}}.run(t)
		close(over)
		want := Cancelled
		if cause != nil {
			want = Drained
		}
		s.wants(t, false, PhaseReceive, want, EndedByNone)
	}
}

// Next may still wait when the conversation is over: what it returns then is nobody's.
func TestConverseOutlivedByNext(t *testing.T) {
	t.Parallel()
	target, tally := streamTarget(t, "tcp", nettest.HalfCloseThenRead([]byte("bye")))
	over, returned := make(chan struct{}), make(chan struct{})
	s := talk{request: Request{Target: target}, next: func() (Step, error) {
		<-over
		defer close(returned)
		return Send{Data: []byte("too late")}, nil
	}}.run(t)
	close(over)
	<-returned
	s.wants(t, true, PhaseClose, None, EndedByPeerClosed)
	if n := tally.Received.Load(); n != 0 {
		t.Errorf("%d bytes arrived", n)
	}
}

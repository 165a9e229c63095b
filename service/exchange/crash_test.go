package exchange

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"probed/internal/nettest"
	"probed/service/dial"
)

// bomb is a connection that panics when much is written at once.
type bomb struct{ *net.TCPConn }

func (b bomb) Write(data []byte) (int, error) {
	panic("a bug in a goroutine of the session")
}

// A panic in a goroutine that a session has started comes up in the one that called, when all is closed: it costs that
// session alone, and it has its one outcome.
func TestCrashStaysInItsSession(t *testing.T) {
	t.Parallel()
	target, _ := streamTarget(t, "tcp", nettest.NeverRead)
	open := dialer(admitAll)
	booby := func(ctx context.Context, r dial.Request) (net.Conn, error) {
		c, err := open(ctx, r)
		if err != nil {
			return nil, err
		}
		return bomb{c.(*net.TCPConn)}, nil
	}
	listen := func(Event) error { return nil }
	secured := target
	secured.Scheme = "tls"
	for name, tt := range map[string]struct {
		dial  dialFunc
		hooks Hooks
		run   func(*Exchanger)
	}{
		"an attempt": {
			dial: func(context.Context, dial.Request) (net.Conn, error) { panic("a bug in a goroutine of the session") },
			run:  func(x *Exchanger) { x.Run(t.Context(), Request{Target: target}, listen) },
		},
		"the only attempt, of which nobody is told": {
			dial: func(context.Context, dial.Request) (net.Conn, error) { panic("a bug in a goroutine of the session") },
			run:  func(x *Exchanger) { x.Run(t.Context(), Request{Target: target}, nil) },
		},
		"a send": {dial: booby, run: func(x *Exchanger) {
			x.Run(t.Context(), Request{Target: target, Steps: []Step{Send{Data: nettest.Data(16 << 20)}}}, nil)
		}},
		"the sender of a conversation": {dial: booby, run: func(x *Exchanger) {
			steps := []Step{Send{Data: []byte("x")}}
			_, _ = x.Converse(t.Context(), Conversation{Request: Request{Target: target}, Next: func() (Step, error) {
				if len(steps) == 0 {
					return nil, io.EOF
				}
				step := steps[0]
				steps = nil
				return step, nil
			}}, nil)
		}},
		"what waits for the next step of a conversation": {dial: open, run: func(x *Exchanger) {
			_, _ = x.Converse(t.Context(), Conversation{Request: Request{Target: target}, Next: func() (Step, error) {
				panic("a bug in a goroutine of the session")
			}}, nil)
		}},
		"an attempt that is connected": {
			dial:  open,
			hooks: Hooks{Dialled: func(context.Context, string, Reason, time.Duration) { panic("a bug in a goroutine of the session") }},
			run:   func(x *Exchanger) { x.Run(t.Context(), Request{Target: target}, listen) },
		},
		"the only attempt, connected": {
			dial:  open,
			hooks: Hooks{Dialled: func(context.Context, string, Reason, time.Duration) { panic("a bug in a goroutine of the session") }},
			run:   func(x *Exchanger) { x.Run(t.Context(), Request{Target: target}, nil) },
		},
		"the handshake of an attempt": {dial: booby, run: func(x *Exchanger) {
			x.Run(t.Context(), Request{Target: secured, AllAddresses: true}, listen)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var outcomes []*Outcome
			var mu sync.Mutex
			var conns []net.Conn
			kept := func(ctx context.Context, r dial.Request) (net.Conn, error) {
				c, err := tt.dial(ctx, r)
				if err == nil {
					mu.Lock()
					conns = append(conns, c)
					mu.Unlock()
				}
				return c, err
			}
			tt.hooks.SessionEnd = func(_ string, outcome *Outcome) { outcomes = append(outcomes, outcome) }
			x := New(Config{Dial: kept, Resolve: hosts(t), Hooks: &tt.hooks})
			func() {
				defer func() {
					text, ok := recover().(string)
					if !ok || !strings.HasPrefix(text, "a bug in a goroutine of the session\n") || !strings.Contains(text, "crash_test.go") {
						t.Errorf("recovered %q", text)
					}
				}()
				tt.run(x)
			}()
			if len(outcomes) != 1 || outcomes[0].Reason != Internal || outcomes[0].OK {
				t.Errorf("outcomes: %+v", outcomes)
			}
			for _, c := range conns {
				if err := c.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
					t.Errorf("a connection is open: %v", err)
				}
			}
		})
	}
}

// What waits for a next step may find out only when the session is long over. Then the panic concerns nobody any more.
func TestCrashAfterItsSession(t *testing.T) {
	t.Parallel()
	target, _ := streamTarget(t, "tcp", nettest.CloseAtOnce)
	x := New(Config{Dial: dialer(admitAll), Resolve: hosts(t)})
	over, crashing := make(chan struct{}), make(chan struct{})
	outcome, err := x.Converse(t.Context(), Conversation{Request: Request{Target: target}, Next: func() (Step, error) {
		defer close(crashing)
		<-over
		panic("a bug")
	}}, nil)
	if err != nil || outcome.EndedBy != EndedByPeerClosed {
		t.Errorf("%v, %+v", err, outcome)
	}
	close(over)
	<-crashing
}

package exchange

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"

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
	run := func(x *Exchanger, steps ...Step) {
		x.Run(t.Context(), Request{Target: target, Steps: steps}, nil)
	}
	for name, tt := range map[string]struct {
		dial dialFunc
		run  func(*Exchanger)
	}{
		"an attempt": {
			dial: func(context.Context, dial.Request) (net.Conn, error) { panic("a bug in a goroutine of the session") },
			run:  func(x *Exchanger) { run(x) },
		},
		"a send": {dial: booby, run: func(x *Exchanger) { run(x, Send{Data: nettest.Data(16 << 20)}) }},
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
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var outcomes []*Outcome
			x := New(Config{Dial: tt.dial, Resolve: hosts(t), Hooks: &Hooks{
				SessionEnd: func(_ string, outcome *Outcome) { outcomes = append(outcomes, outcome) },
			}})
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
		})
	}
}

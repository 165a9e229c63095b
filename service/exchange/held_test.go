package exchange

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"probed/internal/nettest"
)

// A caller that takes no event holds its exchange, and not the peer: the connection is closed soon after the timeout, or
// after the caller's end, and the outcome is what it would have been.
func TestHeldEventDoesNotHoldThePeer(t *testing.T) {
	t.Parallel()
	const timeout = 2 * time.Second
	config := &tls.Config{Certificates: []tls.Certificate{newAuthority(t, "authority").serving(t, nil, "127.0.0.1")}}
	for _, scheme := range []string{"tcp", "tls", "unix"} {
		for _, way := range []struct {
			name   string
			reason Reason
			run    func(ctx context.Context, x *Exchanger, request Request, emit func(Event) error) *Outcome
		}{
			{"timeout", ReceiveTimeout, func(ctx context.Context, x *Exchanger, request Request, emit func(Event) error) *Outcome {
				request.Timeout, request.Steps = timeout, []Step{Receive{}}
				return x.Run(context.WithoutCancel(ctx), request, emit)
			}},
			{"the caller goes", Cancelled, func(ctx context.Context, x *Exchanger, request Request, emit func(Event) error) *Outcome {
				request.Steps = []Step{Receive{}}
				return x.Run(ctx, request, emit)
			}},
			{"of a conversation", Cancelled, func(ctx context.Context, x *Exchanger, request Request, emit func(Event) error) *Outcome {
				outcome, _ := x.Converse(ctx, Conversation{Request: request, Next: func() (Step, error) { return nil, io.EOF }}, emit)
				return outcome
			}},
		} {
			t.Run(scheme+" "+way.name, func(t *testing.T) {
				t.Parallel()
				closed := make(chan struct{})
				handle := func(c net.Conn) {
					for block := nettest.Data(64 << 10); ; {
						if _, err := c.Write(block); err != nil {
							close(closed)
							return
						}
					}
				}
				request := Request{TLS: &TLSOptions{SkipVerify: true}}
				switch scheme {
				case "tls":
					target, _ := streamTarget(t, "tcp", underTLS(config, handle))
					request.Target = securely(target)
				default:
					request.Target, _ = streamTarget(t, scheme, handle)
					request.TLS = nil
				}
				ctx, cancel := context.WithCancel(t.Context())
				begin, took := time.Now(), time.Duration(0)
				defer time.AfterFunc(timeout, cancel).Stop()
				outcome := way.run(ctx, New(Config{Dial: dialer(admitAll), Resolve: hosts(t)}), request, func(event Event) error {
					if _, ok := event.(Chunk); ok && took == 0 {
						<-closed
						took = time.Since(begin)
					}
					return nil
				})
				if outcome.Reason != way.reason || outcome.Phase != PhaseReceive {
					t.Errorf("%v in %v: %s", outcome.Reason, outcome.Phase, outcome.Error)
				}
				if outcome.SocketOptions == nil || (scheme != "unix") != (outcome.TCPInfo != nil && outcome.BytesAcknowledged != nil) {
					t.Errorf("what the socket told last: %+v", outcome)
				}
				if took < timeout || took > 2*timeout {
					t.Errorf("the peer's socket was closed after %v, want %v", took, timeout)
				}
			})
		}
	}
}

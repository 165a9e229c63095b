package service

import (
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/service/guard"
	"probed/service/policy"
)

// A conversation ends when its caller may not have it any more, by the policy or by the credentials, its target's socket
// is closed then, and those of others go on.
func TestRecheck(t *testing.T) {
	t.Parallel()
	rule := func(subjects ...string) *policy.Policy {
		return &policy.Policy{Loopback: true, Roles: []policy.Role{{Name: "role", Subjects: subjects, Rules: []policy.Rule{
			{Name: "all", Verbs: policy.Resolve | policy.Connect | policy.Send},
		}}}}
	}
	elsewhere := rule("token:a", "token:b")
	elsewhere.Roles[0].Rules[0].Ports = []policy.PortRange{{First: 1, Last: 1}}
	for name, tt := range map[string]struct {
		rules   *policy.Policy       // of later
		callers *guard.Authenticator // of later
		want    codes.Code           // a's, OK: it goes on
		reason  string
		others  bool // b's goes on
		message string
	}{
		"nothing has changed":      {rule("token:a", "token:b"), authenticator("a", "b"), codes.OK, "", true, ""},
		"the role is withdrawn":    {rule("token:b"), authenticator("a", "b"), codes.PermissionDenied, "ERROR_REASON_CALL_DENIED", true, "it needs a role that grants connect"},
		"the target is not theirs": {elsewhere, authenticator("a", "b"), codes.PermissionDenied, "ERROR_REASON_POLICY_DENIED", false, "rule deny-default"},
		"the token is withdrawn":   {rule("token:a", "token:b"), authenticator("b"), codes.Unauthenticated, "ERROR_REASON_UNAUTHENTICATED", true, "the bearer token is not one that is accepted here"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var rules atomic.Pointer[policy.Policy]
			rules.Store(rule("token:a", "token:b"))
			closed := make(chan struct{}, 2)
			peer := nettest.TCP(t, func(c net.Conn) {
				_, _ = io.Copy(c, c)
				closed <- struct{}{}
			}).String()
			w := newWorld(t, func(s *settings) {
				s.callers = authenticator("a", "b")
				s.Policy = rules.Load
			})
			a, b := talkTo(t, w, "a", peer), talkTo(t, w, "b", peer)
			rules.Store(tt.rules)
			w.service.Recheck(tt.callers.Identify)
			if tt.want == codes.OK {
				a.echoes(t, "still here")
			} else {
				err := a.end(t)
				if status.Code(err) != tt.want || !strings.Contains(status.Convert(err).Message(), "may not have this session any more: ") ||
					!strings.Contains(status.Convert(err).Message(), tt.message) || errorInfo(err) != tt.reason {
					t.Errorf("%v", err)
				}
				select {
				case <-closed:
				case <-time.After(10 * time.Second):
					t.Error("the target's socket is open")
				}
			}
			if tt.others {
				b.echoes(t, "me too")
			} else if err := b.end(t); status.Code(err) != tt.want {
				t.Errorf("the other: %v", err)
			}
		})
	}
}

// talk is a conversation with an echo.
type talk struct {
	probev1.ExchangeService_ConverseClient
}

func talkTo(t *testing.T, w *world, name, target string) talk {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+tokenOf(name))
	stream, err := probev1.NewExchangeServiceClient(w.conn).Converse(ctx)
	if err == nil {
		err = stream.Send(&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: target}}})
	}
	if err != nil {
		t.Fatal(err)
	}
	c := talk{stream}
	c.echoes(t, "hello")
	return c
}

// echoes sends something and waits until it comes back.
func (c talk) echoes(t *testing.T, text string) {
	t.Helper()
	if err := c.Send(&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Data{Data: []byte(text)}}); err != nil {
		t.Fatal(err)
	}
	for got := ""; got != text; {
		event, err := c.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got += string(event.GetChunk().GetData())
	}
}

// end waits for the end of the stream, which has one outcome before.
func (c talk) end(t *testing.T) error {
	t.Helper()
	outcomes := 0
	for {
		event, err := c.Recv()
		if err != nil {
			if outcomes != 1 {
				t.Errorf("%d outcomes", outcomes)
			}
			return err
		}
		if event.GetOutcome() != nil {
			outcomes++
		}
	}
}

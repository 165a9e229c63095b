package endurance

import (
	"fmt"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/internal/probetest"
	"probed/internal/promise"
)

// raised are limits that leave room for thousands.
const raised = `
limits:
  sessions: 4000
  sessions_per_caller: 4000
  calls: 4000
  calls_per_caller: 4000
  connections: 4000
  connections_per_address: 4000
`

// streams is how many sessions go over one connection of gRPC: the limit of streams by default.
const streams = 100

// Sessions that wait stay open, none is lost, and each takes little memory.
func TestSessionsAreHeld(t *testing.T) {
	sessions, held := 2000, promise.Times(2*time.Second, 10*time.Minute)
	release := make(chan struct{})
	peer := nettest.TCP(t, func(c net.Conn) {
		<-release
		_, _ = c.Write([]byte("x"))
	})
	p := probetest.Start(t, probetest.Options{Config: raised})
	warm(t, p)
	before := p.Memory()

	request := &probev1.ExchangeRequest{
		Target: peer.String(), HoldOpen: true, Timeout: durationpb.New(10 * time.Minute),
	}
	var open []*probetest.Session
	var caller probetest.Caller
	for i := range sessions {
		if i%streams == 0 {
			caller = p.GRPC()
		}
		s := caller.Exchange(t.Context(), t, request)
		open = append(open, s)
	}
	for _, s := range open {
		if s.UntilConnected() == nil {
			t.Fatalf("not connected: %v", s.Err)
		}
	}
	<-time.After(held)
	each := (p.Memory() - before) / int64(sessions)
	close(release)
	lost := 0
	for _, s := range open {
		if s.Rest(); s.Received != 1 || !s.Outcome.GetOk() {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d were lost", lost, sessions)
	}
	if each > 32<<10 {
		t.Errorf("an idle exchange takes %d bytes, want at most %d", each, 32<<10)
	}
	promise.SessionsAreHeld.Reached(t, "%d for %v, %d lost", sessions, held, lost)
	promise.IdleIsCheap.Reached(t, "%d; %.1f KiB each", sessions, float64(each)/1024)
}

// warm lets what is made at the first use be made.
func warm(t *testing.T, p *probetest.Probed) {
	t.Helper()
	echo := nettest.TCP(t, nettest.Echo)
	for _, caller := range p.Callers() {
		for range 20 {
			s := caller.Exchange(t.Context(), t, &probev1.ExchangeRequest{Target: echo.String(), Payload: &probev1.ExchangeRequest_Text{Text: "x"}})
			if s.Rest(); s.Received != 1 {
				t.Fatalf("%v: %v %v", caller, s.Outcome, s.Err)
			}
		}
	}
}

var _ = fmt.Sprint
var _ = codes.OK
var _ = status.Code

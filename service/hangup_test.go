package service

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/service/exchange"
)

// A caller that stays and takes nothing loses its call, when the time of the exchange and a while behind it are over; a
// conversation when nothing has been taken for as long as it may be idle. Others on its connection are not touched.
func TestHangUp(t *testing.T) {
	t.Parallel()
	const timeout, patience = 200 * time.Millisecond, 300 * time.Millisecond
	peer := nettest.TCP(t, nettest.Flood(1<<40)).String()
	bystander := nettest.TCP(t, nettest.Echo).String()
	ended := make(chan exchange.Reason, 1)
	w := newWorld(t, func(s *settings) {
		s.ExchangeHooks = &exchange.Hooks{SessionEnd: func(_ string, outcome *exchange.Outcome) { ended <- outcome.Reason }}
	})
	w.service.readerPatience = patience
	client := probev1.NewExchangeServiceClient(w.conn)
	for name, begin := range map[string]func(context.Context) (grpc.ServerStreamingClient[probev1.ExchangeResponse], time.Duration){
		"exchange": func(ctx context.Context) (grpc.ServerStreamingClient[probev1.ExchangeResponse], time.Duration) {
			stream, err := client.Exchange(ctx, &probev1.ExchangeRequest{Target: peer, Timeout: durationpb.New(timeout)})
			if err != nil {
				t.Fatal(err)
			}
			return stream, timeout + patience
		},
		"conversation": func(ctx context.Context) (grpc.ServerStreamingClient[probev1.ExchangeResponse], time.Duration) {
			stream, err := client.Converse(ctx)
			if err == nil {
				err = stream.Send(&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{
					Target: peer, Idle: durationpb.New(timeout + patience),
				}}})
			}
			if err != nil {
				t.Fatal(err)
			}
			return stream, timeout + patience
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		began := time.Now()
		stream, after := begin(ctx)
		select {
		case reason := <-ended:
			if took := time.Since(began); reason != exchange.Cancelled || took < after || took > after+time.Second {
				t.Errorf("%s: %v after %v, want it after %v", name, reason, took, after)
			}
		case <-ctx.Done():
			t.Errorf("%s: it goes on", name)
		}
		outcome, err := w.transports()["gRPC"].connect(ctx, &probev1.ConnectRequest{Target: bystander})
		if err != nil || !outcome.GetOk() {
			t.Errorf("%s: another call: %v, %v", name, outcome, err)
		}
		<-ended
		for err = nil; err == nil; {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Canceled {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
}

package service

import (
	"testing"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/service/policy"
)

// One byte to an echo and back through a conversation, against one question and answer on the same connection.
func BenchmarkConverse(b *testing.B) {
	w := newWorld(b, func(s *settings) { s.Policy = policy.AllowAll })
	b.Run("round trip", func(b *testing.B) {
		stream := converse(b.Context(), b, w, open(&probev1.Open{Target: nettest.TCP(b, nettest.Echo).String()}))
		for {
			event, err := stream.Recv()
			if err != nil {
				b.Fatal(err)
			}
			if event.GetConnected() != nil {
				break
			}
		}
		frame := data("x")
		for b.Loop() {
			if err := stream.Send(frame); err != nil {
				b.Fatal(err)
			}
			if event, err := stream.Recv(); err != nil || event.GetChunk() == nil {
				b.Fatal(event, err)
			}
		}
		b.StopTimer()
		if err := stream.Send(closing()); err != nil {
			b.Fatal(err)
		}
		if _, err := hear(stream); err != nil {
			b.Fatal(err)
		}
	})
	b.Run("unary", func(b *testing.B) {
		client := probev1.NewNameServiceClient(w.conn)
		for b.Loop() {
			if _, err := client.LookupPort(b.Context(), &probev1.LookupPortRequest{Port: 22}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

package exchange

import (
	"testing"

	"probed/internal/nettest"
)

// Benchmarks run the engine alone, without the trial of the tests.

func benchmark(b *testing.B, request Request) {
	exchanger := New(Config{Dial: dialer(admitAll), Resolve: hosts(b)})
	b.ReportAllocs()
	for b.Loop() {
		if o := exchanger.Run(b.Context(), request, func(Event) error { return nil }); !o.OK {
			b.Fatal(o.Reason, o.Error)
		}
	}
}

// BenchmarkConnect opens a connection and closes it.
func BenchmarkConnect(b *testing.B) {
	for _, scheme := range []string{"tcp", "unix"} {
		b.Run(scheme, func(b *testing.B) {
			target, _ := streamTarget(b, scheme, nettest.CloseAtOnce)
			benchmark(b, Request{Target: target})
		})
	}
}

// BenchmarkConnectParallel does so from as many goroutines as there are processors.
func BenchmarkConnectParallel(b *testing.B) {
	target, _ := streamTarget(b, "tcp", nettest.CloseAtOnce)
	exchanger := New(Config{Dial: dialer(admitAll), Resolve: hosts(b)})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if o := exchanger.Run(b.Context(), Request{Target: target}, nil); !o.OK {
				b.Error(o.Reason, o.Error)
			}
		}
	})
}

// BenchmarkEcho is a whole exchange: connect, send a few bytes, half-close, receive them, close.
func BenchmarkEcho(b *testing.B) {
	target, _ := streamTarget(b, "tcp", nettest.Echo)
	benchmark(b, Request{Target: target, Steps: DefaultSteps(target, []byte("hello"), false)})
}

// BenchmarkRoundTrip sends one byte and receives it, again and again on one connection.
func BenchmarkRoundTrip(b *testing.B) {
	for _, scheme := range []string{"tcp", "unix"} {
		b.Run(scheme, func(b *testing.B) {
			target, _ := streamTarget(b, scheme, nettest.Echo)
			request := Request{Target: target, Timeout: 10 * long, Steps: make([]Step, 0, 2*b.N)}
			for range b.N {
				request.Steps = append(request.Steps, Send{Data: []byte("x")}, Receive{Length: 1})
			}
			exchanger := New(Config{Dial: dialer(admitAll), Resolve: hosts(b)})
			b.ReportAllocs()
			b.ResetTimer()
			if o := exchanger.Run(b.Context(), request, func(Event) error { return nil }); !o.OK {
				b.Fatal(o.Reason, o.Error)
			}
		})
	}
}

// BenchmarkReply receives a long reply to its end.
func BenchmarkReply(b *testing.B) {
	const size = 64 << 20
	for _, scheme := range []string{"tcp", "unix"} {
		for name, bufferSize := range map[string]int{"growing": 0, "4096": 4096} {
			b.Run(scheme+"/"+name, func(b *testing.B) {
				target, _ := streamTarget(b, scheme, nettest.Flood(size))
				b.SetBytes(size)
				benchmark(b, Request{Target: target, Steps: []Step{Receive{}}, BufferSize: bufferSize})
			})
		}
	}
}

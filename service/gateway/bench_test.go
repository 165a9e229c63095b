package gateway

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"probed/internal/nettest"
	"probed/service"
	"probed/service/policy"
)

// The two connections there are to choose from: one within the process, which copies messages, and HTTP/2 in memory, which
// is all of gRPC's transport but the sockets. docs/performance.md has the figures.
func BenchmarkConn(b *testing.B) {
	chain, err := service.Chain(service.ChainConfig{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	config := service.Config{Policy: func() *policy.Policy { return &policy.Policy{Loopback: true, Open: true} }}
	answers := service.New(config)
	for _, conn := range []struct {
		name string
		make func(testing.TB) interface {
			grpc.ClientConnInterface
			io.Closer
		}
	}{
		{"in process", func(testing.TB) interface {
			grpc.ClientConnInterface
			io.Closer
		} {
			return service.Local(chain, answers.Register)
		}},
		{"HTTP2 in memory", func(t testing.TB) interface {
			grpc.ClientConnInterface
			io.Closer
		} {
			return overHTTP2(t, chain, answers)
		}},
	} {
		b.Run(conn.name, func(b *testing.B) {
			gateway, err := New(Config{Conn: conn.make(b)})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = gateway.Close() })
			b.Run("lookup", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					ask(b, gateway, httptest.NewRequestWithContext(b.Context(), http.MethodGet, "http://localhost/v1/ports/22", http.NoBody))
				}
			})
			b.Run("lookups at a time", func(b *testing.B) {
				b.ReportAllocs()
				b.SetParallelism(32)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						ask(b, gateway, httptest.NewRequestWithContext(b.Context(), http.MethodGet, "http://localhost/v1/ports/22", http.NoBody))
					}
				})
			})
			b.Run("reply", func(b *testing.B) {
				const size = 64 << 20
				reply := bytes.Repeat([]byte("x"), size)
				target := nettest.TCP(b, func(c net.Conn) { _, _ = c.Write(reply) })
				b.ReportAllocs()
				b.SetBytes(size)
				for b.Loop() {
					r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "http://localhost/v1/exchange", strings.NewReader(fmt.Sprintf(`{"target":%q}`, target)))
					r.Header.Set("Accept", formatRaw)
					if n := ask(b, gateway, r); n != size {
						b.Fatalf("%d bytes came", n)
					}
				}
			})
		})
	}
}

// ask returns how many bytes the answer has.
func ask(b *testing.B, gateway *Gateway, r *http.Request) int {
	answer := &discarded{header: http.Header{}}
	gateway.ServeHTTP(answer, r)
	if answer.status != http.StatusOK {
		b.Errorf("status %d", answer.status)
	}
	return answer.bytes
}

// discarded is an answer that nobody keeps.
type discarded struct {
	header http.Header
	status int
	bytes  int
}

func (d *discarded) Header() http.Header    { return d.header }
func (d *discarded) WriteHeader(status int) { d.status = status }

func (d *discarded) Write(p []byte) (int, error) {
	if d.status == 0 {
		d.status = http.StatusOK
	}
	d.bytes += len(p)
	return len(p), nil
}

func (d *discarded) Flush()                           {}
func (d *discarded) SetReadDeadline(time.Time) error  { return nil }
func (d *discarded) SetWriteDeadline(time.Time) error { return nil }

// overHTTP2 is a connection to a server of its own, over a pipe in memory.
func overHTTP2(t testing.TB, chain service.Links, answers *service.Service) *grpc.ClientConn {
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer(chain.ServerOptions(grpc.StaticStreamWindowSize(1<<20), grpc.StaticConnWindowSize(4<<20))...)
	answers.Register(service.BeforeMessage(server, chain))
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("passthrough:memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithStaticStreamWindowSize(1<<20), grpc.WithStaticConnWindowSize(4<<20))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

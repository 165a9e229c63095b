package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
)

// scripted is a service whose handlers are those of a test.
type scripted struct {
	probev1.UnimplementedExchangeServiceServer
	connect  func(context.Context, *probev1.ConnectRequest) (*probev1.ConnectResponse, error)
	converse func(grpc.BidiStreamingServer[probev1.ConverseRequest, probev1.ExchangeResponse]) error
}

func (s *scripted) Connect(ctx context.Context, request *probev1.ConnectRequest) (*probev1.ConnectResponse, error) {
	return s.connect(ctx, request)
}

func (s *scripted) Converse(stream grpc.BidiStreamingServer[probev1.ConverseRequest, probev1.ExchangeResponse]) error {
	return s.converse(stream)
}

type handlerStream = grpc.BidiStreamingServer[probev1.ConverseRequest, probev1.ExchangeResponse]

// localTo connects to a handler, with no link around it.
func localTo(t *testing.T, s *scripted) (*LocalConn, probev1.ExchangeServiceClient) {
	t.Helper()
	conn := Local(Links{}, func(r grpc.ServiceRegistrar) { probev1.RegisterExchangeServiceServer(r, s) })
	t.Cleanup(func() { _ = conn.Close() })
	return conn, probev1.NewExchangeServiceClient(conn)
}

// localStreamTo begins a stream to a handler in a bubble, in which whoever can go on has done so when Wait returns.
func localStreamTo(ctx context.Context, t *testing.T, handler func(handlerStream) error, options ...grpc.CallOption) conversation {
	t.Helper()
	_, client := localTo(t, &scripted{converse: handler})
	stream, err := client.Converse(ctx, options...)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func chunk(text string) *probev1.ExchangeResponse {
	return &probev1.ExchangeResponse{Event: &probev1.ExchangeResponse_Chunk{Chunk: &probev1.Chunk{Data: []byte(text)}}}
}

func wants(t *testing.T, what string, err error, code codes.Code) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("%s: %v, want %v", what, err, code)
	}
}

func wantsText(t *testing.T, stream conversation, want string) {
	t.Helper()
	response, err := stream.Recv()
	if got := string(response.GetChunk().GetData()); err != nil || got != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

// Each direction holds one message that nobody has taken; whoever has a second one waits.
func TestLocalBackPressure(t *testing.T) {
	t.Parallel()
	t.Run("to the caller", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			var sent atomic.Int64
			stream := localStreamTo(t.Context(), t, func(stream handlerStream) error {
				for i := range 5 {
					if err := stream.Send(chunk(fmt.Sprint(i))); err != nil {
						return err
					}
					sent.Add(1)
				}
				return nil
			})
			for i := range 5 {
				synctest.Wait()
				if n := sent.Load(); n != int64(min(i+1, 5)) {
					t.Errorf("%d taken, and %d sent", i, n)
				}
				wantsText(t, stream, fmt.Sprint(i))
			}
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		})
	})
	t.Run("to the handler", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			take, taken := make(chan struct{}), make(chan string)
			stream := localStreamTo(t.Context(), t, func(stream handlerStream) error {
				for range take {
					request, err := stream.Recv()
					if err != nil {
						return err
					}
					taken <- string(request.GetData())
				}
				return nil
			})
			var sent atomic.Int64
			var sender sync.WaitGroup
			sender.Go(func() {
				for i := range 5 {
					if err := stream.Send(data(fmt.Sprint(i))); err != nil {
						t.Error(err)
					}
					sent.Add(1)
				}
			})
			for i := range 5 {
				synctest.Wait()
				if n := sent.Load(); n != int64(i+1) {
					t.Errorf("%d taken, and %d sent", i, n)
				}
				take <- struct{}{}
				if got := <-taken; got != fmt.Sprint(i) {
					t.Errorf("%q", got)
				}
			}
			close(take)
			sender.Wait()
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		})
	})
}

// A half-close comes after all that was sent before it, and leaves the other direction open.
func TestLocalHalfClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var heard []string
		stream := localStreamTo(t.Context(), t, func(stream handlerStream) error {
			for {
				request, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					return err
				}
				heard = append(heard, string(request.GetData()))
			}
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("after the end: %v", err)
			}
			for range 3 {
				if err := stream.Send(chunk("late")); err != nil {
					return err
				}
			}
			return nil
		})
		for i := range 3 {
			if err := stream.Send(data(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := stream.CloseSend(); err != nil {
				t.Error(err)
			}
		}
		wants(t, "a message behind the half-close", stream.Send(data("x")), codes.Internal)
		for range 3 {
			wantsText(t, stream, "late")
		}
		for range 2 {
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		}
		if !slices.Equal(heard, []string{"0", "1", "2"}) {
			t.Errorf("heard %q", heard)
		}
	})
}

// The header is there before the first message, and at the latest with it or with the end; the trailer with the end.
func TestLocalHeaderAndTrailer(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		send     func(handlerStream) error
		messages int
	}{
		{"sent by itself", func(s handlerStream) error { return s.SendHeader(metadata.Pairs("b", "2")) }, 0},
		{"with the first message", func(s handlerStream) error {
			return errors.Join(s.SetHeader(metadata.Pairs("b", "2")), s.Send(chunk("x")))
		}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				goOn := make(chan struct{})
				var header, trailer metadata.MD
				stream := localStreamTo(t.Context(), t, func(stream handlerStream) error {
					_ = grpc.SetHeader(stream.Context(), metadata.Pairs("a", "1"))
					<-goOn
					if err := test.send(stream); err != nil {
						t.Error(err)
					}
					if stream.SetHeader(metadata.Pairs("late", "x")) == nil || stream.SendHeader(nil) == nil {
						t.Error("a header behind the header")
					}
					<-goOn
					stream.SetTrailer(metadata.Pairs("t", "1"))
					_ = grpc.SetTrailer(stream.Context(), metadata.Pairs("t", "2"))
					return status.Error(codes.Aborted, "at last")
				}, grpc.Header(&header), grpc.Trailer(&trailer))
				got := make(chan metadata.MD, 1)
				var waiting sync.WaitGroup
				waiting.Go(func() {
					md, err := stream.Header()
					if err != nil {
						t.Error(err)
					}
					got <- md
				})
				synctest.Wait()
				if len(got) != 0 {
					t.Error("a header before it was sent")
				}
				goOn <- struct{}{}
				waiting.Wait()
				if md := <-got; !slices.Equal(md["a"], []string{"1"}) || !slices.Equal(md["b"], []string{"2"}) || len(md) != 2 {
					t.Errorf("header %v", md)
				}
				for range test.messages {
					wantsText(t, stream, "x")
				}
				if md := stream.Trailer(); len(md) != 0 {
					t.Errorf("a trailer before the end: %v", md)
				}
				goOn <- struct{}{}
				for range 2 {
					_, err := stream.Recv()
					wants(t, "the end", err, codes.Aborted)
				}
				if want := []string{"1", "2"}; !slices.Equal(stream.Trailer()["t"], want) || !slices.Equal(trailer["t"], want) || len(header) != 2 {
					t.Errorf("trailer %v, %v, header %v", stream.Trailer(), trailer, header)
				}
			})
		})
	}
	// One who says nothing has a header all the same.
	synctest.Test(t, func(t *testing.T) {
		stream := localStreamTo(t.Context(), t, func(handlerStream) error { return nil })
		if md, err := stream.Header(); err != nil || len(md) != 0 {
			t.Errorf("%v, %v", md, err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
}

// Messages are copies: what one side does to its own is not seen by the other.
func TestLocalMessagesAreCopies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		changed := make(chan struct{})
		_, client := localTo(t, &scripted{
			connect: func(_ context.Context, request *probev1.ConnectRequest) (*probev1.ConnectResponse, error) {
				request.Target = "changed"
				request.Tls.Alpn[0] = "changed"
				return &probev1.ConnectResponse{}, nil
			},
			converse: func(stream handlerStream) error {
				<-changed
				request, err := stream.Recv()
				if err != nil {
					return err
				}
				if got := string(request.GetData()); got != "mine" {
					t.Errorf("the handler has %q", got)
				}
				mine := chunk("mine")
				if err := stream.Send(mine); err != nil {
					return err
				}
				copy(mine.GetChunk().Data, "hers")
				copy(request.GetData(), "hers")
				changed <- struct{}{}
				return nil
			},
		})
		request := &probev1.ConnectRequest{Target: "mine", Tls: &probev1.TlsOptions{Alpn: []string{"mine"}}}
		if _, err := client.Connect(t.Context(), request); err != nil || request.GetTarget() != "mine" || request.GetTls().GetAlpn()[0] != "mine" {
			t.Errorf("%v, %v", err, request)
		}
		stream, err := client.Converse(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		frame := data("mine")
		if err := stream.Send(frame); err != nil {
			t.Fatal(err)
		}
		copy(frame.GetData(), "hers")
		changed <- struct{}{}
		<-changed
		wantsText(t, stream, "mine")
		if got := string(frame.GetData()); got != "hers" {
			t.Errorf("the caller has %q", got)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
}

// Many streams at once, both directions of each at the same time: everything arrives, in order.
func TestLocalConcurrentStreams(t *testing.T) {
	t.Parallel()
	_, client := localTo(t, &scripted{converse: func(stream handlerStream) error {
		// What comes in is said again by a goroutine beside the one that receives.
		texts := make(chan string, 8)
		result := make(chan error, 1)
		go func() {
			var err error
			for text := range texts {
				if err == nil {
					err = stream.Send(chunk(text))
				}
			}
			result <- err
		}()
		for {
			request, err := stream.Recv()
			if err != nil {
				close(texts)
				if sendErr := <-result; sendErr != nil || !errors.Is(err, io.EOF) {
					return errors.Join(sendErr, err)
				}
				return nil
			}
			texts <- strings.ToUpper(string(request.GetData()))
		}
	}})
	const streams, messages = 16, 300
	var all sync.WaitGroup
	for i := range streams {
		all.Go(func() {
			stream, err := client.Converse(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			all.Go(func() {
				for j := range messages {
					if err := stream.Send(data(fmt.Sprintf("m%d-%d", i, j))); err != nil {
						t.Error(err)
					}
				}
				if err := stream.CloseSend(); err != nil {
					t.Error(err)
				}
			})
			for j := range messages {
				wantsText(t, stream, fmt.Sprintf("M%d-%d", i, j))
			}
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

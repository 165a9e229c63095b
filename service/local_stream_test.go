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
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
	"probed/service/guard"
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

// A caller that goes away ends the handler's context, and whatever either side waits for.
func TestLocalCallerCancels(t *testing.T) {
	t.Parallel()
	waits := map[string]func(handlerStream) error{
		"receives": func(s handlerStream) error { _, err := s.Recv(); return err },
		"sends": func(s handlerStream) error {
			for {
				if err := s.Send(chunk("x")); err != nil {
					return err
				}
			}
		},
		"waits": func(s handlerStream) error {
			<-s.Context().Done()
			return status.FromContextError(s.Context().Err()).Err()
		},
	}
	for name, wait := range waits {
		for _, how := range []struct {
			name string
			code codes.Code
			with func(context.Context) (context.Context, context.CancelFunc)
		}{
			{"cancelled", codes.Canceled, context.WithCancel},
			{"out of time", codes.DeadlineExceeded, func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, 5*time.Second)
			}},
		} {
			t.Run(name+", "+how.name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					begin := time.Now()
					ctx, cancel := how.with(t.Context())
					defer cancel()
					ended := make(chan error, 1)
					stream := localStreamTo(ctx, t, func(stream handlerStream) error {
						if deadline, bounded := stream.Context().Deadline(); bounded != (how.code == codes.DeadlineExceeded) || bounded && !deadline.Equal(begin.Add(5*time.Second)) {
							t.Errorf("deadline %v, %v", deadline, bounded)
						}
						err := wait(stream)
						ended <- err
						return err
					})
					synctest.Wait()
					if len(ended) != 0 {
						t.Fatal("it did not wait")
					}
					if how.code == codes.Canceled {
						cancel()
					}
					<-ctx.Done()
					wants(t, "the handler", <-ended, how.code)
					var err error
					for err == nil { // a message may have come before
						_, err = stream.Recv()
					}
					wants(t, "the caller", err, how.code)
					synctest.Wait()
					if err := stream.Send(data("x")); err != nil && !errors.Is(err, io.EOF) {
						wants(t, "a message to nobody", err, how.code)
					}
				})
			})
		}
	}
	// One that waits for the header, or to be taken from.
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		stream := localStreamTo(ctx, t, func(s handlerStream) error { <-s.Context().Done(); return nil })
		if err := stream.Send(data("held")); err != nil {
			t.Error(err)
		}
		results := make(chan error, 2)
		go func() { _, err := stream.Header(); results <- err }()
		go func() { results <- stream.Send(data("too much")) }()
		synctest.Wait()
		if len(results) != 0 {
			t.Error("nobody waited")
		}
		cancel()
		for range 2 {
			if err := <-results; err != nil && !errors.Is(err, io.EOF) {
				wants(t, "the caller", err, codes.Canceled)
			}
		}
	})
}

// A handler that returns ends the stream: what it sent is still there, then its status; who sends learns that there is
// nobody.
func TestLocalHandlerReturns(t *testing.T) {
	t.Parallel()
	for _, end := range []error{nil, status.Error(codes.FailedPrecondition, "no more")} {
		synctest.Test(t, func(t *testing.T) {
			stream := localStreamTo(t.Context(), t, func(stream handlerStream) error {
				return errors.Join(stream.Send(chunk("last")), end)
			})
			if end != nil { // errors.Join hides the status of what it joins
				stream = localStreamTo(t.Context(), t, func(stream handlerStream) error {
					if err := stream.Send(chunk("last")); err != nil {
						return err
					}
					return end
				})
			}
			synctest.Wait()
			// One message there is room for; behind it there is nobody to take any.
			var err error
			for range 3 {
				err = stream.Send(data("x"))
			}
			if !errors.Is(err, io.EOF) {
				t.Errorf("a message to nobody: %v", err)
			}
			wantsText(t, stream, "last")
			_, err = stream.Recv()
			if end == nil && !errors.Is(err, io.EOF) || end != nil && status.Convert(err).Message() != "no more" {
				t.Errorf("the end: %v", err)
			}
			wants(t, "the end", errors.Join(end), status.Code(end))
		})
	}
}

// Close ends what is under way and waits for it; what comes later is refused.
func TestLocalClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		returned := false
		conn, client := localTo(t, &scripted{
			converse: func(stream handlerStream) error {
				<-stream.Context().Done()
				<-time.After(time.Second) // in the bubble's time
				returned = true
				return stream.Context().Err()
			},
			connect: func(context.Context, *probev1.ConnectRequest) (*probev1.ConnectResponse, error) {
				return &probev1.ConnectResponse{}, nil
			},
		})
		stream, err := client.Converse(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil || !returned {
			t.Errorf("%v, the handler has returned: %v", err, returned)
		}
		_, err = stream.Recv()
		wants(t, "under way", err, codes.Unavailable)
		_, err = client.Converse(t.Context())
		wants(t, "a stream afterwards", err, codes.Unavailable)
		_, err = client.Connect(t.Context(), &probev1.ConnectRequest{})
		wants(t, "a call afterwards", err, codes.Unavailable)
	})
}

// What nobody has registered is UNIMPLEMENTED, in whatever way it is not there.
func TestLocalUnknownMethod(t *testing.T) {
	t.Parallel()
	conn, client := localTo(t, &scripted{})
	for _, method := range []string{
		"/probe.v1.ExchangeService/Nothing", "/probe.v1.NoService/Connect", "/probe.v1.ExchangeService", "/", "", "Connect",
		"/probe.v1.ExchangeService/", "/probe.v1.ExchangeService/Connect/", "//Connect",
	} {
		wants(t, method, conn.Invoke(t.Context(), method, &probev1.ConnectRequest{}, &probev1.ConnectResponse{}), codes.Unimplemented)
		_, err := conn.NewStream(t.Context(), &grpc.StreamDesc{}, method)
		wants(t, method, err, codes.Unimplemented)
	}
	// One that streams is not called once, nor the other way round.
	wants(t, "Converse", conn.Invoke(t.Context(), probev1.ExchangeService_Converse_FullMethodName, &probev1.ConverseRequest{}, &probev1.ExchangeResponse{}), codes.Unimplemented)
	_, err := conn.NewStream(t.Context(), &grpc.StreamDesc{}, probev1.ExchangeService_Connect_FullMethodName)
	wants(t, "Connect", err, codes.Unimplemented)
	stream, err := client.Exchange(t.Context(), &probev1.ExchangeRequest{}) // which has a handler that says so
	if err == nil {
		_, err = stream.Recv()
	}
	wants(t, "Exchange", err, codes.Unimplemented)
}

type localKey struct{}

// Of the caller's context its end comes through, and the credentials; no metadata, and no other value.
func TestLocalContext(t *testing.T) {
	t.Parallel()
	check := func(ctx context.Context) {
		if md, ok := metadata.FromIncomingContext(ctx); ok || len(md) != 0 {
			t.Errorf("incoming metadata %v", md)
		}
		if md, ok := metadata.FromOutgoingContext(ctx); ok || len(md) != 0 {
			t.Errorf("outgoing metadata %v", md)
		}
		if value := ctx.Value(localKey{}); value != nil {
			t.Errorf("the value %v", value)
		}
		if c, ok := guard.CredentialsFrom(ctx); !ok || c.Authorization != "Bearer x" {
			t.Errorf("the credentials %v, %v", c, ok)
		}
	}
	_, client := localTo(t, &scripted{
		connect: func(ctx context.Context, _ *probev1.ConnectRequest) (*probev1.ConnectResponse, error) {
			check(ctx)
			return &probev1.ConnectResponse{}, nil
		},
		converse: func(stream handlerStream) error {
			check(stream.Context())
			return nil
		},
	})
	ctx := context.WithValue(t.Context(), localKey{}, "x")
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer forged")
	ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", "Bearer forged"))
	ctx = guard.WithCredentials(ctx, guard.Credentials{Authorization: "Bearer x"})
	if _, err := client.Connect(ctx, &probev1.ConnectRequest{}); err != nil {
		t.Error(err)
	}
	stream, err := client.Converse(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
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

// A call of one message that is refused before that is read fails with its status, whichever of the two is first.
func TestLocalRefusal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		refuse := func(any, grpc.ServerStream, *grpc.StreamServerInfo, grpc.StreamHandler) error {
			return status.Error(codes.PermissionDenied, "no")
		}
		conn := Local(Links{before: Interceptors{Stream: refuse}}, func(r grpc.ServiceRegistrar) {
			probev1.RegisterExchangeServiceServer(r, &scripted{})
		})
		t.Cleanup(func() { _ = conn.Close() })
		for range 50 {
			stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, probev1.ExchangeService_Exchange_FullMethodName)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if err := errors.Join(stream.SendMsg(&probev1.ExchangeRequest{}), stream.CloseSend()); err != nil {
				t.Fatal(err)
			}
			wants(t, "the end", stream.RecvMsg(&probev1.ExchangeResponse{}), codes.PermissionDenied)
		}
	})
}

package service

import (
	"context"
	"errors"
	"io"
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

package main

import (
	"context"
	"io"
	"math"
	"net"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
)

// refusing is a server whose every call is refused as it says, until it has refused enough, and answered from then on. It
// counts what reaches it.
type refusing struct {
	refusal func() error
	enough  int64
	reached atomic.Int64
}

func (r *refusing) answer() error {
	if r.reached.Add(1) <= r.enough {
		return r.refusal()
	}
	return nil
}

// serve starts it; what is asked of it is a port, or a probe, whose outcome is a failure.
func (r *refusing) serve(t *testing.T) *grpc.Server {
	t.Helper()
	outcome := &probev1.Outcome{Reason: probev1.Reason_REASON_CONNECTION_REFUSED, Phase: probev1.Phase_PHASE_CONNECT, Error: "refused"}
	server := grpc.NewServer(grpc.WaitForHandlers(true),
		grpc.UnaryInterceptor(func(_ context.Context, _ any, info *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
			if err := r.answer(); err != nil {
				return nil, err
			}
			if isProbe(info.FullMethod) {
				return &probev1.ConnectResponse{Outcome: outcome}, nil
			}
			return &probev1.LookupPortResponse{Port: 80}, nil
		}),
		grpc.StreamInterceptor(func(_ any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, _ grpc.StreamHandler) error {
			if err := r.answer(); err != nil {
				return err
			}
			return stream.SendMsg(&probev1.ExchangeResponse{Event: &probev1.ExchangeResponse_Outcome{Outcome: outcome}})
		}))
	probev1.RegisterNameServiceServer(server, probev1.UnimplementedNameServiceServer{})
	probev1.RegisterExchangeServiceServer(server, probev1.UnimplementedExchangeServiceServer{})
	return server
}

// refusal is a status of this code, which says when to ask again unless after is negative.
func refusal(code codes.Code, after time.Duration) func() error {
	return func() error {
		s := status.New(code, "too many questions")
		if after >= 0 {
			if with, err := s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)}); err == nil {
				s = with
			}
		}
		return s.Err()
	}
}

var (
	lookup = []string{"port", "80"}
	probes = [][]string{{"connect", "192.0.2.1:1"}, {"exchange", "192.0.2.1:1"}, {"converse", "192.0.2.1:1"}}
)

// TestAgain: a look-up is asked again when the server says when, and a probe never is.
func TestAgain(t *testing.T) {
	t.Parallel()
	forever := int64(1 << 40)
	for _, test := range []struct {
		name           string
		refusal        func() error
		enough         int64
		args           []string
		reached, least int64 // exactly so often; or, where that is 0, at least so often
		code           int
		stderr         string
	}{
		{name: "a limit", refusal: refusal(codes.ResourceExhausted, 10*time.Millisecond), enough: 1, reached: 2, stderr: `^note: the server says: too many questions; asking again in 100ms\n$`},
		{name: "a server that begins", refusal: refusal(codes.Unavailable, 120*time.Millisecond), enough: 2, reached: 3, stderr: `asking again in 120ms\nnote: .*; asking again in 200ms\n$`},
		{name: "no end of it", refusal: refusal(codes.ResourceExhausted, 0), enough: forever, args: []string{"--retry-max-time", "2s"}, least: 2, code: exitFailed, stderr: `asking again in 100ms\n`},
		{name: "later than that", refusal: refusal(codes.ResourceExhausted, time.Minute), enough: forever, reached: 1, code: exitFailed},
		{name: "asked once", refusal: refusal(codes.ResourceExhausted, 0), enough: forever, args: []string{"--retry-max-time", "0"}, reached: 1, code: exitFailed},
		{name: "never", refusal: refusal(codes.ResourceExhausted, math.MaxInt64), enough: forever, reached: 1, code: exitFailed},
		{name: "never, asked once", refusal: refusal(codes.ResourceExhausted, math.MaxInt64), enough: forever, args: []string{"--retry-max-time", "0"}, reached: 1, code: exitFailed},
		{name: "does not say when", refusal: refusal(codes.Unavailable, -1), enough: forever, reached: 1, code: exitFailed},
		{name: "another error", refusal: refusal(codes.Internal, 0), enough: forever, reached: 1, code: exitFailed},
		{name: "not found", refusal: refusal(codes.NotFound, 0), enough: forever, reached: 1, code: exitFailed},
		{name: "each attempt is told", refusal: refusal(codes.ResourceExhausted, 0), enough: 1, args: []string{"-v"}, reached: 2, stderr: `(?s)^asking /probe\.v1\.NameService/LookupPort\nnote: .*\nasking /probe\.v1\.NameService/LookupPort\n$`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := &refusing{refusal: test.refusal, enough: test.enough}
			args := append(append([]string{"--server", serveOn(t, server.serve(t))}, test.args...), lookup...)
			code, _, stderr := runHere(t.Context(), args...)
			if code != test.code || !regexp.MustCompile(test.stderr).MatchString(stderr) {
				t.Errorf("%d, want %d; %s", code, test.code, stderr)
			}
			if n := server.reached.Load(); n != test.reached && test.reached > 0 || n < test.least {
				t.Errorf("asked %d times", n)
			}
		})
	}
	for _, probe := range probes {
		for name, say := range map[string]func() error{
			"a limit": refusal(codes.ResourceExhausted, 0), "unavailable": refusal(codes.Unavailable, 0), "aborted": refusal(codes.Aborted, 0),
		} {
			server := &refusing{refusal: say, enough: 1}
			code, stdout, stderr := runHere(t.Context(), append([]string{"--server", serveOn(t, server.serve(t))}, probe...)...)
			if n := server.reached.Load(); n != 1 || code != exitFailed || !strings.Contains(stderr, "too many questions") {
				t.Errorf("%q, %s: sent %d times, %d, %s%s", probe, name, n, code, stdout, stderr)
			}
		}
	}
}

// TestFailureIsAnAnswer: that a probe failed is told and is the exit code, and nothing tries for a better answer.
func TestFailureIsAnAnswer(t *testing.T) {
	t.Parallel()
	for _, probe := range probes {
		for _, format := range []string{"table", "json", "yaml"} {
			server := &refusing{}
			code, stdout, stderr := runHere(t.Context(), append([]string{"--server", serveOn(t, server.serve(t)), "-o", format}, probe...)...)
			if n := server.reached.Load(); n != 1 || code != exitNo || !strings.Contains(stdout+stderr, "CONNECTION_REFUSED") {
				t.Errorf("%q as %s: sent %d times, %d, %s%s", probe, format, n, code, stdout, stderr)
			}
		}
	}
}

// TestAskedOnceOverABrokenConnection: what may have reached the server is not sent again, though another connection to it
// could be made.
func TestAskedOnceOverABrokenConnection(t *testing.T) {
	t.Parallel()
	for _, args := range append(probes, lookup) {
		inner, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listener := &breaking{Listener: inner}
		server := &refusing{enough: 1 << 40}
		server.refusal = func() error {
			listener.breakAll()
			return status.Error(codes.Unknown, "nobody hears this")
		}
		code, _, stderr := runHere(t.Context(), append([]string{"--server", serveAt(t, listener, server.serve(t))}, args...)...)
		if n := server.reached.Load(); n != 1 || code != exitFailed || !strings.Contains(stderr, "the connection to the server broke") {
			t.Errorf("%q: sent %d times, %d, %s", args, n, code, stderr)
		}
	}
}

// breaking is a listener whose connections can be broken.
type breaking struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func (b *breaking) Accept() (net.Conn, error) {
	c, err := b.Listener.Accept()
	if err == nil {
		b.mu.Lock()
		b.conns = append(b.conns, c)
		b.mu.Unlock()
	}
	return c, err
}

func (b *breaking) breakAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.conns {
		c.Close()
	}
}

// TestNotBegun: a call that the server says it has not begun goes to it again, by gRPC itself, and -v tells so. One that
// it has not said that of does not.
func TestNotBegun(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		reason  http2.ErrCode
		reached int64
		stderr  string
	}{
		{http2.ErrCodeRefusedStream, 2, "once more: the server says that it had not begun it\n"},
		{http2.ErrCodeInternal, 1, "the connection to the server broke"},
		{http2.ErrCodeCancel, 1, ""},
	} {
		for _, args := range append(probes, lookup) {
			var reached atomic.Int64
			address := nettest.TCP(t, func(c net.Conn) { resetStreams(c, test.reason, &reached) }).String()
			code, _, stderr := runHere(t.Context(), append([]string{"-v", "--server", address}, args...)...)
			if n := reached.Load(); n != test.reached || code == exitYes || code == exitNo || !strings.Contains(stderr, test.stderr) {
				t.Errorf("%v of %q: sent %d times, %d, %s", test.reason, args, n, code, stderr)
			}
		}
	}
}

// resetStreams speaks HTTP/2, and resets each stream for that reason.
func resetStreams(c net.Conn, reason http2.ErrCode, reached *atomic.Int64) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c, preface); err != nil {
		return
	}
	framer := http2.NewFramer(c, c)
	if framer.WriteSettings() != nil {
		return
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() && framer.WriteSettingsAck() != nil {
				return
			}
		case *http2.HeadersFrame:
			reached.Add(1)
			if framer.WriteRSTStream(frame.StreamID, reason) != nil {
				return
			}
		}
	}
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"probed/internal/nettest"
	"probed/service"

	probev1 "probed/gen/probe/v1"
)

// TestTerminalIsSafe asks a server that does its worst: every text in every answer, and every error, tries to drive the
// terminal. Nothing of it gets there, by whatever command, in whatever format.
func TestTerminalIsSafe(t *testing.T) {
	t.Parallel()
	commands := [][]string{
		{"service", "x"}, {"port", "1"}, {"services"}, {"protocol", "x"}, {"constants"},
		{"hostname"}, {"vantage"}, {"host", "x", "--trace"}, {"address", "x", "--trace"}, {"addrinfo", "x"}, {"nameinfo", "x", "1"}, {"dns", "x"},
		{"connect", "x", hostile[:4]}, {"exchange", "x"}, {"exchange", "x", "--raw"},
		{"converse", "x"},
	}
	for _, fail := range []codes.Code{codes.OK, codes.NotFound, codes.InvalidArgument, codes.Unavailable, codes.Unimplemented, codes.Unknown} {
		server := hostileServer(t, fail)
		for _, command := range commands {
			for _, format := range []string{"table", "json", "yaml"} {
				args := append([]string{"--server", server, "-v"}, command...)
				if command[len(command)-1] != "--raw" {
					args = append(args, "-o", format)
				}
				p := openTerminal(t)
				run(t.Context(), "probectl", args, strings.NewReader(""), p.end, p.end, noEnvironment)
				text := p.closed(t)
				if r, bad := uncontrolled(text, "\n\t"); bad {
					t.Errorf("%v of %q: %U got to the terminal:\n%q", fail, args, r, text)
				}
				// Raw bytes of the server are all there is of it, and there are none of an error.
				if !strings.Contains(text, "owned") && (fail == codes.OK || !strings.Contains(text, "request")) {
					t.Errorf("%v of %q: nothing of the answer is there:\n%q", fail, args, text)
				}
			}
		}
	}
}

// hostileServer answers every question with a message all of whose texts are hostile, or with an error that is.
func hostileServer(t *testing.T, fail codes.Code) string {
	t.Helper()
	text := strings.ToValidUTF8(hostile, "\u0085")
	hostileStatus := func() error {
		s, err := status.New(fail, text).WithDetails(&errdetails.ErrorInfo{Reason: text, Domain: service.ErrorDomain},
			&probev1.ResolutionFailure{Reason: text, Trace: []*probev1.TraceStep{{Name: text, Server: text, Error: text, Answers: []string{text}}}})
		if err != nil {
			return err
		}
		return s.Err()
	}
	answer := func(method string, event int) proto.Message {
		name := strings.ReplaceAll(strings.Trim(method, "/"), "/", ".")
		descriptor, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
		if err != nil {
			t.Errorf("%s: %v", method, err)
			return nil
		}
		output := descriptor.(protoreflect.MethodDescriptor).Output().FullName()
		kind, err := protoregistry.GlobalTypes.FindMessageByName(output)
		if err != nil {
			t.Errorf("%s: %v", output, err)
			return nil
		}
		message := kind.New()
		fill(message, text, event)
		return message.Interface()
	}
	server := grpc.NewServer(
		grpc.WaitForHandlers(true),
		grpc.UnaryInterceptor(func(_ context.Context, _ any, info *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
			if fail != codes.OK {
				return nil, hostileStatus()
			}
			return answer(info.FullMethod, 0), nil
		}),
		grpc.StreamInterceptor(func(_ any, stream grpc.ServerStream, info *grpc.StreamServerInfo, _ grpc.StreamHandler) error {
			for event := range (&probev1.ExchangeResponse{}).ProtoReflect().Descriptor().Oneofs().Get(0).Fields().Len() {
				if err := stream.SendMsg(answer(info.FullMethod, event)); err != nil {
					return err
				}
			}
			if fail != codes.OK {
				return hostileStatus()
			}
			return nil
		}),
	)
	probev1.RegisterNameServiceServer(server, probev1.UnimplementedNameServiceServer{})
	probev1.RegisterResolverServiceServer(server, probev1.UnimplementedResolverServiceServer{})
	probev1.RegisterExchangeServiceServer(server, probev1.UnimplementedExchangeServiceServer{})
	return serveOn(t, server)
}

// fill sets all fields of a message, and of those in it. Of a oneof it sets the field numbered choice.
func fill(message protoreflect.Message, text string, choice int) {
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if oneof := field.ContainingOneof(); oneof != nil && !oneof.IsSynthetic() && oneof.Fields().Get(choice) != field {
			continue
		}
		if field.Name() == "next_page_token" {
			continue // there would be no last page
		}
		if field.IsList() {
			list := message.Mutable(field).List()
			if field.Kind() == protoreflect.MessageKind {
				fill(list.AppendMutable().Message(), text, choice)
			} else {
				list.Append(value(field, text))
			}
			continue
		}
		if field.Kind() == protoreflect.MessageKind {
			fill(message.Mutable(field).Message(), text, choice)
			continue
		}
		message.Set(field, value(field, text))
	}
}

func value(field protoreflect.FieldDescriptor, text string) protoreflect.Value {
	switch field.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(hostile))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(99)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(7)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(7)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(7)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(7)
	}
	return field.Default() // booleans: false, so that what went wrong is told
}

// TestJSONOnATerminal: it is the same JSON there as in a pipe, since its own escapes say all.
func TestJSONOnATerminal(t *testing.T) {
	t.Parallel()
	server := hostileServer(t, codes.OK)
	for _, args := range [][]string{
		{"--server", server, "dns", "x", "-o", "json"},
		{"--server", server, "exchange", "x", "-o", "json"},
	} {
		p := openTerminal(t)
		run(t.Context(), "probectl", args, nil, p.end, io.Discard, noEnvironment)
		var pipe bytes.Buffer
		run(t.Context(), "probectl", args, nil, &pipe, io.Discard, noEnvironment)
		if text := p.closed(t); text != pipe.String() || !strings.Contains(text, `\u202eevil`) {
			t.Errorf("%q:\n%s\nand in a pipe\n%s", args, text, pipe.String())
		}
	}
}

// TestRawOnATerminal: newlines and tabs stay, the rest is shown, whatever the chunks are.
func TestRawOnATerminal(t *testing.T) {
	t.Parallel()
	peer := nettest.TCP(t, nettest.Reply([]byte("one\r\n\t\xe2\x82\xac\x1b[2J"))).String()
	p := openTerminal(t)
	code := run(t.Context(), "probectl", []string{"exchange", peer, "--raw", "--buffer-size", "1"}, nil, p.end, p.end, noEnvironment)
	if text, want := p.closed(t), "one\n\t€\\x1b[2J"; code != 0 || text != want {
		t.Errorf("%d, %q, want %q", code, text, want)
	}
}

// TestProgressOnATerminal: a transfer that takes longer than a second shows how it goes, and no trace of that is left.
func TestProgressOnATerminal(t *testing.T) {
	t.Parallel()
	peer := nettest.TCP(t, nettest.Drip([]byte("slow"), 1, 450*time.Millisecond)).String()
	p := openTerminal(t)
	var stdout bytes.Buffer
	code := run(t.Context(), "probectl", []string{"exchange", peer, "--raw"}, nil, &stdout, p.end, noEnvironment)
	text := p.closed(t)
	if code != 0 || stdout.String() != "slow" {
		t.Errorf("%d, %q", code, stdout.String())
	}
	if !regexp.MustCompile(`^\r\d B received, \d B/s, 1s\r +\r$`).MatchString(text) {
		t.Errorf("stderr: %q", text)
	}
}

// TestCtrlC presses it, on a terminal that probectl was started from.
func TestCtrlC(t *testing.T) {
	t.Parallel()
	peer := nettest.TCP(t, speakAndHold("hello\n")).String()
	for _, test := range []struct {
		name   string
		args   []string
		await  string
		expect string
	}{
		{"exchange", []string{"exchange", peer}, `\| hello\\n\n`, `\| hello\\n\n\nprobectl: interrupted: 6 bytes in 1 chunk received by then\n$`},
		{
			"connect", []string{"connect", peer, nettest.Backlog(t).String(), peer}, `\r2 of 3 targets`,
			`(?s)\nTARGET .* TLS\n\S+ +\S+ +ok .*\n\S+ +- +not answered +- +- +-\n\S+ +\S+ +ok .*probectl: interrupted: 2 of 3 targets answered by then\n$`,
		},
		{"raw", []string{"exchange", peer, "--raw"}, `hello\n`, `^hello\n\nprobectl: interrupted: 6 bytes in 1 chunk received by then\n$`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := openTerminal(t)
			command := p.start(t, test.args...)
			p.await(t, test.await)
			p.typeText(t, "\x03")
			if code := exitCode(t, command.Wait()); code != exitInterrupted {
				t.Errorf("exit code %d, want %d", code, exitInterrupted)
			}
			if text := p.closed(t); !regexp.MustCompile(test.expect).MatchString(text) {
				t.Errorf("got\n%s\nwant %s", text, test.expect)
			}
		})
	}
}

// TestSecondCtrlC: the first one asks for an orderly end. When that does not come, as here where nobody takes the
// output, the second one ends the program.
func TestSecondCtrlC(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"exchange", "--raw"}, {"converse", "--hold-open"}} {
		t.Run(args[0], func(t *testing.T) {
			t.Parallel()
			pressUntilTheEnd(t, args...)
		})
	}
}

// pressUntilTheEnd runs a command whose output nobody takes, and interrupts it until it has ended.
func pressUntilTheEnd(t *testing.T, args ...string) {
	t.Helper()
	peer := nettest.TCP(t, nettest.Flood(1<<40)).String()
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	command := exec.CommandContext(t.Context(), "probectl", append(args, peer)...)
	command.Stdout = stdout
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	// It has begun to write when there is something to read; the rest of the flood does not fit into the pipe.
	if _, err := io.ReadFull(stdout, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for signals := 0; ; {
		select {
		case err := <-ended:
			var exit *exec.ExitError
			if !errors.As(err, &exit) || !exit.Sys().(syscall.WaitStatus).Signaled() || signals < 2 {
				t.Errorf("ended by %v after %d signals", err, signals)
			}
			return
		case <-tick.C:
			if signals++; signals > 200 {
				_ = command.Process.Kill()
				t.Fatalf("it goes on after 10 s of interrupts, and ends by %v", <-ended)
			}
			if err := command.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
				t.Fatal(fmt.Errorf("signal: %w", err))
			}
		}
	}
}

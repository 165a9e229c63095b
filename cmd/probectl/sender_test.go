package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
)

// frames is a stream that keeps what was sent, and when.
type frames struct {
	mu    sync.Mutex
	begin time.Time
	sent  []string
	stuck chan struct{} // nil, or nothing but the first frame is taken before it is closed
}

func (f *frames) Send(request *probev1.ConverseRequest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	elapsed := time.Since(f.begin)
	switch frame := request.GetFrame().(type) {
	case *probev1.ConverseRequest_Open:
		f.sent = append(f.sent, "open")
		return nil
	case *probev1.ConverseRequest_Data:
		f.sent = append(f.sent, fmt.Sprintf("%q at %v", frame.Data, elapsed))
	case *probev1.ConverseRequest_HalfClose:
		f.sent = append(f.sent, fmt.Sprintf("half-close at %v", elapsed))
	case *probev1.ConverseRequest_Close:
		f.sent = append(f.sent, fmt.Sprintf("close at %v", elapsed))
	}
	if f.stuck != nil {
		<-f.stuck
		return io.EOF
	}
	return nil
}

func (f *frames) CloseSend() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = append(f.sent, "no more")
	return nil
}

// TestSender: which frames a conversation sends, and when.
func TestSender(t *testing.T) {
	t.Parallel()
	broken := errors.New("input/output error")
	for _, test := range []struct {
		name   string
		open   *probev1.Open
		flags  converseFlags
		input  func(input *io.PipeWriter)
		heard  []time.Duration // when the peer says something
		ctrlC  time.Duration
		stuck  bool
		want   []string
		err    error
		cancel time.Duration // when the call was given up
	}{
		{
			name: "stream", open: &probev1.Open{Target: "a:1"},
			input: say("a\n", 300*time.Millisecond, "b\r\n"),
			want:  []string{"open", `"a\n" at 0s`, `"b\r\n" at 300ms`, "half-close at 300ms"},
		},
		{
			name: "hold open", open: &probev1.Open{Target: "tcp://a:1"}, flags: converseFlags{holdOpen: true},
			input: say("a"),
			want:  []string{"open", `"a" at 0s`},
		},
		{
			name: "newlines", open: &probev1.Open{Target: "tls://a:1"}, flags: converseFlags{crlf: true},
			input: say("a\nb\r", time.Second, "\n\n"),
			want:  []string{"open", `"a\r\nb\r" at 0s`, `"\n\r\n" at 1s`, "half-close at 1s"},
		},
		{
			name: "Ctrl-C", open: &probev1.Open{Target: "a:1"}, ctrlC: 2 * time.Second,
			input: say("a", time.Hour),
			want:  []string{"open", `"a" at 0s`, "close at 2s", "no more"}, cancel: 4 * time.Second,
		},
		{
			name: "Ctrl-C while the peer takes nothing", open: &probev1.Open{Target: "a:1"}, ctrlC: 5 * time.Second, stuck: true,
			input: say("a", time.Hour),
			want:  []string{"open", `"a" at 0s`}, cancel: 7 * time.Second,
		},
		{
			name: "Ctrl-C behind the end", open: &probev1.Open{Target: "a:1"}, ctrlC: 5 * time.Second,
			input: say(),
			want:  []string{"open", "half-close at 0s", "close at 5s", "no more"}, cancel: 7 * time.Second,
		},
		{
			name: "Ctrl-C before there is a connection", open: &probev1.Open{Target: "a:1"}, ctrlC: time.Second,
			want: []string{"open", "close at 1s", "no more"}, cancel: time.Second,
		},
		{
			name: "input that fails", open: &probev1.Open{Target: "a:1"}, err: broken,
			input: func(input *io.PipeWriter) { input.CloseWithError(broken) },
			want:  []string{"open", "close at 0s", "no more"},
		},
		{
			name: "datagrams", open: &probev1.Open{Target: "udp://a:1"},
			input: say("a", 300*time.Millisecond, "b"),
			want:  []string{"open", `"a" at 0s`, `"b" at 300ms`, "close at 1.3s", "no more"},
		},
		{
			name: "datagrams that are answered", open: &probev1.Open{Target: "unixgram:///a"},
			heard: []time.Duration{500 * time.Millisecond, 900 * time.Millisecond, 1500 * time.Millisecond},
			input: say("a", 600*time.Millisecond),
			want:  []string{"open", `"a" at 0s`, "close at 2.5s", "no more"},
		},
		{
			name: "datagrams with an idle time", open: &probev1.Open{Target: "udp6://a:1", Idle: durationpb.New(time.Minute)},
			input: say("a"),
			want:  []string{"open", `"a" at 0s`},
		},
		{
			name: "datagrams held open", open: &probev1.Open{Target: "udp4://a:1"}, flags: converseFlags{holdOpen: true},
			input: say("a"),
			want:  []string{"open", `"a" at 0s`},
		},
		{
			name: "records", open: &probev1.Open{Target: "unixpacket:///a"},
			input: say("a"),
			want:  []string{"open", `"a" at 0s`, "half-close at 0s"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				stream := &frames{begin: time.Now()}
				if test.stuck {
					stream.stuck = make(chan struct{})
				}
				s := newSender(stream, test.open, &test.flags)
				ctx, interrupt := context.WithCancel(t.Context())
				defer interrupt()
				var cancelled time.Duration
				var err error
				var running sync.WaitGroup
				running.Go(func() {
					err = s.run(ctx, func() {
						cancelled = time.Since(stream.begin)
						if stream.stuck != nil {
							close(stream.stuck)
						}
					})
				})
				out, in := io.Pipe()
				if test.input != nil {
					running.Go(func() { test.input(in) })
					s.begin(out)
				}
				for _, at := range test.heard {
					time.AfterFunc(at, s.heard)
				}
				if test.ctrlC > 0 {
					time.AfterFunc(test.ctrlC, interrupt)
				}
				<-time.After(10 * time.Second)
				synctest.Wait()
				close(s.ended)
				out.Close()
				running.Wait()
				if !slices.Equal(stream.sent, test.want) || !errors.Is(err, test.err) || cancelled != test.cancel {
					t.Errorf("%q, %v, cancelled at %v; want %q, %v, %v", stream.sent, err, cancelled, test.want, test.err, test.cancel)
				}
			})
		})
	}
}

// say writes texts and waits for times, and then there is no more.
func say(parts ...any) func(*io.PipeWriter) {
	return func(input *io.PipeWriter) {
		for _, part := range parts {
			switch part := part.(type) {
			case string:
				fmt.Fprint(input, part)
			case time.Duration:
				<-time.After(part)
			}
		}
		input.Close()
	}
}

// TestPieces: what one read of the input returned is one frame, of a size that the transport takes.
func TestPieces(t *testing.T) {
	t.Parallel()
	for target, most := range map[string]int{"a:1": 32 << 10, "udp://a:1": 65507} {
		s := newSender(nil, &probev1.Open{Target: target}, &converseFlags{})
		go s.read(io.MultiReader(strings.NewReader("abc"), bytes.NewReader(make([]byte, most+1)), iotest.ErrReader(io.ErrUnexpectedEOF)))
		for _, want := range []int{3, most, 1} {
			if p := <-s.input; p.err != nil || len(p.data) != want {
				t.Errorf("%s: %d bytes, %v, want %d", target, len(p.data), p.err, want)
			}
		}
		if p := <-s.input; !errors.Is(p.err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", target, p.err)
		}
	}
}

// FuzzCRLF: wherever the text is cut, every newline has one carriage return before it, and nothing else is changed.
func FuzzCRLF(f *testing.F) {
	f.Add([]byte("a\nb\r\n\n\r\r\n"), uint(3))
	f.Fuzz(func(t *testing.T, text []byte, cut uint) {
		cut %= uint(len(text) + 1)
		var c crlf
		got := append(c.convert(text[:cut]), c.convert(text[cut:])...)
		want := bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
		if !bytes.Equal(got, want) {
			t.Errorf("%q cut at %d: %q, want %q", text, cut, got, want)
		}
	})
}

func TestSeconds(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"5": 5 * time.Second, "0.5": 500 * time.Millisecond, "300ms": 300 * time.Millisecond, "2m": 2 * time.Minute,
		"": -1, "x": -1, "NaN": -1, "1e99": -1, "5 s": -1,
	} {
		var s seconds
		if err := s.Set(text); (err != nil) != (want < 0) || err == nil && time.Duration(s) != want {
			t.Errorf("%q: %v, %v, want %v", text, s.String(), err, want)
		}
	}
}

package exchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"probed/internal/nettest"
	"probed/service/dial"
)

// tightBuffer is small, so that TCP fills up as quickly as a unix socket does, and large enough for segments of loopback.
const tightBuffer = 64 << 10

// tight dials connections with small buffers.
func tight(ctx context.Context, request dial.Request) (net.Conn, error) {
	c, err := dialer(admitAll)(ctx, request)
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(tightBuffer)
		_ = tcp.SetReadBuffer(tightBuffer)
	}
	return c, err
}

// echoTight is an echo server with small buffers, which sends back so many bytes at a time.
func echoTight(n int) func(net.Conn) {
	return func(c net.Conn) {
		if raw, err := c.(syscall.Conn).SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, tightBuffer)
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, tightBuffer)
			})
		}
		_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, n))
	}
}

// Two ends that both send and do not read wait for each other for ever; so a send reads ahead.
func TestLargeSendToAnEcho(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		scheme     string
		size       int
		handle     func(net.Conn)
		bufferSize int
	}{
		{"tcp", 1 << 20, nettest.Echo, 0},
		{"tcp", 1 << 20, echoTight(32 << 10), 0},
		{"tcp", 1 << 20, echoTight(4096), 1 << 20},
		{"tcp", 100_000, echoTight(1), 0},
		{"unix", 1 << 20, nettest.Echo, 0},
		{"unix", 1 << 20, nettest.Echo, 100},
		{"unix", 1 << 20, nettest.Echo, 1 << 20},
		{"unix", 100_000, echoTight(1), 0},
		{"unix", 20_000, echoTight(1), 1},
	} {
		for _, half := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s %d bytes, buffer %d, half-close %v", tt.scheme, tt.size, tt.bufferSize, half), func(t *testing.T) {
				t.Parallel()
				data := nettest.Data(tt.size)
				target, tally := streamTarget(t, tt.scheme, tt.handle)
				steps, by := []Step{Send{Data: data}, Receive{Length: int64(tt.size)}}, EndedByLength
				if half {
					steps, by = DefaultSteps(target, data, false), EndedByPeerClosed
				}
				r := trial{
					config:  Config{Dial: tight},
					request: Request{Target: target, Steps: steps, BufferSize: tt.bufferSize, Timeout: long},
					peer:    tally,
				}.run(t)
				r.wants(t, PhaseClose, None, by)
				r.got(t, data)
				if r.BytesSent != uint64(tt.size) || r.BytesUnread != 0 {
					t.Errorf("%d bytes sent, %d unread", r.BytesSent, r.BytesUnread)
				}
			})
		}
	}
}

// What was read ahead waits for its step, cut as each asks.
func TestReadAheadIsTakenInOrder(t *testing.T) {
	t.Parallel()
	data := bytes.ReplaceAll(nettest.Data(1<<20), []byte{10}, []byte{11})
	copy(data[500_000:], "END")
	target, tally := streamTarget(t, "unix", echoTight(8192))
	r := trial{
		config: Config{Dial: tight},
		request: Request{Target: target, Steps: []Step{
			Send{Data: data},
			Receive{Length: 7}, Receive{MaxBytes: 7}, Receive{Delimiter: "END"}, Receive{Length: 10}, Send{Data: []byte("\n")}, Receive{Delimiter: "\n"},
		}},
		peer: tally,
	}.run(t)
	r.wants(t, PhaseClose, None, EndedByDelimiter)
	r.got(t, append(data, '\n'))
	var ends []uint64
	for _, event := range r.events {
		if chunk, ok := event.(Chunk); ok {
			ends = append(ends, chunk.Offset+uint64(len(chunk.Data)))
		}
	}
	for _, end := range []uint64{7, 14, 500_003, 500_013} {
		if !slices.Contains(ends, end) {
			t.Errorf("no chunk ends at %d: %d", end, ends)
		}
	}
}

// The kernel tells an error once. When it is reading ahead that finds the connection reset, the reads that follow still
// end with it, behind what came before, and a write is told by it.
func TestReadAheadKeepsTheError(t *testing.T) {
	t.Parallel()
	open := func() *session {
		near, far := socketPair(t, unix.SOCK_STREAM)
		for _, c := range []net.Conn{near, far} {
			if _, err := c.Write([]byte("bye")); err != nil {
				t.Fatal(err)
			}
		}
		far.Close() // with bytes unread, which is a reset
		ctx, cancel := context.WithTimeout(t.Context(), long)
		t.Cleanup(cancel)
		s := &session{Exchanger: New(Config{}), request: &Request{Target: Target{Scheme: "unix"}}, ctx: ctx, callerCtx: ctx}
		s.conn = newConn(near, s.request.Target, &s.buffers)
		for s.readAhead() {
		}
		return s
	}

	s := open()
	if piece, err := s.next(0, 0); err != nil || string(piece.data) != "bye" {
		t.Errorf("read %q, %v", piece.data, err)
	}
	for range 2 {
		if _, err := s.next(0, 0); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v, want ECONNRESET", err)
		}
	}

	s = open()
	if err := s.lastWords(syscall.EPIPE); !errors.Is(err, syscall.ECONNRESET) || s.outcome.BytesReceived != 3 {
		t.Errorf("%v after %d bytes; want ECONNRESET after 3", err, s.outcome.BytesReceived)
	}
}

// What is kept of a peer that talks while it does not listen is bounded, in bytes and in memory.
func TestReadAheadIsBounded(t *testing.T) {
	t.Parallel()
	talks := func(n int) func(net.Conn) { // and never listens
		return func(c net.Conn) {
			piece := nettest.Data(n)
			for {
				if _, err := c.Write(piece); err != nil {
					return
				}
			}
		}
	}
	for _, n := range []int{1, 100, 65536} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			target, _ := streamTarget(t, "unix", talks(n))
			r := trial{request: Request{Target: target, Steps: []Step{Send{Data: nettest.Data(1 << 20)}}, Timeout: time.Second}}.run(t)
			r.wants(t, PhaseSend, SendTimeout, EndedByDeadline)
			if r.BytesUnread == 0 || r.BytesUnread > mostPending+maxChunk {
				t.Errorf("%d bytes kept", r.BytesUnread)
			}
		})
	}
	// Bytes that come one by one share buffers, however many they are.
	s := &session{Exchanger: New(Config{}), request: &Request{}}
	for range 100_000 {
		s.keep(piece{data: []byte{1}})
	}
	held := 0
	for _, p := range s.pending {
		held += cap(p.data)
	}
	if len(s.pending) != 1 || held > 2*100_000 {
		t.Errorf("%d pieces hold %d bytes for 100000", len(s.pending), held)
	}
}

// A peer that does not read stops the send; what the kernel took by then is what the peer can still read.
func TestSendTimeout(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"tcp", "unix"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			stuck, over, all := make(chan int64), make(chan struct{}), make(chan int64, 1)
			target, tally := streamTarget(t, scheme, func(c net.Conn) {
				some, _ := io.CopyN(io.Discard, c, <-stuck)
				<-over
				rest, _ := io.Copy(io.Discard, c)
				all <- some + rest
			})
			// The kernel takes the head, then as much as it has room for, and at last what the peer makes room for.
			const size = 32 << 20
			var taken []int
			exchanger := New(Config{Dial: dialer(admitAll), Resolve: hosts(t), Hooks: &Hooks{Sent: func(_ string, n int) {
				if taken = append(taken, n); len(taken) == 2 {
					stuck <- int64(taken[0] + taken[1])
				}
			}}})
			const timeout = time.Second
			r := trial{
				exchanger: exchanger,
				request:   Request{Target: target, Steps: []Step{Send{Data: []byte("head")}, Send{Data: nettest.Data(size)}, Receive{}}, Timeout: timeout},
				peer:      tally,
			}.run(t)
			close(stuck)
			close(over)
			r.wants(t, PhaseSend, SendTimeout, EndedByDeadline)
			within(t, r.took, timeout)
			if r.FailedStep != 1 || len(taken) != 3 || r.BytesSent >= size {
				t.Fatalf("failed in step %d after %d bytes: %d", r.FailedStep, r.BytesSent, taken)
			}
			if sum := uint64(taken[0] + taken[1] + taken[2]); sum != r.BytesSent {
				t.Errorf("%d bytes sent, hooks: %d", r.BytesSent, taken)
			}
			if n := <-all; n != int64(r.BytesSent) {
				t.Errorf("%d bytes sent, the peer found %d", r.BytesSent, n)
			}
			if scheme == "tcp" && *r.BytesAcknowledged >= r.BytesSent {
				t.Errorf("%d bytes acknowledged of %d, though the peer's buffers are full", *r.BytesAcknowledged, r.BytesSent)
			}
		})
	}
}

func TestPeerResets(t *testing.T) {
	t.Parallel()
	later := func(handle func(net.Conn)) func(net.Conn) {
		return func(c net.Conn) {
			time.Sleep(3 * sendPatience) //nolint:forbidigo // until a send that is stuck reads ahead
			handle(c)
		}
	}
	send := []Step{Send{Data: nettest.Data(16 << 20)}, Receive{}}
	for _, tt := range []struct {
		name   string
		handle func(net.Conn)
		steps  []Step
		phase  Phase
		step   int
	}{
		{"at once, during a send", nettest.Reset(1000), send, PhaseSend, 0},
		{"later, during a send", later(nettest.Reset(1000)), send, PhaseSend, 0},
		{"after the request", nettest.Reset(4), []Step{Send{Data: []byte("text")}, Receive{}}, PhaseReceive, 1},
		{"in the middle of an answer", nettest.SendThenReset(4, []byte("ans")), []Step{Send{Data: []byte("text")}, Receive{Length: 6}}, PhaseReceive, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			target, tally := streamTarget(t, "tcp", tt.handle)
			r := trial{config: Config{Dial: tight}, request: Request{Target: target, Steps: tt.steps}, peer: tally}.run(t)
			r.wants(t, tt.phase, ConnectionReset, EndedByNone)
			if r.Errno != int(syscall.ECONNRESET) || r.FailedStep != tt.step || r.closed {
				t.Errorf("errno %s in step %d, closed %v; want ECONNRESET in step %d", ErrnoName(r.Errno), r.FailedStep, r.closed, tt.step)
			}
		})
	}
}

// What a peer says before it closes for good is handed on, also when it is a send or a half-close that finds it gone.
func TestLastWords(t *testing.T) {
	t.Parallel()
	words := []byte("413 too large\n")
	says := func(end func(net.Conn)) func(net.Conn) {
		return func(c net.Conn) {
			if _, err := c.Write(words); err == nil {
				end(c)
			}
		}
	}
	shut := func(c net.Conn) { _ = c.(interface{ CloseWrite() error }).CloseWrite() }
	large := Send{Data: nettest.Data(16 << 20)}
	for _, tt := range []struct {
		name, scheme string
		end          func(net.Conn)
		steps        []Step
		reason       Reason
		errno        syscall.Errno
	}{
		// It closes with bytes unread: TCP answers those with RST.
		{"send", "tcp", nettest.CloseAtOnce, []Step{large}, ConnectionReset, syscall.ECONNRESET},
		{"send", "unix", nettest.CloseAtOnce, []Step{large}, ConnectionReset, syscall.ECONNRESET},
		// It has sent FIN first, so there was an orderly end of what it had to say.
		{"send behind a FIN", "tcp", shut, []Step{large}, BrokenPipe, syscall.EPIPE},
		{"send after the close", "tcp", nettest.CloseAtOnce, []Step{Receive{Length: 1}, Send{Data: []byte("a")}, large}, BrokenPipe, syscall.EPIPE},
		{"send after the close", "unix", nettest.CloseAtOnce, []Step{Receive{Length: 1}, large}, BrokenPipe, syscall.EPIPE},
		{"send after the close", "unixpacket", nettest.CloseAtOnce, []Step{Send{Data: []byte("a")}}, BrokenPipe, syscall.EPIPE},
		{"half-close", "tcp", nettest.CloseAtOnce, []Step{Send{Data: []byte("a")}, HalfClose{}}, ConnectionReset, syscall.ECONNRESET},
	} {
		t.Run(tt.name+", "+tt.scheme, func(t *testing.T) {
			t.Parallel()
			ended := make(chan struct{})
			target, tally := streamTarget(t, tt.scheme, func(c net.Conn) {
				defer close(ended)
				if tt.name == "send" || tt.name == "half-close" { // something must lie there unread
					awaitBytes(t, c)
				}
				says(tt.end)(c)
				c.Close()
			})
			r := trial{request: Request{Target: target, Steps: tt.steps}, peer: tally, hook: func(event Event) error {
				switch event.(type) {
				case Sent, Chunk:
					<-ended
				case Connected:
					if tt.name == "send after the close" && tt.scheme != "tcp" {
						<-ended
					}
				}
				return nil
			}}.run(t)
			r.wants(t, PhaseSend, tt.reason, EndedByNone)
			r.got(t, words)
			if r.Errno != int(tt.errno) || r.FailedStep != len(tt.steps)-1 {
				t.Errorf("%s in step %d, want %s in step %d", ErrnoName(r.Errno), r.FailedStep, ErrnoName(int(tt.errno)), len(tt.steps)-1)
			}
		})
	}
}

// awaitBytes waits until something can be read, and leaves it there.
func awaitBytes(t testing.TB, c net.Conn) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err == nil {
		err = raw.Read(func(fd uintptr) bool {
			_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK)
			return err != unix.EAGAIN
		})
	}
	if err != nil {
		t.Error(err)
	}
}

func TestBytesAcknowledged(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"tcp", "tcp6"} {
		data := nettest.Data(300_000)
		target, tally := streamTarget(t, scheme, nettest.Reply([]byte("ok")))
		r := trial{request: Request{Target: target, Steps: DefaultSteps(target, data, false)}, peer: tally}.run(t)
		r.wants(t, PhaseClose, None, EndedByPeerClosed)
		if *r.BytesAcknowledged != uint64(len(data)) {
			t.Errorf("%s: %d bytes acknowledged of %d", scheme, *r.BytesAcknowledged, len(data))
		}
		if i := r.TCPInfo; i.RTT <= 0 || i.MSS == 0 || i.PMTU == 0 || i.CongestionWindow == 0 {
			t.Errorf("%s: %+v", scheme, i)
		}
	}
}

// Each kind of socket that has a half-close shows the peer an end of file, and can still be read.
func TestHalfClose(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"tcp", "tcp6", "unix", "unixpacket"} {
		target, tally := streamTarget(t, scheme, nettest.Reply([]byte("all of it came")))
		r := trial{request: Request{Target: target, Steps: []Step{Send{Data: []byte("a")}, Send{Data: []byte("b")}, HalfClose{}, Receive{}}}, peer: tally}.run(t)
		r.wants(t, PhaseClose, None, EndedByPeerClosed)
		r.got(t, []byte("all of it came"))
	}
}

// To send nothing on a stream is a step that does nothing.
func TestSendNothing(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"tcp", "unix"} {
		target, tally := streamTarget(t, scheme, nettest.Echo)
		r := trial{request: Request{Target: target, Steps: []Step{Send{}, HalfClose{}, Receive{}}}, peer: tally}.run(t)
		r.wants(t, PhaseClose, None, EndedByPeerClosed)
		r.got(t, nil)
	}
}

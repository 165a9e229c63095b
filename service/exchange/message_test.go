package exchange

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"probed/internal/nettest"
)

// datagrams returns those of the chunks.
func (r *record) datagrams() []Datagram {
	var all []Datagram
	for _, event := range r.events {
		if chunk, ok := event.(Chunk); ok {
			all = append(all, *chunk.Datagram)
		}
	}
	return all
}

// answer is a peer that answers each datagram with these, whatever it says.
func answer(datagrams ...string) func(net.PacketConn, net.Addr, []byte) {
	return func(pc net.PacketConn, from net.Addr, _ []byte) {
		for _, d := range datagrams {
			_, _ = pc.WriteTo([]byte(d), from)
		}
	}
}

func TestDatagrams(t *testing.T) {
	t.Parallel()
	const short = 400 * time.Millisecond
	ask := Send{Data: []byte("?")}
	type D = Datagram
	for _, tt := range []struct {
		name       string
		answers    []string
		steps      []Step
		bufferSize int
		want       string
		all        []Datagram // but for the peer's address
		by         EndedBy
	}{
		{"one and one", []string{"hello"}, nil, 0, "hello", []D{{Length: 5}}, EndedByCount},
		{"count", []string{"a", "bc", "d"}, []Step{ask, Receive{Count: 2}}, 0, "abc", []D{{Length: 1}, {Length: 2}}, EndedByCount},
		{"count, and on", []string{"a", "bc", "d"}, []Step{ask, Receive{Count: 2}, Receive{Count: 1}}, 0, "abcd", []D{{Length: 1}, {Length: 2}, {Length: 1}}, EndedByCount},
		{"count before idle", []string{"a", "b"}, []Step{ask, Receive{Count: 2, Idle: long}}, 0, "ab", []D{{Length: 1}, {Length: 1}}, EndedByCount},
		{"idle before count", []string{"a", "b"}, []Step{ask, Receive{Count: 3, Idle: short}}, 0, "ab", []D{{Length: 1}, {Length: 1}}, EndedByIdle},
		{"idle", []string{"a", "b"}, []Step{ask, Receive{Idle: short}}, 0, "ab", []D{{Length: 1}, {Length: 1}}, EndedByIdle},
		{"empty ones", []string{"", "a", ""}, []Step{ask, Receive{Count: 3}}, 0, "a", []D{{}, {Length: 1}, {}}, EndedByCount},
		{"an empty one sent", []string{"hello"}, []Step{Send{}, Receive{Count: 1}}, 0, "hello", []D{{Length: 5}}, EndedByCount},
		{"truncated", []string{"hello", "hi"}, []Step{ask, Receive{Count: 2}}, 4, "hellhi", []D{{Length: 5, Truncated: true}, {Length: 2}}, EndedByCount},
		{"just not truncated", []string{"hell"}, []Step{ask, Receive{Count: 1}}, 4, "hell", []D{{Length: 4}}, EndedByCount},
		{"most bytes", []string{"abc", "def", "g"}, []Step{ask, Receive{MaxBytes: 6}}, 0, "abcdef", []D{{Length: 3}, {Length: 3}}, EndedByMaxBytes},
		{"most bytes within a datagram", []string{"abc", "def", "g"}, []Step{ask, Receive{MaxBytes: 5}}, 0, "abcde", []D{{Length: 3}, {Length: 3, Truncated: true}}, EndedByMaxBytes},
		{"count before most bytes", []string{"abc", "def"}, []Step{ask, Receive{MaxBytes: 6, Count: 1}}, 0, "abc", []D{{Length: 3}}, EndedByCount},
		{"as large as they come", []string{string(nettest.Data(60_000))}, []Step{ask, Receive{Count: 1}}, 0, string(nettest.Data(60_000)), []D{{Length: 60_000}}, EndedByCount},
		{"sent alone", nil, []Step{ask}, 0, "", nil, EndedByLastStep},
	} {
		for _, scheme := range []string{"udp", "udp6", "unixgram"} {
			t.Run(tt.name+", "+scheme, func(t *testing.T) {
				t.Parallel()
				target, tally := datagramTarget(t, scheme, answer(tt.answers...))
				steps := tt.steps
				if steps == nil {
					steps = DefaultSteps(target, []byte("?"), false)
				}
				r := trial{request: Request{Target: target, Steps: steps, BufferSize: tt.bufferSize}, peer: tally}.run(t)
				r.wants(t, PhaseClose, None, tt.by)
				r.got(t, []byte(tt.want))
				want := slices.Clone(tt.all)
				for i := range want {
					want[i].Peer = r.Remote
				}
				if got := r.datagrams(); !slices.Equal(got, want) {
					t.Errorf("datagrams %+v, want %+v", got, want)
				}
			})
		}
	}
}

// What is sent is what arrives: each send one datagram, an empty one too.
func TestDatagramsKeepTheirBorders(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"udp", "udp6", "unixgram"} {
		target, tally := datagramTarget(t, scheme, nettest.EchoPacket)
		r := trial{request: Request{Target: target, Steps: []Step{
			Send{Data: []byte("ab")}, Send{}, Send{Data: []byte("c")}, Receive{Count: 3},
		}}, peer: tally}.run(t)
		r.wants(t, PhaseClose, None, EndedByCount)
		r.got(t, []byte("abc"))
		var lengths []int
		for _, d := range r.datagrams() {
			lengths = append(lengths, d.Length)
		}
		if !slices.Equal(lengths, []int{2, 0, 1}) {
			t.Errorf("%s: lengths %d", scheme, lengths)
		}
	}
}

func TestMessageTooLarge(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		scheme string
		size   int
		reason Reason
	}{
		{"udp", 65507, None},
		{"udp", 65508, MessageTooLarge},
		{"unixgram", 1 << 20, MessageTooLarge},
		{"unixpacket", 1 << 20, MessageTooLarge},
	} {
		t.Run(fmt.Sprint(tt.scheme, tt.size), func(t *testing.T) {
			t.Parallel()
			var target Target
			var tally *nettest.Tally
			if tt.scheme == "unixpacket" {
				target, tally = streamTarget(t, tt.scheme, nettest.Silent)
			} else {
				target, tally = datagramTarget(t, tt.scheme, nettest.SilentPacket)
			}
			r := trial{request: Request{Target: target, Steps: []Step{Send{Data: nettest.Data(tt.size)}}}, peer: tally}.run(t)
			if tt.reason == None {
				r.wants(t, PhaseClose, None, EndedByLastStep)
				return
			}
			r.wants(t, PhaseSend, tt.reason, EndedByNone)
			if r.Errno != int(syscall.EMSGSIZE) || r.BytesSent != 0 || r.FailedStep != 0 {
				t.Errorf("%s after %d bytes in step %d", ErrnoName(r.Errno), r.BytesSent, r.FailedStep)
			}
		})
	}
}

// Silence on a datagram socket is no answer, and said to be none, whichever time it was that passed.
func TestDatagramSilence(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"udp", "udp6", "unixgram"} {
		for _, tt := range []struct {
			rules Receive
			by    EndedBy
		}{
			{Receive{Idle: 200 * time.Millisecond}, EndedByNone},
			{Receive{Count: 1}, EndedByDeadline},
			{Receive{}, EndedByDeadline},
		} {
			t.Run(fmt.Sprintf("%s %+v", scheme, tt.rules), func(t *testing.T) {
				t.Parallel()
				target, tally := datagramTarget(t, scheme, nettest.SilentPacket)
				r := trial{
					request: Request{Target: target, Steps: []Step{Send{Data: []byte("?")}, tt.rules}, Timeout: time.Second},
					peer:    tally,
				}.run(t)
				r.wants(t, PhaseReceive, ReceiveTimeout, tt.by)
				if r.Hint != hintDatagramSilence || r.FailedStep != 1 || r.BytesSent != 1 {
					t.Errorf("%d bytes sent, step %d: %s", r.BytesSent, r.FailedStep, r.Hint)
				}
				limit := time.Second
				if tt.by == EndedByNone {
					limit = tt.rules.Idle
				}
				within(t, r.took, limit)
			})
		}
	}
}

// That nobody listens on a UDP port shows with the answer to the first datagram: when reading, or with the next send.
func TestDatagramRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		steps []Step
		phase Phase
	}{
		{"receive", []Step{Send{Data: []byte("?")}, Receive{Count: 1}}, PhaseReceive},
		{"receive until idle", []Step{Send{Data: []byte("?")}, Receive{Idle: long}}, PhaseReceive},
		{"send again", []Step{Send{Data: []byte("?")}, Send{Data: []byte("?")}, Receive{Count: 1}}, PhaseSend},
	} {
		target := ipTarget("udp", nettest.RefusedUDP(t))
		r := trial{request: Request{Target: target, Steps: tt.steps}}.run(t)
		r.wants(t, tt.phase, ConnectionRefused, EndedByNone)
		if r.Errno != int(syscall.ECONNREFUSED) || r.FailedStep != 1 || r.BytesSent != 1 {
			t.Errorf("%s: %s in step %d, %d bytes sent", tt.name, ErrnoName(r.Errno), r.FailedStep, r.BytesSent)
		}
	}
}

// A queue of messages fills up as a stream does; sending many to an echo reads ahead, and keeps their borders.
func TestManyMessagesToAnEcho(t *testing.T) {
	t.Parallel()
	const n, size = 100, 9000
	data := nettest.Data(size)
	var steps []Step
	for range n {
		steps = append(steps, Send{Data: data})
	}
	steps = append(steps, Receive{Count: n})
	for _, scheme := range []string{"unixgram", "unixpacket"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			var target Target
			var tally *nettest.Tally
			if scheme == "unixpacket" {
				target, tally = streamTarget(t, scheme, nettest.Echo)
			} else {
				target, tally = datagramTarget(t, scheme, nettest.EchoPacket)
			}
			r := trial{request: Request{Target: target, Steps: steps, Timeout: 20 * time.Second}, peer: tally}.run(t)
			r.wants(t, PhaseClose, None, EndedByCount)
			r.got(t, bytes.Repeat(data, n))
			if r.Chunks != n {
				t.Errorf("%d chunks, want %d", r.Chunks, n)
			}
		})
	}
}

// A peer that takes no datagram off a full queue stops the sender (a unix socket loses nothing).
func TestDatagramSendTimeout(t *testing.T) {
	t.Parallel()
	over := make(chan struct{})
	defer close(over)
	target, tally := datagramTarget(t, "unixgram", func(net.PacketConn, net.Addr, []byte) { <-over })
	var steps []Step
	for range 2000 {
		steps = append(steps, Send{Data: []byte("x")})
	}
	const timeout = time.Second
	r := trial{request: Request{Target: target, Steps: steps, Timeout: timeout}, peer: tally}.run(t)
	r.wants(t, PhaseSend, SendTimeout, EndedByDeadline)
	within(t, r.took, timeout)
	if r.BytesSent == 0 || int(r.BytesSent) != r.FailedStep {
		t.Errorf("%d datagrams of 1 byte sent, step %d failed", r.BytesSent, r.FailedStep)
	}
}

// A system call that a signal interrupted is made again.
func TestIgnoringEINTR(t *testing.T) {
	t.Parallel()
	calls := 0
	n, err := ignoringEINTR(func() (int, error) {
		if calls++; calls < 3 {
			return -1, syscall.EINTR
		}
		return 7, syscall.EAGAIN
	})
	if n != 7 || !errors.Is(err, syscall.EAGAIN) || calls != 3 {
		t.Errorf("%d, %v after %d calls", n, err, calls)
	}
}

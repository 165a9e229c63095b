package exchange

import (
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"probed/internal/nettest"
)

const long = time.Minute // an idle time or a timeout that no test means to see pass

func TestEndRules(t *testing.T) {
	t.Parallel()
	const short = 400 * time.Millisecond // longer than a busy machine makes a peer pause
	type pieces = []string
	for _, tt := range []struct {
		name   string
		pieces pieces // of the peer, one write and one read each
		hold   bool   // the peer does not close
		steps  []Step
		want   string
		by     EndedBy
		unread uint64
		chunks uint64 // 0: as many as pieces
	}{
		{name: "end of file", pieces: pieces{"ab", "c"}, steps: []Step{Receive{}}, want: "abc", by: EndedByPeerClosed},
		{name: "end of file at once", steps: []Step{Receive{}}, by: EndedByPeerClosed},
		{name: "end of file, twice", pieces: pieces{"abc"}, steps: []Step{Receive{}, Receive{}}, want: "abc", by: EndedByPeerClosed},

		{name: "length", pieces: pieces{"hello"}, hold: true, steps: []Step{Receive{Length: 5}}, want: "hello", by: EndedByLength},
		{name: "length in pieces", pieces: pieces{"h", "ell", "o"}, hold: true, steps: []Step{Receive{Length: 5}}, want: "hello", by: EndedByLength},
		{name: "length, and then the end", pieces: pieces{"hello"}, steps: []Step{Receive{Length: 5}, Receive{}}, want: "hello", by: EndedByPeerClosed},
		{name: "lengths one after the other", pieces: pieces{"hello world"}, steps: []Step{Receive{Length: 5}, Receive{Length: 1}, Receive{Length: 5}},
			want: "hello world", by: EndedByLength, chunks: 3},
		{name: "length before idle", pieces: pieces{"he", "llo"}, hold: true, steps: []Step{Receive{Length: 5, Idle: long}}, want: "hello", by: EndedByLength},
		{name: "idle before length", pieces: pieces{"he", "ll"}, hold: true, steps: []Step{Receive{Length: 5, Idle: short}}, want: "hell", by: EndedByIdle},

		{name: "a length that the peer tells", pieces: pieces{"\x00\x05hello, and more"}, hold: true, steps: []Step{Receive{LengthPrefix: 2}, Receive{Length: 5}},
			want: "\x00\x05hello, and", by: EndedByLength, chunks: 3},
		{name: "a length told in pieces", pieces: pieces{"\x00", "\x00", "\x03", "ab", "c"}, hold: true, steps: []Step{Receive{LengthPrefix: 3, Idle: long}},
			want: "\x00\x00\x03abc", by: EndedByLength},
		{name: "a length of nothing", pieces: pieces{"\x00x"}, hold: true, steps: []Step{Receive{LengthPrefix: 1}}, want: "\x00", by: EndedByLength},
		{name: "idle within a length", pieces: pieces{"\x00"}, hold: true, steps: []Step{Receive{LengthPrefix: 2, Idle: short}}, want: "\x00", by: EndedByIdle},

		{name: "delimiter", pieces: pieces{"hello\n"}, hold: true, steps: []Step{Receive{Delimiter: "\n"}}, want: "hello\n", by: EndedByDelimiter},
		{name: "delimiter, unread rest", pieces: pieces{"hello\nworld"}, hold: true, steps: []Step{Receive{Delimiter: "\n"}},
			want: "hello\n", by: EndedByDelimiter, unread: 5},
		{name: "delimiter, rest for the next step", pieces: pieces{"hello\nworld"}, hold: true,
			steps: []Step{Receive{Delimiter: "\n"}, Receive{Length: 5}}, want: "hello\nworld", by: EndedByLength, chunks: 2},
		{name: "delimiter, rest cut by a length", pieces: pieces{"hello\nworld"}, hold: true,
			steps: []Step{Receive{Delimiter: "\n"}, Receive{Length: 3}}, want: "hello\nwor", by: EndedByLength, unread: 2, chunks: 2},
		{name: "delimiter, rest cut by most bytes", pieces: pieces{"hello\nworld"}, hold: true,
			steps: []Step{Receive{Delimiter: "\n"}, Receive{MaxBytes: 3}}, want: "hello\nwor", by: EndedByMaxBytes, unread: 2, chunks: 2},
		{name: "delimiters in one piece", pieces: pieces{"a\nb\nc\nd"}, hold: true,
			steps: []Step{Receive{Delimiter: "\n"}, Receive{Delimiter: "\n"}, Receive{Delimiter: "\n"}},
			want:  "a\nb\nc\n", by: EndedByDelimiter, unread: 1, chunks: 3},
		{name: "delimiter, and then the end", pieces: pieces{"a\n", "b"}, steps: []Step{Receive{Delimiter: "\n"}, Receive{}}, want: "a\nb", by: EndedByPeerClosed},
		{name: "delimiter first of all", pieces: pieces{"\nrest"}, hold: true, steps: []Step{Receive{Delimiter: "\n"}}, want: "\n", by: EndedByDelimiter, unread: 4},
		{name: "delimiter before idle", pieces: pieces{"a", "\n"}, hold: true, steps: []Step{Receive{Delimiter: "\n", Idle: long}}, want: "a\n", by: EndedByDelimiter},
		{name: "idle before delimiter", pieces: pieces{"a", "b"}, hold: true, steps: []Step{Receive{Delimiter: "\n", Idle: short}}, want: "ab", by: EndedByIdle},
		{name: "delimiter before most bytes", pieces: pieces{"a\n"}, hold: true, steps: []Step{Receive{Delimiter: "\n", MaxBytes: 3}}, want: "a\n", by: EndedByDelimiter},
		{name: "delimiter with the last of most bytes", pieces: pieces{"ab\nc"}, hold: true, steps: []Step{Receive{Delimiter: "\n", MaxBytes: 3}}, want: "ab\n", by: EndedByDelimiter},
		{name: "most bytes before delimiter", pieces: pieces{"ab"}, hold: true, steps: []Step{Receive{Delimiter: "\n", MaxBytes: 2}}, want: "ab", by: EndedByMaxBytes},
		{name: "most bytes within a delimiter", pieces: pieces{"a\r"}, hold: true, steps: []Step{Receive{Delimiter: "\r\n", MaxBytes: 2}}, want: "a\r", by: EndedByMaxBytes},
		{name: "a delimiter begun in a step before is none", pieces: pieces{"a\r", "\nb\r\n"}, hold: true,
			steps: []Step{Receive{Length: 2}, Receive{Delimiter: "\r\n"}}, want: "a\r\nb\r\n", by: EndedByDelimiter},

		{name: "idle", pieces: pieces{"a", "b"}, hold: true, steps: []Step{Receive{Idle: short}}, want: "ab", by: EndedByIdle},
		{name: "idle with nothing at all", hold: true, steps: []Step{Receive{Idle: short}}, by: EndedByIdle},
		{name: "end of file before idle", pieces: pieces{"a"}, steps: []Step{Receive{Idle: long}}, want: "a", by: EndedByPeerClosed},
		{name: "idle, and on", pieces: pieces{"a"}, hold: true, steps: []Step{Receive{Idle: short}, Receive{Idle: short}}, want: "a", by: EndedByIdle},

		{name: "most bytes", pieces: pieces{"ab", "c"}, hold: true, steps: []Step{Receive{MaxBytes: 3}}, want: "abc", by: EndedByMaxBytes},
		{name: "end of file before most bytes", pieces: pieces{"ab"}, steps: []Step{Receive{MaxBytes: 3}}, want: "ab", by: EndedByPeerClosed},
		{name: "idle before most bytes", pieces: pieces{"ab"}, hold: true, steps: []Step{Receive{MaxBytes: 3, Idle: short}}, want: "ab", by: EndedByIdle},
		{name: "most bytes before idle", pieces: pieces{"abc"}, hold: true, steps: []Step{Receive{MaxBytes: 3, Idle: long}}, want: "abc", by: EndedByMaxBytes},

		{name: "the last step does not receive", pieces: pieces{"abc"}, hold: true, steps: []Step{Receive{Length: 3}, Send{Data: []byte("x")}},
			want: "abc", by: EndedByLastStep},
		{name: "no steps", hold: true, by: EndedByLastStep},
	} {
		for _, scheme := range []string{"tcp", "unix"} {
			t.Run(tt.name+", "+scheme, func(t *testing.T) {
				t.Parallel()
				p := newPaced(tt.hold, tt.pieces...)
				if tt.unread > 0 || tt.chunks > 0 {
					p = newPaced(tt.hold) // A peer that waits until all was taken would wait in vain.
					p.pieces = [][]byte{[]byte(tt.pieces[0])}
				}
				target, tally := streamTarget(t, scheme, p.handle)
				r := trial{request: Request{Target: target, Steps: tt.steps}, peer: tally, hook: p.hook}.run(t)
				r.wants(t, PhaseClose, None, tt.by)
				r.got(t, []byte(tt.want))
				chunks := tt.chunks
				if chunks == 0 {
					chunks = uint64(len(tt.pieces))
				}
				if r.BytesUnread != tt.unread || r.Chunks != chunks {
					t.Errorf("%d chunks and %d bytes unread, want %d and %d", r.Chunks, r.BytesUnread, chunks, tt.unread)
				}
			})
		}
	}
}

func TestPeerClosesEarly(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		scheme string
		rules  Receive
		text   string
	}{
		{"tcp", Receive{Length: 6}, "the peer closed after 5 of 6 bytes"},
		{"unix", Receive{Length: 6, Idle: long}, "the peer closed after 5 of 6 bytes"},
		{"tcp", Receive{Delimiter: "\r\n"}, `the peer closed after 5 bytes, without the delimiter "\r\n"`},
		{"tcp", Receive{Delimiter: "\r\n", MaxBytes: 10, Idle: long}, `the peer closed after 5 bytes, without the delimiter "\r\n"`},
		{"unixpacket", Receive{Count: 3}, "the peer closed after 2 of 3 messages"},
		{"unixpacket", Receive{Count: 3, MaxBytes: 10, Idle: long}, "the peer closed after 2 of 3 messages"},
	} {
		t.Run(fmt.Sprintf("%s %+v", tt.scheme, tt.rules), func(t *testing.T) {
			t.Parallel()
			p := newPaced(false, "he", "llo")
			target, tally := streamTarget(t, tt.scheme, p.handle)
			r := trial{request: Request{Target: target, Steps: []Step{HalfClose{}, tt.rules}}, peer: tally, hook: p.hook}.run(t)
			r.wants(t, PhaseReceive, PeerClosedEarly, EndedByNone)
			r.got(t, []byte("hello"))
			if r.Error != tt.text || r.FailedStep != 1 || !r.closed {
				t.Errorf("%q in step %d, closed %v; want %q in step 1, closed", r.Error, r.FailedStep, r.closed, tt.text)
			}
		})
	}
}

// The exchange's own timeout ends every receive whose rule has not held, and keeps what came.
func TestDeadlineWhileReceiving(t *testing.T) {
	t.Parallel()
	const timeout = time.Second
	for _, tt := range []struct {
		scheme string
		rules  Receive
	}{
		{"tcp", Receive{}},
		{"unix", Receive{}},
		{"tcp", Receive{Length: 6}},
		{"tcp", Receive{Delimiter: "\n"}},
		{"tcp", Receive{Idle: long}},
		{"tcp", Receive{MaxBytes: 6}},
		{"tcp", Receive{Delimiter: "\n", MaxBytes: 6, Idle: long}},
		{"unixpacket", Receive{Count: 2}},
	} {
		t.Run(fmt.Sprintf("%s %+v", tt.scheme, tt.rules), func(t *testing.T) {
			t.Parallel()
			p := newPaced(true, "hello")
			target, tally := streamTarget(t, tt.scheme, p.handle)
			r := trial{request: Request{Target: target, Steps: []Step{tt.rules}, Timeout: timeout}, peer: tally, hook: p.hook}.run(t)
			r.wants(t, PhaseReceive, ReceiveTimeout, EndedByDeadline)
			r.got(t, []byte("hello"))
			within(t, r.took, timeout)
		})
	}
}

// A peer that never stops does not outrun the timeout.
func TestDeadlineWhileFlooded(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"tcp", "unix"} {
		target, _ := streamTarget(t, scheme, nettest.Flood(1<<50))
		r := trial{request: Request{Target: target, Steps: []Step{Receive{}}, Timeout: time.Second}, hook: sip}.run(t)
		r.wants(t, PhaseReceive, ReceiveTimeout, EndedByDeadline)
		within(t, r.took, time.Second)
	}
}

// within asserts that something took as long as its limit and did not hang; how much longer it may take is asserted
// where nothing else runs.
func within(t testing.TB, took, limit time.Duration) {
	t.Helper()
	if took < limit || took > limit+10*time.Second {
		t.Errorf("took %v of %v", took, limit)
	}
}

// A delimiter is found wherever the reads happen to cut it, and the one found is the first.
func TestDelimiterAtEverySplit(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ all, delimiter, want string }{
		{"head\r\n\r\nrest", "\r\n\r\n", "head\r\n\r\n"},
		{"\r\r\n\r\n\r\n", "\r\n\r\n", "\r\r\n\r\n"},
		{"aaab", "aab", "aaab"},
		{"ababac-abac", "abac", "ababac"},
		{"xaaaa", "aa", "xaa"},
		{"a.b.c", ".", "a."},
	} {
		for i := range len(tt.all) + 1 {
			for j := i; j <= len(tt.all); j++ {
				t.Run(fmt.Sprintf("%q %q %q", tt.all[:i], tt.all[i:j], tt.all[j:]), func(t *testing.T) {
					t.Parallel()
					var pieces []string
					for _, piece := range []string{tt.all[:i], tt.all[i:j], tt.all[j:]} {
						if piece != "" {
							pieces = append(pieces, piece)
						}
					}
					border := -1
					p := newPaced(false, pieces...)
					target, tally := streamTarget(t, "unix", p.handle)
					var got int
					r := trial{
						request: Request{Target: target, Steps: []Step{Receive{Delimiter: tt.delimiter}, Send{Data: []byte("!")}, Receive{}}},
						peer:    tally,
						hook: func(event Event) error {
							switch event := event.(type) {
							case Chunk:
								got += len(event.Data)
							case Sent:
								border = got
							}
							return p.hook(event)
						},
					}.run(t)
					r.wants(t, PhaseClose, None, EndedByPeerClosed)
					r.got(t, []byte(tt.all))
					if border != len(tt.want) {
						t.Errorf("the delimiter ended it after %d bytes, want %d", border, len(tt.want))
					}
				})
			}
		}
	}
}

// Length and most bytes bound the read itself: what the peer sent beyond is still the kernel's.
func TestBoundsLeaveTheRestToTheKernel(t *testing.T) {
	t.Parallel()
	for _, rules := range []Receive{{Length: 5}, {MaxBytes: 5}, {Length: 5, Idle: long}, {MaxBytes: 5, Delimiter: "d"}} {
		near, far := socketPair(t, unix.SOCK_STREAM)
		if _, err := far.Write([]byte("hello world")); err != nil {
			t.Fatal(err)
		}
		held, err := near.(*net.UnixConn).File()
		if err != nil {
			t.Fatal(err)
		}
		defer held.Close()
		r := trial{config: given(near), request: Request{Target: Target{Scheme: "unix", Path: "/given"}, Steps: []Step{rules}}}.run(t)
		r.got(t, []byte("hello"))
		rest := make([]byte, 20)
		n, err := syscall.Read(int(held.Fd()), rest)
		if err != nil || string(rest[:n]) != " world" || r.BytesUnread != 0 {
			t.Errorf("%+v: left %q, %v, unread %d", rules, rest[:max(n, 0)], err, r.BytesUnread)
		}
	}
}

// Bytes that are there are received, however short the time to wait for them.
func TestIdleTakesWhatIsThere(t *testing.T) {
	t.Parallel()
	for _, bufferSize := range []int{0, 1, 7} {
		near, far := socketPair(t, unix.SOCK_STREAM)
		if _, err := far.Write(nettest.Data(20_000)); err != nil {
			t.Fatal(err)
		}
		r := trial{
			config:  given(near),
			request: Request{Target: Target{Scheme: "unix", Path: "/given"}, Steps: []Step{Receive{Idle: 1}}, BufferSize: bufferSize},
		}.run(t)
		r.wants(t, PhaseClose, None, EndedByIdle)
		r.got(t, nettest.Data(20_000))
	}
}

func TestBufferSizeIsBounded(t *testing.T) {
	t.Parallel()
	target, tally := streamTarget(t, "tcp", nettest.Flood(4<<20))
	r := trial{request: Request{Target: target, Steps: []Step{Receive{}}, BufferSize: 10 * MaxBufferSize}, peer: tally}.run(t)
	r.wants(t, PhaseClose, None, EndedByPeerClosed)
	r.got(t, nettest.Data(4<<20))
}

// A caller who takes events slowly slows down the peer; nothing is read ahead of it, and nothing is lost.
func TestSlowCallerSlowsThePeer(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	target, tally := streamTarget(t, "unix", nettest.Flood(size))
	var ahead int64
	r := trial{request: Request{Target: target, Steps: []Step{Receive{}}}, peer: tally, hook: func(event Event) error {
		if chunk, ok := event.(Chunk); ok {
			time.Sleep(time.Millisecond) //nolint:forbidigo // is slow on purpose
			ahead = max(ahead, tally.Sent.Load()-int64(chunk.Offset))
		}
		return nil
	}}.run(t)
	r.wants(t, PhaseClose, None, EndedByPeerClosed)
	r.got(t, nettest.Data(size))
	// A chunk under way, one write of the peer, and the kernel's buffers between.
	if ahead > 1<<20 {
		t.Errorf("the peer was %d bytes ahead", ahead)
	}
}

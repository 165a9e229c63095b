package exchange

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"probed/internal/nettest"
)

// replySizes are the lengths around the borders where a first socket program goes wrong: one that takes a short read for
// the end cuts a reply off, and one that takes a full read for a sign of more waits for ever behind a reply whose length
// is a multiple of its buffer.
var replySizes = []int{0, 1, 4095, 4096, 4097, 8192, 65536, 3_000_001}

func TestReplyComesBackWhole(t *testing.T) {
	t.Parallel()
	inPieces := func(n int) func(b []byte) (func(net.Conn), func(Event) error) {
		return func(b []byte) (func(net.Conn), func(Event) error) {
			var pieces []string
			for piece := range slices.Chunk(b, n) {
				pieces = append(pieces, string(piece))
			}
			p := newPaced(false, pieces...)
			return p.handle, p.hook
		}
	}
	peers := []struct {
		name string
		most int // bytes of the longest reply it is for
		of   func(b []byte) (func(net.Conn), func(Event) error)
	}{
		{"after the half-close", 1 << 30, func(b []byte) (func(net.Conn), func(Event) error) { return nettest.Reply(b), nil }},
		{"before the half-close", 1 << 30, func(b []byte) (func(net.Conn), func(Event) error) { return nettest.HalfCloseThenRead(b), nil }},
		{"1 byte a read", 8192, inPieces(1)},
		{"1000 bytes a read", 1 << 30, inPieces(1000)},
		{"4096 bytes a read", 1 << 30, inPieces(4096)},
		{"4097 bytes a write", 1 << 30, inPieces(4097)},
		{"dripping", 65536, func(b []byte) (func(net.Conn), func(Event) error) {
			return nettest.Drip(b, len(b)/20+1, time.Millisecond), nil
		}},
	}
	for _, scheme := range []string{"tcp", "tcp6", "unix"} {
		for _, size := range replySizes {
			for _, bufferSize := range []int{4096, 0} {
				for _, peer := range peers {
					if size > peer.most {
						continue
					}
					t.Run(fmt.Sprintf("%s %d bytes, buffer %d, %s", scheme, size, bufferSize, peer.name), func(t *testing.T) {
						t.Parallel()
						reply := nettest.Data(size)
						handle, hook := peer.of(reply)
						target, tally := streamTarget(t, scheme, handle)
						r := trial{
							request: Request{
								Target: target, Steps: DefaultSteps(target, []byte("give it to me\n"), false), BufferSize: bufferSize,
								Timeout: 10 * time.Minute, // byte for byte takes long on a busy machine
							},
							peer: tally,
							hook: hook,
						}.run(t)
						r.wants(t, PhaseClose, None, EndedByPeerClosed)
						r.got(t, reply)
						if r.BytesUnread != 0 {
							t.Errorf("%d bytes unread", r.BytesUnread)
						}
					})
				}
			}
		}
	}
}

// Records of a unixpacket socket are not run together, whatever their size.
func TestRecordsComeBackWhole(t *testing.T) {
	t.Parallel()
	p := newPaced(false, string(nettest.Data(1)), string(nettest.Data(4096)), string(nettest.Data(65536)), "end")
	target, tally := streamTarget(t, "unixpacket", p.handle)
	r := trial{request: Request{Target: target, Steps: DefaultSteps(target, []byte("hello"), false)}, peer: tally, hook: p.hook}.run(t)
	r.wants(t, PhaseClose, None, EndedByPeerClosed)
	if r.Chunks != 4 {
		t.Errorf("%d chunks, want 4", r.Chunks)
	}
	r.got(t, slices.Concat(p.pieces...))
}

// Left open, the size of a chunk follows the flow: small at first, and large where there is much to read.
func TestChunksGrowWithTheFlow(t *testing.T) {
	t.Parallel()
	target, tally := streamTarget(t, "tcp", nettest.Flood(8<<20))
	r := trial{request: Request{Target: target, Steps: []Step{Receive{}}}, peer: tally}.run(t)
	r.wants(t, PhaseClose, None, EndedByPeerClosed)
	r.got(t, nettest.Data(8<<20))
	first, largest := -1, 0
	for _, event := range r.events {
		if chunk, ok := event.(Chunk); ok {
			if first < 0 {
				first = len(chunk.Data)
			}
			largest = max(largest, len(chunk.Data))
		}
	}
	if first > minChunk || largest <= minChunk || largest > maxChunk {
		t.Errorf("first chunk %d bytes, largest %d; want at most %d, and %d to %d", first, largest, minChunk, minChunk, maxChunk)
	}
}

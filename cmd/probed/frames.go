package main

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials"
)

const (
	// idleFrames is how many frames a second are read of a connection that bring no call further, and idleFramesAtOnce how
	// many may come without a pause. The most frequent that a client has use for are resets: of calls that it gives up. Each
	// takes some 30 µs, for a handler that begins and ends: without a bound, one connection takes all the processors there
	// are, and callers on others wait 5 ms for a look-up of 0.3 ms, and 100 ms for the slowest in a hundred.
	idleFrames       = 200
	idleFramesAtOnce = 200
	// pacedRead is how much is read at a time of a connection that has to wait: few frames, so that what they cause does not
	// come in bursts either.
	pacedRead = 512
	// mostFragments is how many frames with next to nothing in them a connection may cut its messages into. To hold one takes
	// some 40 bytes, so a message of 1 MiB could take 40 MiB. No client makes any but where its window happens to end.
	mostFragments = 10_000
	// fragment is what one is to an idle frame: it costs less time.
	fragment = 0.1
	// ping is what one is to an idle frame. Clients measure their connection with one a round trip, as long as anything comes:
	// thousands a second where the round trip is short. Those that come while nothing does, gRPC refuses.
	ping = 0.02
	// messageHeader is what each message of gRPC begins with. Clients send it together with what follows.
	messageHeader = 5
)

var errFragments = errors.New("the messages on this connection come in too many pieces")

// pacing is the security of a listener whose connections are paced. It is there, and not in the listener, because frames
// can be told apart behind TLS alone.
type pacing struct {
	credentials.TransportCredentials
}

// ServerHandshake does that of the credentials, and turns away who does not speak HTTP/2.
func (p pacing) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := p.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	head, err := notGRPC(conn)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	paced := newPacedConn(conn)
	paced.head = head
	return paced, info, nil
}

// Clone copies them.
func (p pacing) Clone() credentials.TransportCredentials {
	return pacing{p.TransportCredentials.Clone()}
}

// pacedConn is a connection of HTTP/2 of which no more is read for a while when there were too many idle frames in it. So
// who sends them waits, and nobody else. There is no rule of HTTP/2 that says how many are too many (RFC 9113, section
// 10.5, leaves it to servers).
type pacedConn struct {
	net.Conn
	closed    chan struct{}
	closeOnce sync.Once

	// Of the one who reads.
	head      []byte // was read already
	in        frameReader
	left      float64 // how many idle frames may come at once; below zero: too many did
	since     time.Time
	fragments int // so far

	out    frameReader // of the one who writes
	resets atomic.Int64
}

func newPacedConn(conn net.Conn) *pacedConn {
	return &pacedConn{
		Conn: conn, closed: make(chan struct{}), in: frameReader{skip: len(http2.ClientPreface)},
		left: idleFramesAtOnce, since: time.Now(),
	}
}

// Read reads. What it returns has not waited; what comes next will.
func (c *pacedConn) Read(p []byte) (int, error) {
	if c.left < 0 {
		timer := time.NewTimer(time.Duration(-c.left / idleFrames * float64(time.Second)))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.closed:
		}
		p = p[:min(len(p), pacedRead)]
	}
	n, err := copy(p, c.head), error(nil)
	if c.head = c.head[n:]; n == 0 {
		c.head = nil // holds no memory
		n, err = c.Conn.Read(p)
	}
	now := time.Now()
	c.left = min(c.left+now.Sub(c.since).Seconds()*idleFrames, idleFramesAtOnce) - c.idle(p[:n]) - float64(c.resets.Swap(0))
	c.since = now
	if c.fragments > mostFragments {
		return 0, errFragments
	}
	return n, err
}

// idle returns how many frames begin in what came that bring no call further.
func (c *pacedConn) idle(p []byte) (n float64) {
	for p, found := c.in.next(p); found; p, found = c.in.next(p) {
		switch kind, flags, length := c.in.frame(); kind {
		case http2.FrameHeaders: // a call, unless it is reset
		case http2.FrameWindowUpdate: // who reads a long answer sends many
		case http2.FramePing:
			n += ping
		case http2.FrameData:
			// Padding is nothing as well, and nobody pads.
			if flags.Has(http2.FlagDataPadded) || length < messageHeader && !flags.Has(http2.FlagDataEndStream) {
				c.fragments++
				n += fragment
			}
		default:
			n++
		}
	}
	return n
}

// Write writes. A call that is reset from here, because there are too many or something is wrong with it, is one that came
// to nothing too.
func (c *pacedConn) Write(p []byte) (int, error) {
	for rest, found := c.out.next(p); found; rest, found = c.out.next(rest) {
		if kind, _, _ := c.out.frame(); kind == http2.FrameRSTStream {
			c.resets.Add(1)
		}
	}
	return c.Conn.Write(p)
}

// Close closes the connection, and who waits to read is woken.
func (c *pacedConn) Close() error {
	c.closeOnce.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// frameReader follows the frames of one direction (RFC 9113, section 4.1).
type frameReader struct {
	skip   int // bytes until the next header
	header [9]byte
	have   int // bytes of the header
}

// next reads up to behind the header of a frame, and tells whether there is one in p; frame is then what it says.
func (r *frameReader) next(p []byte) (rest []byte, found bool) {
	skipped := min(r.skip, len(p))
	r.skip -= skipped
	p = p[skipped:]
	copied := copy(r.header[r.have:], p)
	r.have += copied
	p = p[copied:]
	if r.have < len(r.header) {
		return p, false
	}
	r.have = 0
	_, _, r.skip = r.frame()
	return p, true
}

// frame is the frame whose header was read last.
func (r *frameReader) frame() (kind http2.FrameType, flags http2.Flags, length int) {
	return http2.FrameType(r.header[3]), http2.Flags(r.header[4]), int(binary.BigEndian.Uint32(r.header[:]) >> 8)
}

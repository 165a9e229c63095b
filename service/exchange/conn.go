package exchange

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"probed/service/resolve"
)

const (
	// MaxBufferSize is the most bytes of one chunk.
	MaxBufferSize = 1 << 20
	// A chunk whose size the caller left open has between these two.
	minChunk, maxChunk = 4 << 10, 256 << 10
	// messageChunk has room for the largest UDP datagram.
	messageChunk = 64 << 10
)

// conn is an open connection, read in such a way that it holds a buffer only while there is something to read: of
// thousands of exchanges under way, most wait.
type conn struct {
	net.Conn
	raw        syscall.RawConn
	secured    *tls.Conn // over it; nil: plain
	wire       *wire     // between the two
	buffers    *buffers
	target     Target
	socket     Socket
	size       int       // of the next read, when the caller left it open
	sending    allowance // of who writes
	receiving  allowance // of who reads
	halfClosed atomic.Bool
	unclean    bool // TLS was not ended before the connection was
}

// piece is what one read returned.
type piece struct {
	data     []byte
	elapsed  time.Duration
	datagram *Datagram // nil on streams
	free     func()    // gives the buffer back; nil when data is the piece's own memory
}

// done says that nobody looks at the data any more.
func (p *piece) done() {
	if p.free != nil {
		p.free()
	}
}

func newConn(c net.Conn, target Target, buffers *buffers) *conn {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil { // of an open socket it never fails
		raw = closedConn{err}
	}
	return &conn{Conn: c, raw: raw, buffers: buffers, target: target, socket: socketOf(c, target), size: minChunk}
}

// closedConn stands for the raw connection of a socket that was closed before it could be used.
type closedConn struct{ err error }

func (c closedConn) Control(func(uintptr)) error    { return c.err }
func (c closedConn) Read(func(uintptr) bool) error  { return c.err }
func (c closedConn) Write(func(uintptr) bool) error { return c.err }

// socketOf says what socket(2) was called with.
func socketOf(c net.Conn, target Target) Socket {
	if target.IsUnix() {
		s := Socket{Family: resolve.AF_UNIX, Type: resolve.SOCK_STREAM}
		switch target.Scheme {
		case "unixgram":
			s.Type = resolve.SOCK_DGRAM
		case "unixpacket":
			s.Type = resolve.SOCK_SEQPACKET
		}
		return s
	}
	s := Socket{Family: resolve.AF_INET6, Type: resolve.SOCK_STREAM, Protocol: resolve.IPPROTO_TCP}
	if target.IsDatagram() {
		s.Type, s.Protocol = resolve.SOCK_DGRAM, resolve.IPPROTO_UDP
	}
	if host, _, err := net.SplitHostPort(c.RemoteAddr().String()); err == nil && !strings.Contains(host, ":") {
		s.Family = resolve.AF_INET
	}
	return s
}

// addresses returns both ends in words. A unix socket is dialled by descriptor, so its name is that of the target.
func (c *conn) addresses() (local, remote string) {
	local, remote = localName(c), c.RemoteAddr().String()
	if c.target.IsUnix() {
		remote = c.target.Path
	}
	return local, remote
}

// localName is the address a socket has here, in words; empty for a unix socket without a name.
func localName(c net.Conn) string {
	local := c.LocalAddr().String()
	if local == "@" { // what package net calls it
		return ""
	}
	return local
}

// secure lets everything from here on go through TLS.
func (c *conn) secure(h *handshake) {
	c.secured, c.wire = h.conn, h.wire
	c.size = minChunk
}

// Write blocks until all is handed to the kernel.
func (c *conn) Write(data []byte) (int, error) {
	if c.secured != nil {
		return c.secured.Write(data)
	}
	return c.Conn.Write(data)
}

// Close closes the connection; with TLS it says goodbye to a peer that still listens.
func (c *conn) Close() error {
	if c.secured != nil {
		return c.secured.Close()
	}
	return c.Conn.Close()
}

// CloseWrite closes the sending side; with TLS by a close_notify, behind which the TCP connection stays open (RFC 8446,
// section 6.1).
func (c *conn) CloseWrite() error {
	if c.secured != nil {
		return c.secured.CloseWrite()
	}
	closer, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return closer.CloseWrite()
}

// sendable is what of data may be sent, and, when that is not all, the error to follow. Of a message it is all or nothing.
func (c *conn) sendable(data []byte) (allowed []byte, beyond error) {
	n := c.sending.upTo(len(data))
	if n < len(data) {
		beyond = c.sending.exceeded()
		if c.target.HasMessages() {
			n = 0
		}
	}
	c.sending.use(n)
	return data[:n], beyond
}

// tryWrite writes what the kernel takes at once; of a message, all or nothing. The error is EAGAIN when that was not
// all. Under TLS it writes nothing: what has become a record cannot be taken back.
func (c *conn) tryWrite(data []byte) (n int, err error) {
	if c.secured != nil {
		return 0, unix.EAGAIN
	}
	controlErr := c.raw.Write(func(fd uintptr) bool {
		n, err = ignoringEINTR(func() (int, error) { return unix.Write(int(fd), data) })
		return true
	})
	n = max(n, 0)
	switch {
	case controlErr != nil:
		return n, controlErr
	case err == nil && n < len(data):
		return n, unix.EAGAIN
	}
	return n, err
}

// read waits until there is something to read and returns at most size bytes of it (0: as the flow suggests), and at
// most most (0: any number); of a message, what is beyond is lost. The end of the stream is io.EOF.
func (c *conn) read(size, most int) (piece, error) {
	return c.allowed(most, func(most int) (piece, error) {
		if c.secured != nil {
			return c.readSecured(size, most)
		}
		return c.readBy(c.raw.Read, size, most)
	})
}

// allowed reads no more than may be received still.
func (c *conn) allowed(most int, read func(most int) (piece, error)) (piece, error) {
	if c.receiving.left() <= 0 {
		return piece{}, c.receiving.exceeded()
	}
	if most == 0 {
		most = MaxBufferSize // which no read goes beyond
	}
	p, err := read(c.receiving.upTo(most))
	c.receiving.use(len(p.data))
	return p, err
}

// readSecured is read under TLS. It holds a small buffer while it waits, since whether TLS has kept something back is
// not to be known.
func (c *conn) readSecured(size, most int) (piece, error) {
	room := size
	if room == 0 {
		room = c.size
	}
	if most > 0 {
		room = min(room, most)
	}
	buffer := c.buffers.get(room)
	n, err := c.secured.Read((*buffer)[:room])
	if n == 0 {
		c.buffers.put(buffer)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			c.unclean, err = c.wire.ended, io.EOF
		}
		return piece{}, err
	}
	if size == 0 && room == c.size {
		c.adapt(n)
	}
	// An error beside data comes again with the next read.
	return piece{data: (*buffer)[:n], free: func() { c.buffers.put(buffer) }}, nil
}

// readNow is read for what is there already, whatever the deadline; when there is nothing, the error is
// os.ErrDeadlineExceeded.
func (c *conn) readNow(size, most int) (piece, error) {
	return c.allowed(most, func(most int) (piece, error) {
		if c.secured != nil {
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			return c.readSecured(size, most)
		}
		return c.readBy(c.tryOnce, size, most)
	})
}

// tryOnce is the Read of a raw connection, without the wait.
func (c *conn) tryOnce(try func(fd uintptr) bool) error {
	done := false
	if err := c.raw.Control(func(fd uintptr) { done = try(fd) }); err != nil {
		return err
	}
	if !done {
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (c *conn) readBy(run func(try func(fd uintptr) bool) error, size, most int) (piece, error) {
	chosen := size
	switch {
	case size > 0:
	case c.target.HasMessages():
		chosen = messageChunk
	default:
		chosen = c.size
	}
	room := chosen
	if most > 0 {
		room = min(room, most)
	}
	var p piece
	var n int
	var err error
	runErr := run(func(fd uintptr) bool {
		buffer := c.buffers.get(room)
		data := (*buffer)[:room]
		p.free = func() { c.buffers.put(buffer) }
		if c.target.HasMessages() {
			n, p.datagram, err = c.readMessage(int(fd), data)
		} else {
			n, err = ignoringEINTR(func() (int, error) { return unix.Read(int(fd), data) })
		}
		if err != nil {
			p.free()
			return !errors.Is(err, unix.EAGAIN)
		}
		p.data = data[:n]
		return true
	})
	switch {
	case runErr != nil:
		return piece{}, runErr
	case err != nil:
		return piece{}, err
	case n == 0 && !c.target.IsDatagram(): // an empty record of a unixpacket socket looks the same (recv(2))
		p.free()
		return piece{}, io.EOF
	}
	if size == 0 && room == chosen {
		c.adapt(n)
	}
	return p, nil
}

// adapt lets the next read take more when this one was full, and less when it was nearly empty.
func (c *conn) adapt(n int) {
	switch {
	case n == c.size:
		c.size = min(2*c.size, maxChunk)
	case n < c.size/4:
		c.size = max(c.size/2, minChunk)
	}
}

func (c *conn) readMessage(fd int, data []byte) (int, *Datagram, error) {
	var from unix.Sockaddr
	var flags int
	n, err := ignoringEINTR(func() (n int, err error) {
		n, _, flags, from, err = unix.Recvmsg(fd, data, nil, unix.MSG_TRUNC)
		return n, err
	})
	if err != nil {
		return 0, nil, err
	}
	datagram := &Datagram{Peer: c.peerName(from), Truncated: flags&unix.MSG_TRUNC != 0, Length: n}
	return min(n, len(data)), datagram, nil
}

// peerName is the sender in words. Sockets here are connected, so an internet peer is the one connected to.
func (c *conn) peerName(from unix.Sockaddr) string {
	switch from := from.(type) {
	case *unix.SockaddrUnix:
		return from.Name
	case nil:
		if c.target.IsUnix() {
			return ""
		}
	}
	return c.RemoteAddr().String()
}

func ignoringEINTR(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// buffers lends buffers of the sizes 4 KiB, 8 KiB and so on up to MaxBufferSize. The zero value is ready.
type buffers struct{ pools [9]sync.Pool }

func (b *buffers) class(size int) int {
	class := 0
	for minChunk<<class < size {
		class++
	}
	return class
}

func (b *buffers) get(size int) *[]byte {
	class := b.class(size)
	if buffer, ok := b.pools[class].Get().(*[]byte); ok {
		return buffer
	}
	buffer := make([]byte, minChunk<<class)
	return &buffer
}

func (b *buffers) put(buffer *[]byte) { b.pools[b.class(len(*buffer))].Put(buffer) }

package exchange

import (
	"cmp"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"probed/service/resolve"
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
	requests   atomic.Uint32         // echo requests of ICMP, sent so far
	last       atomic.Pointer[facts] // before it was closed under whoever uses it; nil: it was not
	unclean    bool                  // TLS was not ended before the connection was
}

// piece is what one read returned.
type piece struct {
	data     []byte
	elapsed  time.Duration
	datagram *Datagram // nil on streams
	buffer   *Buffer   // that data lies in, held for the piece; nil: memory of its own
}

// done says that nobody looks at the data any more.
func (p *piece) done() { p.buffer.Release() }

// lend gives the piece a buffer, and returns so many bytes of it.
func (p *piece) lend(b *buffers, size int) []byte {
	p.buffer = b.lend(size)
	return p.buffer.data[:size]
}

// facts are what only an open socket tells.
type facts struct {
	tcpInfo        *TCPInfo
	options        *SocketOptions
	unacknowledged uint64
	acknowledges   bool // the transport does, and so tells what is not
}

// facts are those of now, or the last there were.
func (c *conn) facts() facts {
	now := c.ask()
	if last := c.last.Load(); last != nil {
		return *last
	}
	return now
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
	if remoteAddress(c).Addr().Is4() {
		s.Family = resolve.AF_INET
	}
	switch {
	case target.IsICMP() && s.Family == resolve.AF_INET:
		s.Type, s.Protocol = resolve.SOCK_DGRAM, resolve.IPPROTO_ICMP
	case target.IsICMP():
		s.Type, s.Protocol = resolve.SOCK_DGRAM, resolve.IPPROTO_ICMPV6
	case target.IsDatagram():
		s.Type, s.Protocol = resolve.SOCK_DGRAM, resolve.IPPROTO_UDP
	}
	return s
}

// remoteAddress is where an internet socket is connected to; invalid for others.
func remoteAddress(c net.Conn) netip.AddrPort { return addrPort(c.RemoteAddr()) }

// addrPort is an address of the internet, of ICMP with port 0; invalid for others.
func addrPort(address net.Addr) netip.AddrPort {
	var a netip.AddrPort
	switch address := address.(type) {
	case *net.TCPAddr:
		a = address.AddrPort()
	case *net.UDPAddr:
		a = address.AddrPort()
	case *net.IPAddr:
		ip, _ := netip.AddrFromSlice(address.IP)
		a = netip.AddrPortFrom(ip.WithZone(address.Zone), 0)
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
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
	switch {
	case c.secured != nil:
		return c.secured.Write(data)
	case c.target.IsICMP():
		return c.writeEcho(c.Conn.Write, data)
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
	switch {
	case c.secured != nil:
		return 0, syscall.EAGAIN
	case c.target.IsICMP():
		return c.writeEcho(c.tryWriteRaw, data)
	}
	return c.tryWriteRaw(data)
}

func (c *conn) tryWriteRaw(data []byte) (n int, err error) {
	controlErr := c.raw.Write(func(fd uintptr) bool {
		n, err = rawWrite(fd, data)
		return true
	})
	n = max(n, 0)
	switch {
	case controlErr != nil:
		return n, controlErr
	case err == nil && n < len(data):
		return n, syscall.EAGAIN
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
		if c.target.IsICMP() {
			return c.readEcho(c.raw.Read, math.MaxInt, size, most)
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
	room := c.buffers.room(cmp.Or(size, c.size))
	if most > 0 {
		room = min(room, most)
	}
	buffer := c.buffers.lend(room)
	n, err := c.secured.Read(buffer.data[:room])
	if n == 0 {
		buffer.Release()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			c.unclean, err = c.wire.ended, io.EOF
		}
		return piece{}, err
	}
	if size == 0 && room == c.size {
		c.adapt(n)
	}
	// An error beside data comes again with the next read.
	return piece{data: buffer.data[:n], buffer: buffer}, nil
}

// readNow is read for what is there already, whatever the deadline; when there is nothing, the error is
// os.ErrDeadlineExceeded.
func (c *conn) readNow(size, most int) (piece, error) {
	return c.allowed(most, func(most int) (piece, error) {
		if c.secured != nil {
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			return c.readSecured(size, most)
		}
		if c.target.IsICMP() {
			return c.readEcho(c.tryOnce, mostStrays, size, most)
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
	messages := c.target.HasMessages()
	room := func() int {
		wanted := cmp.Or(size, c.size)
		switch {
		case !messages:
			wanted = c.buffers.room(wanted)
		case size == 0: // what does not fit is lost
			wanted = messageChunk
		}
		if most > 0 {
			wanted = min(wanted, most)
		}
		return wanted
	}
	var p piece
	var n int
	var err error
	runErr := run(func(fd uintptr) bool {
		data := p.lend(c.buffers, room())
		if messages {
			n, p.datagram, err = c.readMessage(fd, data)
		} else {
			n, err = rawRead(fd, data)
		}
		if err != nil {
			p.done()
			return !errors.Is(err, syscall.EAGAIN)
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
		p.done()
		return piece{}, io.EOF
	}
	if size == 0 && !messages && len(p.buffer.data) == c.size {
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

func (c *conn) readMessage(fd uintptr, data []byte) (int, *Datagram, error) {
	n, from, truncated, err := rawReceive(fd, data)
	if err != nil {
		return 0, nil, err
	}
	if !c.target.IsUnix() { // such a socket is connected, so this is whom to
		from = c.RemoteAddr().String()
	}
	return min(n, len(data)), &Datagram{Peer: from, Truncated: truncated, Length: n}, nil
}

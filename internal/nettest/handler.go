package nettest

import (
	"io"
	"net"
	"syscall"
	"time"
)

// A handler is a func(net.Conn) that returns when it is done with the
// connection; the listener closes it then. Closing a TCP socket in which unread
// bytes lie sends RST in place of FIN, so a handler that means to end politely
// reads to the end first (finish does).

// Echo sends back what it reads until the peer half-closes, then closes.
func Echo(c net.Conn) {
	_, _ = io.Copy(c, c)
}

// Reply reads until the peer half-closes, then sends b and closes.
func Reply(b []byte) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := io.Copy(io.Discard, c); err == nil {
			_, _ = c.Write(b)
		}
	}
}

// ReplyAfter reads n bytes, sends b, half-closes, and reads to the end. With n 0
// it speaks first, as an SSH or SMTP server does.
func ReplyAfter(n int64, b []byte) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := io.CopyN(io.Discard, c, n); err != nil {
			return
		}
		if _, err := c.Write(b); err == nil {
			finish(c)
		}
	}
}

// HalfCloseThenRead sends b, half-closes at once, and reads to the end.
func HalfCloseThenRead(b []byte) func(net.Conn) {
	return ReplyAfter(0, b)
}

// Drip sends b in writes of n bytes, interval apart, without waiting for a
// request; then half-closes and reads to the end. On TCP each write is a segment
// of its own, since Go sets TCP_NODELAY. At cleanup it may be waited for as long
// as one interval.
func Drip(b []byte, n int, interval time.Duration) func(net.Conn) {
	return func(c net.Conn) {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for rest := b; len(rest) > 0; {
			k := min(n, len(rest))
			if _, err := c.Write(rest[:k]); err != nil {
				return
			}
			if rest = rest[k:]; len(rest) > 0 {
				<-tick.C
			}
		}
		finish(c)
	}
}

// Reset reads n bytes and then resets the connection (RST, by SO_LINGER 0).
func Reset(n int64) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := io.CopyN(io.Discard, c, n); err == nil {
			reset(c)
		}
	}
}

// SendThenReset reads n bytes, sends b, and then resets the connection. What is
// still in the send buffer by then is lost, so b arrives whole if it is short. With
// n 0 the reset can overtake the peer's connect, which then fails.
func SendThenReset(n int64, b []byte) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := io.CopyN(io.Discard, c, n); err != nil {
			return
		}
		if _, err := c.Write(b); err == nil {
			reset(c)
		}
	}
}

// CloseAtOnce closes without reading: FIN, or RST if something had come by then.
func CloseAtOnce(net.Conn) {}

// Silent reads everything and answers nothing, not even to a half-close; it keeps
// the connection open until the test ends or the peer resets it.
func Silent(c net.Conn) {
	if _, err := io.Copy(io.Discard, c); err == nil {
		hold(c)
	}
}

// NeverRead keeps the connection open until the test ends and reads nothing, so
// that the peer's sends block once both socket buffers are full.
func NeverRead(c net.Conn) {
	hold(c)
}

// Flood sends the first n bytes of Data as fast as they are taken, then
// half-closes and reads to the end.
func Flood(n int64) func(net.Conn) {
	return func(c net.Conn) {
		block := Data(dataPeriod * 256)
		for left := n; left > 0; left -= int64(len(block)) {
			if _, err := c.Write(block[:min(left, int64(len(block)))]); err != nil {
				return
			}
		}
		finish(c)
	}
}

// dataPeriod is prime, so that a buffer lost or doubled, whose size is mostly a
// power of two, never goes unnoticed.
const dataPeriod = 251

// Data returns n bytes of a fixed sequence: the one at offset i is i mod 251.
// Every prefix of it is also the beginning of what Flood sends.
func Data(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i % dataPeriod)
	}
	return b
}

// EchoPacket answers each datagram with itself.
func EchoPacket(pc net.PacketConn, from net.Addr, data []byte) {
	if from != nil {
		_, _ = pc.WriteTo(data, from)
	}
}

// SilentPacket answers no datagram.
func SilentPacket(net.PacketConn, net.Addr, []byte) {}

// finish half-closes and reads to the end, so that closing sends no RST.
func finish(c net.Conn) {
	if hc, ok := c.(interface{ CloseWrite() error }); ok {
		_ = hc.CloseWrite()
	}
	_, _ = io.Copy(io.Discard, c)
}

// reset closes with RST; the listener's own close finds it closed.
func reset(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0)
	}
	c.Close()
}

// hold waits until the connection is closed on this side. A read would return at
// once for a peer that has half-closed; a raw read that is never satisfied does
// not, because the poller reports changes of state and not the state.
func hold(c net.Conn) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := sc.SyscallConn(); err == nil {
		_ = raw.Read(func(uintptr) bool { return false })
	}
}

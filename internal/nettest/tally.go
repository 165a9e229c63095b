package nettest

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
)

// Tally counts what passes through the handlers it wraps, for the invariants that
// compare what a peer saw with what the client was told. The zero value is ready.
type Tally struct {
	Conns    atomic.Int64 // connections accepted
	Sent     atomic.Int64 // bytes the peer handed to its kernel
	Received atomic.Int64 // bytes the peer read
}

// Count returns handle with its connections counted.
func (y *Tally) Count(handle func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		y.Conns.Add(1)
		handle(&counted{Conn: c, tally: y})
	}
}

// counted keeps what handlers ask of a connection beyond net.Conn.
type counted struct {
	net.Conn
	tally *Tally
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.tally.Received.Add(int64(n))
	return n, err
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.tally.Sent.Add(int64(n))
	return n, err
}

func (c *counted) CloseWrite() error {
	if hc, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return hc.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (c *counted) SetLinger(sec int) error {
	if l, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok {
		return l.SetLinger(sec)
	}
	return errors.ErrUnsupported
}

func (c *counted) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

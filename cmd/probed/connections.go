package main

import (
	"net"
	"net/netip"
	"sync"

	"probed/service/guard"
)

// connections are those that the listeners for callers have accepted. They are counted, so that there are not too many,
// and can all be closed.
type connections struct {
	most, mostPerAddress int    // at a time; 0: any number
	refused              func() // is told of each that is closed because there are too many; may be nil

	mu   sync.Mutex
	open map[*connection]struct{}
	from map[netip.Prefix]int // how many are open, by where they come from
}

// of returns a listener whose connections are among these.
func (c *connections) of(l net.Listener) net.Listener { return &countedListener{l, c} }

type countedListener struct {
	net.Listener
	connections *connections
}

// connection is one that is counted.
type connection struct {
	net.Conn
	of   *connections
	from netip.Prefix
}

// Accept waits for the next connection. Those that are too many are closed at once: a caller learns then and there that
// there is no place, where one that is left waiting would learn it by a timeout.
func (l *countedListener) Accept() (net.Conn, error) {
	for {
		accepted, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if conn := l.connections.admit(accepted); conn != nil {
			return conn, nil
		}
		_ = accepted.Close() // nothing was said on it
		if l.connections.refused != nil {
			l.connections.refused()
		}
	}
}

// admit counts a connection in; nil when there is no place.
func (c *connections) admit(accepted net.Conn) net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open, c.from = make(map[*connection]struct{}), make(map[netip.Prefix]int)
	}
	conn := &connection{accepted, c, sourceOf(accepted)}
	if c.most > 0 && len(c.open) >= c.most || c.mostPerAddress > 0 && c.from[conn.from] >= c.mostPerAddress {
		return nil
	}
	c.open[conn] = struct{}{}
	c.from[conn.from]++
	return conn
}

// sourceOf is where a connection comes from; not valid for one that is not TCP.
func sourceOf(conn net.Conn) netip.Prefix {
	if remote, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return guard.Source(remote.AddrPort().Addr())
	}
	return netip.Prefix{}
}

// Close closes the connection.
func (c *connection) Close() error {
	c.of.mu.Lock()
	if _, counted := c.of.open[c]; counted {
		delete(c.of.open, c)
		if c.of.from[c.from]--; c.of.from[c.from] == 0 {
			delete(c.of.from, c.from)
		}
	}
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite ends what is sent and goes on to receive. So a server ends whose client may still be sending: to close would
// take the answer away from the client before it has read it.
func (c *connection) CloseWrite() error {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		return tcp.CloseWrite()
	}
	return c.Close()
}

// count is how many are open.
func (c *connections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}

// close closes all that are open.
func (c *connections) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		_ = conn.Conn.Close() // whoever uses it gets to know
	}
}

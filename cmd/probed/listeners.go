package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"probed/service/echo"
)

// listeners are the sockets probed listens on. The first three may be nil: not wanted.
type listeners struct {
	grpc, http, ops net.Listener
	echo            []*echo.Listener
	reachable       int // how many of grpc and http are reachable from outside
}

// listen opens them all, or none. One for gRPC or REST that is reachable from outside needs --insecure-no-auth.
func listen(ctx context.Context, o options, hooks *echo.Hooks) (l *listeners, err error) {
	l = &listeners{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	for _, want := range []struct {
		flag, address string
		listener      *net.Listener
		guarded       bool
	}{
		{"--grpc-listen", o.grpcListen, &l.grpc, true},
		{"--http-listen", o.httpListen, &l.http, true},
		{"--ops-listen", o.opsListen, &l.ops, false},
	} {
		if want.address == "" {
			continue
		}
		var listen net.ListenConfig
		listener, err := listen.Listen(ctx, "tcp", want.address)
		if err != nil {
			return l, asUsage(fmt.Errorf("%s: %w", want.flag, err))
		}
		*want.listener = listener
		if !want.guarded || addrPort(listener).Addr().IsLoopback() {
			continue
		}
		if !o.insecureNoAuth {
			return l, usageError{fmt.Errorf("%s %s would be reachable from outside of this host, and nobody would be asked who they are; "+
				"listen on loopback (127.0.0.1:%d), or, if all who can reach it may use this probe, add --insecure-no-auth",
				want.flag, want.address, addrPort(listener).Port())}
		}
		l.reachable++
	}
	for _, address := range o.echo {
		listener, err := echo.Listen(ctx, echo.Config{Address: address, Hooks: hooks})
		if err != nil {
			return l, asUsage(fmt.Errorf("--echo %s: %w", address, err))
		}
		l.echo = append(l.echo, listener)
	}
	return l, nil
}

// asUsage marks an error as one of the command line when it says that an address is none.
func asUsage(err error) error {
	if _, ok := errors.AsType[*net.AddrError](err); ok {
		return usageError{err}
	}
	if _, ok := errors.AsType[*echo.AddressError](err); ok {
		return usageError{err}
	}
	return err
}

func (l *listeners) close() {
	for _, listener := range []net.Listener{l.grpc, l.http, l.ops} {
		if listener != nil {
			_ = listener.Close() // its server may have closed it
		}
	}
	for _, listener := range l.echo {
		_ = listener.Close()
	}
}

// connections is a listener that can close the connections it has accepted.
type connections struct {
	net.Listener
	mu   sync.Mutex
	open map[*connection]struct{}
}

type connection struct {
	net.Conn
	of *connections
}

// Accept waits for the next connection.
func (c *connections) Accept() (net.Conn, error) {
	accepted, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = make(map[*connection]struct{})
	}
	conn := &connection{accepted, c}
	c.open[conn] = struct{}{}
	return conn, nil
}

// Close closes the connection.
func (c *connection) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// close closes all that are open.
func (c *connections) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		_ = conn.Conn.Close() // whoever uses it gets to know
	}
}

// own are the addresses that no caller may reach through probed: a probe that asks itself could go round any rule
// about where requests come from. The echo listeners are there to be reached.
func (l *listeners) own() []netip.AddrPort {
	var own []netip.AddrPort
	for _, listener := range []net.Listener{l.grpc, l.http, l.ops} {
		if listener != nil {
			own = append(own, addrPort(listener))
		}
	}
	return own
}

// named are the listeners in the order they are announced.
func (l *listeners) named() [][2]string {
	var named [][2]string
	for _, listener := range []struct {
		name string
		net.Listener
	}{{"grpc", l.grpc}, {"http", l.http}, {"ops", l.ops}} {
		if listener.Listener != nil {
			named = append(named, [2]string{listener.name, listener.Addr().String()})
		}
	}
	for _, listener := range l.echo {
		named = append(named, [2]string{"echo", listener.Addr()})
	}
	return named
}

// writeFile writes the addresses to a file, which is whole as soon as it is there.
func (l *listeners) writeFile(path string) error {
	var text strings.Builder
	for _, entry := range l.named() {
		text.WriteString(entry[0] + "=" + entry[1] + "\n")
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".listen-*")
	if err != nil {
		return err
	}
	_, err = file.WriteString(text.String())
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name()) // the first failure is the one to tell
	}
	return err
}

func addrPort(listener net.Listener) netip.AddrPort {
	address, ok := listener.Addr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	canonical := address.AddrPort()
	return netip.AddrPortFrom(canonical.Addr().Unmap(), canonical.Port())
}

//go:build !linux

package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// errorQueue is on Linux a socket's queue of ICMP messages; here there is none.
type errorQueue struct{ fd int }

func (*errorQueue) watch(int, string, bool) {}
func (*errorQueue) close()                  {}
func (*errorQueue) explain(err error) error { return err }

// WithICMP returns err. On Linux it finds the ICMP message behind the failure of a
// read or a write on a UDP or ICMP socket.
func WithICMP(_ syscall.RawConn, err error) error { return err }

// prepare has nothing portable to set. The broadcast address of a subnet is not
// refused here.
func prepare(_ int, _ string, _ bool, iface string) error {
	if iface != "" {
		return errors.ErrUnsupported
	}
	return nil
}

// dialUnix refuses: there is no way here to connect to the very file that was
// checked.
func (d *Dialer) dialUnix(_ context.Context, r Request) (net.Conn, error) {
	return nil, r.failed(errors.ErrUnsupported)
}

// dialPing refuses: what such sockets take and give is another thing on each system.
func (d *Dialer) dialPing(_ context.Context, r Request) (net.Conn, error) {
	return nil, r.failed(errors.ErrUnsupported)
}

// NameServers connects as NameServer does; on Linux it uses sockets again.
type NameServers struct{}

// Dial is NameServer.
func (*NameServers) Dial(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	return NameServer(ctx, network, server)
}

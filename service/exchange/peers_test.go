package exchange

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"probed/internal/nettest"
	"probed/service/dial"
	"probed/service/resolve"
)

type resolveFunc = func(ctx context.Context, host string, family resolve.Family) (*resolve.HostResult, error)

func admitAll(context.Context, dial.Destination) error { return nil }

func dialer(policy dial.Policy) dialFunc {
	return (&dial.Dialer{Policy: policy}).Dial
}

// hosts resolves the names of these lines, as /etc/hosts has them, and no others.
func hosts(t testing.TB, lines ...string) resolveFunc {
	t.Helper()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return resolve.New(resolve.Config{
		Hosts:      file("hosts", strings.Join(lines, "\n")+"\n"),
		Nsswitch:   file("nsswitch.conf", "hosts: files\n"),
		ResolvConf: file("resolv.conf", ""),
	}).Addresses
}

// streamTarget starts a peer for a scheme that connects, and counts what passes through it.
func streamTarget(t testing.TB, scheme string, handle func(net.Conn)) (Target, *nettest.Tally) {
	t.Helper()
	tally := new(nettest.Tally)
	handle = tally.Count(handle)
	switch scheme {
	case "tcp", "tcp4":
		return ipTarget(scheme, nettest.TCP(t, handle)), tally
	case "tcp6":
		return ipTarget(scheme, nettest.TCP6(t, handle)), tally
	case "unix", "unixpacket":
		return Target{Scheme: scheme, Path: nettest.Unix(t, scheme, handle)}, tally
	}
	t.Fatalf("no peer for %s", scheme)
	return Target{}, nil
}

// datagramTarget does the same for a scheme that does not.
func datagramTarget(t testing.TB, scheme string, handle func(net.PacketConn, net.Addr, []byte)) (Target, *nettest.Tally) {
	t.Helper()
	tally := new(nettest.Tally)
	counted := func(pc net.PacketConn, from net.Addr, data []byte) {
		tally.Received.Add(int64(len(data)))
		handle(countedPacket{pc, tally}, from, data)
	}
	switch scheme {
	case "udp", "udp4":
		return ipTarget(scheme, nettest.UDP(t, counted)), tally
	case "udp6":
		return ipTarget(scheme, nettest.UDP6(t, counted)), tally
	case "unixgram":
		return Target{Scheme: scheme, Path: nettest.Unixgram(t, counted)}, tally
	}
	t.Fatalf("no peer for %s", scheme)
	return Target{}, nil
}

type countedPacket struct {
	net.PacketConn
	tally *nettest.Tally
}

func (c countedPacket) WriteTo(data []byte, to net.Addr) (int, error) {
	n, err := c.PacketConn.WriteTo(data, to)
	c.tally.Sent.Add(int64(n))
	return n, err
}

func ipTarget(scheme string, address netip.AddrPort) Target {
	return Target{Scheme: scheme, Host: address.Addr().String(), Port: address.Port()}
}

// paced is a peer that writes its next piece when the client has been handed all before, so that a write is a read. At
// the end it half-closes and reads to the end, or, if it holds, does so when the exchange is over.
type paced struct {
	pieces   [][]byte
	hold     bool
	received atomic.Int64
	notify   chan struct{}
	over     chan struct{}
}

func newPaced(hold bool, pieces ...string) *paced {
	p := &paced{hold: hold, notify: make(chan struct{}, 1), over: make(chan struct{})}
	for _, piece := range pieces {
		p.pieces = append(p.pieces, []byte(piece))
	}
	return p
}

func (p *paced) handle(c net.Conn) {
	var written int64
	for _, piece := range p.pieces {
		if _, err := c.Write(piece); err != nil {
			return
		}
		for written += int64(len(piece)); p.received.Load() < written; {
			select {
			case <-p.notify:
			case <-p.over:
				return
			}
		}
	}
	if p.hold {
		<-p.over
		return
	}
	nettest.HalfCloseThenRead(nil)(c)
}

// hook tells the peer what the client has got.
func (p *paced) hook(event Event) error {
	switch event := event.(type) {
	case Chunk:
		n := len(event.Data)
		if event.Datagram != nil {
			n = event.Datagram.Length
		}
		p.received.Add(int64(n))
		select {
		case p.notify <- struct{}{}:
		default:
		}
	case *Outcome:
		close(p.over)
	}
	return nil
}

// socketPair is a connection that was never dialled.
func socketPair(t testing.TB, kind int) (near, far net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "")
		ends[i], err = net.FileConn(file)
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
	t.Cleanup(func() {
		ends[0].Close()
		ends[1].Close()
	})
	return ends[0], ends[1]
}

// given dials a connection that is there already.
func given(c net.Conn) Config {
	return Config{
		Dial: func(_ context.Context, request dial.Request) (net.Conn, error) {
			request.Admitted()
			return c, nil
		},
		Resolve: func(context.Context, string, resolve.Family) (*resolve.HostResult, error) {
			return &resolve.HostResult{Addresses: []netip.Addr{netip.IPv6Loopback()}}, nil
		},
	}
}

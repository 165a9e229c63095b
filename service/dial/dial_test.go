package dial

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"probed/internal/nettest"
)

// asked is a policy that notes what it is asked and answers err.
type asked struct {
	mu  sync.Mutex
	all []Destination
	err error
}

func (a *asked) policy(_ context.Context, to Destination) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, to)
	return a.err
}

func admitAll(context.Context, Destination) error { return nil }

// timeout is a context that ends long after any of these tests should.
func timeout(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// echoes sends a line over c and wants it back.
func echoes(t *testing.T, c net.Conn) {
	t.Helper()
	line := []byte("is anybody there\n")
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(line); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, line) {
		t.Fatalf("read %q, %v", got, err)
	}
}

func TestDialIP(t *testing.T) {
	t.Parallel()
	tcp4, tcp6 := nettest.TCP(t, nettest.Echo), nettest.TCP6(t, nettest.Echo)
	udp4, udp6 := nettest.UDP(t, nettest.EchoPacket), nettest.UDP6(t, nettest.EchoPacket)
	mapped := netip.AddrPortFrom(netip.AddrFrom16(tcp4.Addr().As16()), tcp4.Port())
	zoned := netip.AddrPortFrom(tcp6.Addr().WithZone("lo"), tcp6.Port())
	index := netip.AddrPortFrom(tcp6.Addr().WithZone("1"), tcp6.Port())
	for _, tt := range []struct {
		network string
		address netip.AddrPort
		want    Destination
	}{
		{"tcp", tcp4, Destination{Network: "tcp4", Address: tcp4}},
		{"tcp4", tcp4, Destination{Network: "tcp4", Address: tcp4}},
		{"tcp", mapped, Destination{Network: "tcp4", Address: tcp4}},
		{"tcp4", mapped, Destination{Network: "tcp4", Address: tcp4}},
		{"tcp", tcp6, Destination{Network: "tcp6", Address: tcp6}},
		{"tcp6", tcp6, Destination{Network: "tcp6", Address: tcp6}},
		{"tcp6", zoned, Destination{Network: "tcp6", Address: tcp6}},
		{"tcp6", index, Destination{Network: "tcp6", Address: tcp6}},
		{"udp", udp4, Destination{Network: "udp4", Address: udp4}},
		{"udp4", udp4, Destination{Network: "udp4", Address: udp4}},
		{"udp", udp6, Destination{Network: "udp6", Address: udp6}},
		{"udp6", udp6, Destination{Network: "udp6", Address: udp6}},
	} {
		t.Run(tt.network+" "+tt.address.String(), func(t *testing.T) {
			t.Parallel()
			var a asked
			d := Dialer{Policy: a.policy}
			admitted := 0
			c, err := d.Dial(t.Context(), Request{
				Network: tt.network, Address: tt.address, Host: "a.example", Send: true, SkipVerify: true, Admitted: func() { admitted++ },
			})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			echoes(t, c)
			tt.want.Host, tt.want.Send, tt.want.SkipVerify = "a.example", true, true
			if len(a.all) != 1 || a.all[0] != tt.want {
				t.Errorf("the policy was asked %+v, want once %+v", a.all, tt.want)
			}
			if admitted != 1 {
				t.Errorf("Admitted was called %d times, want once", admitted)
			}
		})
	}
}

// 0.0.0.0 and :: reach loopback on Linux, so the policy has to see them as they
// are.
func TestDialUnspecified(t *testing.T) {
	t.Parallel()
	for unspecified, listener := range map[netip.Addr]netip.AddrPort{
		netip.IPv4Unspecified(): nettest.TCP(t, nettest.Echo),
		netip.IPv6Unspecified(): nettest.TCP6(t, nettest.Echo),
	} {
		var a asked
		d := Dialer{Policy: a.policy}
		to := netip.AddrPortFrom(unspecified, listener.Port())
		c, err := d.Dial(t.Context(), Request{Network: "tcp", Address: to})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		echoes(t, c)
		if len(a.all) != 1 || a.all[0].Address != to {
			t.Errorf("the policy was asked %+v, want %v", a.all, to)
		}
	}
}

func TestDeniedIsNeverConnected(t *testing.T) {
	t.Parallel()
	why := errors.New("not this one")
	for _, p := range []Policy{nil, (&asked{err: why}).policy} {
		var tally nettest.Tally
		sink := nettest.TCP(t, tally.Count(nettest.Silent))
		var datagrams atomic.Int64
		packets := nettest.UDP(t, func(net.PacketConn, net.Addr, []byte) { datagrams.Add(1) })
		d := Dialer{Policy: p}
		for _, r := range []Request{{Network: "tcp", Address: sink}, {Network: "udp", Address: packets}} {
			r.Admitted = func() { t.Errorf("%s: admitted", r.Network) }
			for range 100 {
				c, err := d.Dial(t.Context(), r)
				if c != nil {
					t.Fatalf("%s: connected", r.Network)
				}
				e, ok := errors.AsType[*DeniedError](err)
				if !ok {
					t.Fatalf("%s: %v, want a DeniedError", r.Network, err)
				}
				if e.Destination.Address != r.Address {
					t.Errorf("%s: denied %v, want %v", r.Network, e.Destination.Address, r.Address)
				}
				if p != nil && !errors.Is(err, why) {
					t.Errorf("%s: %v does not say why", r.Network, err)
				}
				if _, ok := errors.AsType[*net.OpError](err); !ok {
					t.Errorf("%s: %T, want a *net.OpError", r.Network, err)
				}
			}
		}
		// A connection that is let through arrives after any that should not have been.
		last, err := (&Dialer{Policy: admitAll}).Dial(t.Context(), Request{Network: "tcp", Address: sink})
		if err != nil {
			t.Fatal(err)
		}
		defer last.Close()
		for tally.Conns.Load() == 0 {
			time.Sleep(time.Millisecond) //nolint:forbidigo // asks again until it is so
		}
		if n := tally.Conns.Load(); n != 1 {
			t.Errorf("%d connections reached the sink, want 1", n)
		}
		if n := datagrams.Load(); n != 0 {
			t.Errorf("%d datagrams reached the sink, want 0", n)
		}
	}
}

// A policy that changes its mind gets what it said last, also when package net
// repeats a connect with a new socket, as it does after EADDRNOTAVAIL.
func TestPolicyThatFlips(t *testing.T) {
	t.Parallel()
	var tally nettest.Tally
	sink := nettest.TCP(t, tally.Count(nettest.Echo))
	admit := true
	d := Dialer{Policy: func(context.Context, Destination) error {
		if admit = !admit; admit {
			return nil
		}
		return errors.New("not now")
	}}
	for i := range 1000 {
		c, err := d.Dial(t.Context(), Request{Network: "tcp", Address: sink})
		_, denied := errors.AsType[*DeniedError](err)
		if wantDenied := i%2 == 0; denied != wantDenied || (c == nil) != wantDenied {
			t.Fatalf("dial %d: %v, %v", i, c, err)
		}
		if c != nil {
			echoes(t, c)
			c.Close()
		}
	}
	if n := tally.Conns.Load(); n != 500 {
		t.Errorf("%d connections, want 500", n)
	}

	asks, admitted := 0, 0
	d.Policy = func(context.Context, Destination) error {
		if asks++; asks == 1 {
			return nil
		}
		return errors.New("not again")
	}
	_, err := d.Dial(t.Context(), Request{
		Network: "tcp", Address: sink, Source: netip.MustParseAddr("198.51.100.77"), Admitted: func() { admitted++ },
	})
	if _, ok := errors.AsType[*DeniedError](err); !ok || asks != 2 || admitted != 1 {
		t.Errorf("%v after %d questions, Admitted called %d times; want a DeniedError after 2, once", err, asks, admitted)
	}
}

func TestDialSource(t *testing.T) {
	t.Parallel()
	address := nettest.TCP(t, nettest.Echo)
	packets := nettest.UDP(t, nettest.EchoPacket)
	for _, tt := range []struct {
		network string
		address netip.AddrPort
		source  string
		err     error
	}{
		{"tcp", address, "127.0.0.9", nil},
		{"tcp", address, "::ffff:127.0.0.9", nil},
		{"udp", packets, "127.0.0.9", nil},
		{"tcp", address, "198.51.100.77", syscall.EADDRNOTAVAIL},
		{"udp", packets, "198.51.100.77", syscall.EADDRNOTAVAIL},
		{"tcp", address, "::1", syscall.EADDRNOTAVAIL},
		{"udp", packets, "::1", syscall.EADDRNOTAVAIL},
	} {
		d := Dialer{Policy: admitAll}
		admitted := 0
		c, err := d.Dial(t.Context(), Request{
			Network: tt.network, Address: tt.address, Source: netip.MustParseAddr(tt.source), Admitted: func() { admitted++ },
		})
		if !errors.Is(err, tt.err) {
			t.Errorf("%s from %s: %v, want %v", tt.network, tt.source, err, tt.err)
		}
		if admitted != 1 {
			t.Errorf("%s from %s: Admitted was called %d times, want once", tt.network, tt.source, admitted)
		}
		if err == nil {
			echoes(t, c)
			if local := netip.MustParseAddrPort(c.LocalAddr().String()); local.Addr() != netip.MustParseAddr("127.0.0.9") {
				t.Errorf("%s from %s: local address %v", tt.network, tt.source, local)
			}
			c.Close()
		}
	}
}

func TestDialErrors(t *testing.T) {
	t.Parallel()
	v4, v6 := netip.MustParseAddrPort("127.0.0.1:9"), netip.MustParseAddrPort("[::1]:9")
	for _, tt := range []struct {
		name string
		r    Request
		want error
		text string
	}{
		{"refused", Request{Network: "tcp", Address: nettest.Refused(t)}, syscall.ECONNREFUSED, "connect"},
		{"v6 by tcp4", Request{Network: "tcp4", Address: v6}, syscall.EAFNOSUPPORT, "socket"},
		{"v4 by tcp6", Request{Network: "tcp6", Address: v4}, syscall.EAFNOSUPPORT, "socket"},
		{"v4 by udp6", Request{Network: "udp6", Address: v4}, syscall.EAFNOSUPPORT, "socket"},
		{"no such zone", Request{Network: "tcp", Address: netip.MustParseAddrPort("[fe80::1%nowhere]:9")}, syscall.ENODEV, "if_nametoindex"},
		{"no such index", Request{Network: "tcp", Address: netip.MustParseAddrPort("[fe80::1%99999]:9")}, syscall.ENODEV, "if_nametoindex"},
		{"no such interface", Request{Network: "tcp", Address: v4, Interface: "nowhere"}, syscall.ENODEV, "setsockopt"},
		{"network", Request{Network: "ip", Address: v4}, net.UnknownNetworkError("ip"), "unknown network"},
		{"no network", Request{Address: v4}, net.UnknownNetworkError(""), "unknown network"},
		{"no address", Request{Network: "tcp"}, errUnparsable, "denied"},
		// The kernel says so because dialled sockets have no SO_BROADCAST.
		{"broadcast", Request{Network: "udp", Address: netip.MustParseAddrPort("127.255.255.255:9")}, syscall.EACCES, "connect"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := Dialer{Policy: admitAll}
			c, err := d.Dial(timeout(t, 10*time.Second), tt.r)
			if c != nil || !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v, %v; want %v with %q", c, err, tt.want, tt.text)
			}
			op, ok := errors.AsType[*net.OpError](err)
			if !ok || op.Op != "dial" || op.Addr != nil && op.Addr.String() != tt.r.Address.String() {
				t.Errorf("%#v, want a dial of %v", op, tt.r.Address)
			}
		})
	}
}

// What is wrong with the host's side of a request is told only to a caller who
// may reach the destination.
func TestDeniedComesFirst(t *testing.T) {
	t.Parallel()
	d := Dialer{Policy: (&asked{err: errors.New("no")}).policy}
	for _, r := range []Request{
		{Network: "tcp", Address: netip.MustParseAddrPort("[fe80::1%nowhere]:9")},
		{Network: "tcp", Address: nettest.Refused(t), Interface: "nowhere"},
		{Network: "tcp", Address: nettest.Refused(t), Source: netip.MustParseAddr("::1")},
		{Network: "tcp", Address: nettest.Refused(t), Source: netip.MustParseAddr("198.51.100.77")},
	} {
		_, err := d.Dial(t.Context(), r)
		if _, ok := errors.AsType[*DeniedError](err); !ok {
			t.Errorf("%+v: %v, want a DeniedError", r, err)
		}
		if e, ok := errors.AsType[syscall.Errno](err); ok {
			t.Errorf("%+v: %v tells errno %d", r, err, e)
		}
	}
}

func TestNameServer(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"udp", "udp4", "tcp", "tcp4"} {
		for _, port := range []uint16{0, 52, 54, 80, 853, 5353} {
			_, err := NameServer(t.Context(), network, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
			if _, ok := errors.AsType[*DeniedError](err); !ok {
				t.Errorf("%s port %d: %v, want a DeniedError", network, port, err)
			}
		}
	}
	for _, server := range []netip.AddrPort{{}, netip.AddrPortFrom(netip.Addr{}, 53)} {
		if _, err := NameServer(t.Context(), "udp", server); err == nil {
			t.Errorf("%v: connected", server)
		}
	}
	for _, network := range []string{"", "ip", "unix", "unixgram"} {
		_, err := NameServer(t.Context(), network, netip.MustParseAddrPort("127.0.0.1:53"))
		if !errors.Is(err, net.UnknownNetworkError(network)) {
			t.Errorf("network %q: %v", network, err)
		}
	}
	// Nobody listens on port 53 of this address; connecting a UDP socket sends nothing.
	c, err := NameServer(t.Context(), "udp", netip.MustParseAddrPort("127.0.0.199:53"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.RemoteAddr().String(); got != "127.0.0.199:53" {
		t.Errorf("connected to %v", got)
	}
	if _, err := NameServer(timeout(t, 10*time.Second), "tcp", netip.MustParseAddrPort("127.0.0.199:53")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("tcp: %v, want ECONNREFUSED", err)
	}
}

// What package net reports is made canonical or, if it cannot be read, comes
// without an address; it never changes which address is meant.
func FuzzAbout(f *testing.F) {
	for _, s := range []string{"127.0.0.1:80", "[::1]:80", "[fe80::1%eth0]:80", "[::ffff:127.0.0.1]:80", ":80", "", "x:y", "[::]:0", "[::0%]0]:0"} {
		f.Add("tcp4", s)
	}
	f.Fuzz(func(t *testing.T, network, address string) {
		to := about(Request{Host: "h"}, network, address)
		if to.Network != network || to.Host != "h" || to.Path != "" {
			t.Errorf("%+v", to)
		}
		if zone := strings.IndexByte(address, '%'); zone >= 0 && strings.Count(address[zone:], "]") > 1 {
			return // an interface may be called so, and net.SplitHostPort, which reads it below, does not know that
		}
		host, port, err := net.SplitHostPort(address)
		ip := net.ParseIP(strings.SplitN(host, "%", 2)[0])
		if !to.Address.IsValid() {
			if _, e := netip.ParseAddrPort(address); e == nil {
				t.Errorf("%q was not understood", address)
			}
			return
		}
		if err != nil || ip == nil {
			t.Fatalf("%q: %v, but package net cannot read it", address, to.Address)
		}
		a := to.Address.Addr()
		if a.Is4In6() || a.Zone() != "" || !ip.Equal(a.AsSlice()) || port == "" {
			t.Errorf("%q: %v", address, to.Address)
		}
	})
}

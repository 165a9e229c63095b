package dial

import (
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"probed/internal/nettest"
)

// The options of a dialled socket are the kernel's own, but for TCP_NODELAY and
// that UDP sockets queue ICMP messages.
func TestSocketOptions(t *testing.T) {
	t.Parallel()
	type option struct {
		name       string
		level, opt int
		want       int
	}
	broadcast := option{"SO_BROADCAST", unix.SOL_SOCKET, unix.SO_BROADCAST, 0}
	tcp := []option{
		{"SO_PROTOCOL", unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP},
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0},
		{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	}
	recvErr4 := func(want int) option { return option{"IP_RECVERR", unix.IPPROTO_IP, unix.IP_RECVERR, want} }
	recvErr6 := func(want int) option { return option{"IPV6_RECVERR", unix.IPPROTO_IPV6, unix.IPV6_RECVERR, want} }
	udp := []option{{"SO_PROTOCOL", unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_UDP}, broadcast}
	for _, tt := range []struct {
		network string
		address netip.AddrPort
		options []option
	}{
		{"tcp", nettest.TCP(t, nettest.Silent), append(tcp, recvErr4(0))},
		{"tcp", nettest.TCP6(t, nettest.Silent), append(tcp, recvErr6(0))},
		{"udp", nettest.UDP(t, nettest.SilentPacket), append(udp, recvErr4(1))},
		{"udp", nettest.UDP6(t, nettest.SilentPacket), append(udp, recvErr6(1))},
	} {
		c, err := (&Dialer{Policy: admitAll}).Dial(t.Context(), Request{Network: tt.network, Address: tt.address})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		raw, err := c.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		err = control(raw, func(fd int) error {
			for _, o := range tt.options {
				if got, err := unix.GetsockoptInt(fd, o.level, o.opt); err != nil || got != o.want {
					t.Errorf("%s %v: %s is %d, %v; want %d", tt.network, tt.address, o.name, got, err, o.want)
				}
			}
			flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
			if flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("%s %v: not close-on-exec", tt.network, tt.address)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

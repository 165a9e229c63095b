package dial

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"probed/internal/nettest"
)

// icmp is what an error tells of the message behind it, in short.
func icmp(err error) string {
	m, ok := errors.AsType[*ICMPError](err)
	if !ok {
		return ""
	}
	own := ""
	if m.Own {
		own = "own "
	}
	if m.V6 != m.From.Is6() {
		return fmt.Sprintf("%+v", m)
	}
	return fmt.Sprintf("%s%v %d/%d", own, m.From, m.Type, m.Code)
}

func TestWithICMP(t *testing.T) {
	t.Parallel()
	address := nettest.RefusedUDP(t)
	c, err := (&Dialer{Policy: admitAll}).Dial(t.Context(), Request{Network: "udp", Address: address})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	refused := os.NewSyscallError("read", syscall.ECONNREFUSED)
	if got := WithICMP(raw, refused); !errors.Is(got, refused) || icmp(got) != "" {
		t.Errorf("%v, and there was no message", got)
	}
	provoke := func() error {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, err := c.Read(make([]byte, 1))
		return err
	}

	err = provoke()
	explained := WithICMP(raw, err)
	m, ok := errors.AsType[*ICMPError](explained)
	if !ok || !errors.Is(explained, syscall.ECONNREFUSED) {
		t.Fatalf("%v, want an ICMPError of ECONNREFUSED", explained)
	}
	if want := (ICMPError{From: address.Addr(), Own: true, Type: 3, Code: 3, Err: err}); *m != want {
		t.Errorf("%+v, want %+v", *m, want)
	}

	// A message about something else is none for this error.
	if err := provoke(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatal(err)
	}
	tooLarge := os.NewSyscallError("read", syscall.EMSGSIZE)
	if got := WithICMP(raw, tooLarge); !errors.Is(got, tooLarge) || icmp(got) != "" {
		t.Errorf("%v, of which there was no message", got)
	}
	// What is no failure of a system call is not looked into, nor a socket that is closed.
	for _, err := range []error{nil, os.ErrDeadlineExceeded} {
		if got := WithICMP(raw, err); !errors.Is(got, err) || icmp(got) != "" {
			t.Errorf("%v, want %v", got, err)
		}
	}
	err = provoke()
	c.Close()
	if got := WithICMP(raw, err); !errors.Is(got, err) || icmp(got) != "" {
		t.Errorf("%v of a closed socket, want %v", got, err)
	}
}

// Data that waits on a socket is left alone, whatever the socket is.
func TestWithICMPTakesNoData(t *testing.T) {
	t.Parallel()
	greet := func(c net.Conn) {
		_, _ = c.Write([]byte("hello"))
		nettest.Silent(c)
	}
	answer := func(pc net.PacketConn, from net.Addr, _ []byte) { _, _ = pc.WriteTo([]byte("hello"), from) }
	for _, r := range []Request{
		{Network: "tcp", Address: nettest.TCP(t, greet)},
		{Network: "tcp", Address: nettest.TCP6(t, greet)},
		{Network: "udp", Address: nettest.UDP(t, answer)},
		{Network: "udp", Address: nettest.UDP6(t, answer)},
		{Network: "unix", Path: nettest.Unix(t, "unix", greet)},
		{Network: "unixpacket", Path: nettest.Unix(t, "unixpacket", greet)},
		{Network: "unixgram", Path: nettest.Unixgram(t, answer)},
	} {
		c, err := (&Dialer{Policy: admitAll}).Dial(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		raw, err := c.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		// Wait until the data is there.
		if err := raw.Read(func(fd uintptr) bool {
			n, _, err := unix.Recvfrom(int(fd), make([]byte, 9), unix.MSG_PEEK|unix.MSG_DONTWAIT)
			return err == nil && n == 5
		}); err != nil {
			t.Fatal(err)
		}
		pipe := os.NewSyscallError("write", syscall.EPIPE)
		if got := WithICMP(raw, pipe); !errors.Is(got, pipe) || icmp(got) != "" {
			t.Errorf("%s: %v", r.Network, got)
		}
		got := make([]byte, 9)
		if n, err := c.Read(got); string(got[:n]) != "hello" || err != nil {
			t.Errorf("%s: read %q, %v", r.Network, got[:n], err)
		}
	}
}

// queued is what recvmsg(2) returns beside an entry of the queue.
func queued(level, kind int32, ee unix.SockExtendedErr, from any) []byte {
	var data bytes.Buffer
	_ = binary.Write(&data, binary.NativeEndian, ee)
	if from != nil {
		_ = binary.Write(&data, binary.NativeEndian, from)
	}
	control := make([]byte, unix.CmsgSpace(data.Len()))
	binary.NativeEndian.PutUint64(control, uint64(unix.CmsgLen(data.Len())))
	binary.NativeEndian.PutUint32(control[8:], uint32(level))
	binary.NativeEndian.PutUint32(control[12:], uint32(kind))
	copy(control[unix.CmsgLen(0):], data.Bytes())
	return control
}

func queues() map[string][]byte {
	from4 := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: [4]byte{192, 0, 2, 1}}
	from6 := unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: netip.MustParseAddr("fe80::1").As16(), Scope_id: 1}
	icmp4 := unix.SockExtendedErr{Errno: uint32(unix.EHOSTUNREACH), Origin: unix.SO_EE_ORIGIN_ICMP, Type: 3, Code: 13}
	icmp6 := unix.SockExtendedErr{Errno: uint32(unix.EACCES), Origin: unix.SO_EE_ORIGIN_ICMP6, Type: 1, Code: 1}
	local := unix.SockExtendedErr{Errno: uint32(unix.EMSGSIZE), Origin: unix.SO_EE_ORIGIN_LOCAL}
	return map[string][]byte{
		"IPv4":      queued(unix.IPPROTO_IP, unix.IP_RECVERR, icmp4, from4),
		"IPv6":      queued(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, icmp6, from6),
		"local":     queued(unix.IPPROTO_IP, unix.IP_RECVERR, local, from4),
		"anonymous": queued(unix.IPPROTO_IP, unix.IP_RECVERR, icmp4, nil),
		"odd":       queued(unix.IPPROTO_IP, unix.IP_RECVERR, icmp6, from4),
		"another":   queued(unix.SOL_SOCKET, unix.IP_RECVERR, icmp4, from4),
	}
}

func TestParseICMP(t *testing.T) {
	t.Parallel()
	all := queues()
	m, errno := parseICMP(all["IPv4"])
	if want := (ICMPError{From: netip.MustParseAddr("192.0.2.1"), Type: 3, Code: 13}); m == nil || *m != want || errno != unix.EHOSTUNREACH {
		t.Errorf("%+v, %v", m, errno)
	}
	m, errno = parseICMP(all["IPv6"])
	if want := (ICMPError{From: netip.MustParseAddr("fe80::1%lo"), V6: true, Type: 1, Code: 1}); m == nil || *m != want || errno != unix.EACCES {
		t.Errorf("%+v, %v", m, errno)
	}
	for _, name := range []string{"local", "anonymous", "odd", "another"} {
		if m, errno := parseICMP(all[name]); m != nil || errno != 0 {
			t.Errorf("%s: %+v, %v", name, m, errno)
		}
	}
}

func FuzzParseICMP(f *testing.F) {
	for _, control := range queues() {
		f.Add(control)
		f.Add(control[:len(control)-4])
	}
	f.Fuzz(func(t *testing.T, control []byte) {
		m, errno := parseICMP(control)
		if m == nil && errno != 0 {
			t.Errorf("error number %d without a message", errno)
		}
		if m != nil && (!m.From.IsValid() || m.From.Is6() != m.V6 || m.Err != nil || m.Own) {
			t.Errorf("%+v", m)
		}
	})
}

//go:build system

package echo

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// A datagram from the echo port itself, which only root can bind, has no answer.
func TestNoReflectionForReal(t *testing.T) {
	t.Parallel()
	conn, err := net.ListenPacket("udp", "127.77.0.7:7")
	if err != nil {
		t.Fatalf("%v (this needs root)", err)
	}
	t.Cleanup(func() { conn.Close() })
	l, counted := open(t, Config{Address: "udp://127.0.0.1:0"})
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(strings.TrimPrefix(l.Addr(), "udp://")))
	if _, err := conn.WriteTo([]byte("answer me"), to); err != nil {
		t.Fatal(err)
	}
	// Datagrams are answered one after the other: when another has its answer, the first would have had its own.
	c := dial(t, l)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, _, err := conn.ReadFrom(make([]byte, 16)); !errors.Is(err, os.ErrDeadlineExceeded) || counted.bytes.Load() > 1 {
		t.Errorf("%d bytes came back, %v", n, err)
	}
}

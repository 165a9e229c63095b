package nettest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

func dial(t *testing.T, network, address string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestHandlers(t *testing.T) {
	t.Parallel()
	request := []byte("twelve bytes")
	for _, tt := range []struct {
		name   string
		handle func(net.Conn)
		half   bool // half-close after the request
		want   []byte
		err    error
	}{
		{"echo", Echo, true, request, nil},
		{"reply", Reply([]byte("yes")), true, []byte("yes"), nil},
		{"reply after", ReplyAfter(12, []byte("yes")), false, []byte("yes"), nil},
		{"half-close, then read", HalfCloseThenRead([]byte("yes")), false, []byte("yes"), nil},
		{"drip", Drip(Data(10), 3, time.Millisecond), false, Data(10), nil},
		{"reset", Reset(12), false, nil, syscall.ECONNRESET},
		{"flood", Flood(3_000_001), false, Data(3_000_001), nil},
	} {
		for network, address := range map[string]string{
			"tcp4":       TCP(t, tt.handle).String(),
			"tcp6":       TCP6(t, tt.handle).String(),
			"unix":       Unix(t, "unix", tt.handle),
			"unixpacket": Unix(t, "unixpacket", tt.handle),
		} {
			if network == "unixpacket" && tt.name == "flood" {
				continue // A packet of 64 KiB does not fit a send buffer everywhere.
			}
			t.Run(tt.name+" "+network, func(t *testing.T) {
				t.Parallel()
				c := dial(t, network, address)
				if _, err := c.Write(request); err != nil {
					t.Fatal(err)
				}
				if tt.half {
					if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
						t.Fatal(err)
					}
				}
				got, err := readAll(c)
				// SO_LINGER is TCP's; a unix socket closes.
				if network == "tcp4" || network == "tcp6" {
					if !errors.Is(err, tt.err) {
						t.Errorf("read: %v, want %v", err, tt.err)
					}
				}
				if !bytes.Equal(got, tt.want) {
					t.Errorf("read %d bytes, want %d", len(got), len(tt.want))
				}
			})
		}
	}
}

// readAll is io.ReadAll for sockets that keep the bounds of what is sent: the
// buffer is always larger than a packet.
func readAll(r io.Reader) ([]byte, error) {
	var all []byte
	buf := make([]byte, 1<<17)
	for {
		n, err := r.Read(buf)
		all = append(all, buf[:n]...)
		if err == io.EOF || n == 0 && err == nil {
			return all, nil
		}
		if err != nil {
			return all, err
		}
	}
}

func TestSilentOutlivesHalfClose(t *testing.T) {
	t.Parallel()
	for name, handle := range map[string]func(net.Conn){"silent": Silent, "never read": NeverRead} {
		var tally Tally
		c := dial(t, "tcp4", TCP(t, tally.Count(handle)).String())
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: read %d bytes, %v; want the deadline", name, n, err)
		}
	}
}

func TestSendThenReset(t *testing.T) {
	t.Parallel()
	c := dial(t, "tcp4", TCP(t, SendThenReset(1, []byte("half a line"))).String())
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if got, err := readAll(c); !errors.Is(err, syscall.ECONNRESET) || string(got) != "half a line" {
		t.Errorf("read %q, %v; want all of it and ECONNRESET", got, err)
	}
}

func TestTally(t *testing.T) {
	t.Parallel()
	var tally Tally
	c := dial(t, "tcp4", TCP(t, tally.Count(ReplyAfter(3, Data(1000)))).String())
	if _, err := c.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || len(got) != 1000 {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	if n := tally.Conns.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	if n := tally.Received.Load(); n != 3 {
		t.Errorf("received %d, want 3", n)
	}
	if n := tally.Sent.Load(); n != 1000 {
		t.Errorf("sent %d, want 1000", n)
	}
}

func TestDatagrams(t *testing.T) {
	t.Parallel()
	for network, address := range map[string]string{
		"udp4": UDP(t, EchoPacket).String(),
		"udp6": UDP6(t, EchoPacket).String(),
	} {
		c := dial(t, network, address)
		if _, err := c.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 16)
		if n, err := c.Read(b); err != nil || string(b[:n]) != "ping" {
			t.Errorf("%s: read %q, %v", network, b[:n], err)
		}
	}
}

func TestUnixgram(t *testing.T) {
	t.Parallel()
	path := Unixgram(t, EchoPacket)
	local := &net.UnixAddr{Name: SocketDir(t) + "/c", Net: "unixgram"}
	c, err := net.DialUnix("unixgram", local, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "ping" {
		t.Errorf("read %q, %v", b[:n], err)
	}
	// A sender without an address: from is nil, and nothing breaks.
	anon := dial(t, "unixgram", path)
	if _, err := anon.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("pong")); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(b); err != nil || string(b[:n]) != "pong" {
		t.Errorf("read %q, %v", b[:n], err)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	ap := Refused(t)
	for range 3 {
		if c, err := net.Dial("tcp4", ap.String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial: %v, %v; want ECONNREFUSED", c, err)
		}
	}
	c := dial(t, "udp4", RefusedUDP(t).String())
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("udp read: %v, want ECONNREFUSED", err)
	}
}

func TestBacklog(t *testing.T) {
	t.Parallel()
	ap := Backlog(t)
	for range 3 {
		c, err := net.DialTimeout("tcp4", ap.String(), 50*time.Millisecond)
		if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Timeout() {
			t.Errorf("dial: %v, %v; want a timeout", c, err)
		}
	}
}

func TestFDs(t *testing.T) {
	CheckFDs(t)
	before := FDs(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if got := FDs(t); got != before+1 {
		t.Errorf("%d descriptors with a listener more than %d", got, before)
	}
	l.Close()
	if got := FDs(t); got != before {
		t.Errorf("%d descriptors, want %d", got, before)
	}
}

func TestCheckFDsFails(t *testing.T) {
	r := &recorder{TB: t}
	CheckFDs(r)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.cleanups {
		f()
	}
	l.Close()
	if !r.failed {
		t.Error("CheckFDs did not notice an open listener")
	}
}

type tests func() int

func (f tests) Run() int { return f() }

func TestCheckLeaksFails(t *testing.T) {
	if code := CheckLeaks(tests(func() int { return 0 })).Run(); code != 0 {
		t.Errorf("exit code %d, and nothing is left behind", code)
	}
	if code := CheckLeaks(tests(func() int { return 3 })).Run(); code != 3 {
		t.Errorf("exit code %d, want that of the tests", code)
	}
	var l net.Listener
	if code := CheckLeaks(tests(func() (code int) {
		var err error
		if l, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		return 0
	})).Run(); code != 1 {
		t.Errorf("exit code %d with an open listener", code)
	}
	l.Close()
	stop := make(chan struct{})
	if code := CheckLeaks(tests(func() int {
		go func() { <-stop }()
		return 0
	})).Run(); code != 1 {
		t.Errorf("exit code %d with a goroutine", code)
	}
	close(stop)
}

// recorder is a testing.TB that notes failure in place of failing.
type recorder struct {
	testing.TB
	cleanups []func()
	failed   bool
}

func (r *recorder) Cleanup(f func())      { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(string, ...any) { r.failed = true }

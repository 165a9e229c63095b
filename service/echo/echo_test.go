package echo

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"probed/internal/nettest"
)

// counts is what a listener has counted.
type counts struct{ opened, closed, bytes atomic.Int64 }

// open returns a listener that ends with the test, and what it counts.
func open(t *testing.T, config Config) (*Listener, *counts) {
	t.Helper()
	counted := new(counts)
	network, _, _ := strings.Cut(config.Address, "://")
	count := func(into *atomic.Int64, of string, n int) {
		if of != network {
			t.Errorf("counted for %s", of)
		}
		into.Add(int64(n))
	}
	config.Hooks = &Hooks{
		Opened: func(of string) { count(&counted.opened, of, 1) },
		Closed: func(of string) { count(&counted.closed, of, 1) },
		Echoed: func(of string, n int) { count(&counted.bytes, of, n) },
	}
	l, err := Listen(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Close()
		if opened, closed := counted.opened.Load(), counted.closed.Load(); opened != closed {
			t.Errorf("%d streams were opened, %d closed", opened, closed)
		}
	})
	return l, counted
}

// dial connects to a listener.
func dial(t *testing.T, l *Listener) net.Conn {
	t.Helper()
	network, address, _ := strings.Cut(l.Addr(), "://")
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// What a stream carries comes back, all of it and as it comes, until the peer closes its side.
func TestStreams(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"tcp://127.0.0.1:0", "tcp://[::1]:0", "unix://" + nettest.SocketDir(t) + "/s"} {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			l, counted := open(t, Config{Address: address})
			if !strings.HasPrefix(l.Addr(), strings.TrimSuffix(address, "0")) {
				t.Errorf("address %s, asked for %s", l.Addr(), address)
			}
			c := dial(t, l)
			// Each line before the next: nothing waits for more.
			for _, line := range []string{"a", "line\r\n", "\x00"} {
				if _, err := io.WriteString(c, line); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len(line))
				if _, err := io.ReadFull(c, got); err != nil || string(got) != line {
					t.Fatalf("%q, %v; want %q", got, err, line)
				}
			}
			want := nettest.Data(3_000_001)
			go func() {
				_, _ = c.Write(want)
				_ = c.(interface{ CloseWrite() error }).CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes came back of %d, %v", len(got), len(want), err)
			}
			if err := l.Close(); err != nil { // which waits for the count
				t.Error(err)
			}
			if n := counted.bytes.Load(); n != int64(len(want)+8) {
				t.Errorf("%d bytes counted, want %d", n, len(want)+8)
			}
			if opened, closed := counted.opened.Load(), counted.closed.Load(); opened != 1 || closed != 1 {
				t.Errorf("%d streams opened and %d closed, want one", opened, closed)
			}
		})
	}
}

// A datagram comes back as it went, the empty one and the largest too.
func TestDatagrams(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"udp://127.0.0.1:0", "udp://[::1]:0"} {
		l, counted := open(t, Config{Address: address})
		c := dial(t, l)
		buffer := make([]byte, 1<<16)
		for _, size := range []int{0, 1, 1472, 9000, 65507} {
			want := nettest.Data(size)
			if _, err := c.Write(want); err != nil {
				t.Fatal(err)
			}
			if n, err := c.Read(buffer); err != nil || !bytes.Equal(buffer[:n], want) {
				t.Errorf("%s: %d of %d bytes, %v", address, n, size, err)
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if n := counted.bytes.Load(); n != 1+1472+9000+65507 || counted.opened.Load() != 0 {
			t.Errorf("%d bytes counted, %d streams", n, counted.opened.Load())
		}
	}
}

// Two services that answer everything, one of them made to ask the other by a forged datagram, would go on for ever.
func TestNoReflection(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		port int
		want bool
	}{{7, true}, {0, true}, {13, true}, {17, true}, {19, true}, {37, true}, {53, true}, {123, true}, {8, false}, {1024, false}, {40000, false}} {
		if got := reflected(&net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: tt.port}); got != tt.want {
			t.Errorf("port %d: %v, want %v", tt.port, got, tt.want)
		}
	}
	if reflected(&net.UnixAddr{}) {
		t.Error("a unix socket")
	}
}

// More streams than the bound wait, and are served when others end.
func TestMaxStreams(t *testing.T) {
	t.Parallel()
	l, counted := open(t, Config{Address: "tcp://127.0.0.1:0", MaxStreams: 2})
	echoes := func(c net.Conn, within time.Duration) error {
		if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 1))
		return err
	}
	var conns []net.Conn
	for range 3 {
		c := dial(t, l)
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	for _, c := range conns[:2] {
		if err := echoes(c, 20*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if err := echoes(conns[2], 100*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the third: %v", err)
	}
	if opened := counted.opened.Load(); opened != 2 {
		t.Errorf("%d streams are served, want 2", opened)
	}
	conns[0].Close()
	if err := echoes(conns[2], 20*time.Second); err != nil {
		t.Errorf("the third, when the first has gone: %v", err)
	}
}

// A silent stream is closed after a while, and one that is not silent is not.
func TestIdle(t *testing.T) {
	t.Parallel()
	const idle = 150 * time.Millisecond
	l, _ := open(t, Config{Address: "tcp://127.0.0.1:0", Idle: idle})
	silent, talking := dial(t, l), dial(t, l)
	start := time.Now()
	buffer := make([]byte, 1)
	for time.Since(start) < 3*idle {
		if _, err := talking.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := talking.Read(buffer); err != nil {
			t.Fatalf("after %v: %v", time.Since(start), err)
		}
		<-time.After(idle / 10)
	}
	if err := silent.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := silent.Read(buffer); !errors.Is(err, io.EOF) {
		t.Errorf("%d bytes, %v; want the end", n, err)
	}
}

// Close ends the streams that are open, the one that nobody reads from too, and those that wait to be served.
func TestCloseWithStreamsOpen(t *testing.T) {
	t.Parallel()
	l, _ := open(t, Config{Address: "tcp://127.0.0.1:0", MaxStreams: 2})
	idle, stuck, waiting := dial(t, l), dial(t, l), dial(t, l)
	if err := stuck.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for { // until the listener cannot write what it read, and so reads no more
		if _, err := stuck.Write(make([]byte, 64<<10)); err != nil {
			break
		}
	}
	start := time.Now()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	for name, c := range map[string]net.Conn{"idle": idle, "waiting": waiting} {
		if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
	_ = l.Close() // twice is as good as once
	if c, err := net.Dial("tcp", strings.TrimPrefix(l.Addr(), "tcp://")); err == nil {
		c.Close()
		t.Error("it listens still")
	}
}

// bind leaves the file of a socket behind that listens as long as the test runs, or not at all.
func bind(t *testing.T, path string, live bool) {
	t.Helper()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	if !live {
		listener.Close()
		return
	}
	t.Cleanup(func() { listener.Close() })
}

// The file that a process has left behind is replaced; a socket that is alive, by whatever name, is not, nor is anything
// else.
func TestUnixSocketsThatAreThere(t *testing.T) {
	t.Parallel()
	dir := nettest.SocketDir(t)
	link := filepath.Join(nettest.SocketDir(t), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		prepare func(t *testing.T, path string)
		path    string
		want    error // nil: it listens
	}{
		{name: "nothing", path: dir + "/nothing", prepare: func(*testing.T, string) {}},
		{name: "stale", path: dir + "/stale", prepare: func(t *testing.T, path string) { bind(t, path, false) }},
		{name: "stale, a space in its name", path: dir + "/a stale one", prepare: func(t *testing.T, path string) { bind(t, path, false) }},
		{name: "stale, beside one that is alive", path: dir + "/one", prepare: func(t *testing.T, path string) {
			bind(t, path, false)
			bind(t, path+"more", true)
		}},
		{name: "alive", path: dir + "/alive", prepare: func(t *testing.T, path string) { bind(t, path, true) }, want: syscall.EADDRINUSE},
		{name: "alive, a space in its name", path: dir + "/an alive one", prepare: func(t *testing.T, path string) { bind(t, path, true) }, want: syscall.EADDRINUSE},
		{name: "alive by another name", path: link + "/other", prepare: func(t *testing.T, _ string) { bind(t, dir+"/other", true) }, want: syscall.EADDRINUSE},
		{name: "no directory", path: dir + "/none/s", prepare: func(*testing.T, string) {}, want: syscall.ENOENT},
		{name: "too long", path: dir + "/" + strings.Repeat("x", 108), prepare: func(*testing.T, string) {}, want: syscall.EINVAL},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.prepare(t, tt.path)
			l, err := Listen(t.Context(), Config{Address: "unix://" + tt.path})
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if err != nil {
				return
			}
			c := dial(t, l)
			if _, err := c.Write([]byte("x")); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Error(err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(tt.path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("its file after Close: %v", err)
			}
		})
	}
}

func TestNoSocketIsKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, directory, link := filepath.Join(dir, "file"), filepath.Join(dir, "directory"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(file, []byte("precious"), 0o600), os.Mkdir(directory, 0o700), os.Symlink(file, link)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, directory, link} {
		l, err := Listen(t.Context(), Config{Address: "unix://" + path})
		if err == nil {
			_ = l.Close()
		}
		if err == nil || err.Error() != path+" exists and is no socket" {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
}

func TestBadAddresses(t *testing.T) {
	t.Parallel()
	taken, _ := open(t, Config{Address: "tcp://127.0.0.1:0"})
	takenUDP, _ := open(t, Config{Address: "udp://127.0.0.1:0"})
	for address, want := range map[string]string{
		"":                   `echo address "": it is tcp://HOST:PORT, udp://HOST:PORT or unix://PATH`,
		"127.0.0.1:7":        `echo address "127.0.0.1:7": it is tcp://HOST:PORT, udp://HOST:PORT or unix://PATH`,
		"http://127.0.0.1:7": `echo address "http://127.0.0.1:7": unknown scheme "http": it is tcp, udp or unix`,
		"TCP://127.0.0.1:7":  `echo address "TCP://127.0.0.1:7": unknown scheme "TCP": it is tcp, udp or unix`,
		"tcp://127.0.0.1":    "missing port in address",
		"tcp://:x":           "unknown port",
		"udp://127.0.0.1:-1": "invalid port",
		"tcp://192.0.2.1:0":  "cannot assign requested address",
		"unix://":            `echo address "unix://": no path`,
		taken.Addr():         "address already in use",
		takenUDP.Addr():      "address already in use",
	} {
		l, err := Listen(t.Context(), Config{Address: address})
		if err == nil {
			_ = l.Close()
			t.Errorf("%s: it listens at %s", address, l.Addr())
			continue
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", address, err, want)
		}
	}
}

func FuzzBoundPath(f *testing.F) {
	f.Add("Num       RefCount Protocol Flags    Type St Inode Path\n")
	f.Add("000000006854027a: 00000003 00000000 00000000 0001 03 12803339 /run/a b\n")
	f.Add("00000000cde00320: 00000002 00000000 00010000 0001 01     1 @abstract\n")
	f.Add("00000000cde00320: 00000002 00000000 00010000 0001 01 12801726\n")
	f.Fuzz(func(t *testing.T, line string) {
		if got := boundPath(line); !strings.HasSuffix(strings.TrimSuffix(line, "\n"), got) {
			t.Errorf("%q", got)
		}
		// Behind seven fields stands the path, whatever it is.
		path := strings.TrimSuffix(line, "\n")
		if got := boundPath("0000: 00000002 00000000 00010000 0001 01     1 " + path + "\n"); got != path {
			t.Errorf("%q, want %q", got, path)
		}
	})
}

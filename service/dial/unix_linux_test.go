package dial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"probed/internal/nettest"
)

func TestDialUnix(t *testing.T) {
	t.Parallel()
	for network, path := range map[string]string{
		"unix":       nettest.Unix(t, "unix", nettest.Echo),
		"unixpacket": nettest.Unix(t, "unixpacket", nettest.Echo),
		"unixgram":   nettest.Unixgram(t, nettest.EchoPacket), // answers only a socket with an address
	} {
		var a asked
		admitted := 0
		d := Dialer{Policy: a.policy}
		c, err := d.Dial(t.Context(), Request{Network: network, Path: path, Send: true, SkipVerify: true, Admitted: func() { admitted++ }})
		if err != nil {
			t.Fatalf("%s: %v", network, err)
		}
		defer c.Close()
		echoes(t, c)
		if want := (Destination{Network: network, Path: path, Send: true, SkipVerify: true}); len(a.all) != 1 || a.all[0] != want {
			t.Errorf("%s: the policy was asked %+v, want once %+v", network, a.all, want)
		}
		if admitted != 1 {
			t.Errorf("%s: Admitted was called %d times, want once", network, admitted)
		}
		if got := c.RemoteAddr().String(); got != path {
			t.Errorf("%s: remote address %q, want %q", network, got, path)
		}
	}
}

// However a path is written, the policy is asked about where it leads.
func TestUnixPathIsResolved(t *testing.T) {
	t.Parallel()
	socket := nettest.Unix(t, "unix", nettest.Echo)
	dir, base := filepath.Split(socket)
	dir = filepath.Clean(dir)
	other := nettest.SocketDir(t)
	link := filepath.Join(other, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("link", filepath.Join(other, "again")); err != nil {
		t.Fatal(err)
	}
	// A file name may be longer than a sockaddr_un; so may a path.
	deep := filepath.Join(other, strings.Repeat("d", 200))
	if err := os.Mkdir(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		socket,
		link + "/" + base,
		other + "/again/" + base,
		dir + "//./" + base,
		deep + "/../link/" + base,
		// Through a link, ".." is the parent of where it leads.
		link + "/../" + filepath.Base(dir) + "/" + base,
	} {
		var a asked
		c, err := (&Dialer{Policy: a.policy}).Dial(t.Context(), Request{Network: "unix", Path: path})
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		defer c.Close()
		echoes(t, c)
		if len(a.all) != 1 || a.all[0].Path != socket {
			t.Errorf("%s: the policy was asked %+v, want %s", path, a.all, socket)
		}
	}
}

func TestUnixRelativePath(t *testing.T) {
	socket := nettest.Unix(t, "unix", nettest.Echo)
	t.Chdir(filepath.Dir(socket))
	var a asked
	c, err := (&Dialer{Policy: a.policy}).Dial(t.Context(), Request{Network: "unix", Path: filepath.Base(socket)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if len(a.all) != 1 || a.all[0].Path != socket {
		t.Errorf("the policy was asked %+v, want %s", a.all, socket)
	}
}

func TestUnixErrors(t *testing.T) {
	t.Parallel()
	socket := nettest.Unix(t, "unix", nettest.Echo)
	dir := nettest.SocketDir(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"link": socket, "loop": "loop", "nowhere": "missing"} {
		if err := os.Symlink(to, at(link)); err != nil {
			t.Fatal(err)
		}
	}
	// A socket whose listener is gone.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: at("dead"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()

	for _, tt := range []struct {
		network, path string
		asked         string // the path the policy is asked about
		want          error
	}{
		{"unix", at("missing"), at("missing"), syscall.ENOENT},
		{"unix", at("none/missing"), at("none/missing"), syscall.ENOENT},
		{"unix", dir + "/none/../missing", at("none"), syscall.ENOENT},
		{"unix", "/.." + dir + "/.//none//../../missing", at("none"), syscall.ENOENT},
		{"unix", at("file/s"), at("file/s"), syscall.ENOTDIR},
		{"unix", at("loop/s"), at("loop/s"), syscall.ELOOP},
		{"unix", at("file"), at("file"), syscall.ENOTSOCK},
		{"unix", dir, dir, syscall.ENOTSOCK},
		{"unix", "/dev/null", "/dev/null", syscall.ENOTSOCK},
		{"unix", at("link"), at("link"), syscall.ELOOP},
		{"unix", at("loop"), at("loop"), syscall.ELOOP},
		{"unix", at("nowhere"), at("nowhere"), syscall.ELOOP},
		{"unix", at("dead"), at("dead"), syscall.ECONNREFUSED},
		{"unix", socket + "/", socket, syscall.EINVAL},
		{"unix", "/", "/", syscall.EINVAL},
		{"unix", dir + "/.", dir, syscall.EINVAL},
		{"unix", dir + "/..", dir, syscall.EINVAL},
		{"unixgram", socket, socket, syscall.EPROTOTYPE},
		{"unixpacket", socket, socket, syscall.EPROTOTYPE},
		{"unix", at(strings.Repeat("n", 300)), at(strings.Repeat("n", 300)), syscall.ENAMETOOLONG},
	} {
		var a asked
		admitted := 0
		r := Request{Network: tt.network, Path: tt.path, Admitted: func() { admitted++ }}
		c, err := (&Dialer{Policy: a.policy}).Dial(t.Context(), r)
		if c != nil || !errors.Is(err, tt.want) {
			t.Errorf("%s %s: %v, %v; want %v", tt.network, tt.path, c, err, tt.want)
		}
		if len(a.all) != 1 || a.all[0].Path != tt.asked || admitted != 1 {
			t.Errorf("%s: the policy was asked %+v, want once %s", tt.path, a.all, tt.asked)
		}
		if op, ok := errors.AsType[*net.OpError](err); !ok || op.Addr.String() != tt.path {
			t.Errorf("%s: %#v, want a *net.OpError with the path as asked", tt.path, err)
		}

		// Whoever may not reach it does not learn any of this.
		_, err = (&Dialer{}).Dial(t.Context(), r)
		if want := "dial " + tt.network + " " + tt.path + ": denied: no policy"; err == nil || err.Error() != want {
			t.Errorf("%s denied: %v, want %s", tt.path, err, want)
		}
		if e, ok := errors.AsType[syscall.Errno](err); ok {
			t.Errorf("%s denied: tells errno %d", tt.path, e)
		}
	}
}

// A magic link leads nowhere, not even to what has the same path without it.
func TestMagicLinksAreNotFollowed(t *testing.T) {
	t.Parallel()
	var tally nettest.Tally
	dir := nettest.SocketDir(t)
	socket := filepath.Join(dir, "s")
	nettest.Listen(t, "unix", socket, tally.Count(nettest.Echo))
	open, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := os.Symlink("/proc/self/root"+dir, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	toSocket, err := filepath.Rel(wd, socket)
	if err != nil {
		t.Fatal(err)
	}
	for path, asWritten := range map[string]string{
		"/proc/self/root" + socket:                          "/proc/self/root" + socket,
		"/proc/self/./root/" + socket:                       "/proc/self/root" + socket,
		"/proc/self/root/.." + socket:                       "/proc/self/root",
		"/proc/self/root/../.." + socket:                    "/proc/self/root",
		"/proc/thread-self/root" + socket:                   "/proc/thread-self/root" + socket,
		fmt.Sprintf("/proc/%d/root%s", os.Getpid(), socket): fmt.Sprintf("/proc/%d/root%s", os.Getpid(), socket),
		"/proc/self/cwd/" + toSocket:                        "/proc/self/cwd",
		fmt.Sprintf("/proc/self/fd/%d/s", open.Fd()):        fmt.Sprintf("/proc/self/fd/%d/s", open.Fd()),
		fmt.Sprintf("/dev/fd/%d/s", open.Fd()):              fmt.Sprintf("/dev/fd/%d/s", open.Fd()),
		dir + "/link/s":                                     dir + "/link/s",
	} {
		if at, err := os.Stat(path); err != nil || at.Mode().Type() != os.ModeSocket {
			t.Errorf("%s: %v; want it to lead to the socket", path, err)
		}
		// The list of a policy, with the socket on it.
		d := Dialer{Policy: func(_ context.Context, to Destination) error {
			if to.Path != asWritten {
				t.Errorf("%s: the policy was asked about %s, want %s", path, to.Path, asWritten)
			}
			if to.Path != socket {
				return errors.New("not listed")
			}
			return nil
		}}
		_, there := d.Dial(t.Context(), Request{Network: "unix", Path: path})
		if want := "dial unix " + path + ": denied: not listed"; there == nil || there.Error() != want {
			t.Errorf("%s: %v, want %s", path, there, want)
		}
		// Who may reach it under this very name learns that it does not lead there.
		if c, err := (&Dialer{Policy: admitAll}).Dial(t.Context(), Request{Network: "unix", Path: path}); c != nil || !errors.Is(err, syscall.ELOOP) {
			t.Errorf("%s admitted: %v, %v; want ELOOP", path, c, err)
		}
	}
	if n := tally.Conns.Load(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

// Without openat2 no unix socket is reached: neither on a kernel before 5.6, nor
// behind a seccomp filter that does not know it.
func TestUnixNeedsOpenat2(t *testing.T) {
	t.Parallel()
	socket := nettest.Unix(t, "unix", nettest.Echo)
	for _, errno := range []syscall.Errno{unix.ENOSYS, unix.EPERM} {
		var c net.Conn
		var admitted, denied error
		withoutOpenat2(t, errno, func() {
			c, admitted = (&Dialer{Policy: admitAll}).Dial(t.Context(), Request{Network: "unix", Path: socket})
			_, denied = (&Dialer{}).Dial(t.Context(), Request{Network: "unix", Path: socket})
		})
		if c != nil {
			c.Close()
			t.Errorf("%v: connected", errno)
		}
		want := "dial unix " + socket + ": openat2: unix sockets need openat2(2), which is in Linux since 5.6 and which seccomp filters must let pass: unsupported operation"
		if !errors.Is(admitted, errors.ErrUnsupported) || admitted.Error() != want {
			t.Errorf("%v: %v, want %s", errno, admitted, want)
		}
		if want := "dial unix " + socket + ": denied: no policy"; denied == nil || denied.Error() != want {
			t.Errorf("%v, denied: %v, want %s", errno, denied, want)
		}
	}
}

// withoutOpenat2 calls f in a thread in which openat2 fails with errno.
func withoutOpenat2(t *testing.T, errno syscall.Errno, f func()) {
	t.Helper()
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_OPENAT2, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread, with its filter, ends here
		err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		if err == nil {
			err = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
		}
		if err != nil {
			t.Errorf("a seccomp filter needs a kernel with CONFIG_SECCOMP_FILTER: %v", err)
			return
		}
		f()
	}()
	<-done
}

// Denied is denied in the same words, whether something is there or not.
func TestDeniedUnixTellsNothing(t *testing.T) {
	t.Parallel()
	dir := nettest.SocketDir(t)
	for name, create := range map[string]func(path string) error{
		"s": func(path string) error {
			nettest.Listen(t, "unix", path, nettest.Echo)
			return nil
		},
		"f": func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"l": func(path string) error { return os.Symlink("/", path) },
		"d": func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		path := filepath.Join(dir, name)
		d := Dialer{Policy: (&asked{err: errors.New("no")}).policy}
		r := Request{Network: "unix", Path: path, Admitted: func() { t.Error("admitted") }}
		_, before := d.Dial(t.Context(), r)
		if err := create(path); err != nil {
			t.Fatal(err)
		}
		_, after := d.Dial(t.Context(), r)
		if before == nil || after == nil || before.Error() != after.Error() {
			t.Errorf("%s: %v, then %v", name, before, after)
		}
		e1, _ := errors.AsType[*DeniedError](before)
		e2, _ := errors.AsType[*DeniedError](after)
		if e1 == nil || e2 == nil || e1.Destination != e2.Destination {
			t.Errorf("%s: %+v, then %+v", name, e1, e2)
		}
	}
}

func TestAbstractIsDenied(t *testing.T) {
	t.Parallel()
	// A real one, that would answer.
	l, err := net.Listen("unix", "@probed-dial-"+filepath.Base(nettest.SocketDir(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	name := l.Addr().String()
	for _, network := range []string{"unix", "unixgram", "unixpacket"} {
		for _, path := range []string{name, "\x00" + name[1:], "@", "", "/run/x\x00y"} {
			var a asked
			c, err := (&Dialer{Policy: a.policy}).Dial(t.Context(), Request{Network: network, Path: path})
			if _, ok := errors.AsType[*DeniedError](err); !ok || c != nil {
				t.Errorf("%s %q: %v, %v; want a DeniedError", network, path, c, err)
			}
			if len(a.all) != 0 {
				t.Errorf("%s %q: a policy could have admitted it", network, path)
			}
		}
	}
}

// What was checked is what is dialled, whatever takes its name in between.
func TestSocketSwappedAfterTheCheck(t *testing.T) {
	t.Parallel()
	says := func(who string) func(net.Conn) { return nettest.ReplyAfter(0, []byte(who)) }
	for name, swap := range map[string]func(root string) error{
		"another socket": func(root string) error { return os.Rename(root+"/b/s", root+"/a/s") },
		"a link to another": func(root string) error {
			return errors.Join(os.Remove(root+"/a/s"), os.Symlink("../b/s", root+"/a/s"))
		},
		"another directory": func(root string) error {
			return errors.Join(os.Rename(root+"/a", root+"/c"), os.Rename(root+"/b", root+"/a"))
		},
		"a link to another directory": func(root string) error {
			return errors.Join(os.Rename(root+"/a", root+"/c"), os.Symlink("b", root+"/a"))
		},
		"nothing": func(root string) error { return os.Remove(root + "/a/s") },
	} {
		root := nettest.SocketDir(t)
		for _, dir := range []string{"a", "b"} {
			if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		nettest.Listen(t, "unix", root+"/a/s", says("checked"))
		var other nettest.Tally
		nettest.Listen(t, "unix", root+"/b/s", other.Count(says("swapped in")))

		d := Dialer{Policy: func(_ context.Context, to Destination) error {
			if to.Path != root+"/a/s" {
				t.Errorf("%s: the policy was asked about %s", name, to.Path)
			}
			return swap(root)
		}}
		c, err := d.Dial(t.Context(), Request{Network: "unix", Path: root + "/a/s"})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || string(got) != "checked" {
			t.Errorf("%s: read %q, %v; want what the socket checked says", name, got, err)
		}
		if n := other.Conns.Load(); n != 0 {
			t.Errorf("%s: %d connections to the other socket", name, n)
		}
	}
}

// A socket that nobody accepts from is told at once, by EAGAIN.
func TestUnixBacklog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(nettest.SocketDir(t), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	d := Dialer{Policy: admitAll}
	r := Request{Network: "unix", Path: path}
	first, err := d.Dial(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if c, err := d.Dial(timeout(t, 10*time.Second), r); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("%v, %v; want EAGAIN", c, err)
	}
}

// However a path is written, the policy is asked about a clean absolute one, and
// a denial tells no errno.
func FuzzUnixPath(f *testing.F) {
	for _, s := range []string{"/run/x", "x", "..", "/", "//", "/.", "a/..", "/proc/self/fd/0", "/dev/null", "@x", "", "\x00", "a\x00b", "/a//b/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		var a asked
		a.err = errors.New("no")
		c, err := (&Dialer{Policy: a.policy}).Dial(t.Context(), Request{Network: "unix", Path: path})
		if c != nil {
			t.Fatalf("%q: connected", path)
		}
		if _, ok := errors.AsType[*DeniedError](err); !ok {
			t.Errorf("%q: %v, want a DeniedError", path, err)
		}
		if e, ok := errors.AsType[syscall.Errno](err); ok {
			t.Errorf("%q: tells errno %d", path, e)
		}
		for _, to := range a.all {
			if !filepath.IsAbs(to.Path) || filepath.Clean(to.Path) != to.Path {
				t.Errorf("%q: the policy was asked about %q", path, to.Path)
			}
		}
	})
}

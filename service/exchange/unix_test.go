package exchange

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"probed/internal/nettest"
	"probed/service/dial"
)

func TestUnixFailures(t *testing.T) {
	t.Parallel()
	dir := nettest.SocketDir(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	stream, packet, gram := nettest.Unix(t, "unix", nettest.Echo), nettest.Unix(t, "unixpacket", nettest.Echo), nettest.Unixgram(t, nettest.EchoPacket)
	if err := os.WriteFile(in("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(stream, in("link")); err != nil {
		t.Fatal(err)
	}
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: in("left"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	full := fullQueue(t, in("full"))

	for _, tt := range []struct {
		name, target string
		reason       Reason
		errno        syscall.Errno
	}{
		{"nothing there", "unix://" + in("none"), SocketNotFound, unix.ENOENT},
		{"no directory", "unix://" + in("none/s"), SocketNotFound, unix.ENOENT},
		{"a file", "unix://" + in("file"), SocketNotFound, unix.ENOTSOCK},
		{"below a file", "unix://" + in("file/s"), SocketNotFound, unix.ENOTDIR},
		{"a directory", "unix://" + dir, SocketNotFound, unix.ENOTSOCK},
		{"a slash at the end", "unix://" + stream + "/", SocketNotFound, unix.EINVAL},
		{"a symbolic link", "unix://" + in("link"), SocketNotFound, unix.ELOOP},
		{"a name that is too long", "unix://" + in(strings.Repeat("x", 300)), SocketNotFound, unix.ENAMETOOLONG},
		{"nobody listens", "unix://" + in("left"), ConnectionRefused, unix.ECONNREFUSED},
		{"nobody accepts", "unix://" + full, ConnectTimeout, unix.EAGAIN},
		{"a stream, as packets", "unixpacket://" + stream, WrongSocketType, unix.EPROTOTYPE},
		{"a stream, as datagrams", "unixgram://" + stream, WrongSocketType, unix.EPROTOTYPE},
		{"packets, as a stream", "unix://" + packet, WrongSocketType, unix.EPROTOTYPE},
		{"datagrams, as a stream", "unix://" + gram, WrongSocketType, unix.EPROTOTYPE},
		{"datagrams, as packets", "unixpacket://" + gram, WrongSocketType, unix.EPROTOTYPE},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			target, err := ParseTarget(tt.target, nil)
			if err != nil {
				t.Fatal(err)
			}
			r := trial{request: Request{Target: target, Steps: []Step{Receive{}}}}.run(t)
			r.wants(t, PhaseConnect, tt.reason, EndedByNone)
			if r.Errno != int(tt.errno) || len(r.Attempts) != 1 || r.Attempts[0].Address != target.Path {
				t.Errorf("%s, attempts %+v; want %s", ErrnoName(r.Errno), r.Attempts, ErrnoName(int(tt.errno)))
			}
			special := map[Reason]string{ConnectionRefused: hintUnixRefused, ConnectTimeout: hintUnixTimeout}
			if want := special[tt.reason]; want != "" && r.Hint != want {
				t.Errorf("hint %q, want %q", r.Hint, want)
			}
		})
	}
}

// The permissions of a file are no matter of the internet layer. (Root has them all, so no real socket shows it.)
func TestUnixPermissionsAreNoNetwork(t *testing.T) {
	t.Parallel()
	refuse := func(_ context.Context, request dial.Request) (net.Conn, error) {
		request.Admitted()
		return nil, os.NewSyscallError("connect", unix.EACCES)
	}
	r := trial{config: Config{Dial: refuse}, request: Request{Target: Target{Scheme: "unix", Path: "/x"}}}.run(t)
	r.wants(t, PhaseConnect, DeniedLocally, EndedByNone)
	if r.Layer != LayerTransport {
		t.Errorf("layer %d, want %d", r.Layer, LayerTransport)
	}
}

// What a policy does not list is denied, whether or not there is something.
func TestUnixDenied(t *testing.T) {
	t.Parallel()
	listed := nettest.Unix(t, "unix", nettest.Echo)
	policy := func(_ context.Context, to dial.Destination) error {
		if to.Path != listed {
			return errNo
		}
		return nil
	}
	other := nettest.Unix(t, "unix", nettest.Echo)
	for _, path := range []string{other, other + "x", "/", "@abstract", "@"} {
		r := trial{config: Config{Dial: dialer(policy)}, request: Request{Target: Target{Scheme: "unix", Path: path}}}.run(t)
		r.wants(t, PhasePolicy, PolicyDenied, EndedByNone)
	}
	r := trial{config: Config{Dial: dialer(policy)}, request: Request{Target: Target{Scheme: "unix", Path: listed}}}.run(t)
	r.wants(t, PhaseClose, None, EndedByLastStep)
}

func TestUnixConverses(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"unix", "unixpacket"} {
		target, tally := streamTarget(t, scheme, nettest.Echo)
		r := trial{request: Request{Target: target, Steps: DefaultSteps(target, []byte("hello"), false)}, peer: tally}.run(t)
		r.wants(t, PhaseClose, None, EndedByPeerClosed)
		r.got(t, []byte("hello"))
	}
	// What an unbound sender says has no address to it: the far end of a pair has none.
	near, far := socketPair(t, unix.SOCK_SEQPACKET)
	if _, err := far.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	r := trial{config: given(near), request: Request{Target: Target{Scheme: "unixpacket", Path: "/given"}, Steps: []Step{Receive{Count: 1}}}}.run(t)
	r.wants(t, PhaseClose, None, EndedByCount)
	if d := r.datagrams(); len(d) != 1 || d[0] != (Datagram{Length: 5}) {
		t.Errorf("datagrams %+v", d)
	}
}

// fullQueue listens, never accepts, and fills its queue.
func fullQueue(t *testing.T, path string) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for {
		c, err := net.Dial("unix", path)
		if err != nil {
			return path
		}
		t.Cleanup(func() { c.Close() })
	}
}

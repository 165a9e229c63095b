package dial

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// dialUnix opens the socket's file first and then connects to what it opened, by
// way of /proc/self/fd, which leads to the open file itself and not to whatever
// has its name by then (proc(5)).
func (d *Dialer) dialUnix(ctx context.Context, r Request) (net.Conn, error) {
	file := openSocket(r.Path)
	defer file.close()
	ask := d.asker(r)
	nd := net.Dialer{ControlContext: func(ctx context.Context, network, _ string, c syscall.RawConn) error {
		if err := ask(ctx, Destination{Network: network, Path: file.path, Host: r.Host, Send: r.Send, SkipVerify: r.SkipVerify}); err != nil {
			return err
		}
		// Only now may the caller know whether there is something.
		if file.err != nil {
			return file.err
		}
		if network == "unixgram" {
			return control(c, autobind)
		}
		return nil
	}}
	c, err := nd.DialContext(ctx, r.Network, "/proc/self/fd/"+strconv.Itoa(file.fd))
	if err != nil {
		return nil, r.failed(err)
	}
	return c, nil
}

// autobind gives a socket an address that the kernel makes up (unix(7)). An
// unbound datagram socket has none, and its peer nowhere to send an answer.
func autobind(fd int) error {
	return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrUnix{}))
}

// socketFile is a unix socket in the file system, open (O_PATH) and so held fast.
type socketFile struct {
	path string // for the policy; see Destination.Path
	fd   int    // -1 if err is set
	err  error  // why there is nothing to connect to, for a caller who may know
}

func openSocket(path string) socketFile {
	name := path[strings.LastIndexByte(path, '/')+1:]
	dir := strings.TrimSuffix(path, name)
	if dir == "" {
		dir = "."
	}
	fail := func(path, op string, err error) socketFile {
		return socketFile{path: path, fd: -1, err: os.NewSyscallError(op, err)}
	}
	if name == "" || name == "." || name == ".." {
		return fail(absolute(path), "openat", unix.EINVAL)
	}

	parent, err := open(unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fail(absolute(path), "openat", err)
	}
	defer unix.Close(parent)
	dir, err = os.Readlink("/proc/self/fd/" + strconv.Itoa(parent))
	if err != nil {
		return fail(absolute(path), "readlink", errors.Unwrap(err))
	}
	path = filepath.Join(dir, name)

	fd, err := open(parent, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return fail(path, "openat", err)
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil {
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFSOCK:
			return socketFile{path: path, fd: fd}
		case unix.S_IFLNK:
			err = unix.ELOOP
		default:
			err = unix.ENOTSOCK
		}
	}
	unix.Close(fd)
	return fail(path, "openat", err)
}

func (f socketFile) close() {
	if f.fd >= 0 {
		unix.Close(f.fd)
	}
}

func open(dir int, name string, flags int) (fd int, err error) {
	for {
		fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// absolute is the best that can be said of a path whose directory cannot be
// opened.
func absolute(path string) string {
	if a, err := filepath.Abs(path); err == nil {
		return a
	}
	return path
}

package dial

import (
	"context"
	"errors"
	"fmt"
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

// openSocket opens the directory first, so that its path and what is in it are of
// one and the same, whatever is renamed meanwhile.
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
		return fail(asWritten(path), "openat", unix.EINVAL)
	}

	parent, err := openDir(dir)
	if err != nil {
		return fail(asWritten(path), "openat2", err)
	}
	defer unix.Close(parent)
	dir, err = os.Readlink("/proc/self/fd/" + strconv.Itoa(parent))
	if err != nil {
		return fail(asWritten(path), "readlink", errors.Unwrap(err))
	}
	path = filepath.Join(dir, name)

	fd, err := again(func() (int, error) {
		return unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
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

var errNoOpenat2 = fmt.Errorf("unix sockets need openat2(2), which is in Linux since 5.6 and which seccomp filters must let pass: %w", errors.ErrUnsupported)

// openDir opens a directory, and follows symbolic links but no magic ones
// (symlink(7)), as /proc/PID/root is. These lead to where no path does: into another
// mount namespace, say, where a directory has a path that says something else here,
// and which anybody can make who may have a user namespace.
func openDir(path string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS}
	fd, err := again(func() (int, error) { return unix.Openat2(unix.AT_FDCWD, path, &how) })
	// Filters older than the call refuse what they do not know with EPERM. There is no
	// other way to open it that is as safe.
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		err = errNoOpenat2
	}
	return fd, err
}

// again calls open until no signal interrupts it.
func again(open func() (int, error)) (int, error) {
	for {
		if fd, err := open(); !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// asWritten is the best that can be said of a path whose directory cannot be
// opened: the path as it is written, up to a "..", since nobody knows what that is
// the parent of. So it is never the path of what is there without it.
func asWritten(path string) string {
	if !filepath.IsAbs(path) {
		wd, err := os.Getwd()
		if err != nil {
			return path
		}
		path = wd + "/" + path
	}
	elements := strings.Split(path, "/")
	below := false // the root, of which ".." is the root
	for i, element := range elements {
		if element == ".." && below {
			elements = elements[:i]
			break
		}
		below = below || element != "" && element != "." && element != ".."
	}
	return filepath.Clean(strings.Join(elements, "/"))
}

//go:build unix

package exchange

import (
	"errors"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// These do to a socket what they are called after, and never wait: the error is EAGAIN then.

func rawWrite(fd uintptr, data []byte) (int, error) {
	return ignoringEINTR(func() (int, error) { return unix.Write(int(fd), data) })
}

func rawRead(fd uintptr, data []byte) (int, error) {
	return ignoringEINTR(func() (int, error) { return unix.Read(int(fd), data) })
}

// rawReceive receives a message and tells how long it was, the path of a unix socket that sent it, and whether it was cut.
func rawReceive(fd uintptr, data []byte) (n int, path string, truncated bool, err error) {
	var from unix.Sockaddr
	var flags int
	n, err = ignoringEINTR(func() (n int, err error) {
		n, _, flags, from, err = unix.Recvmsg(int(fd), data, nil, unix.MSG_TRUNC)
		return n, err
	})
	if from, ok := from.(*unix.SockaddrUnix); ok {
		path = from.Name
	}
	return n, path, flags&unix.MSG_TRUNC != 0, err
}

// rawReceiveFrom receives a packet and tells who sent it.
func rawReceiveFrom(fd uintptr, data []byte) (n int, from netip.Addr, err error) {
	var sender unix.Sockaddr
	n, err = ignoringEINTR(func() (n int, err error) {
		n, sender, err = unix.Recvfrom(int(fd), data, 0)
		return n, err
	})
	switch sender := sender.(type) {
	case *unix.SockaddrInet4:
		from = netip.AddrFrom4(sender.Addr)
	case *unix.SockaddrInet6:
		from = netip.AddrFrom16(sender.Addr).Unmap()
	}
	return n, from, err
}

func ignoringEINTR(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func errnoName(number syscall.Errno) string { return unix.ErrnoName(number) }

// portable is the number itself: here numbers are those of POSIX.
func portable(number syscall.Errno) syscall.Errno { return number }

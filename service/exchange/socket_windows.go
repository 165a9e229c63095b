package exchange

import (
	"errors"
	"net/netip"
	"syscall"

	"golang.org/x/sys/windows"
)

// These do to a socket what they are called after, and never wait: the error is EAGAIN then. Go waits by overlapped calls,
// which do not mind that the socket is one that does not block.

func rawWrite(fd uintptr, data []byte) (int, error) {
	return immediately(fd, data, func(buffer *windows.WSABuf, n *uint32) error {
		return windows.WSASend(windows.Handle(fd), buffer, 1, n, 0, nil, nil)
	})
}

func rawRead(fd uintptr, data []byte) (int, error) {
	return immediately(fd, data, func(buffer *windows.WSABuf, n *uint32) error {
		var flags uint32
		return windows.WSARecv(windows.Handle(fd), buffer, 1, n, &flags, nil, nil)
	})
}

// rawReceive receives a message and tells whether it was cut. How long it was then, nobody knows.
func rawReceive(fd uintptr, data []byte) (n int, path string, truncated bool, err error) {
	if n, err = rawRead(fd, data); errors.Is(err, windows.WSAEMSGSIZE) {
		return len(data), "", true, nil
	}
	return n, "", false, err
}

// rawReceiveFrom is for sockets of ICMP, which there are none of here: see package dial.
func rawReceiveFrom(uintptr, []byte) (int, netip.Addr, error) {
	return 0, netip.Addr{}, errors.ErrUnsupported
}

// immediately calls f with a socket that does not block.
func immediately(fd uintptr, data []byte, f func(*windows.WSABuf, *uint32) error) (int, error) {
	const nonBlocking = 0x8004667e // FIONBIO
	on, none := [4]byte{1}, uint32(0)
	if err := windows.WSAIoctl(windows.Handle(fd), nonBlocking, &on[0], uint32(len(on)), nil, 0, &none, nil, 0); err != nil {
		return 0, err
	}
	var first *byte
	if len(data) > 0 {
		first = &data[0]
	}
	var n uint32
	err := f(&windows.WSABuf{Len: uint32(len(data)), Buf: first}, &n)
	if errors.Is(err, windows.WSAEWOULDBLOCK) {
		err = syscall.EAGAIN
	}
	return int(n), err
}

// errnos are the numbers of Windows for those of POSIX, and their names.
var errnos = map[syscall.Errno]struct {
	posix syscall.Errno
	name  string
}{
	windows.WSAECONNREFUSED:     {syscall.ECONNREFUSED, "WSAECONNREFUSED"},
	windows.WSAETIMEDOUT:        {syscall.ETIMEDOUT, "WSAETIMEDOUT"},
	windows.WSAEHOSTUNREACH:     {syscall.EHOSTUNREACH, "WSAEHOSTUNREACH"},
	windows.WSAEHOSTDOWN:        {syscall.EHOSTDOWN, "WSAEHOSTDOWN"},
	windows.WSAENETUNREACH:      {syscall.ENETUNREACH, "WSAENETUNREACH"},
	windows.WSAENETDOWN:         {syscall.ENETDOWN, "WSAENETDOWN"},
	windows.WSAEACCES:           {syscall.EACCES, "WSAEACCES"},
	windows.WSAEADDRNOTAVAIL:    {syscall.EADDRNOTAVAIL, "WSAEADDRNOTAVAIL"},
	windows.WSAEADDRINUSE:       {syscall.EADDRINUSE, "WSAEADDRINUSE"},
	windows.WSAEAFNOSUPPORT:     {syscall.EAFNOSUPPORT, "WSAEAFNOSUPPORT"},
	windows.WSAECONNRESET:       {syscall.ECONNRESET, "WSAECONNRESET"},
	windows.WSAENETRESET:        {syscall.ECONNRESET, "WSAENETRESET"},
	windows.WSAECONNABORTED:     {syscall.ECONNABORTED, "WSAECONNABORTED"},
	windows.WSAENOTCONN:         {syscall.ENOTCONN, "WSAENOTCONN"},
	windows.WSAESHUTDOWN:        {syscall.EPIPE, "WSAESHUTDOWN"},
	windows.WSAEMSGSIZE:         {syscall.EMSGSIZE, "WSAEMSGSIZE"},
	windows.WSAEMFILE:           {syscall.EMFILE, "WSAEMFILE"},
	windows.WSAENOBUFS:          {syscall.ENOBUFS, "WSAENOBUFS"},
	windows.ERROR_ACCESS_DENIED: {syscall.EACCES, "ERROR_ACCESS_DENIED"},
}

func errnoName(number syscall.Errno) string { return errnos[number].name }

// portable is the number of POSIX for one of Windows, or the number itself.
func portable(number syscall.Errno) syscall.Errno {
	if known, ok := errnos[number]; ok {
		return known.posix
	}
	return number
}

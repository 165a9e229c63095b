package resolve

import (
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	length uint32
}

// writeBoth sends two datagrams with one system call, which wakes the server
// once instead of twice. It reports whether both were sent; otherwise neither
// the first nor the second may be taken for sent, and the caller sends them
// one by one: a server that gets a question twice does no harm.
func writeBoth(conn net.Conn, first, second []byte) bool {
	sc, ok := conn.(syscall.Conn)
	if !ok || len(first) == 0 || len(second) == 0 {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	var call struct { // one piece of memory
		parts    [2]unix.Iovec
		messages [2]mmsghdr
		sent     uintptr
		errno    syscall.Errno
	}
	for i, data := range [2][]byte{first, second} {
		call.parts[i].Base = &data[0]
		call.parts[i].SetLen(len(data))
		call.messages[i].header.Iov = &call.parts[i]
		call.messages[i].header.SetIovlen(1)
	}
	err = raw.Write(func(fd uintptr) bool {
		call.sent, _, call.errno = unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&call.messages[0])), 2, unix.MSG_NOSIGNAL, 0, 0)
		return call.errno != unix.EAGAIN
	})
	return err == nil && call.errno == 0 && call.sent == 2
}

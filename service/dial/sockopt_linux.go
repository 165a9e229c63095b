package dial

import (
	"os"

	"golang.org/x/sys/unix"
)

// prepare sets the options of an IP socket before it is connected.
func prepare(fd int, transport string, source bool, iface string) error {
	if transport == "udp" {
		// Package net allows broadcast. The broadcast address of a subnet cannot be told
		// from any other by looking at it; without the option the kernel, which knows,
		// refuses it (EACCES).
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 0); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if transport == "tcp" && source {
		// Otherwise bind(2) sets a port aside for each socket, and all destinations
		// together have no more ports than one (ip(7)).
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if iface != "" {
		if err := unix.BindToDevice(fd, iface); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	return nil
}

package exchange

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrnoName is the name of an error number on this platform, as ECONNREFUSED; empty for 0.
func ErrnoName(errno int) string {
	if errno == 0 {
		return ""
	}
	return unix.ErrnoName(syscall.Errno(errno))
}

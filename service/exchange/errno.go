package exchange

import (
	"errors"
	"syscall"
)

// ErrnoName is the name of an error number on this platform, as ECONNREFUSED; empty for 0.
func ErrnoName(errno int) string {
	if errno == 0 {
		return ""
	}
	return errnoName(syscall.Errno(errno))
}

// isErrno tells whether an error is that of a system call with this number.
func isErrno(err error, number syscall.Errno) bool {
	var found syscall.Errno
	return errors.As(err, &found) && portable(found) == number
}

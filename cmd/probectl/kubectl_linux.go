package main

import "syscall"

// dieWithParent makes a process end when the thread ends that started it, by whatever.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

//go:build !linux

package main

import "syscall"

// dieWithParent can do nothing here for a process whose parent is killed.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{}
}

//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// ofItsOwn puts a command into a group of its own, which no Ctrl-C of the terminal reaches, and which ends as a whole.
func ofItsOwn(command *exec.Cmd) {
	command.SysProcAttr.Setpgid = true
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
}

package main

import (
	"os/exec"
	"syscall"
)

// ofItsOwn puts a command into a group of its own, which no Ctrl-C of the terminal reaches.
func ofItsOwn(command *exec.Cmd) {
	command.SysProcAttr.CreationFlags = syscall.CREATE_NEW_PROCESS_GROUP
}

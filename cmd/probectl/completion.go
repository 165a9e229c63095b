package main

import (
	"errors"

	"github.com/spf13/cobra"
)

// addCompletionCommand adds cobra's own command, which writes completion scripts for shells.
func addCompletionCommand(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, command := range root.Commands() {
		if command.Name() == "completion" {
			command.RunE = func(*cobra.Command, []string) error {
				return &usageError{errors.New("name the shell: bash, fish, powershell or zsh")}
			}
		}
	}
}

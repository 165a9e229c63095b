package main

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// As a plugin of kubectl this program has another name: kubectl runs what is called kubectl-probectl for the command
// "kubectl probectl", and for completing that what is called kubectl_complete-probectl. Then the probed to ask is one in the
// cluster unless said otherwise.
const (
	pluginPrefix   = "kubectl-"
	completePrefix = "kubectl_complete-"
	pluginKube     = "probed" // the Service that it asks unless told
)

// pluginName is the name of a plugin of kubectl, given what it was run as; empty when it is no plugin. It may be there
// for the completion.
func pluginName(program string) (name string, completes bool) {
	base := strings.TrimSuffix(filepath.Base(program), ".exe")
	if name, completes = strings.CutPrefix(base, completePrefix); completes {
		return name, true
	}
	if name, found := strings.CutPrefix(base, pluginPrefix); found {
		return name, false
	}
	return "", false
}

// nameAsPlugin makes the help texts say how the program is run as a plugin.
func nameAsPlugin(root *cobra.Command, plugin string) {
	root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl " + plugin}
	var rename func(*cobra.Command)
	rename = func(command *cobra.Command) {
		command.Example = strings.ReplaceAll(command.Example, "probectl ", "kubectl "+plugin+" ")
		for _, below := range command.Commands() {
			rename(below)
		}
	}
	rename(root)
}

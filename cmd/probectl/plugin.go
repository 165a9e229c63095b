package main

import (
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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
	base := filepath.Base(program)
	if name, completes = strings.CutPrefix(base, completePrefix); completes {
		return name, true
	}
	if name, found := strings.CutPrefix(base, pluginPrefix); found {
		return name, false
	}
	return "", false
}

const pluginExample = `  probectl connect db:5432
  probectl -n shop --service-account probe-user connect db:5432 cache:6379
  probectl -n shop --kube app=web exchange cache:6379 --step 'send:PING\r\n' --step 'expect:+PONG\r\n'

  # From which node does it not work?
  probectl -n net --each host db.shop
  probectl -n net --each connect db.shop:5432

  # not in the cluster, and from this machine
  probectl --server probed.example.org vantage
  probectl --server= host example.org`

// ownName is this program in an example, where that does not call it a plugin itself.
var ownName = regexp.MustCompile(`(?m)(^  |\| )probectl `)

// explain is the function of this name, and calls this program in the advice what it is run as.
func (t *tool) explain(err error) (code int, text, advice string) {
	code, text, advice = explain(err)
	if s, ok := status.FromError(err); err != nil && ok && s.Code() == codes.Unauthenticated {
		advice += t.aboutLeftOut()
	}
	if t.plugin != "" {
		advice = strings.ReplaceAll(advice, ": probectl ", ": kubectl "+t.plugin+" ")
	}
	return code, text, advice
}

// nameAsPlugin makes the help texts say how the program is run as a plugin.
func nameAsPlugin(root *cobra.Command, plugin string) {
	root.Example = pluginExample
	root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl " + plugin}
	var rename func(*cobra.Command)
	rename = func(command *cobra.Command) {
		command.Example = ownName.ReplaceAllString(command.Example, "${1}kubectl "+plugin+" ")
		for _, below := range command.Commands() {
			rename(below)
		}
	}
	rename(root)
}

package main

import (
	"strings"

	"github.com/spf13/cobra"

	probev1 "probed/gen/probe/v1"
)

func newHostnameCommand(t *tool) *cobra.Command {
	return &cobra.Command{
		Use:   "hostname",
		Short: "What is the host's own name, and what does it resolve to?",
		Long: `Tell the host's own name, as gethostname(2), and what that name resolves to there. In a
pod it is the pod's name. A name that resolves to nothing is an answer.`,
		Example:           `  probectl hostname`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(command *cobra.Command, _ []string) error {
			return ask(command.Context(), t, probev1.NewResolverServiceClient, probev1.ResolverServiceClient.GetHostname,
				&probev1.GetHostnameRequest{}, hostnameTable)
		},
	}
}

func hostnameTable(p *printer, answer *probev1.GetHostnameResponse) {
	p.table("HOSTNAME CANONICAL-NAME ADDRESSES", [][]string{{
		answer.GetHostname(), answer.GetCanonicalName(), strings.Join(answer.GetAddresses(), ","),
	}})
}

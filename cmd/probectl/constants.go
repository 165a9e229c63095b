package main

import (
	"strconv"

	"github.com/spf13/cobra"

	probev1 "probed/gen/probe/v1"
)

func newConstantsCommand(t *tool) *cobra.Command {
	request := &probev1.ListConstantsRequest{}
	return &cobra.Command{
		Use:   "constants [PREFIX]",
		Short: "List the constants of the socket interface",
		Long: `List the constants of the socket interface that begin with a prefix, as AF_, SOCK_,
IPPROTO_, AI_, NI_ or EAI_, or all of them, with the values of the platform that answers.`,
		Example: `  probectl constants AF_
  probectl constants`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: arguments(constants),
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) > 0 {
				request.Prefix = args[0]
			}
			return ask(command.Context(), t, probev1.NewNameServiceClient, probev1.NameServiceClient.ListConstants, request, constantsTable)
		},
	}
}

func constantsTable(p *printer, answer *probev1.ListConstantsResponse) {
	var rows [][]string
	for _, c := range answer.GetConstants() {
		rows = append(rows, []string{c.GetName(), strconv.Itoa(int(c.GetValue())), answer.GetPlatform(), c.GetDescription()})
	}
	p.table("NAME VALUE PLATFORM DESCRIPTION", rows)
}

package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	probev1 "probed/gen/probe/v1"
)

func newProtocolCommand(t *tool) *cobra.Command {
	request := &probev1.LookupProtocolRequest{}
	return &cobra.Command{
		Use:   "protocol NAME|NUMBER",
		Short: "Which number does a protocol of the IP header have?",
		Long: `Look a protocol up by its name, alias or number, as getprotobyname(3) does: in
/etc/protocols first, then in the registry of IANA, which is built in.`,
		Example: `  probectl protocol tcp
  probectl protocol 132`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: arguments(ipProtocols),
		RunE: func(command *cobra.Command, args []string) error {
			request.Protocol = args[0]
			return ask(command.Context(), t, probev1.NewNameServiceClient, probev1.NameServiceClient.LookupProtocol, request, protocolTable)
		},
	}
}

func protocolTable(p *printer, answer *probev1.LookupProtocolResponse) {
	p.table("NAME NUMBER SOURCE ALIASES DESCRIPTION", [][]string{{
		answer.GetName(), strconv.Itoa(int(answer.GetNumber())), short("TABLE_SOURCE_", answer.GetSource()),
		strings.Join(answer.GetAliases(), ","), answer.GetDescription(),
	}})
}

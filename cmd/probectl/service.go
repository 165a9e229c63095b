package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	probev1 "probed/gen/probe/v1"
)

func newServiceCommand(t *tool) *cobra.Command {
	request := &probev1.LookupServiceRequest{}
	command := &cobra.Command{
		Use:   "service NAME",
		Short: "Which port does a service have?",
		Long: `Look a service up by its name or alias, as getservbyname(3) does: in /etc/services
first, then in the registry of IANA, which is built in.`,
		Example: `  probectl service ssh
  probectl service domain --protocol udp`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: arguments(services("")),
		RunE: func(command *cobra.Command, args []string) error {
			request.Name = args[0]
			return ask(command.Context(), t, probev1.NewNameServiceClient, probev1.NameServiceClient.LookupService, request,
				func(p *printer, answer *probev1.LookupServiceResponse) { serviceTable(p, answer.GetServices()) })
		},
	}
	command.Flags().StringVarP(&request.Protocol, "protocol", "p", "", "only this `TRANSPORT`, as tcp or udp")
	completeFlag(command, "protocol", transports)
	return command
}

func serviceTable(p *printer, services []*probev1.Service) {
	var rows [][]string
	for _, s := range services {
		rows = append(rows, serviceRow(s))
	}
	p.table("NAME PORT PROTOCOL CLASS SOURCE ALIASES DESCRIPTION", rows)
}

func serviceRow(s *probev1.Service) []string {
	return []string{
		s.GetName(), strconv.Itoa(int(s.GetPort())), s.GetProtocol(),
		short("PORT_CLASS_", s.GetPortClass()), short("TABLE_SOURCE_", s.GetSource()),
		strings.Join(s.GetAliases(), ","), s.GetDescription(),
	}
}

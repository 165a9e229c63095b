package main

import (
	"strconv"

	"github.com/spf13/cobra"

	probev1 "probed/gen/probe/v1"
)

func newAddrinfoCommand(t *tool) *cobra.Command {
	request := &probev1.GetAddressInfoRequest{}
	command := &cobra.Command{
		Use:   "addrinfo HOST [SERVICE]",
		Short: "Which addresses would getaddrinfo hand out?",
		Long: `Answer what getaddrinfo(3) of the C library would hand out there: the same entries in the
same order, and the same reasons for a failure (EAI_NONAME, ...). HOST and SERVICE may be
names or numbers. A HOST of - stands for none, which in C is a null pointer: with the flag
passive it gives the addresses to listen on.`,
		Example: `  probectl addrinfo example.org http
  probectl addrinfo localhost 80 --type stream
  probectl addrinfo - 8080 --flags AI_PASSIVE,AI_NUMERICSERV`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: arguments(hosts, services("")),
		RunE: func(command *cobra.Command, args []string) error {
			if args[0] != "-" {
				request.Host = &args[0]
			}
			if len(args) > 1 {
				request.Service = &args[1]
			}
			return ask(command.Context(), t, probev1.NewResolverServiceClient, probev1.ResolverServiceClient.GetAddressInfo, request, addrinfoTable)
		},
	}
	bindEnum(command, &request.Family, "family", "AF_", "only this `FAMILY`: inet or inet6")
	bindEnum(command, &request.Type, "type", "SOCK_", "only this socket `TYPE`, as stream or dgram")
	bindEnum(command, &request.Protocol, "protocol", "IPPROTO_", "only this `PROTOCOL`, as tcp or udp")
	bindEnums(command, &request.Flags, "flags", "AI_", "`FLAGS`, as AI_PASSIVE,AI_CANONNAME, by name or number")
	return command
}

func addrinfoTable(p *printer, answer *probev1.GetAddressInfoResponse) {
	var rows [][]string
	for _, a := range answer.GetAddresses() {
		address := a.GetAddress()
		rows = append(rows, []string{
			a.GetFamily().String(), a.GetType().String(), a.GetProtocol().String(),
			address.GetIp(), strconv.Itoa(int(address.GetPort())), strconv.Itoa(int(address.GetFlowInfo())),
			strconv.Itoa(int(address.GetScopeId())), a.GetCanonicalName(),
		})
	}
	p.table("FAMILY TYPE PROTOCOL ADDRESS PORT FLOWINFO SCOPE CANONICAL-NAME", rows)
}

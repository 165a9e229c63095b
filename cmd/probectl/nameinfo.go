package main

import (
	"github.com/spf13/cobra"

	probev1 "probed/gen/probe/v1"
)

func newNameinfoCommand(t *tool) *cobra.Command {
	request := &probev1.GetNameInfoRequest{}
	command := &cobra.Command{
		Use:   "nameinfo ADDRESS PORT",
		Short: "Which names would getnameinfo give to an address and a port?",
		Long: `Answer what getnameinfo(3) of the C library would answer there. What has no name stays a
number, unless the flag NI_NAMEREQD is given.`,
		Example: `  probectl nameinfo 127.0.0.1 80
  probectl nameinfo ::1 53 --flags NI_DGRAM,NI_NUMERICHOST`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: arguments(addresses, ports),
		RunE: func(command *cobra.Command, args []string) (err error) {
			request.Address = args[0]
			if request.Port, err = parsePort(args[1]); err != nil {
				return err
			}
			return ask(command.Context(), t, probev1.NewResolverServiceClient, probev1.ResolverServiceClient.GetNameInfo, request, nameinfoTable)
		},
	}
	bindEnums(command, &request.Flags, "flags", "NI_", "`FLAGS`, as NI_NUMERICHOST,NI_NUMERICSERV, by name or number")
	return command
}

func nameinfoTable(p *printer, answer *probev1.GetNameInfoResponse) {
	p.table("HOST SERVICE", [][]string{{answer.GetHost(), answer.GetService()}})
}

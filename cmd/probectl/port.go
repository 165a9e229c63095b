package main

import (
	"errors"
	"strconv"

	"github.com/spf13/cobra"

	probev1 "probed/gen/probe/v1"
)

func newPortCommand(t *tool) *cobra.Command {
	request := &probev1.LookupPortRequest{}
	command := &cobra.Command{
		Use:   "port NUMBER",
		Short: "Which services does a port belong to?",
		Long: `Look the services of a port up, as getservbyport(3) does, and the range it is in: system
(0 to 1023), user (1024 to 49151) or dynamic. A port that nobody registered is an answer
too.`,
		Example: `  probectl port 80
  probectl port 53 --protocol udp`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: arguments(ports),
		RunE: func(command *cobra.Command, args []string) (err error) {
			if request.Port, err = parsePort(args[0]); err != nil {
				return err
			}
			return ask(command.Context(), t, probev1.NewNameServiceClient, probev1.NameServiceClient.LookupPort, request, portTable)
		},
	}
	command.Flags().StringVarP(&request.Protocol, "protocol", "p", "", "only this `TRANSPORT`, as tcp or udp")
	completeFlag(command, "protocol", transports)
	return command
}

// parsePort reads a number; whether it is a port is for the server to say.
func parsePort(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, &usageError{errors.New("a port is a number, 0 to 65535; for the port of a name ask probectl service NAME")}
	}
	return uint32(n), nil
}

func portTable(p *printer, answer *probev1.LookupPortResponse) {
	if len(answer.GetServices()) == 0 {
		row := []string{"", strconv.Itoa(int(answer.GetPort())), "", short("PORT_CLASS_", answer.GetPortClass()), "", "", "nobody registered it"}
		p.table("NAME PORT PROTOCOL CLASS SOURCE ALIASES DESCRIPTION", [][]string{row})
		return
	}
	serviceTable(p, answer.GetServices())
}

package main

import (
	"strings"

	"github.com/spf13/cobra"

	probev1 "probed/gen/probe/v1"
)

func newAddressCommand(t *tool) *cobra.Command {
	request := &probev1.LookupAddressRequest{}
	command := &cobra.Command{
		Use:   "address ADDRESS",
		Short: "Which names does an address have?",
		Long: `Look the names of an address up, as gethostbyaddr(3) does: in the hosts file, then in DNS.
With --trace every step is shown, also of a lookup that fails.`,
		Example: `  probectl address 127.0.0.1
  probectl address 2001:db8::1 --trace`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: arguments(addresses),
		RunE: func(command *cobra.Command, args []string) error {
			request.Address = args[0]
			err := ask(command.Context(), t, probev1.NewResolverServiceClient, probev1.ResolverServiceClient.LookupAddress, request, addressTable)
			if request.GetTrace() {
				t.failedTrace(err)
			}
			return err
		},
	}
	command.Flags().BoolVar(&request.Trace, "trace", false, "show every step of the lookup")
	return command
}

func addressTable(p *printer, answer *probev1.LookupAddressResponse) {
	p.table("ADDRESS NAME ALIASES SOURCE TIME", [][]string{{
		strings.Join(answer.GetAddresses(), ","), answer.GetCanonicalName(), strings.Join(answer.GetAliases(), ","),
		answer.GetSource(), span(answer.GetDuration()),
	}})
	notes(p, answer.GetNotes())
	traceBelow(p, answer.GetTrace())
}

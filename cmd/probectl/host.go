package main

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
)

func newHostCommand(t *tool) *cobra.Command {
	request := &probev1.LookupHostRequest{}
	var v4, v6 bool
	command := &cobra.Command{
		Use:   "host NAME",
		Short: "What does a name resolve to?",
		Long: `Look the addresses of a name up, the way a resolver there walks: the hosts file, then DNS
with the search list. With --trace every step is shown, also of a lookup that fails.`,
		Example: `  probectl host localhost
  probectl host db.shop --trace
  probectl host -6 example.org`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: arguments(hosts),
		RunE: func(command *cobra.Command, args []string) error {
			request.Host = args[0]
			switch {
			case v4:
				request.Family = probev1.AddressFamily_AF_INET
			case v6:
				request.Family = probev1.AddressFamily_AF_INET6
			}
			err := ask(command.Context(), t, probev1.NewResolverServiceClient, probev1.ResolverServiceClient.LookupHost, request, hostTable)
			if request.GetTrace() {
				t.failedTrace(err)
			}
			return err
		},
	}
	bindEnum(command, &request.Family, "family", "AF_", "only addresses of this `FAMILY`: inet or inet6")
	command.Flags().BoolVarP(&v4, "ipv4", "4", false, "the same as --family inet")
	command.Flags().BoolVarP(&v6, "ipv6", "6", false, "the same as --family inet6")
	command.Flags().BoolVar(&request.Trace, "trace", false, "show every step of the lookup")
	command.MarkFlagsMutuallyExclusive("family", "ipv4", "ipv6")
	return command
}

func hostTable(p *printer, answer *probev1.LookupHostResponse) {
	var rows [][]string
	for _, address := range answer.GetAddresses() {
		family := probev1.AddressFamily_AF_INET
		if parsed, err := netip.ParseAddr(address); err == nil && parsed.Is6() {
			family = probev1.AddressFamily_AF_INET6
		}
		rows = append(rows, []string{
			address, family.String(), answer.GetCanonicalName(), strings.Join(answer.GetAliases(), ","),
			answer.GetSource(), span(answer.GetDuration()),
		})
	}
	p.table("ADDRESS FAMILY CANONICAL-NAME ALIASES SOURCE TIME", rows)
	notes(p, answer.GetNotes())
	traceBelow(p, answer.GetTrace())
}

// notes prints what a person should know.
func notes(p *printer, notes []string) {
	for _, note := range notes {
		p.line("note: %s", note)
	}
}

// traceBelow prints the steps of a lookup below its answer; nothing when they were not asked for.
func traceBelow(p *printer, trace []*probev1.TraceStep) {
	if len(trace) > 0 {
		p.line("")
		traceTable(p, trace)
	}
}

func traceTable(p *printer, trace []*probev1.TraceStep) {
	var rows [][]string
	for i, step := range trace {
		result := step.GetRcode()
		if step.GetError() != "" {
			result = strings.TrimPrefix(result+", "+step.GetError(), ", ")
		}
		rows = append(rows, []string{
			strconv.Itoa(i + 1), step.GetSource(), step.GetName(), step.GetType(), step.GetServer(), step.GetTransport(),
			span(step.GetDuration()), result, strings.Join(step.GetAnswers(), ","),
		})
	}
	p.table("STEP SOURCE NAME TYPE SERVER BY TIME RESULT ANSWERS", rows)
}

// failedTrace prints the steps that a failed lookup's status carries. (JSON and YAML show the whole status.)
func (t *tool) failedTrace(err error) {
	s, ok := status.FromError(err)
	if !ok || t.format != formatTable {
		return
	}
	for _, detail := range s.Details() {
		if failure, ok := detail.(*probev1.ResolutionFailure); ok {
			traceTable(t.stdout, failure.GetTrace())
		}
	}
}

// span is a duration for a person; unset is the empty text.
func span(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	switch ms := float64(d.AsDuration().Nanoseconds()) / 1e6; {
	case ms < 0.1:
		return strconv.FormatFloat(ms, 'f', 3, 64) + "ms"
	case ms < 1:
		return strconv.FormatFloat(ms, 'f', 2, 64) + "ms"
	case ms < 1000:
		return strconv.FormatFloat(ms, 'f', 1, 64) + "ms"
	default:
		return strconv.FormatFloat(ms/1000, 'f', 2, 64) + "s"
	}
}

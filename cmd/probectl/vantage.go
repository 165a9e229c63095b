package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	probev1 "probed/gen/probe/v1"
)

func newVantageCommand(t *tool) *cobra.Command {
	return &cobra.Command{
		Use:   "vantage",
		Short: "From where are the answers given?",
		Long: `Tell who answers: host or pod, version, interfaces, default routes, and how names are
resolved there; and which server that is, by which name, and by what it was named.`,
		Example: `  probectl vantage
  probectl --server probed.shop:50051 vantage`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(command *cobra.Command, _ []string) error {
			return ask(command.Context(), t, probev1.NewResolverServiceClient, probev1.ResolverServiceClient.DescribeVantage,
				&probev1.DescribeVantageRequest{}, func(p *printer, answer *probev1.DescribeVantageResponse) {
					vantageTables(p, answer)
					if !t.kube.each {
						p.line("")
						p.table("SERVER NAME BY", [][]string{t.which()})
					}
				})
		},
	}
}

func vantageTables(p *printer, answer *probev1.DescribeVantageResponse) {
	p.table("HOSTNAME POD NAMESPACE NODE VERSION", [][]string{{
		answer.GetHostname(), answer.GetPod(), answer.GetNamespace(), answer.GetNode(), answer.GetVersion(),
	}})
	p.line("")
	var rows [][]string
	for _, i := range answer.GetInterfaces() {
		rows = append(rows, []string{
			i.GetName(), strconv.Itoa(int(i.GetIndex())), strconv.Itoa(int(i.GetMtu())),
			strings.Join(i.GetAddresses(), ","), strings.Join(i.GetFlags(), ","),
		})
	}
	p.table("INTERFACE INDEX MTU ADDRESSES FLAGS", rows)
	p.line("")
	rows = nil
	for _, r := range answer.GetDefaultRoutes() {
		rows = append(rows, []string{r.GetFamily().String(), r.GetGateway(), r.GetInterface(), strconv.Itoa(int(r.GetMetric()))})
	}
	p.table("DEFAULT-ROUTE GATEWAY INTERFACE METRIC", rows)
	p.line("")
	r := answer.GetResolver()
	p.table("NAMESERVERS SEARCH NDOTS TIMEOUT ATTEMPTS OPTIONS SOURCES", [][]string{{
		strings.Join(r.GetNameservers(), ","), strings.Join(r.GetSearch(), ","), strconv.Itoa(int(r.GetNdots())),
		span(r.GetTimeout()), strconv.Itoa(int(r.GetAttempts())), strings.Join(r.GetOptions(), ","),
		strings.Join(r.GetSources(), ","),
	}})
	notes(p, r.GetNotes())
}

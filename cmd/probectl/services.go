package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	probev1 "probed/gen/probe/v1"
)

func newServicesCommand(t *tool) *cobra.Command {
	request := &probev1.ListServicesRequest{}
	var limit int
	command := &cobra.Command{
		Use:   "services",
		Short: "List services by port",
		Long: `List the services of all tables in the order of port, transport and name. There are
thousands; they are fetched page by page and printed at the end.`,
		Example: `  probectl services --class system --protocol sctp
  probectl services --limit 20
  probectl services -o json | jq -r '.services[].name'`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(command *cobra.Command, _ []string) error {
			if limit < 0 {
				return &usageError{fmt.Errorf("--limit %d: it is 0 or more", limit)}
			}
			return ask(command.Context(), t, probev1.NewNameServiceClient, allServices(limit), request,
				func(p *printer, answer *probev1.ListServicesResponse) { serviceTable(p, answer.GetServices()) })
		},
	}
	command.Flags().StringVarP(&request.Protocol, "protocol", "p", "", "only this `TRANSPORT`, as tcp or udp")
	bindEnum(command, &request.PortClass, "class", "PORT_CLASS_", "only ports of this `CLASS`: system, user or dynamic")
	command.Flags().IntVar(&limit, "limit", 0, "at most so many `ENTRIES`; 0: all")
	completeFlag(command, "protocol", transports)
	completeFlag(command, "limit", nothing)
	return command
}

// allServices asks page after page, and answers with all of them, or with as many as limit says if it is more than 0.
// When it cuts the list, the answer keeps the token to go on with.
func allServices(limit int) func(probev1.NameServiceClient, context.Context, *probev1.ListServicesRequest, ...grpc.CallOption) (*probev1.ListServicesResponse, error) {
	const pageSize = 1000 // the most there is
	return func(client probev1.NameServiceClient, ctx context.Context, request *probev1.ListServicesRequest, options ...grpc.CallOption) (*probev1.ListServicesResponse, error) {
		all := &probev1.ListServicesResponse{}
		for {
			request.PageSize = pageSize
			if limit > 0 {
				request.PageSize = int32(min(pageSize, limit-len(all.Services)))
			}
			page, err := client.ListServices(ctx, request, options...)
			if err != nil {
				return nil, err
			}
			all.Services = append(all.Services, page.GetServices()...)
			all.NextPageToken = page.GetNextPageToken()
			if all.NextPageToken == "" || limit > 0 && len(all.Services) >= limit {
				return all, nil
			}
			request.PageToken = all.NextPageToken
		}
	}
}

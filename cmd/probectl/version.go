package main

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"

	probev1 "probed/gen/probe/v1"
)

func newVersionCommand(t *tool) *cobra.Command {
	client := false
	command := &cobra.Command{
		Use:   "version",
		Short: "Which probectl is this, and which probed answers?",
		Long: `Tell the version of this probectl, of the Go it was built with, and its platform; and, where
a probed is named, its version, and by what it is named. With --client nobody is asked, and
the configuration file not read.`,
		Example: `  probectl version
  probectl version --client -o json
  probectl --server probed.shop version`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(command *cobra.Command, _ []string) error {
			if t.kube.each {
				return &usageError{errors.New("version goes without --each: vantage tells the version of each")}
			}
			return t.tellVersion(command.Context(), client)
		},
	}
	command.Flags().BoolVar(&client, "client", false, "of this probectl alone")
	return command
}

// tellVersion tells the versions at both ends. That of a server that does not answer is an error, told behind our own.
func (t *tool) tellVersion(ctx context.Context, client bool) error {
	var failure error
	if !client {
		failure = t.settleServer()
	}
	if _, usage := errors.AsType[*usageError](failure); usage {
		return failure
	}
	platform := runtime.GOOS + "/" + runtime.GOARCH
	fields := map[string]*structpb.Value{
		"version": structpb.NewStringValue(buildVersion()), "go": structpb.NewStringValue(runtime.Version()), "platform": structpb.NewStringValue(platform),
	}
	if t.format == formatTable {
		t.stdout.table("VERSION GO PLATFORM", [][]string{{buildVersion(), runtime.Version(), platform}})
	}
	if failure == nil && !client && !t.local() {
		var answer *probev1.DescribeVantageResponse
		if answer, failure = t.askVantage(ctx); failure == nil {
			server := t.which()
			fields["server"] = structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
				"version": structpb.NewStringValue(answer.GetVersion()), "hostname": structpb.NewStringValue(answer.GetHostname()),
				"address": structpb.NewStringValue(server[0]), "name": structpb.NewStringValue(server[1]), "by": structpb.NewStringValue(server[2]),
			}})
			if t.format == formatTable {
				t.stdout.line("")
				t.stdout.table("SERVER VERSION HOSTNAME NAME BY", [][]string{{server[0], answer.GetVersion(), answer.GetHostname(), server[1], server[2]}})
			}
		}
	}
	if t.format != formatTable {
		if err := t.printMessage(&structpb.Struct{Fields: fields}); err != nil {
			return err
		}
	}
	return failure
}

// askVantage asks the server who it is.
func (t *tool) askVantage(ctx context.Context) (answer *probev1.DescribeVantageResponse, err error) {
	err = t.withServer(ctx, func(ctx context.Context, s *server) (err error) {
		var header metadata.MD
		answer, err = probev1.NewResolverServiceClient(s.conn).DescribeVantage(ctx, &probev1.DescribeVantageRequest{}, grpc.Header(&header))
		t.requestID = requestIDOf(header)
		return err
	})
	return answer, err
}

// version is set by the linker; without it the version is that of the module as it was built.
var version string

func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

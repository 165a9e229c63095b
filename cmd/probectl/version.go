package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/structpb"
)

func newVersionCommand(t *tool) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Which probectl is this?",
		Long: `Tell the version of this probectl, of the Go it was built with, and its platform. The
version of a probed is in probectl vantage.`,
		Example: `  probectl version
  probectl version -o json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			platform := runtime.GOOS + "/" + runtime.GOARCH
			if t.format == formatTable {
				t.stdout.table("VERSION GO PLATFORM", [][]string{{buildVersion(), runtime.Version(), platform}})
				return nil
			}
			return t.printMessage(&structpb.Struct{Fields: map[string]*structpb.Value{
				"version":  structpb.NewStringValue(buildVersion()),
				"go":       structpb.NewStringValue(runtime.Version()),
				"platform": structpb.NewStringValue(platform),
			}})
		},
	}
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

// Command probed is a network probe as a service: it runs where a network question is, and answers it over gRPC and
// REST.
//
// main does nothing but call [run]; run wires the rooms under service/ together, opens the listeners and ends them
// again. What is decided here is only what concerns the process: flags, listeners, signals, the order of the end.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version string

const (
	exitFailure = 1
	exitUsage   = 64 // EX_USAGE, sysexits.h
)

func main() {
	// Whoever reads the log may go; the callers stay.
	signal.Ignore(syscall.SIGPIPE)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	os.Exit(run(context.Background(), os.Args[1:], os.Stderr, os.Stdout, os.Getenv, signals))
}

// usageError is a command line that cannot be carried out.
type usageError struct{ error }

// run is the whole program. It returns the exit code when probed has been told to end by a signal, or could not begin.
func run(ctx context.Context, args []string, stderr, stdout io.Writer, getenv func(string) string, signals <-chan os.Signal) int {
	var o options
	command := &cobra.Command{
		Use:   "probed",
		Short: "Answer network questions as seen from here",
		Long: `probed answers network questions as seen from where it runs, over gRPC, over REST and to probectl: which port
is ssh, what does a name resolve to, does a connection open, what comes back, and if not, why not.

Without flags it listens on loopback only, asks nobody who they are, and reaches everything but unix sockets, which
--unix-path lists, and what its policy denies for good: link-local addresses (with the metadata services of clouds),
multicast and its own listeners. To be reached from elsewhere, it wants to know who may call and what they may do:
--config FILE says that, and "probed check-config" tests it. The file is read again when it changes, or at a SIGHUP.

The variables that OpenTelemetry has for it make probed send traces: OTEL_EXPORTER_OTLP_ENDPOINT=http://HOST:4318 is enough.

SIGTERM or SIGINT makes it end in good order; a second one makes it end at once.`,
		Example: `  probed
  probed --echo tcp://127.0.0.1:7007 --echo udp://127.0.0.1:7007
  probed --unix-path /run/postgresql/.s.PGSQL.5432 --unix-path '/run/app/*'
  probed --config /etc/probed/probed.yaml
  curl -s http://127.0.0.1:8080/v1/services/ssh`,
		Version: programVersion(),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unexpected argument %q: probed takes flags only", args[0])}
			}
			return nil
		},
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		SilenceErrors:     true,
		SilenceUsage:      true,
		RunE: func(command *cobra.Command, _ []string) error {
			return serve(command.Context(), o, stderr, stdout, getenv, signals)
		},
	}
	command.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	command.SetArgs(args)
	command.SetOut(stdout)
	command.SetErr(stderr)
	command.AddCommand(checkConfigCommand(getenv), newTokenCommand())
	o.register(command.Flags())
	if err := command.ExecuteContext(ctx); err != nil {
		if !errors.Is(err, errReported) {
			fmt.Fprintf(stderr, "probed: %v\n", err)
		}
		if _, ok := errors.AsType[usageError](err); ok {
			return exitUsage
		}
		return exitFailure
	}
	return 0
}

// programVersion is what the linker was told, or what the Go tool knows of the commit.
func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// Command bench measures probed against what people would use instead, and prints for each row ours, theirs, the ratio, the
// bar it has to reach, and whether it does. `make bench` installs the others and runs it; docs/performance.md explains the
// rows.
//
// Both sides of a row are up at the same time, do the same work for the same client, and are measured in turn, so that what
// else the machine does meets both alike: the ratio of each pair counts, and of those the median. probed runs as it would be
// left running, with authentication, policy, metrics and its log.
//
// It is to be run in a network and mount namespace of its own, as `make bench` does it: it brings the loopback up there and
// makes itself the name server of /etc/resolv.conf.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errMissed):
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
}

// errMissed is that a row did not reach its bar; the table has said which.
var errMissed = errors.New("not all bars hold")

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "serve" {
		return serve(ctx, args[1:])
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, "Usage: bench [flags] [ROW ...]\n\nRows:\n")
		for _, r := range rows {
			fmt.Fprintf(stderr, "  %-14s %s\n", r.name, r.work)
		}
		fmt.Fprint(stderr, "\nFlags:\n")
		flags.PrintDefaults()
	}
	var o options
	flags.StringVar(&o.probed, "probed", "bin/probed", "the `program` to measure")
	flags.IntVar(&o.pairs, "pairs", 5, "how often each side is measured")
	flags.DurationVar(&o.time, "for", 2*time.Second, "about how long one measurement takes")
	flags.StringVar(&o.growth, "growth", "", "instead of the rows, measure how cost grows, and write a table of each into this `folder`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	wanted, err := choose(flags.Args())
	if err != nil {
		return err
	}
	if o.self, err = os.Executable(); err != nil {
		return err
	}
	if err := prepare(ctx); err != nil {
		return err
	}
	if o.growth != "" {
		return measureGrowth(ctx, o, stdout, stderr)
	}
	fmt.Fprint(stdout, tableHead)
	missed := false
	for _, r := range wanted {
		fmt.Fprintf(stderr, "%s: %s\n", r.name, r.work)
		result, err := r.measure(ctx, o, stderr)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		fmt.Fprintln(stdout, result)
		missed = missed || !result.holds()
	}
	if missed {
		return errMissed
	}
	return nil
}

// choose returns the rows of these names; all if there are none.
func choose(names []string) ([]row, error) {
	if len(names) == 0 {
		return rows, nil
	}
	var wanted []row
	for _, name := range names {
		found := false
		for _, r := range rows {
			if r.name == name {
				wanted, found = append(wanted, r), true
			}
		}
		if !found {
			all := make([]string, 0, len(rows))
			for _, r := range rows {
				all = append(all, r.name)
			}
			return nil, fmt.Errorf("no row %q; there are %s", name, strings.Join(all, ", "))
		}
	}
	return wanted, nil
}

package main

import (
	"context"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
)

func newConnectCommand(t *tool) *cobra.Command {
	var timeout time.Duration
	command := &cobra.Command{
		Use:   "connect TARGET...",
		Short: "Can this port be reached, and if not, why?",
		Long: `Open a connection to each target and close it again. All addresses of a target are tried,
and each attempt is told. The targets are tried at the same time; with -o json or yaml each
is a document of its own, in the order in which they are given.

TARGET is [SCHEME://]HOST:SERVICE, as for probectl exchange. By udp nothing is sent, so
there success says only that there is a route.

The exit code is 0 if all of them could be reached.`,
		Example: `  probectl connect example.org:https
  probectl connect tcp://db.shop:5432 tcp6://[2001:db8::1]:22 --timeout 2s`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			var requests []*probev1.ConnectRequest
			for _, target := range args {
				request := &probev1.ConnectRequest{Target: target}
				if command.Flags().Changed("timeout") {
					request.Timeout = durationpb.New(timeout)
				}
				if err := checkText(request); err != nil {
					return err
				}
				requests = append(requests, request)
			}
			return t.connect(command.Context(), requests)
		},
	}
	command.Flags().DurationVar(&timeout, "timeout", 0, "the most time for each target, up to 10m (default 60s, and 10s for each address)")
	return command
}

// connection is the answer for one target.
type connection struct {
	target   string
	response *probev1.ConnectResponse
	header   metadata.MD
	err      error
}

// connect asks for all connections at the same time, and tells of them in the order they were asked for.
func (t *tool) connect(ctx context.Context, requests []*probev1.ConnectRequest) error {
	return t.withServer(ctx, func(ctx context.Context, s *server) error {
		answers := make([]connection, len(requests))
		client := probev1.NewExchangeServiceClient(s.conn)
		slots := make(chan struct{}, 32) // no more than a server grants to one caller
		var running sync.WaitGroup
		for i, request := range requests {
			slots <- struct{}{}
			running.Go(func() {
				defer func() { <-slots }()
				answer := &answers[i]
				answer.target = request.GetTarget()
				answer.response, answer.err = client.Connect(ctx, request, grpc.Header(&answer.header))
			})
		}
		running.Wait()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return t.tellConnections(s, answers)
	})
}

// tellConnections prints the answers. What is wrong with the command line counts more than a server that failed, and
// that more than a target that cannot be reached.
func (t *tool) tellConnections(s *server, answers []connection) error {
	for _, a := range answers {
		if status.Code(a.err) != codes.InvalidArgument { // which is an answer of no place
			t.tellVantage(s, a.header, a.err)
			break
		}
	}
	code := exitYes
	for _, a := range answers {
		err := a.err
		switch {
		case err != nil:
			t.printStatus(err)
		case t.format != formatTable:
			if err := t.printMessage(a.response); err != nil {
				return err
			}
		}
		if err == nil && !a.response.GetOutcome().GetOk() {
			err = errNo
		}
		its, text, _ := explain(err)
		if text != "" {
			t.stderr.line("probectl: %s: %s", a.target, text)
		}
		if its == exitUsage || its == exitFailed && code != exitUsage || code == exitYes {
			code = its
		}
	}
	if t.format == formatTable {
		connectTable(t.stdout, answers)
	}
	if code != exitYes {
		return &exitError{code: code}
	}
	return nil
}

// connectTable prints a row for each attempt, and why a target could not be reached.
func connectTable(p *printer, answers []connection) {
	var rows [][]string
	for _, a := range answers {
		if a.err != nil {
			continue
		}
		o := a.response.GetOutcome()
		resolve := span(o.GetTimings().GetResolve())
		if len(o.GetAttempts()) == 0 {
			rows = append(rows, []string{a.target, "", short("REASON_", o.GetReason()), resolve, ""})
		}
		for _, attempt := range o.GetAttempts() {
			result := "ok"
			if !attempt.GetOk() {
				result = short("REASON_", attempt.GetReason())
			}
			rows = append(rows, []string{a.target, attempt.GetAddress(), result, resolve, span(attempt.GetDuration())})
		}
	}
	if len(rows) > 0 {
		p.table("TARGET ADDRESS RESULT RESOLVE CONNECT", rows)
	}
	for _, a := range answers {
		if o := a.response.GetOutcome(); a.err == nil && !o.GetOk() {
			p.line("")
			p.line("%s", a.target)
			for _, line := range outcomeLines(o, nil) {
				p.line("  %s", line)
			}
			traceBelow(p, o.GetResolution().GetTrace())
		}
	}
}

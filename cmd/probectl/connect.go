package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	probev1 "probed/gen/probe/v1"
)

func newConnectCommand(t *tool) *cobra.Command {
	var files []string
	var all bool
	var reach *reach
	command := &cobra.Command{
		Use:   "connect [TARGET...]",
		Short: "Can this port be reached, and if not, why?",
		Long: `Open a connection to each target and close it again, with the TLS handshake if its scheme
is tls. The addresses of a name are tried until one answers; with --all each is checked, and
the answer is yes when all of them are. Every attempt is told, and of what failed the
reason, what it usually means, and the way the packets took.

` + targetHelp + `
By udp nothing is sent, so there success says only that there is a route. By icmp the host
is asked for an echo, each second until it answers: is it there at all?

The targets are tried at the same time, at most 32, and told in the order in which they are
given. With --json each is one line, written as soon as it and those before it are known:
  {"target": ..., "outcome": ...}, or {"target": ..., "error": ...} if it cannot be asked
With --each there is one for each pod and target, with "pod", "namespace" and "node" before.
Ctrl-C loses nothing: what has been answered by then is told.

The exit code is 0 if all of them could be reached.`,
		Example: `  probectl connect example.org:https
  probectl connect example.org:443 --tls --all
  probectl connect tcp://db.shop:5432 tcp6://[2001:db8::1]:22 --timeout 2s
  probectl --kube net/probed --each connect db.shop:5432
  probectl connect -f targets --json | jq -r 'select(.outcome.ok | not).target'`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: eachArgument(targets),
		RunE: func(command *cobra.Command, args []string) error {
			targets, err := t.targets(args, files)
			if err != nil {
				return &usageError{err}
			}
			options, err := reach.options()
			if err != nil {
				return &usageError{err}
			}
			connections := make([]*connection, len(targets))
			for i, target := range targets {
				text, err := reach.target(target.text)
				if err != nil {
					return &usageError{fmt.Errorf("%s: %w", target, err)}
				}
				request := &probev1.ConnectRequest{
					Target: text, Timeout: options.GetTimeout(), Family: options.GetFamily(), Source: options.GetSource(),
					Interface: options.GetInterface(), Tls: options.GetTls(), AllAddresses: all,
				}
				if err := checkText(request); err != nil {
					return err
				}
				connections[i] = newConnection(target, request)
			}
			if t.kube.each {
				return t.connectEach(command.Context(), connections)
			}
			return t.connect(command.Context(), connections)
		},
	}
	command.Flags().StringArrayVarP(&files, "file", "f", nil, "the targets in this `FILE` too, one a line, # for comments; - is standard input")
	command.Flags().BoolVar(&all, "all", false, "check every address of a name, of both families, and not only the first that answers")
	reach = bindReach(t, command, "the most time for each target, up to 10m (default 60s, and 10s for each address)")
	return command
}

// connection is the question about one target and its answer.
type connection struct {
	target   target
	request  *probev1.ConnectRequest
	answered chan struct{} // closed when the answer is there

	response *probev1.ConnectResponse
	header   metadata.MD
	err      error
}

func newConnection(target target, request *probev1.ConnectRequest) *connection {
	return &connection{target: target, request: request, answered: make(chan struct{})}
}

// askConnections asks for all connections, several at the same time, and returns when all have an answer. It calls
// answered for each.
func askConnections(ctx context.Context, s *server, connections []*connection, answered func(*connection)) {
	const most = 32 // at the same time: no more than a server grants to one caller
	client := probev1.NewExchangeServiceClient(s.conn)
	var running sync.WaitGroup
	var next atomic.Int64
	for range min(most, len(connections)) {
		running.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(connections)); i = next.Add(1) - 1 {
				c := connections[i]
				c.response, c.err = client.Connect(ctx, c.request, grpc.Header(&c.header))
				c.err = s.why(c.err)
				answered(c)
				close(c.answered)
			}
		})
	}
	running.Wait()
}

// connect asks for all connections and tells of them in the order they were asked for. When it is interrupted, it tells of
// those it has an answer for.
func (t *tool) connect(ctx context.Context, connections []*connection) error {
	return t.withServer(ctx, func(ctx context.Context, s *server) error {
		asking, cancel := context.WithCancel(ctx)
		var answered atomic.Int64
		var running sync.WaitGroup
		running.Go(func() {
			askConnections(asking, s, connections, func(c *connection) {
				if !c.missing() {
					answered.Add(1)
				}
			})
		})
		defer running.Wait()
		defer cancel()

		progress := startProgress(t.stderr, t.stdout, func(time.Duration) string {
			return fmt.Sprintf("%d of %d targets", answered.Load(), len(connections))
		})
		defer progress.stop()
		told := &connectReport{tool: t, server: s}
		for _, c := range connections {
			<-c.answered
			if err := progress.during(func() error { return told.add(c) }); err != nil {
				return err
			}
		}
		progress.stop()
		if t.format == formatTable {
			connectTable(t.stdout, connections, time.Now())
		}
		for _, advice := range told.advice {
			t.advise(advice)
		}
		switch {
		case ctx.Err() != nil && int(answered.Load()) < len(connections):
			return &exitError{code: exitInterrupted, text: fmt.Sprintf("interrupted: %d of %d targets answered by then", answered.Load(), len(connections))}
		case told.code != exitYes:
			return &exitError{code: told.code}
		}
		return nil
	})
}

// missing tells whether there was no answer because nobody waited for it any more. (No server ends this call so.)
func (c *connection) missing() bool { return status.Code(c.err) == codes.Canceled }

// verdict is the error that the answer comes to.
func (c *connection) verdict() error {
	if c.err == nil && !c.response.GetOutcome().GetOk() {
		return errNo
	}
	return c.err
}

// members is the answer to a machine, within an object of JSON.
func (c *connection) members() (string, error) {
	var answer proto.Message = c.response.GetOutcome()
	name := "outcome"
	if c.err != nil {
		answer, name = errorMessage(c.err), "error"
	}
	text, err := marshal(answer)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(`"target":%s,%q:%s`, jsonText(c.target.text), name, text), nil
}

// errorMessage is what the service says in place of an answer, as far as it can be shown.
func errorMessage(err error) proto.Message {
	failure := status.Convert(err).Proto()
	if _, err := marshal(failure); err != nil {
		failure.Details = nil // a newer server has some that are unknown here
	}
	return failure
}

// connectReport tells of connections, one after the other.
type connectReport struct {
	tool    *tool
	server  *server
	vantage bool // whether it has been told where the answers come from
	advice  []string
	code    int
}

// add tells where the first answer comes from, what went wrong, and to a machine the answer itself. The error is that of
// the output.
func (r *connectReport) add(c *connection) error {
	t := r.tool
	if !r.vantage && !c.missing() && status.Code(c.err) != codes.InvalidArgument { // which is an answer of no place
		t.tellVantage(r.server, c.header, c.err)
		r.vantage = true
	}
	err := c.verdict()
	code, text, advice := t.explain(err)
	if text != "" && !c.missing() {
		t.stderr.line("probectl: %s: %s", c.target, text)
		if isInternal(err) {
			t.adviseInternal(requestIDOf(c.header))
		}
	}
	if advice != "" && !slices.Contains(r.advice, advice) {
		r.advice = append(r.advice, advice)
	}
	r.code = worse(r.code, code)
	if t.format == formatTable {
		return nil
	}
	members, err := c.members()
	if err != nil {
		return err
	}
	return t.printDocument([]byte("{"+members+"}"), false)
}

// connectTable prints a row for each attempt, and below them why a target could not be reached and what TLS told.
func connectTable(p *printer, connections []*connection, now time.Time) {
	var rows [][]string
	for _, c := range connections {
		rows = append(rows, connectRows(c)...)
	}
	if len(rows) > 0 {
		p.table("TARGET ADDRESS RESULT RESOLVE CONNECT TLS", rows)
	}
	for _, c := range connections {
		o := c.response.GetOutcome()
		lines := connectLines(o, now)
		if len(lines) == 0 {
			continue
		}
		p.line("")
		p.line("%s", c.target.text)
		for _, line := range lines {
			p.told("  ", line)
		}
		traceBelow(p, o.GetResolution().GetTrace())
	}
}

func connectRows(c *connection) [][]string {
	if c.missing() {
		return [][]string{{c.target.text, "", "not answered", "", "", ""}}
	}
	if c.err != nil {
		return nil
	}
	o := c.response.GetOutcome()
	resolve := span(o.GetTimings().GetResolve())
	if len(o.GetAttempts()) == 0 {
		return [][]string{{c.target.text, "", short("REASON_", o.GetReason()), resolve, "", ""}}
	}
	var rows [][]string
	for _, a := range o.GetAttempts() {
		result, tls := "ok", ""
		switch {
		case !a.GetOk():
			result = short("REASON_", a.GetReason())
		case o.GetTls() != nil && a.GetAddress() == o.GetRemote():
			tls = span(o.GetTimings().GetTls())
			if !o.GetOk() {
				result = short("REASON_", o.GetReason())
			}
		}
		if a.GetTls() != nil { // each has its own, with --all
			tls = span(a.GetTlsDuration())
		}
		rows = append(rows, []string{c.target.text, a.GetAddress(), result, resolve, span(a.GetDuration()), tls})
	}
	return rows
}

// connectLines is what there is to tell of a target beyond its attempts; nothing when it could be reached at once, and no
// TLS was spoken.
func connectLines(o *probev1.Outcome, now time.Time) []string {
	var lines []string
	switch {
	case o == nil:
	case !o.GetOk():
		lines = append(failureLines(o, nil), pathLines(o)...)
	case o.GetProtocol() == probev1.IpProtocol_IPPROTO_ICMP, o.GetProtocol() == probev1.IpProtocol_IPPROTO_ICMPV6: // it answered
	case o.GetType() == probev1.SocketType_SOCK_DGRAM:
		lines = append(lines, "ok says only that there is a way: a datagram socket opens without asking anybody.",
			"probectl exchange sends something, and silence would still prove nothing.")
	}
	if o.GetTls() != nil {
		lines = append(lines, tlsLines(o.GetTls(), now)...)
	}
	for _, a := range o.GetAttempts() {
		switch {
		case a.GetOk() && a.GetTls() != nil:
			lines = append(lines, a.GetAddress())
		case a.GetOk() || len(o.GetAttempts()) == 1 || a.GetReason() == probev1.Reason_REASON_CANCELLED:
			continue // there is no more to tell
		default:
			lines = append(lines, attemptLine(a))
		}
		if a.GetTls() != nil {
			for _, line := range tlsLines(a.GetTls(), now) {
				lines = append(lines, "  "+line)
			}
		}
	}
	return lines
}

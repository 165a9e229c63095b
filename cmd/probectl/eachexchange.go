package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
)

// mostKept is how much of what a peer says is kept for each pod, in bytes, since all of it is shown at the end.
const mostKept = 1 << 20

// exchanged is an exchange as one pod had it.
type exchanged struct {
	events  []*probev1.ExchangeResponse // without the outcome, and without chunks beyond mostKept
	data    []byte                      // of these chunks
	left    uint64                      // bytes of chunks that are not kept
	outcome *probev1.Outcome
	err     error // in place of an outcome
}

// essence is the same for exchanges that mean the same, however the peer's bytes were cut into chunks.
func (e *exchanged) essence() string {
	if e.err != nil {
		_, text, _ := explain(e.err)
		return "\x00" + text
	}
	return fmt.Sprintf("%s\x00%d\x00%s", e.data, e.left, essence(e.outcome))
}

func (e *exchanged) verdict() error {
	if e.err == nil && !e.outcome.GetOk() {
		return errNo
	}
	return e.err
}

// exchangeEach has every pod carry a request out, and shows what happened once for the pods where the same did.
func (t *tool) exchangeEach(ctx context.Context, request *probev1.ExchangeRequest, steps []string) error {
	question := func(ctx context.Context, s *server) (*exchanged, error) {
		e := &exchanged{}
		e.err = s.why(e.run(ctx, s, request))
		if status.Code(e.err) == codes.Canceled {
			return nil, e.err
		}
		return e, nil
	}
	machine := func(a *asked[*exchanged]) (int, error) {
		code, _, _ := explain(a.answer.verdict())
		return code, t.printExchange(a, request.GetTarget())
	}
	return askEach(ctx, t, question, machine, func(all []*asked[*exchanged]) {
		t.tellExchanges(all, steps)
	})
}

// run carries the request out and keeps what happened.
func (e *exchanged) run(ctx context.Context, s *server, request *probev1.ExchangeRequest) error {
	stream, err := probev1.NewExchangeServiceClient(s.conn).Exchange(ctx, request)
	if err != nil {
		return err
	}
	e.outcome, err = receive(stream, func(error) {}, func(event *probev1.ExchangeResponse) error {
		switch data := event.GetChunk().GetData(); {
		case event.GetOutcome() != nil:
			return nil
		case len(e.data)+len(data) > mostKept || e.left > 0 && event.GetChunk() != nil:
			e.left += uint64(len(data))
			return nil
		default:
			e.data = append(e.data, data...)
		}
		e.events = append(e.events, event)
		return nil
	})
	return err
}

// printExchange prints the exchange of a pod to a machine.
func (t *tool) printExchange(a *asked[*exchanged], target string) error {
	e := a.answer
	members := `"target":` + jsonText(target)
	if e.err != nil {
		failure, err := marshal(errorMessage(e.err))
		if err != nil {
			return err
		}
		return t.printFrom(a.pod, members+`,"error":`+string(failure))
	}
	outcome, err := marshal(e.outcome)
	if err != nil {
		return err
	}
	events := make([]string, len(e.events))
	for i, event := range e.events {
		text, err := marshal(event)
		if err != nil {
			return err
		}
		events[i] = string(text)
	}
	return t.printFrom(a.pod, fmt.Sprintf(`%s,"outcome":%s,"events":[%s],"bytesLeftOut":"%d"`, members, outcome, strings.Join(events, ","), e.left))
}

// row is the exchange in numbers, those first that tell of the way: what was not acknowledged did not arrive.
func (e *exchanged) row() []string {
	if e.err != nil {
		return []string{"", code.Code(status.Code(e.err)).String(), "", "", "", "", ""}
	}
	o, result, acknowledged, retransmits := e.outcome, "ok", "", ""
	if !o.GetOk() {
		result = short("REASON_", o.GetReason())
	}
	if o.BytesAcknowledged != nil {
		acknowledged = strconv.FormatUint(o.GetBytesAcknowledged(), 10)
	}
	if o.GetTcpInfo() != nil {
		retransmits = strconv.FormatUint(uint64(o.GetTcpInfo().GetRetransmits()), 10)
	}
	return []string{
		o.GetRemote(), result, strconv.FormatUint(o.GetBytesSent(), 10), acknowledged,
		strconv.FormatUint(o.GetBytesReceived(), 10), retransmits, span(o.GetTimings().GetTotal()),
	}
}

// tellExchanges prints a row for each pod, and below them each different story once.
func (t *tool) tellExchanges(all []*asked[*exchanged], steps []string) {
	p := t.stdout
	var rows [][]string
	for _, a := range all {
		if a.err == nil {
			rows = append(rows, append([]string{a.name, a.node}, a.answer.row()...))
		}
	}
	p.table("POD NODE ADDRESS RESULT SENT ACKNOWLEDGED RECEIVED RETRANSMITS TIME", append(rows, rowsNotAsked(all, 9, 3)...))
	for _, g := range grouped(all, (*exchanged).essence) {
		p.line("")
		p.line("from %s", alike(g.members, len(all)))
		e := g.members[0].answer
		told := &story{printer: p, steps: steps, now: time.Now()}
		for _, event := range e.events {
			_ = told.tell(event) // the printer keeps its first error
		}
		if e.left > 0 {
			p.line("%s more came, which --each does not show", bytesText(e.left))
		}
		if e.err != nil {
			_, text, advice := t.explain(e.err)
			p.line("failed: %s", text)
			p.lines("", advice)
			continue
		}
		_ = told.tell(&probev1.ExchangeResponse{Event: &probev1.ExchangeResponse_Outcome{Outcome: e.outcome}})
	}
	tellNotAsked(p, all)
}

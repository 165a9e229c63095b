package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// said is a pod's answer to one question, or the status in its place.
type said[Response proto.Message] struct {
	response Response
	err      error
}

// essence is the same for answers that mean the same.
func (s said[Response]) essence() string {
	if s.err != nil {
		_, text, _ := explain(s.err)
		return "\x00" + text
	}
	return essence(s.response)
}

// answerEach asks one question of every pod, and shows what they say once for all who say the same.
func answerEach[Response proto.Message](
	ctx context.Context, t *tool,
	ask func(context.Context, *server) (Response, error),
	traced bool, // a look-up that failed is to show its steps
	table func(*printer, Response),
	yes func(Response) bool,
) error {
	question := func(ctx context.Context, s *server) (said[Response], error) {
		response, err := ask(ctx, s)
		if status.Code(err) == codes.Canceled {
			return said[Response]{}, err
		}
		return said[Response]{response, s.why(err)}, nil
	}
	machine := func(a *asked[said[Response]]) (int, error) {
		if err := a.answer.err; err != nil {
			code, _, _ := explain(err)
			return code, t.printErrorFrom(a.pod, err)
		}
		code := exitYes
		if !yes(a.answer.response) {
			code = exitNo
		}
		text, err := marshal(a.answer.response)
		if err != nil {
			return code, err
		}
		return code, t.printFrom(a.pod, `"answer":`+string(text))
	}
	return askEach(ctx, t, question, machine, func(all []*asked[said[Response]]) {
		tellAnswers(t, all, traced, table)
	})
}

// tellAnswers shows a person each different answer once, and who gave it.
func tellAnswers[Response proto.Message](t *tool, all []*asked[said[Response]], traced bool, table func(*printer, Response)) {
	p := t.stdout
	groups := grouped(all, said[Response].essence)
	if len(groups) > 1 {
		p.line("%d DIFFERENT answers from %s", len(groups), count(slices.Concat(membersOf(groups)...)))
	}
	for _, g := range groups {
		switch {
		case len(groups) > 1:
			p.line("")
			p.line("from %s", from(g.members))
		case len(g.members) > 1:
			p.line("the same from %s", count(g.members))
		default:
			p.line("from %s", g.members[0].pod)
		}
		first := g.members[0].answer
		if first.err == nil {
			table(p, first.response)
		} else {
			_, text, advice := t.explain(first.err)
			p.line("failed: %s", text)
			p.lines("", strings.Join(wrap(advice, 85), "\n"))
			if traced {
				t.failedTrace(first.err)
			}
		}
		if line := spread(g.members); line != "" {
			p.line("%s", line)
		}
	}
	tellNotAsked(p, all)
}

func membersOf[Answer any](groups []*group[Answer]) [][]*asked[Answer] {
	var all [][]*asked[Answer]
	for _, g := range groups {
		all = append(all, g.members)
	}
	return all
}

// spread is how long those took who say the same, when there are several: a place that is slow is told by nothing else.
func spread[Response proto.Message](members []*asked[said[Response]]) string {
	var slowest, fastest *asked[said[Response]]
	for _, a := range members {
		took := a.answer.took()
		if took == nil {
			return ""
		}
		if fastest == nil || took.AsDuration() < fastest.answer.took().AsDuration() {
			fastest = a
		}
		if slowest == nil || took.AsDuration() > slowest.answer.took().AsDuration() {
			slowest = a
		}
	}
	if fastest == slowest {
		return ""
	}
	return fmt.Sprintf("it took %s (%s) to %s (%s)", span(fastest.answer.took()), fastest.pod, span(slowest.answer.took()), slowest.pod)
}

// took is how long the answer took there, where the answer says so.
func (s said[Response]) took() *durationpb.Duration {
	if timed, ok := any(s.response).(interface{ GetDuration() *durationpb.Duration }); ok && s.err == nil {
		return timed.GetDuration()
	}
	return nil
}

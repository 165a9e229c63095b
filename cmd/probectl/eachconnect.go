package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/status"
)

// connectEach asks every pod for all connections, and shows the answers about one target next to each other.
func (t *tool) connectEach(ctx context.Context, connections []*connection) error {
	question := func(ctx context.Context, s *server) ([]*connection, error) {
		own := make([]*connection, len(connections))
		for i, c := range connections {
			own[i] = newConnection(c.target, c.request)
		}
		askConnections(ctx, s, own, func(*connection) {})
		if !slices.ContainsFunc(own, func(c *connection) bool { return !c.missing() }) {
			return nil, context.Canceled
		}
		return own, nil
	}
	return askEach(ctx, t, question, t.printConnections, func(all []*asked[[]*connection]) {
		t.tellConnections(all, len(connections))
	})
}

// printConnections prints what a pod says of each target to a machine.
func (t *tool) printConnections(a *asked[[]*connection]) (worst int, err error) {
	for _, c := range a.answer {
		code, _, _ := explain(c.verdict())
		if c.missing() {
			code = exitInterrupted
		}
		worst = worse(worst, code)
		members, err := c.members()
		if err == nil {
			err = t.printFrom(a.pod, members)
		}
		if err != nil {
			return worst, err
		}
	}
	return worst, nil
}

// tellConnections prints a row for each attempt of each pod, and below them why a target could not be reached and what TLS
// told, once for the pods that say the same.
func (t *tool) tellConnections(all []*asked[[]*connection], targets int) {
	var rows [][]string
	for i := range targets {
		for _, a := range all {
			if a.err != nil {
				continue
			}
			for _, row := range connectRows(a.answer[i]) {
				rows = append(rows, append([]string{a.name, a.node}, row...))
			}
			if err := a.answer[i].err; err != nil && !a.answer[i].missing() {
				rows = append(rows, []string{a.name, a.node, a.answer[i].target.text, "", code.Code(status.Code(err)).String(), "", "", ""})
			}
		}
	}
	t.stdout.table("POD NODE TARGET ADDRESS RESULT RESOLVE CONNECT TLS", append(rows, rowsNotAsked(all, 8, 4)...))
	for i := range targets {
		t.tellConnection(all, i)
	}
	tellNotAsked(t.stdout, all)
}

// tellConnection tells what there is to tell of one target.
func (t *tool) tellConnection(all []*asked[[]*connection], i int) {
	p, now := t.stdout, time.Now()
	groups := grouped(all, func(answer []*connection) string {
		if err := answer[i].err; err != nil {
			return "\x00" + err.Error()
		}
		return essence(answer[i].response.GetOutcome())
	})
	for _, g := range groups {
		c := g.members[0].answer[i]
		if c.missing() {
			continue
		}
		outcome := c.response.GetOutcome()
		lines := connectLines(outcome, now)
		if c.err != nil {
			_, text, advice := t.explain(c.err)
			lines = append([]string{text}, strings.Split(advice, "\n")...)
		}
		if len(lines) == 0 {
			continue
		}
		p.line("")
		p.line("%s from %s", c.target.text, alike(g.members, len(all)))
		for _, line := range slices.DeleteFunc(lines, func(line string) bool { return line == "" }) {
			p.told("  ", line)
		}
		traceBelow(p, outcome.GetResolution().GetTrace())
	}
}

// alike names pods that say the same, of whom the first is told of, and how many of how many they are.
func alike[Answer any](members []*asked[Answer], of int) string {
	text := members[0].String()
	if len(members) > 1 {
		text += ", and alike from " + listed(members[1:])
	}
	return text + fmt.Sprintf(" (%d of %d pods)", len(members), of)
}

// rowsNotAsked are rows for a table of so many columns, whose first two are the pod and its node: one for each pod that
// has no answer, which result says.
func rowsNotAsked[Answer any](all []*asked[Answer], columns, result int) [][]string {
	var rows [][]string
	for _, a := range all {
		if a.err == nil {
			continue
		}
		row := make([]string, columns)
		row[0], row[1], row[result] = a.name, a.node, "NOT ASKED"
		if a.interrupted() {
			row[result] = "not answered"
		}
		rows = append(rows, row)
	}
	return rows
}

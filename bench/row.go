package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// options are how to measure.
type options struct {
	self, probed string // programs
	pairs        int
	time         time.Duration // that one measurement takes, about
	growth       string        // folder
}

// A row is one kind of work.
type row struct {
	name          string
	work, against string
	unit          string  // of what is measured
	bar, aim      float64 // for the ratio of ours to theirs; where there is no other side, for ours
	least         bool    // whether the bar is the most there may be, not the least
	// start starts both sides and returns what measures each. theirs is nil where there is no other side.
	start func(*stage) (ours, theirs measurement, err error)
}

// measurement measures once, in the unit of the row.
type measurement func(context.Context) (float64, error)

// rows are those of the table, in its order.
var rows = []row{
	{
		name: "reply", work: "one long reply, to a gRPC client that discards", against: "socat that relays it",
		unit: "MB/s", bar: 0.8, aim: 1.2, start: replyByGRPC,
	},
	{
		name: "reply-rest", work: "one long reply by REST, raw bytes, to curl -o /dev/null", against: "socat that relays it",
		unit: "MB/s", bar: 0.8, aim: 1, start: replyByREST,
	},
	{
		name: "lookup", work: "LookupPort, 64 callers with a connection each, gRPC", against: "bare grpc-go server, empty handler, same messages",
		unit: "1/s", bar: 0.8, aim: 0.95, start: lookupByGRPC,
	},
	{
		name: "lookup-rest", work: "LookupPort, 64 callers with a connection each, REST", against: "bare net/http JSON handler",
		unit: "1/s", bar: 0.35, aim: 0.6, start: lookupByREST,
	},
	{
		name: "connect", work: "TCP connect checks, 64 at a time by one client, gRPC", against: "blackbox_exporter, tcp_connect",
		unit: "1/s", bar: 3, aim: 6, start: connect,
	},
	{
		name: "host", work: "LookupHost, 64 at a time by one client, gRPC, local DNS server", against: "Python socket.getaddrinfo, 64 threads",
		unit: "1/s", bar: 2, aim: 4, start: lookupHost,
	},
	{
		name: "idle", work: "one open idle exchange, server memory", unit: "KiB", bar: 32, aim: 20, least: true, start: idle,
	},
	{
		name: "long", work: "a reply of 10 GiB by gRPC and by REST, server peak memory", unit: "MiB", bar: 64, aim: 32, least: true, start: long,
	},
	{
		name: "echo", work: "1-byte echo through Converse, median", against: "unary RPC on the same connection",
		unit: "µs", bar: 2, aim: 1.3, least: true, start: echo,
	},
	{
		name: "start", work: "process start to ready", against: "blackbox_exporter",
		unit: "ms", bar: 1, aim: 0.5, least: true, start: startup,
	},
}

// result is what a row has come to.
type result struct {
	row
	ours, theirs, ratios []float64 // one each of a pair; of theirs none where there is no other side
}

// measure runs both sides in turn. Which of the two begins alternates, so that neither always finds what the other left.
func (r row) measure(ctx context.Context, o options, progress io.Writer) (result, error) {
	s := &stage{ctx: ctx, options: o}
	defer s.close()
	ours, theirs, err := r.start(s)
	if err != nil {
		return result{}, err
	}
	out := result{row: r}
	for i := range o.pairs {
		sides := []struct {
			measure measurement
			values  *[]float64
		}{{ours, &out.ours}, {theirs, &out.theirs}}
		if i%2 == 1 {
			slices.Reverse(sides)
		}
		for _, side := range sides {
			if side.measure == nil {
				continue
			}
			value, err := side.measure(ctx)
			if err != nil {
				return result{}, err
			}
			*side.values = append(*side.values, value)
		}
		if theirs == nil {
			fmt.Fprintf(progress, "  %s %s\n", number(out.ours[i]), r.unit)
			continue
		}
		out.ratios = append(out.ratios, out.ours[i]/out.theirs[i])
		fmt.Fprintf(progress, "  %s : %s %s = %.2f\n", number(out.ours[i]), number(out.theirs[i]), r.unit, out.ratios[i])
	}
	return out, s.check()
}

// value is what the bar is about.
func (r result) value() float64 {
	if len(r.ratios) == 0 {
		return slices.Max(r.ours)
	}
	return median(r.ratios)
}

// holds reports whether the row reaches its bar.
func (r result) holds() bool {
	if r.least {
		return r.value() <= r.bar
	}
	return r.value() >= r.bar
}

const tableHead = "| row | work | ours | against | theirs | ratio (spread) | bar | aim | holds |\n|---|---|---:|---|---:|---:|---:|---:|---|\n"

// String is the row as a line of the table.
func (r result) String() string {
	ours, theirs, ratio, sign := number(median(r.ours))+" "+r.unit, "", "", "≥"
	factor := "×"
	if r.least {
		sign = "≤"
	}
	if len(r.ratios) > 0 {
		theirs = number(median(r.theirs)) + " " + r.unit
		ratio = fmt.Sprintf("%.2f× (%.2f–%.2f)", median(r.ratios), slices.Min(r.ratios), slices.Max(r.ratios))
	} else {
		ours = fmt.Sprintf("%s (%s–%s) %s", number(median(r.ours)), number(slices.Min(r.ours)), number(slices.Max(r.ours)), r.unit)
		factor = " " + r.unit
	}
	holds := "no"
	switch {
	case r.reachesAim():
		holds = "yes, and the aim"
	case r.holds():
		holds = "yes"
	}
	return "| " + strings.Join([]string{
		r.name, r.work, ours, r.against, theirs, ratio,
		fmt.Sprintf("%s %g%s", sign, r.bar, factor), fmt.Sprintf("%g%s", r.aim, factor), holds,
	}, " | ") + " |"
}

// reachesAim reports whether the row is where it is meant to be one day.
func (r result) reachesAim() bool {
	r.bar = r.aim
	return r.holds()
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}

// number is one with three digits that tell something.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

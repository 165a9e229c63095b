// Package promise lists what this project promises to hold under load and abuse, with the numbers, and lets a test say
// which promise it keeps and what it measured. `make soak` collects that into the table of docs/endurance.md.
//
// A test that keeps a promise has two lengths: the one of `make test`, and the one the number asks for. [Times] chooses.
//
// Used by tests only.
package promise

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"
)

// Promise is one of them.
type Promise int

// The promises, in the order of the table.
const (
	NeverDialled Promise = iota
	PolicyIsSound
	BadInputIsHarmless
	MatrixIsClosed
	SessionsAreHeld
	ChurnLeaksNothing
	BackPressure
	MidStreamFaults
	DNSFaults
	HTTP2Abuse
	ClientVanishes
	Drain
	CrashContainment
	Cardinality
	TerminalIsSafe
	IdleIsCheap
	LongRepliesAreFlat
	DeadlinesHold
	GoodClientsAreServed
	end
)

var table = [end]struct{ name, asked string }{
	NeverDialled:       {"denied addresses are never dialled", "≥ 150 vectors × {literal, A, AAAA, mixed}, 10,000 flips, 0 connects"},
	PolicyIsSound:      {"the policy parser is sound", "0 disagreements with a naive evaluator"},
	BadInputIsHarmless: {"bad input is harmless", "≥ 8 fuzz targets, 30 s each; 100,000 random requests, nothing but the INVALID_ARGUMENT class"},
	MatrixIsClosed:     {"the auth matrix is closed", "every RPC × {none, bad, expired, wrong audience, not allowed, allowed} × {gRPC, REST}"},
	SessionsAreHeld:    {"sessions are held", "2,000 idle for 10 min, 0 lost; default cap + 1 → RESOURCE_EXHAUSTED"},
	ChurnLeaksNothing:  {"churn leaks nothing", "100,000 sessions, 0 unexplained outcomes, leak delta 0"},
	BackPressure:       {"back-pressure", "256 floods against clients that do not read, gRPC and REST; RSS ≤ 128 MB; no byte lost"},
	MidStreamFaults:    {"mid-stream faults", "10 faults × 200 under -race; right reason, within deadline + 500 ms"},
	DNSFaults:          {"DNS faults", "10 faults; distinct reasons, ≤ 5 s"},
	HTTP2Abuse:         {"HTTP/2 abuse", "100,000 HEADERS+RST, 1,000,000 one-byte DATA; live handlers ≤ 100; RSS + 32 MB; a good client's p99 ≤ 2×"},
	ClientVanishes:     {"a client that vanishes", "500 by gRPC and REST; the target's socket closed ≤ 1 s later"},
	Drain:              {"drain", "SIGTERM under 200 sessions × 50; each DRAINED or complete; exit 0 within 30 s"},
	CrashContainment:   {"crash containment", "a panic in each kind of goroutine: one session INTERNAL, the others unharmed"},
	Cardinality:        {"cardinality", "10,000 random targets; the number of series does not change"},
	TerminalIsSafe:     {"the terminal is safe", "printer fuzzed; no control byte but newline and tab"},

	IdleIsCheap:          {"an idle exchange is cheap", "2,000; ≤ 32 KiB of server memory each"},
	LongRepliesAreFlat:   {"a long reply is flat", "10 GiB; ≤ 64 MiB"},
	DeadlinesHold:        {"deadlines hold under load", "within 500 ms"},
	GoodClientsAreServed: {"a flood does not starve others", "a good client's p99 ≤ 2×"},
}

// All are the promises in the order of the table.
func All() []Promise {
	all := make([]Promise, end)
	for i := range all {
		all[i] = Promise(i)
	}
	return all
}

// String is what is promised.
func (p Promise) String() string { return table[p].name }

// Asked is the number.
func (p Promise) Asked() string { return table[p].asked }

// Long says whether the numbers are to be reached: `make soak` sets SOAK.
func Long() bool { return os.Getenv("SOAK") != "" }

// Times is how often, or how long, a test does a thing: short in `make test`, asked in `make soak`.
func Times[T any](short, asked T) T {
	if Long() {
		return asked
	}
	return short
}

// Attribute is the key under which go test -json tells a Report.
const Attribute = "promise"

// Report is what one test says of a promise.
type Report struct {
	Promise string
	Reached string
}

// Reached says what was measured: once a test, or once for each of its parts, which the text then names. A test that
// fails has not kept the promise, whatever it reached.
func (p Promise) Reached(t testing.TB, format string, args ...any) {
	t.Helper()
	report := Report{p.String(), fmt.Sprintf(format, args...)}
	text, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	t.Attr(Attribute, string(text))
	t.Logf("%s: %s", report.Promise, report.Reached)
}

package endurance

import (
	"cmp"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	probev1 "probed/gen/probe/v1"
	"probed/internal/probetest"
	"probed/internal/promise"
)

// HTTP/2 that is spoken to wear a server out costs it little: neither handlers, nor memory, nor the time of others.
func TestHTTP2Abuse(t *testing.T) {
	p := probetest.Start(t, probetest.Options{})
	warm(t, p)
	good := newGoodClient(p)
	rest := promise.Times(100*time.Millisecond, 3*time.Second)
	good.measure(t, nil, after(rest)) // warmed up
	resets, pieces, few := promise.Times(2_000, 100_000), promise.Times(20_000, 1_000_000), promise.Times(400, 20_000)
	var before, named, others []time.Duration
	memory := p.Memory()
	var most, live int64
	type attack struct {
		by          string
		frames      int
		connections int
		each        int  // frames on a connection
		closed      bool // it is probed that ends each connection
	}
	// In rounds, with a rest before each, so that what else the machine does goes into both numbers.
	rounds := promise.Times(1, 5)
	// Beside other tests, the handlers of a burst may all wait for a processor. A connection has a hundred at most, which is
	// what holds then; that those of several do not come together is for the long form to say.
	resetting := promise.Times(1, 4)
	all := slices.Concat(
		slices.Repeat([]attack{{by: "resets", frames: resets / rounds, connections: resetting}, {by: "bytes", frames: pieces / rounds, connections: 20, each: 10_000}}, rounds), []attack{
			{by: "bytes", frames: 12_000, connections: 1, closed: true},
			{by: "padding", frames: few, connections: 4},
			{by: "nothing", frames: few, connections: 4},
			{by: "calls", frames: promise.Times(400, 5_000), connections: 1},
			{by: "continuation", frames: few, connections: 4, closed: true},
			{by: "pings", frames: few, connections: 4, closed: true},
			{by: "settings", frames: few, connections: 4},
			{by: "priorities", frames: few, connections: 4},
			{by: "windows", frames: few, connections: 4},
			{by: "unknown", frames: few, connections: 4},
		})
	for _, a := range all {
		before = good.measure(t, before, after(rest))
		p.ResetPeak()
		begin := time.Now()
		flood := startAttack(t, fmt.Sprintf("%s %s %d %d %d", a.by, p.GRPCAddress, a.frames, a.connections, cmp.Or(a.each, a.frames)))
		watched := make(chan int64)
		go func() { watched <- watchHandlers(p, flood.over) }()
		during := good.measure(t, nil, flood.over)
		handlers, grown := <-watched, p.PeakMemory()-memory
		sent, closed := flood.end(t)
		t.Logf("%-12s %7d frames in %4.1f s, %d of %d connections closed, RSS + %.1f MB, %d handlers, p99 %v",
			a.by, sent, time.Since(begin).Seconds(), closed, a.connections, float64(grown)/1e6, handlers, p99(during))
		if a.closed != (closed == a.connections) || !a.closed && (closed > 0 || sent != a.frames) {
			t.Errorf("%s: %d of %d frames were taken, and %d of %d connections closed", a.by, sent, a.frames, closed, a.connections)
		}
		if a.by == "resets" || a.by == "bytes" {
			named = append(named, during...)
		} else {
			others = append(others, during...)
		}
		most, live = max(most, grown), max(live, handlers)
	}
	if most > 32e6 {
		t.Errorf("the RSS grew by %.1f MB", float64(most)/1e6)
	}
	if live > streams+1 { // one is the good client's
		t.Errorf("%d handlers at a time", live)
	}
	was, is := p99(before), max(p99(named), p99(others))
	if promise.Long() && is > 2*was { // of less there are too few for a percentile
		t.Errorf("a good client's p99 is %v, and was %v", is, was)
	}
	promise.HTTP2Abuse.Reached(t, "%d HEADERS+RST, %d one-byte DATA, and nine floods more; at most %d live handlers; RSS + %.1f MB; a good client's p99 %v before, %v meanwhile (%.1f×)",
		resets, pieces, live, float64(most)/1e6, was.Round(time.Microsecond), is.Round(time.Microsecond), float64(is)/float64(was))
}

// goodClient looks up one thing after the other, on a connection of its own.
type goodClient struct {
	probev1.NameServiceClient
}

func newGoodClient(p *probetest.Probed) goodClient {
	return goodClient{probev1.NewNameServiceClient(p.GRPC().Conn)}
}

// measure adds how long each call takes until over is closed, and of one at least.
func (c goodClient) measure(t *testing.T, all []time.Duration, over <-chan struct{}) []time.Duration {
	t.Helper()
	for {
		begin := time.Now()
		if _, err := c.LookupPort(t.Context(), &probev1.LookupPortRequest{Port: 80}); err != nil {
			t.Fatalf("a good client: %v", err)
		}
		all = append(all, time.Since(begin))
		select {
		case <-over:
			return all
		case <-time.After(time.Millisecond):
		}
	}
}

func after(d time.Duration) <-chan struct{} {
	over := make(chan struct{})
	time.AfterFunc(d, func() { close(over) })
	return over
}

func p99(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)*99/100]
}

// watchHandlers returns the most calls that were under way at a time.
func watchHandlers(p *probetest.Probed, over <-chan struct{}) (most int64) {
	for {
		under := int64(0) // of one scrape: meanwhile others begin and end
		for _, line := range p.Metrics() {
			name, _, _ := strings.Cut(line, "{")
			switch value, _ := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64); name {
			case "grpc_server_started_total":
				under += int64(value)
			case "grpc_server_handled_total":
				under -= int64(value)
			}
		}
		most = max(most, under)
		select {
		case <-over:
			return most
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// flood is an attack that goes on.
type flood struct {
	over chan struct{}
	out  []byte
	err  error
}

// startAttack starts a process that attacks.
//
// It has the lowest priority there is. On a network a flood comes from other machines; here it would take the processors
// that probed and the good client need, and the numbers would tell of that. So it gets what they leave, which at its pace is
// as much as it wants. What is measured is what the flood makes probed do.
func startAttack(t *testing.T, how string) *flood {
	t.Helper()
	f := &flood{over: make(chan struct{})}
	command := asChild("attack", how)
	go func() {
		defer close(f.over)
		f.out, f.err = politely(command).CombinedOutput()
	}()
	return f
}

// politely runs a command with the lowest priority.
func politely(command *exec.Cmd) *exec.Cmd {
	polite := exec.Command("nice", append([]string{"-n", "19"}, command.Args...)...)
	polite.Env = command.Env
	return polite
}

// end returns how many frames were sent, and how many connections probed has closed.
func (f *flood) end(t *testing.T) (sent, closed int) {
	t.Helper()
	if _, err := fmt.Sscan(string(f.out), &sent, &closed); err != nil || f.err != nil {
		t.Fatalf("the attack: %v, %v: %s", f.err, err, f.out)
	}
	return sent, closed
}

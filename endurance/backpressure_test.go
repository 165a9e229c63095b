package endurance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/internal/probetest"
	"probed/internal/promise"
)

// first is how much a caller reads before it stops: enough for chunks to have become large.
const first = 1 << 20

// stalled is one session whose caller has stopped to read, until it is told to.
type stalled struct {
	// read reads all there is, and returns how many of the peer's bytes came; each has been compared.
	read  func(t *testing.T) int64
	leave func()
}

// slackers are the ways in which a caller can ask and not read.
var slackers = []struct {
	name string
	// open begins n sessions with a target, and reads no more than the first bytes of each.
	open func(t *testing.T, p *probetest.Probed, target string, n int) []stalled
}{
	{"gRPC, 100 streams a connection", func(t *testing.T, p *probetest.Probed, target string, n int) []stalled {
		return stallGRPC(t, p, target, n, streams)
	}},
	{"gRPC, a connection each", func(t *testing.T, p *probetest.Probed, target string, n int) []stalled {
		return stallGRPC(t, p, target, n, 1)
	}},
	{"REST, lines of JSON", func(t *testing.T, p *probetest.Probed, target string, n int) []stalled {
		caller := p.REST()
		var all []stalled
		for range n {
			s := caller.Exchange(t.Context(), t, &probev1.ExchangeRequest{Target: target})
			all = append(all, stall(t, s))
		}
		return all
	}},
	{"REST, server-sent events", func(t *testing.T, p *probetest.Probed, target string, n int) []stalled {
		return stallHTTP(t, p, target, n, "text/event-stream", false)
	}},
	{"REST, raw bytes", func(t *testing.T, p *probetest.Probed, target string, n int) []stalled {
		return stallHTTP(t, p, target, n, "application/octet-stream", true)
	}},
}

// Callers that do not read make the peers wait and probed hold little; when they read, not a byte is lost.
func TestBackPressure(t *testing.T) {
	const most = 128_000_000
	// The kernel alone may hold 20 MB of a session: what both of its connections may have sent and not read (tcp(7), tcp_wmem and
	// tcp_rmem, which grow to 4 and 6 MB).
	const size int64 = 32 << 20
	sessions := promise.Times(16, 256)
	for _, way := range slackers {
		t.Run(way.name, func(t *testing.T) {
			tally := &nettest.Tally{}
			peer := nettest.TCP(t, tally.Count(nettest.Flood(size)))
			p := probetest.Start(t, probetest.Options{})
			all := way.open(t, p, peer.String(), sessions)
			awaitStall(t, tally, promise.Times(500*time.Millisecond, 2*time.Second))
			if sent := tally.Sent.Load(); tally.Conns.Load() != int64(sessions) || sent > int64(sessions)*size*3/4 {
				t.Fatalf("%d connections, which sent %d bytes: it is not the callers that make them wait", tally.Conns.Load(), sent)
			}
			memory := p.PeakMemory()
			if memory > most {
				t.Errorf("probed takes %d bytes, want at most %d", memory, most)
			}
			// Some are read, which is enough to see that stalling loses nothing; the others go away.
			read := promise.Times(2, 32)
			for i, s := range all {
				if i%(sessions/read) != 0 {
					s.leave()
					continue
				}
				if n := s.read(t); n != size && n >= 0 {
					t.Errorf("%d bytes came of %d", n, size)
				}
			}
			promise.BackPressure.Reached(t, "%s: %d, %.0f MB", way.name, sessions, float64(memory)/1e6)
		})
	}
}

// awaitStall waits until the peers have sent nothing for so long.
func awaitStall(t *testing.T, tally *nettest.Tally, quiet time.Duration) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	last, since := int64(-1), time.Now()
	for deadline := time.Now().Add(time.Minute); time.Since(since) < quiet; <-tick.C {
		if sent := tally.Sent.Load(); sent != last {
			last, since = sent, time.Now()
		}
		if time.Now().After(deadline) {
			t.Fatalf("the peers go on sending: %d bytes", last)
		}
	}
}

func stallGRPC(t *testing.T, p *probetest.Probed, target string, n, perConnection int) []stalled {
	t.Helper()
	var all []stalled
	var caller *probetest.GRPCCaller
	for i := range n {
		if i%perConnection == 0 {
			caller = p.GRPC()
		}
		all = append(all, stall(t, caller.Exchange(t.Context(), t, &probev1.ExchangeRequest{Target: target})))
	}
	return all
}

func stall(t *testing.T, s *probetest.Session) stalled {
	t.Helper()
	s.Data = true
	if s.Until(func(*probev1.ExchangeResponse) bool { return s.Received >= first }) == nil {
		t.Fatalf("it ended: %v %v", s.Outcome, s.Err)
	}
	return stalled{
		read: func(t *testing.T) int64 {
			t.Helper()
			if s.Rest(); !s.Outcome.GetOk() {
				t.Errorf("%v %v", s.Outcome, s.Err)
			}
			return int64(s.Received)
		},
		leave: s.Close,
	}
}

// stallHTTP asks for a format that probetest does not read. Of those that are not raw nobody looks at what comes.
func stallHTTP(t *testing.T, p *probetest.Probed, target string, n int, format string, raw bool) []stalled {
	t.Helper()
	client := p.REST().Client
	var all []stalled
	for range n {
		ctx, cancel := context.WithCancel(t.Context())
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.HTTPAddress+"/v1/exchange",
			strings.NewReader(fmt.Sprintf(`{"target": %q}`, target)))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept", format)
		response, err := client.Do(request) //nolint:bodyclose // leave does
		if err != nil {
			t.Fatal(err)
		}
		leave := func() { cancel(); response.Body.Close() }
		body := bufio.NewReader(response.Body)
		if !raw {
			if _, err := io.CopyN(io.Discard, body, first); err != nil {
				t.Fatal(err)
			}
		} else if n := compareData(t, body, 0, first); n != first {
			t.Fatalf("%d bytes came", n)
		}
		all = append(all, stalled{
			read: func(t *testing.T) int64 {
				t.Helper()
				defer leave()
				if raw {
					return first + compareData(t, body, first, math.MaxInt64)
				}
				if _, err := io.Copy(io.Discard, body); err != nil {
					t.Error(err)
				}
				return -1
			},
			leave: leave,
		})
	}
	return all
}

// compareData reads nettest.Data from an offset on, at most so many bytes, and returns how many came.
func compareData(t *testing.T, body io.Reader, offset, most int64) int64 {
	t.Helper()
	var n int64
	buffer := make([]byte, 64<<10)
	want := nettest.Data(251 + len(buffer))
	for body := io.LimitReader(body, most); ; {
		k, err := body.Read(buffer)
		from := int((offset + n) % 251)
		if string(buffer[:k]) != string(want[from:from+k]) {
			t.Fatalf("what came behind byte %d is not what was sent", offset+n)
		}
		n += int64(k)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			return n
		}
	}
}

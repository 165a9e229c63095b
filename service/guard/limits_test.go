package guard

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// clock is a clock that stands still until it is told to go on.
type clock struct{ now time.Time }

func newClock() *clock { return &clock{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} }

func (c *clock) read() time.Time { return c.now }

func (c *clock) pass(d time.Duration) { c.now = c.now.Add(d) }

// wantsLimit checks that err is the refusal by one limit.
func wantsLimit(t *testing.T, err error, limit string, most int, retryAfter time.Duration) {
	t.Helper()
	e, ok := errors.AsType[*LimitError](err)
	if !ok {
		t.Fatalf("the error is %v, want a refusal by %s", err, limit)
	}
	if want := (LimitError{limit, most, retryAfter, e.Caller}); *e != want || (e.Caller == "") != (limit == LimitSessions || limit == LimitCalls) {
		t.Errorf("the refusal is %+v, want %+v", *e, want)
	}
}

func TestSessions(t *testing.T) {
	t.Parallel()
	l := NewLimiter(Limits{Sessions: 3, SessionsPerCaller: 2})
	open := func(caller string) func() {
		t.Helper()
		release, err := l.Session(caller)
		if err != nil {
			t.Fatal(err)
		}
		return release
	}
	first := open("a")
	open("a")
	_, err := l.Session("a")
	wantsLimit(t, err, LimitSessionsPerCaller, 2, time.Second)
	other := open("b") // which the limit of a does not concern
	_, err = l.Session("b")
	wantsLimit(t, err, LimitSessions, 3, time.Second)
	_, err = l.Session("a") // its own limit is what it is told of
	wantsLimit(t, err, LimitSessionsPerCaller, 2, time.Second)

	first()
	first() // again: nothing
	open("a")
	_, err = l.Session("b")
	wantsLimit(t, err, LimitSessions, 3, time.Second)
	other()
	open("c")
	_, err = l.Session("d")
	wantsLimit(t, err, LimitSessions, 3, time.Second)
}

func TestSessionsAreForgottenWithTheirCaller(t *testing.T) {
	t.Parallel()
	l := NewLimiter(Limits{Sessions: 1})
	for i := range 1000 {
		release, err := l.Session(strconv.Itoa(i))
		if err != nil {
			t.Fatal(err)
		}
		release()
	}
	if len(l.sessions.by) != 0 || l.sessions.all != 0 {
		t.Errorf("%d callers with %d sessions are left", len(l.sessions.by), l.sessions.all)
	}
}

func TestZeroIsUnlimited(t *testing.T) {
	t.Parallel()
	l := NewLimiter(Limits{})
	for i := range 5000 {
		if _, err := l.Session("a"); err != nil {
			t.Fatal(err)
		}
		if err := l.Dial("a", strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := l.callers.size(); n != 0 {
		t.Errorf("without limits %d callers are remembered", n)
	}
}

func TestDialsPerSecond(t *testing.T) {
	t.Parallel()
	c := newClock()
	l := newLimiter(Limits{DialsPerSecond: 50}, c.read)
	dial := func(caller string) error { return l.Dial(caller, "tcp://127.0.0.1:80") }
	for i := range 50 {
		if err := dial("a"); err != nil {
			t.Fatalf("dial %d: %v", i, err)
		}
	}
	wantsLimit(t, dial("a"), LimitDialsPerSecond, 50, 21*time.Millisecond)
	if err := dial("b"); err != nil {
		t.Errorf("another caller is refused: %v", err)
	}
	c.pass(5 * time.Millisecond)
	wantsLimit(t, dial("a"), LimitDialsPerSecond, 50, 16*time.Millisecond)
	c.pass(16 * time.Millisecond)
	if err := dial("a"); err != nil {
		t.Errorf("after the time it was told: %v", err)
	}
	c.pass(time.Hour)
	for range 50 {
		if err := dial("a"); err != nil {
			t.Fatalf("after a pause: %v", err)
		}
	}
	wantsLimit(t, dial("a"), LimitDialsPerSecond, 50, 21*time.Millisecond)
}

func TestTargetsPerMinute(t *testing.T) {
	t.Parallel()
	c := newClock()
	l := newLimiter(Limits{TargetsPerMinute: 3}, c.read)
	dial := func(caller, target string, passes time.Duration) error {
		defer c.pass(passes)
		return l.Dial(caller, target)
	}
	for _, target := range []string{"x", "y", "z", "x", "x"} { // at 0, 1, 2, 3 and 4 s
		if err := dial("a", target, time.Second); err != nil {
			t.Fatalf("%s: %v", target, err)
		}
	}
	// y is the one that was not dialled for the longest time, since 1 s; now it is 5 s.
	wantsLimit(t, dial("a", "w", 0), LimitTargetsPerMinute, 3, 56*time.Second+time.Millisecond)
	if err := dial("b", "w", 0); err != nil {
		t.Errorf("another caller is refused: %v", err)
	}
	for range 100 {
		if err := dial("a", "z", 0); err != nil {
			t.Fatalf("a target that is known: %v", err)
		}
	}
	c.pass(56 * time.Second) // 61 s: y is forgotten
	if err := dial("a", "w", 0); err != nil {
		t.Errorf("a minute after y: %v", err)
	}
	// x, dialled last at 4 s, is the next.
	wantsLimit(t, dial("a", "y", 0), LimitTargetsPerMinute, 3, 3*time.Second+time.Millisecond)
}

func TestRefusedDialsDoNotCount(t *testing.T) {
	t.Parallel()
	c := newClock()
	l := newLimiter(Limits{DialsPerSecond: 1, TargetsPerMinute: 2}, c.read)
	if err := l.Dial("a", "x"); err != nil {
		t.Fatal(err)
	}
	// Refused for the rate, y is not among the targets.
	wantsLimit(t, l.Dial("a", "y"), LimitDialsPerSecond, 1, time.Second+time.Millisecond)
	c.pass(time.Second)
	if err := l.Dial("a", "z"); err != nil {
		t.Fatal(err)
	}
	// Refused for the targets, it does not take from the rate.
	c.pass(time.Second)
	wantsLimit(t, l.Dial("a", "y"), LimitTargetsPerMinute, 2, 58*time.Second+time.Millisecond)
	if err := l.Dial("a", "x"); err != nil {
		t.Error(err)
	}
}

// Nothing is bounded by what is not set.
func TestUnlimited(t *testing.T) {
	t.Parallel()
	l := newLimiter(Limits{}, newClock().read)
	for i := range 100 {
		if err := l.Dial("a", strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Session("a"); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Call("a"); err != nil {
			t.Fatal(err)
		}
	}
}

// What is remembered is bounded: in targets, in callers, and in time.
func TestDialsAreForgotten(t *testing.T) {
	t.Parallel()
	c := newClock()
	l := newLimiter(Limits{TargetsPerMinute: 5}, c.read)
	for i := range 1000 {
		_ = l.Dial("scanner", strconv.Itoa(i))
	}
	if n := l.callers.touch("scanner", 0).value.targets.size(); n != 5 {
		t.Errorf("%d targets are remembered, want 5", n)
	}
	for i := range mostCallers + 500 {
		if err := l.Dial(strconv.Itoa(i), "x"); err != nil {
			t.Fatal(err)
		}
	}
	if n := l.callers.size(); n != mostCallers {
		t.Errorf("%d callers are remembered, want %d", n, mostCallers)
	}
	if l.callers.has("0") || !l.callers.has("10499") {
		t.Error("it was not the least recent callers that were forgotten")
	}
	c.pass(targetWindow + time.Nanosecond)
	for i := range mostCallers {
		if err := l.Dial("a", "x"); err != nil {
			t.Fatal(err)
		}
		if want := max(1, mostCallers-(i+1)*mostSwept+1); l.callers.size() != want {
			t.Fatalf("after %d calls %d idle callers are remembered, want %d", i+1, l.callers.size(), want)
		}
		if l.callers.size() == 1 {
			break
		}
	}
}

// naive is the limits of dials of one caller, by the definition: from the list of all dials let through.
type naive struct {
	limits Limits
	tokens float64
	last   time.Time
	dials  []struct {
		at     time.Time
		target string
	}
}

func (n *naive) dial(now time.Time, target string) (limit string) {
	recent := make(map[string]bool)
	for _, d := range n.dials {
		if now.Sub(d.at) < time.Minute {
			recent[d.target] = true
		}
	}
	if !recent[target] && len(recent) >= n.limits.TargetsPerMinute {
		return LimitTargetsPerMinute
	}
	full := float64(n.limits.DialsPerSecond)
	n.tokens = min(full, n.tokens+now.Sub(n.last).Seconds()*full)
	n.last = now
	if n.tokens < 1-1e-6 {
		return LimitDialsPerSecond
	}
	n.tokens--
	n.dials = append(n.dials, struct {
		at     time.Time
		target string
	}{now, target})
	return ""
}

// Random dials at random times are let through exactly when the definition says so, and after RetryAfter the one that was
// refused is.
func TestDialsAgainstDefinition(t *testing.T) {
	t.Parallel()
	refused := make(map[string]int)
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		c := newClock()
		limits := Limits{DialsPerSecond: 1 + random.IntN(4), TargetsPerMinute: 1 + random.IntN(8)}
		l := newLimiter(limits, c.read)
		callers := make(map[string]*naive)
		for i := range 3000 {
			caller := string(rune('a' + random.IntN(3)))
			target := strconv.Itoa(random.IntN(16))
			n := callers[caller]
			if n == nil {
				n = &naive{limits: limits, tokens: float64(limits.DialsPerSecond), last: c.now}
				callers[caller] = n
			}
			want := n.dial(c.now, target)
			refused[want]++
			got := ""
			e, _ := errors.AsType[*LimitError](l.Dial(caller, target))
			if e != nil {
				got = e.Limit
			}
			if got != want {
				t.Fatalf("seed %d, dial %d of %s to %s: refused by %q, want %q", seed, i, caller, target, got, want)
			}
			if e != nil && e.RetryAfter <= 0 {
				t.Fatalf("seed %d, dial %d: RetryAfter is %v", seed, i, e.RetryAfter)
			}
			if e != nil && random.IntN(4) == 0 { // wait, as told
				c.pass(e.RetryAfter)
				err := l.Dial(caller, target)
				rest, _ := errors.AsType[*LimitError](err)
				// The other limit may refuse it still, but no longer this one.
				if want := n.dial(c.now, target); err != nil && (rest == nil || rest.Limit == e.Limit || rest.Limit != want) {
					t.Fatalf("seed %d, dial %d: after the %v it was told to wait: %v", seed, i, e.RetryAfter, err)
				}
			}
			if random.IntN(3) == 0 {
				c.pass(time.Duration(random.Int64N(int64(2 * time.Second))))
			}
		}
	}
	if refused[""] < 1000 || refused[LimitTargetsPerMinute] < 1000 || refused[LimitDialsPerSecond] < 1000 {
		t.Errorf("%v: some cases were hardly met", refused)
	}
}

func TestLimitsConcurrently(t *testing.T) {
	t.Parallel()
	const most, callers = 8, 4
	l := NewLimiter(Limits{Sessions: most, SessionsPerCaller: 3, DialsPerSecond: 1000, TargetsPerMinute: 5})
	var open, refused, opened atomic.Int64
	var perCaller [callers]atomic.Int64
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			caller := g % callers
			for i := range 2000 {
				_ = l.Dial(strconv.Itoa(caller), strconv.Itoa(i%7))
				release, err := l.Session(strconv.Itoa(caller))
				if err != nil {
					refused.Add(1)
					continue
				}
				opened.Add(1)
				if n := open.Add(1); n > most {
					t.Errorf("%d sessions are open, want at most %d", n, most)
				}
				if n := perCaller[caller].Add(1); n > 3 {
					t.Errorf("%d sessions of one caller are open, want at most 3", n)
				}
				perCaller[caller].Add(-1)
				open.Add(-1)
				release()
				release()
			}
		})
	}
	wg.Wait()
	if l.sessions.all != 0 || len(l.sessions.by) != 0 {
		t.Errorf("%d sessions of %d callers are left", l.sessions.all, len(l.sessions.by))
	}
	if opened.Load() == 0 {
		t.Error("no session was opened")
	}
	t.Logf("%d opened, %d refused", opened.Load(), refused.Load())
}

func TestLimitErrorText(t *testing.T) {
	t.Parallel()
	for limit, want := range map[string]string{
		LimitSessions:          "7 sessions are open, which is the most in all; try again in 1s",
		LimitSessionsPerCaller: "7 sessions are open, which is the most for one caller; try again in 1s",
		LimitDialsPerSecond:    "7 dials a second are the most for one caller; try again in 1s",
		LimitTargetsPerMinute:  "7 different targets a minute are the most for one caller; try again in 1s",
		LimitPublicCalls:       "7 calls of this method are under way, which is the most of those that ask for no credentials; try again in 1s",
	} {
		if got := (&LimitError{Limit: limit, Max: 7, RetryAfter: time.Second}).Error(); got != want {
			t.Errorf("%s: %q, want %q", limit, got, want)
		}
	}
}

// Dial is on the path of every connect check.
func BenchmarkDial(b *testing.B) {
	for _, known := range []int{1, 300} {
		b.Run(fmt.Sprintf("targets=%d", known), func(b *testing.B) {
			l := NewLimiter(Limits{DialsPerSecond: 1 << 30, TargetsPerMinute: 300})
			targets := make([]string, known)
			for i := range targets {
				targets[i] = fmt.Sprintf("tcp://10.0.%d.%d:443", i/256, i%256)
				if err := l.Dial("token:ci", targets[i]); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if err := l.Dial("token:ci", targets[i]); err != nil {
					b.Fatal(err)
				}
				if i++; i == known {
					i = 0
				}
			}
		})
	}
}

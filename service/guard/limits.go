package guard

import (
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits bound what callers may ask of the service. Of each, zero or less means unlimited.
type Limits struct {
	// Calls and CallsPerCaller are how many calls may be under way at one time, in all and for each caller.
	Calls, CallsPerCaller int
	// Sessions and SessionsPerCaller are how many of them may be sessions, in all and for each caller.
	Sessions, SessionsPerCaller int
	// DialsPerSecond is the rate at which each caller may begin dials, and also how many of these it may begin at once
	// after a pause.
	DialsPerSecond int
	// TargetsPerMinute is how many distinct targets each caller may dial within any sixty seconds.
	TargetsPerMinute int
}

// What LimitError.Limit can be.
const (
	LimitCalls             = "calls"
	LimitCallsPerCaller    = "calls_per_caller"
	LimitSessions          = "sessions"
	LimitSessionsPerCaller = "sessions_per_caller"
	LimitDialsPerSecond    = "dials_per_second"
	LimitTargetsPerMinute  = "targets_per_minute"
	// LimitPublicCalls is not among Limits: it is of the calls of a method that nobody has to be somebody for.
	LimitPublicCalls = "public_calls"
)

// LimitError says that a caller has to wait: a limit is reached.
type LimitError struct {
	// Limit is which one: one of the constants LimitSessions and so on, from a closed set.
	Limit string
	// Max is what it is set to.
	Max int
	// RetryAfter is when it is worth while to try again, always above zero. Of a rate it is the time after which the
	// same call is let through, if the caller makes no other meanwhile; of sessions, whose end nobody knows, it is a second.
	RetryAfter time.Duration
	// Caller is whose limit it is; empty: that of all callers together.
	Caller string
}

var limitTexts = map[string]string{
	LimitCalls:             "%d calls are under way, which is the most in all",
	LimitCallsPerCaller:    "%d calls are under way, which is the most for one caller",
	LimitSessions:          "%d sessions are open, which is the most in all",
	LimitSessionsPerCaller: "%d sessions are open, which is the most for one caller",
	LimitDialsPerSecond:    "%d dials a second are the most for one caller",
	LimitTargetsPerMinute:  "%d different targets a minute are the most for one caller",
	LimitPublicCalls:       "%d calls of this method are under way, which is the most of those that ask for no credentials",
}

// LimitNames are all that LimitError.Limit can be.
func LimitNames() []string { return slices.Sorted(maps.Keys(limitTexts)) }

func (e *LimitError) Error() string {
	return fmt.Sprintf(limitTexts[e.Limit], e.Max) + "; try again in " + e.RetryAfter.String()
}

const (
	// targetWindow is the minute of TargetsPerMinute.
	targetWindow = time.Minute
	// mostCallers is of how many callers the dials are remembered.
	mostCallers = 10_000
	// mostSwept is how many callers are forgotten with one call, so that no call takes long. It is more than the one that a
	// call can add.
	mostSwept = 2
	// heldRetry is the RetryAfter of calls and sessions.
	heldRetry = time.Second
)

// Limiter holds callers to Limits. It never waits: what goes beyond a limit is refused. So one caller at its limit holds
// up no other, except that the sessions in all are there for all; SessionsPerCaller keeps one from having them all.
//
// A caller is a string, [Caller.Key]. Calls and sessions are counted exactly, of however many callers. What is known of dials is
// forgotten when a caller has been idle for a minute, when nothing it did matters any more, and of the least recent one
// when there are more than ten thousand. Being forgotten refuses nobody anything: it gives an allowance anew. Whoever
// commands so many identities gains nothing by it, since each has an allowance of its own anyway; what bounds those
// callers is the number of sessions in all.
//
// It may be used by many goroutines at once, and starts none.
type Limiter struct {
	limits Limits
	now    func() time.Time
	start  time.Time
	seed   maphash.Seed

	// One lock for all callers: what is done under it takes well below a microsecond.
	mu       sync.Mutex
	calls    held
	sessions held
	callers  recency[string, dials]
}

// dials is what is remembered of one caller.
type dials struct {
	bucket *rate.Limiter // nil: there is no such limit
	// Targets are known by a hash, so that the memory for one does not depend on what callers write. Its seed is random: no
	// two targets can be made to be taken for one another.
	targets recency[uint64, struct{}]
}

// NewLimiter returns a Limiter.
func NewLimiter(limits Limits) *Limiter { return newLimiter(limits, time.Now) }

func newLimiter(limits Limits, now func() time.Time) *Limiter {
	return &Limiter{now: now, start: now(), seed: maphash.MakeSeed(), limits: limits}
}

// Session counts a session that caller opens, until release is called, which may be called more than once. The error is
// a *LimitError; then there is no release.
func (l *Limiter) Session(caller string) (release func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sessions.hold(&l.mu, caller,
		bound{LimitSessions, l.limits.Sessions}, bound{LimitSessionsPerCaller, l.limits.SessionsPerCaller})
}

// Call counts a call of caller that is under way, as Session does a session.
func (l *Limiter) Call(caller string) (release func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls.hold(&l.mu, caller,
		bound{LimitCalls, l.limits.Calls}, bound{LimitCallsPerCaller, l.limits.CallsPerCaller})
}

// UnderWay tells how many calls, and how many sessions, all callers have at this time.
func (l *Limiter) UnderWay() (calls, sessions int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls.all, l.sessions.all
}

// held is how many of something callers have at this time.
type held struct {
	all int
	by  map[string]int // of each caller that has any
}

// bound is a limit: its name, and how many it allows; zero or less: any number.
type bound struct {
	name string
	most int
}

func (b bound) reached(n int) bool { return b.most > 0 && n >= b.most }

// hold counts one more, unless a bound is reached. mu guards h, and the caller has it; release takes it.
func (h *held) hold(mu *sync.Mutex, caller string, all, each bound) (release func(), err error) {
	// The caller's own limit comes first: it can do something about that.
	if each.reached(h.by[caller]) {
		return nil, &LimitError{Limit: each.name, Max: each.most, RetryAfter: heldRetry, Caller: caller}
	}
	if all.reached(h.all) {
		return nil, &LimitError{Limit: all.name, Max: all.most, RetryAfter: heldRetry}
	}
	if h.by == nil {
		h.by = make(map[string]int)
	}
	h.all++
	h.by[caller]++
	released := false
	return func() {
		mu.Lock()
		defer mu.Unlock()
		if released {
			return
		}
		released = true
		h.all--
		if h.by[caller]--; h.by[caller] == 0 {
			delete(h.by, caller)
		}
	}, nil
}

// Dial counts a dial of caller. Targets are the same when their strings are. To dial one again that was dialled within
// the last minute costs no more than the dial. The error is a *LimitError; a dial that is refused does not count.
func (l *Limiter) Dial(caller, target string) error {
	hash := maphash.String(l.seed, target)
	l.mu.Lock()
	defer l.mu.Unlock()
	perSecond, perMinute := l.limits.DialsPerSecond, l.limits.TargetsPerMinute
	if perSecond <= 0 && perMinute <= 0 {
		return nil
	}
	now := l.now()
	at := now.Sub(l.start)
	entry := l.callers.touch(caller, at)
	l.sweep(at)
	d := &entry.value
	if perMinute > 0 {
		if err := d.admits(caller, hash, at, perMinute); err != nil {
			return err
		}
	}
	if perSecond > 0 {
		if err := d.take(caller, now, perSecond); err != nil {
			return err
		}
	}
	if perMinute > 0 {
		d.targets.touch(hash, at)
	}
	return nil
}

// sweep forgets callers whose dials have no bearing any more, and the least recent ones beyond mostCallers.
func (l *Limiter) sweep(at time.Duration) {
	for range mostSwept {
		oldest := l.callers.oldest()
		if at-oldest.at <= targetWindow && l.callers.size() <= mostCallers {
			return
		}
		l.callers.remove(oldest)
	}
}

// take takes a dial from the bucket.
func (d *dials) take(caller string, now time.Time, perSecond int) error {
	if d.bucket == nil {
		d.bucket = rate.NewLimiter(rate.Limit(perSecond), perSecond)
	}
	if d.bucket.AllowN(now, 1) {
		return nil
	}
	missing := 1 - d.bucket.TokensAt(now)
	wait := time.Duration(missing / float64(perSecond) * float64(time.Second))
	return &LimitError{Limit: LimitDialsPerSecond, Max: perSecond, RetryAfter: roundUp(wait), Caller: caller}
}

// admits tells whether a target may be dialled, and forgets those that were last dialled more than a minute ago, so that
// there are never more than most.
func (d *dials) admits(caller string, target uint64, at time.Duration, most int) error {
	known := &d.targets
	for known.size() > 0 && at-known.oldest().at >= targetWindow {
		known.remove(known.oldest())
	}
	if known.size() < most || known.has(target) {
		return nil
	}
	return &LimitError{
		Limit: LimitTargetsPerMinute, Max: most, RetryAfter: roundUp(targetWindow - (at - known.oldest().at)), Caller: caller,
	}
}

// roundUp keeps RetryAfter above zero, and sufficient whatever was lost in fractions.
func roundUp(d time.Duration) time.Duration {
	return d.Truncate(time.Millisecond) + time.Millisecond
}

// recency is a map that knows in which order its keys were last touched. The zero value is empty.
type recency[K comparable, V any] struct {
	entries map[K]*entry[K, V]
	root    *entry[K, V] // of a ring: behind it comes the oldest, before it the latest
}

type entry[K comparable, V any] struct {
	before, behind *entry[K, V]
	at             time.Duration // it was last touched, from the start of the Limiter
	value          V
	key            K
}

func (r *recency[K, V]) size() int { return len(r.entries) }

func (r *recency[K, V]) has(key K) bool { return r.entries[key] != nil }

// oldest returns the entry that was not touched for the longest time. There must be one.
func (r *recency[K, V]) oldest() *entry[K, V] { return r.root.behind }

// touch makes the entry of a key the latest. When there is none, it is made, with the zero value.
func (r *recency[K, V]) touch(key K, at time.Duration) *entry[K, V] {
	if r.entries == nil {
		r.entries = make(map[K]*entry[K, V])
		r.root = &entry[K, V]{}
		r.root.before, r.root.behind = r.root, r.root
	}
	e := r.entries[key]
	if e == nil {
		e = &entry[K, V]{key: key}
		r.entries[key] = e
	} else {
		e.unlink()
	}
	e.before, e.behind = r.root.before, r.root
	e.before.behind, e.behind.before = e, e
	e.at = at
	return e
}

func (r *recency[K, V]) remove(e *entry[K, V]) {
	e.unlink()
	delete(r.entries, e.key)
}

func (e *entry[K, V]) unlink() { e.before.behind, e.behind.before = e.behind, e.before }

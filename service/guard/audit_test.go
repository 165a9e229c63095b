package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// opener opens what it is told to, which a test may change.
type opener struct {
	mu   sync.Mutex
	next func() (io.WriteCloser, error)
}

func (o *opener) set(next func() (io.WriteCloser, error)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.next = next
}

func (o *opener) open() (io.WriteCloser, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.next()
}

// file opens a file as the program does.
func file(name string) func() (io.WriteCloser, error) {
	return func() (io.WriteCloser, error) {
		return os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	}
}

func given(w io.WriteCloser) func() (io.WriteCloser, error) {
	return func() (io.WriteCloser, error) { return w, nil }
}

func cannotOpen() (io.WriteCloser, error) { return nil, syscall.EMFILE }

// unclosed is a stream that stays open when it is closed, as the standard output would.
type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }

// newAudit starts an Audit that tries again only when it is asked to, with the patience of a busy machine, and closes it in
// the end.
func newAudit(t *testing.T, open func() (io.WriteCloser, error)) *Audit {
	t.Helper()
	return newHastyAudit(t, time.Minute, open)
}

func newHastyAudit(t *testing.T, patience time.Duration, open func() (io.WriteCloser, error)) *Audit {
	t.Helper()
	a, err := NewAudit(AuditConfig{Open: open, patience: patience, retry: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

func record(id string) Record {
	return Record{ID: id, Subject: "token:ci", RPC: "/probe.v1.ExchangeService/Exchange", Target: "tcp://db:5432", Remote: "10.0.0.7"}
}

func begin(t *testing.T, a *Audit, id string) *Session {
	t.Helper()
	s, err := a.Begin(t.Context(), record(id))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeAudit(t *testing.T, a *Audit) {
	t.Helper()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// wantsAuditError checks that err is an *AuditError with a cause.
func wantsAuditError(t *testing.T, err, cause error) {
	t.Helper()
	if e, ok := errors.AsType[*AuditError](err); !ok || !errors.Is(e, cause) {
		t.Errorf("the error is %v, want an AuditError: %v", err, cause)
	}
}

// lines returns the lines of a log as "event id", in order. Each is to be whole, unless fragments are expected: of these
// it returns the number.
func lines(t *testing.T, log []byte) (events []string, fragments int) {
	t.Helper()
	if len(log) > 0 && log[len(log)-1] != '\n' {
		t.Errorf("the log ends within a line: %q", log[max(0, len(log)-80):])
	}
	for line := range strings.Lines(string(log)) {
		var l struct{ Event, ID string }
		if json.Unmarshal([]byte(line), &l) != nil {
			fragments++
			continue
		}
		events = append(events, l.Event+" "+l.ID)
	}
	return events, fragments
}

func wantsLines(t *testing.T, log []byte, want ...string) {
	t.Helper()
	if got, fragments := lines(t, log); !reflect.DeepEqual(got, want) || fragments > 0 {
		t.Errorf("the log has %q and %d fragments, want %q", got, fragments, want)
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	log, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// wantsPairs checks that each begin has exactly one end, behind it, and returns how many there are.
func wantsPairs(t *testing.T, log []byte) int {
	t.Helper()
	begun, ended := make(map[string]bool), make(map[string]bool)
	events, _ := lines(t, log)
	for _, e := range events {
		event, id, _ := strings.Cut(e, " ")
		switch {
		case event == "begin" && !begun[id]:
			begun[id] = true
		case event == "end" && begun[id] && !ended[id]:
			ended[id] = true
		default:
			t.Errorf("%q is out of order", e)
		}
	}
	if len(begun) != len(ended) {
		t.Errorf("%d sessions began, and %d ended", len(begun), len(ended))
	}
	return len(begun)
}

func TestNoAudit(t *testing.T) {
	t.Parallel()
	var a *Audit
	s, err := a.Begin(t.Context(), record("1"))
	if s != nil || err != nil {
		t.Errorf("without a log Begin returns %v, %v", s, err)
	}
	s.End(Result{})
}

func TestAuditCannotBeOpened(t *testing.T) {
	t.Parallel()
	_, err := NewAudit(AuditConfig{Open: cannotOpen})
	wantsAuditError(t, err, syscall.EMFILE)
}

func TestAuditReopen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name, rotated := filepath.Join(dir, "audit.log"), filepath.Join(dir, "audit.log.1")
	o := &opener{next: file(name)}
	a := newAudit(t, o.open)
	s := begin(t, a, "1")
	if err := os.Rename(name, rotated); err != nil {
		t.Fatal(err)
	}
	o.set(cannotOpen)
	wantsAuditError(t, a.Reopen(), syscall.EMFILE)
	other := begin(t, a, "2") // goes where it went before
	o.set(file(name))
	if err := a.Reopen(); err != nil {
		t.Fatal(err)
	}
	s.End(Result{})
	other.End(Result{})
	closeAudit(t, a)
	wantsLines(t, read(t, rotated), "begin 1", "begin 2")
	wantsLines(t, read(t, name), "end 1", "end 2")
	wantsAuditError(t, a.Reopen(), errAuditClosed)
}

func TestAuditClose(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "audit.log")
	a := newAudit(t, file(name))
	var open []*Session
	for i := range 500 {
		open = append(open, begin(t, a, strconv.Itoa(i)))
	}
	for _, s := range open {
		s.End(Result{})
	}
	closeAudit(t, a)
	if n := wantsPairs(t, read(t, name)); n != 500 {
		t.Errorf("the log has %d sessions, want 500", n)
	}
	_, err := a.Begin(t.Context(), record("late"))
	wantsAuditError(t, err, errAuditClosed)
	closeAudit(t, a) // again: nothing
}

// Ten thousand sessions of many callers, while the log is rotated and the disk is full now and then: of every session that
// was let in there is a begin and an end, and of no other.
func TestAuditConcurrently(t *testing.T) {
	t.Parallel()
	const callers, each = 50, 200
	dir := t.TempDir()
	var mu sync.Mutex
	opened, full := 0, true
	part := func(i int) string { return filepath.Join(dir, strconv.Itoa(i)) }
	a, err := NewAudit(AuditConfig{patience: time.Minute, retry: time.Millisecond, Open: func() (io.WriteCloser, error) {
		mu.Lock()
		defer mu.Unlock()
		if full && rand.IntN(3) == 0 {
			return os.OpenFile("/dev/full", os.O_WRONLY, 0)
		}
		opened++
		return file(part(opened))()
	}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				for {
					s, err := a.Begin(t.Context(), record(fmt.Sprintf("%d-%d", c, i)))
					if err == nil {
						s.End(Result{})
						break
					}
					if !errors.Is(err, syscall.ENOSPC) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Go(func() {
		for range 100 {
			if err := a.Reopen(); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	mu.Lock()
	full = false
	mu.Unlock()
	if err := a.Reopen(); err != nil {
		t.Error(err)
	}
	closeAudit(t, a)
	var log []byte
	for i := range opened {
		log = append(log, read(t, part(i+1))...)
	}
	if n := wantsPairs(t, log); n != callers*each {
		t.Errorf("the log has %d sessions, want %d", n, callers*each)
	}
}

// BenchmarkAudit is what a session costs, with as many at a time as there are processors.
func BenchmarkAudit(b *testing.B) {
	a, err := NewAudit(AuditConfig{Open: file(filepath.Join(b.TempDir(), "audit.log"))})
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			s, err := a.Begin(b.Context(), record("id"))
			if err != nil {
				b.Error(err)
				return
			}
			s.End(Result{OK: true})
		}
	})
}

package guard

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
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

func TestAuditLines(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "audit.log")
	a := newAudit(t, file(name))
	s := begin(t, a, "r-1")
	const begun = `{"time":"TIME","event":"begin","id":"r-1","subject":"token:ci",` +
		`"rpc":"/probe.v1.ExchangeService/Exchange","target":"tcp://db:5432","remote":"10.0.0.7"}` + "\n"
	times := regexp.MustCompile(`"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"`)
	text := func() string { return times.ReplaceAllString(string(read(t, name)), `"time":"TIME"`) }
	if got := text(); got != begun { // before Begin has returned, that is, before any dial
		t.Errorf("after Begin the log is\n%swant\n%s", got, begun)
	}
	s.End(Result{
		Address: "10.0.0.9:5432", Rule: "dev/db", OK: true, BytesSent: 12, BytesReceived: 1 << 40,
		Duration: 1500 * time.Millisecond, Code: "OK",
	})
	s.End(Result{Code: "twice"})
	closeAudit(t, a)
	const ended = `{"time":"TIME","event":"end","id":"r-1","subject":"token:ci",` +
		`"rpc":"/probe.v1.ExchangeService/Exchange","target":"tcp://db:5432","remote":"10.0.0.7",` +
		`"address":"10.0.0.9:5432","rule":"dev/db","ok":true,"reason":"","code":"OK",` +
		`"bytesSent":12,"bytesReceived":1099511627776,"durationSeconds":1.5}` + "\n"
	if got := text(); got != begun+ended {
		t.Errorf("the log is\n%swant\n%s", got, begun+ended)
	}
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

func FuzzAuditLine(f *testing.F) {
	f.Add("tcp://db:5432")
	f.Add("a\nb\r\x00\x1b[2J\x7f\u0085\u009b31m")
	f.Add("\xff\xfe invalid \xc3")
	f.Add("\u202eright to left\u200b\u2028\U000e0041\ufeff")
	f.Add(strings.Repeat("é", auditTarget))
	f.Add(`"}{"event":"end`)
	f.Fuzz(func(t *testing.T, hostile string) {
		r := Record{ID: hostile, Subject: hostile, RPC: hostile, Target: hostile, Remote: hostile}.bounded()
		result := Result{Address: hostile, Rule: hostile, Reason: hostile, Code: hostile}
		for _, line := range [][]byte{beginLine(time.Now(), r), endLine(time.Now(), r, result)} {
			if len(line) > 128<<10 {
				t.Fatalf("the line has %d bytes", len(line))
			}
			if !utf8.Valid(line) {
				t.Fatalf("%q is no UTF-8", line)
			}
			for i, c := range string(line) {
				if (c < ' ' || isHidden(c)) && i != len(line)-1 {
					t.Fatalf("%q stands in %q", c, line)
				}
			}
			if line[len(line)-1] != '\n' {
				t.Fatalf("%q does not end", line)
			}
			var got map[string]any
			if err := json.Unmarshal(line, &got); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			target, _ := got["target"].(string)
			if len(hostile) <= auditTarget {
				if want := string([]rune(hostile)); target != want { // what is no UTF-8 is U+FFFD
					t.Fatalf("the target is %q, want %q", target, want)
				}
			} else if want := fmt.Sprintf("… (cut, %d bytes in all)", len(hostile)); !strings.HasSuffix(target, want) {
				t.Fatalf("the target ends %q, want %q", target[max(0, len(target)-60):], want)
			}
		}
	})
}

func TestAuditCannotBeOpened(t *testing.T) {
	t.Parallel()
	_, err := NewAudit(AuditConfig{Open: cannotOpen})
	wantsAuditError(t, err, syscall.EMFILE)
}

// A disk that is full: no session begins, and what ends meanwhile is written when there is room again.
func TestAuditDiskFull(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "audit.log")
	o := &opener{next: file(name)}
	var mu sync.Mutex
	writes := make(map[bool]int)
	a, err := NewAudit(AuditConfig{Open: o.open, patience: time.Minute, retry: time.Hour, OnWrite: func(err error) {
		mu.Lock()
		defer mu.Unlock()
		writes[err == nil]++
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	first, second := begin(t, a, "1"), begin(t, a, "2")
	o.set(file("/dev/full"))
	if err := a.Reopen(); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		_, err := a.Begin(t.Context(), record("refused"+strconv.Itoa(i)))
		wantsAuditError(t, err, syscall.ENOSPC)
	}
	second.End(Result{})
	_, err = a.Begin(t.Context(), record("refused"))
	wantsAuditError(t, err, syscall.ENOSPC)
	o.set(cannotOpen) // the stream in use is tried then
	_, err = a.Begin(t.Context(), record("refused"))
	wantsAuditError(t, err, syscall.ENOSPC)
	first.End(Result{})
	o.set(file(name))
	third := begin(t, a, "3")
	wantsLines(t, read(t, name), "begin 1", "begin 2", "end 2", "end 1", "begin 3")
	third.End(Result{})
	closeAudit(t, a)
	wantsLines(t, read(t, name), "begin 1", "begin 2", "end 2", "end 1", "begin 3", "end 3")
	mu.Lock()
	defer mu.Unlock()
	if writes[true] < 4 || writes[false] < 7 {
		t.Errorf("OnWrite was told of %v", writes)
	}
}

// However much is kept, who begins a session meanwhile is told at once.
func TestAuditKeepsMany(t *testing.T) {
	t.Parallel()
	const many = 3000 // ends, of which a batch holds some hundreds
	name := filepath.Join(t.TempDir(), "audit.log")
	o := &opener{next: file(name)}
	a, err := NewAudit(AuditConfig{Open: o.open, patience: time.Hour, retry: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var open []*Session
	for i := range many {
		open = append(open, begin(t, a, strconv.Itoa(i)))
	}
	o.set(file("/dev/full"))
	if err := a.Reopen(); err != nil {
		t.Fatal(err)
	}
	for _, s := range open {
		s.End(Result{})
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_, err := a.Begin(t.Context(), record("refused"))
			wantsAuditError(t, err, syscall.ENOSPC)
		})
	}
	wg.Wait()
	o.set(file(name))
	begin(t, a, "last").End(Result{})
	closeAudit(t, a)
	if n := wantsPairs(t, read(t, name)); n != many+1 {
		t.Errorf("the log has %d sessions, want %d", n, many+1)
	}
}

// Ends are written when the stream works again also when no session begins.
func TestAuditRetries(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "audit.log")
	o := &opener{next: file(name)}
	tried := make(chan bool, 100)
	a, err := NewAudit(AuditConfig{Open: o.open, patience: time.Minute, retry: time.Millisecond, OnWrite: func(err error) {
		select {
		case tried <- err == nil:
		default:
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	s := begin(t, a, "1")
	<-tried
	o.set(file("/dev/full"))
	if err := a.Reopen(); err != nil {
		t.Fatal(err)
	}
	s.End(Result{})
	for range 2 {
		if <-tried {
			t.Error("a write to a full disk succeeded")
		}
	}
	o.set(file(name))
	for ok := false; !ok; {
		ok = <-tried
	}
	wantsLines(t, read(t, name), "begin 1", "end 1")
}

// smallPipe is a pipe with room for a page.
func smallPipe(t *testing.T) (reader, writer *os.File) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close(); writer.Close() })
	if _, err := unix.FcntlInt(writer.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	// Fd has made it blocking, which would keep Close from ending a write.
	if err := unix.SetNonblock(int(writer.Fd()), true); err != nil {
		t.Fatal(err)
	}
	return reader, writer
}

// fill begins sessions until that fails, and returns those that are open.
func fill(t *testing.T, a *Audit) (open []*Session) {
	t.Helper()
	for i := range 1000 {
		s, err := a.Begin(t.Context(), record(strconv.Itoa(i)))
		if err != nil {
			wantsAuditError(t, err, errAuditStuck)
			return open
		}
		open = append(open, s)
	}
	t.Fatal("a pipe that nobody reads takes everything")
	return nil
}

// A pipe that nobody reads: Begin fails in time, then at once, and when somebody reads the log is complete.
func TestAuditStuck(t *testing.T) {
	t.Parallel()
	reader, writer := smallPipe(t)
	a := newHastyAudit(t, 500*time.Millisecond, given(unclosed{writer}))
	open := fill(t, a)
	began := time.Now()
	for i := range 100 {
		_, err := a.Begin(t.Context(), record("refused"+strconv.Itoa(i)))
		wantsAuditError(t, err, errAuditStuck)
	}
	// The first may find that the writer has waited for less than the patience; the others do not wait.
	if took := time.Since(began); took > 10*a.config.patience {
		t.Errorf("refusing a hundred sessions took %v", took)
	}
	for _, s := range open {
		s.End(Result{}) // does not wait
	}
	wantsAuditError(t, a.Reopen(), errAuditStuck)

	var log bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = log.ReadFrom(reader)
	}()
	var last *Session
	for deadline := time.Now().Add(10 * time.Second); last == nil && time.Now().Before(deadline); {
		last, _ = a.Begin(t.Context(), record("last"))
	}
	if last == nil {
		t.Fatal("it does not work again")
	}
	last.End(Result{})
	closeAudit(t, a)
	writer.Close()
	<-done
	// The one that was refused while it was being written has its end too.
	if n := wantsPairs(t, log.Bytes()); n < len(open)+2 {
		t.Errorf("the log has %d sessions, want %d", n, len(open)+2)
	}
}

// gate is a stream each write to which says that it has begun, and waits until it is let through.
type gate struct {
	bytes.Buffer
	begun, let chan struct{}
}

func (g *gate) Write(data []byte) (int, error) {
	g.begun <- struct{}{}
	<-g.let
	return g.Buffer.Write(data)
}

func (g *gate) Close() error { return nil }

func TestAuditBeginEndsWithItsContext(t *testing.T) {
	t.Parallel()
	g := &gate{begun: make(chan struct{}), let: make(chan struct{})}
	a := newAudit(t, given(g))
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error, 2)
	wait := func(id string) {
		_, err := a.Begin(ctx, record(id))
		waiting <- err
	}
	go wait("written")
	<-g.begun
	go wait("queued")
	cancel()
	for range 2 {
		if err := <-waiting; !errors.Is(err, context.Canceled) {
			t.Errorf("the error is %v, want context.Canceled", err)
		}
	}
	if _, err := a.Begin(ctx, record("late")); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v, want context.Canceled", err)
	}
	g.let <- struct{}{}
	<-g.begun
	g.let <- struct{}{}
	closeAudit(t, a)
	wantsLines(t, g.Bytes(), "begin written", "end written")
}

// Closing does not wait for a pipe that nobody reads, and says what is lost.
func TestAuditCloseWhenStuck(t *testing.T) {
	t.Parallel()
	_, writer := smallPipe(t)
	a := newHastyAudit(t, 500*time.Millisecond, given(writer))
	open := fill(t, a)
	open[0].End(Result{})
	began := time.Now()
	err := a.Close()
	if e, ok := errors.AsType[*AuditError](err); !ok || e.Error() != "the audit log cannot be written: 1 records are left" {
		t.Errorf("the error is %v, want that one record is left", err)
	}
	if took := time.Since(began); took > 10*a.config.patience {
		t.Errorf("it took %v", took)
	}
	<-a.done // no goroutine is left behind
}

// A pipe whose reader is gone: a new one is opened.
func TestAuditPipeBreaks(t *testing.T) {
	t.Parallel()
	reader, writer := smallPipe(t)
	o := &opener{next: given(writer)}
	a := newAudit(t, o.open)
	s := begin(t, a, "1")
	reader.Close()
	o.set(cannotOpen)
	for range 3 {
		_, err := a.Begin(t.Context(), record("refused"))
		wantsAuditError(t, err, syscall.EPIPE)
	}
	s.End(Result{})
	name := filepath.Join(t.TempDir(), "audit.log")
	o.set(file(name))
	begin(t, a, "2").End(Result{})
	closeAudit(t, a)
	wantsLines(t, read(t, name), "end 1", "begin 2", "end 2")
}

// shortWriter writes no more than room bytes in all, as a disk that is full.
type shortWriter struct {
	mu   sync.Mutex
	log  bytes.Buffer
	room int
}

func (w *shortWriter) Write(data []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(len(data), w.room)
	w.room -= n
	w.log.Write(data[:n])
	if n < len(data) {
		return n, syscall.ENOSPC
	}
	return n, nil
}

func (w *shortWriter) makeRoom() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.room = 1 << 20
}

// Wherever a line breaks off, the next ones are whole, and begins and ends go together.
func TestAuditLineBreaksOff(t *testing.T) {
	t.Parallel()
	sessions := func(w *shortWriter) {
		a := newAudit(t, given(unclosed{w}))
		for i := range 3 {
			if s, err := a.Begin(t.Context(), record(strconv.Itoa(i))); err == nil {
				s.End(Result{})
			}
		}
		for range 2 { // the second time, what was queued has been tried
			if err := a.Reopen(); err != nil {
				t.Fatal(err)
			}
		}
		w.makeRoom()
		begin(t, a, "last").End(Result{})
		closeAudit(t, a)
	}
	whole := &shortWriter{room: 1 << 20}
	sessions(whole)
	want := []string{"begin 0", "end 0", "begin 1", "end 1", "begin 2", "end 2", "begin last", "end last"}
	wantsLines(t, whole.log.Bytes(), want...)
	broken := 0
	for room := range whole.log.Len() {
		w := &shortWriter{room: room}
		sessions(w)
		wantsPairs(t, w.log.Bytes())
		events, fragments := lines(t, w.log.Bytes())
		if fragments > 1 || events[len(events)-1] != "end last" {
			t.Errorf("with room for %d bytes, the log is %q", room, w.log.Bytes())
		}
		broken += fragments
	}
	if broken < 100 {
		t.Errorf("%d lines broke off, which is not what this is about", broken)
	}
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

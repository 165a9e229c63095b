package guard

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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
	if a.Writable() {
		t.Error("it is stuck, and writable")
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

// When nobody begins a session, and none ends, it is found out all the same that the stream works again; the log has a line of
// it, and Writable tells how it stands.
func TestAuditResumes(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "audit.log")
	o := &opener{next: file(name)}
	a, err := NewAudit(AuditConfig{Open: o.open, patience: time.Minute, retry: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if !a.Writable() {
		t.Error("it is not writable at first")
	}
	o.set(file("/dev/full"))
	if err := a.Reopen(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Begin(t.Context(), record("1")); err == nil || a.Writable() {
		t.Errorf("a full disk: %v, writable %v", err, a.Writable())
	}
	o.set(file(name))
	for deadline := time.Now().Add(10 * time.Second); !a.Writable(); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is not writable again")
		}
	}
	begin(t, a, "2").End(Result{})
	if err := a.Close(); err != nil || a.Writable() {
		t.Errorf("closed: %v, writable %v", err, a.Writable())
	}
	wantsLines(t, read(t, name), "resumed ", "begin 2", "end 2")
}

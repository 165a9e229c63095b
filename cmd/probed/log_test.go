package main

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// written keeps each write apart.
type written struct {
	mu     sync.Mutex
	writes []string
}

func (w *written) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes = append(w.writes, string(p))
	return len(p), nil
}

// lines is how many lines each write had.
func (w *written) lines() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []int
	for _, text := range w.writes {
		all = append(all, strings.Count(text, "\n"))
	}
	return all
}

func wantLines(t *testing.T, w *written, want ...int) {
	t.Helper()
	got := w.lines()
	if len(got) != len(want) {
		t.Fatalf("writes of %v lines, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("writes of %v lines, want %v", got, want)
		}
	}
}

// A line that comes alone is written before the call that logs it returns; those of a burst wait for each other, and not
// for long; warnings, and what is not of a call, do not wait; none is lost at the end.
func TestLogWriter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &written{}
		log, calls, flush := newLogger(w, slog.LevelInfo)
		calls.Info("alone")
		wantLines(t, w, 1)
		for range 3 {
			calls.Info("of a burst")
		}
		wantLines(t, w, 1)
		<-time.After(logDelay)
		synctest.Wait()
		wantLines(t, w, 1, 3)
		<-time.After(2 * logDelay)
		calls.Info("alone again")
		wantLines(t, w, 1, 3, 1)
		calls.With("a", 1).WithGroup("g").Info("waits")
		log.Info("of no call")
		wantLines(t, w, 1, 3, 1, 2)
		calls.Info("waits")
		calls.With("a", 1).WithGroup("g").Warn("a warning")
		wantLines(t, w, 1, 3, 1, 2, 2)
		calls.Debug("below the level")
		calls.Info("the last")
		flush()
		flush()
		wantLines(t, w, 1, 3, 1, 2, 2, 1)
	})
}

// Much is not kept: it is written by who logs it, who so cannot be faster than the log.
func TestLogWriterIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &written{}
		_, calls, flush := newLogger(w, slog.LevelInfo)
		defer flush()
		calls.Info("the first is written at once")
		calls.Info(strings.Repeat("x", logBatch-1000))
		wantLines(t, w, 1)
		calls.Info(strings.Repeat("x", 1000))
		wantLines(t, w, 1, 2)
		<-time.After(2 * logDelay)
		synctest.Wait()
		wantLines(t, w, 1, 2)
	})
}

package main

import (
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

const (
	// logDelay is how long a line waits at most for others, when there was one just before it: to write it takes a sixth of
	// the time of a look-up.
	logDelay = 10 * time.Millisecond
	// logBatch is about the most bytes that wait.
	logBatch = 64 << 10
)

// newLogger writes text to a terminal and JSON to anything else. What waits to be written, flush writes.
func newLogger(stderr io.Writer, level slog.Level) (log *slog.Logger, flush func()) {
	options := &slog.HandlerOptions{Level: level}
	if file, ok := stderr.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		return slog.New(slog.NewTextHandler(stderr, options)), func() {}
	}
	w := &logWriter{to: stderr}
	return slog.New(slog.NewJSONHandler(w, options)), w.flush
}

// logWriter writes lines that come in quick succession together. One that comes alone is written at once, and so is what
// waits when it becomes much: who logs faster than it can be written is slowed by it.
type logWriter struct {
	to io.Writer

	mu      sync.Mutex
	waiting []byte
	written time.Time   // when last
	timer   *time.Timer // to write what waits; nil: nothing does
}

// Write takes a line.
func (w *logWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting = append(w.waiting, line...)
	now := time.Now()
	if len(w.waiting) >= logBatch || w.timer == nil && now.Sub(w.written) >= logDelay {
		return len(line), w.write(now)
	}
	if w.timer == nil {
		w.timer = time.AfterFunc(logDelay, w.flush)
	}
	return len(line), nil
}

// flush writes what waits.
func (w *logWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.write(time.Now()) // there is nowhere to tell that the log cannot be written
}

func (w *logWriter) write(now time.Time) error {
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	w.written = now
	if len(w.waiting) == 0 {
		return nil
	}
	_, err := w.to.Write(w.waiting)
	w.waiting = w.waiting[:0]
	return err
}

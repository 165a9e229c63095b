package main

import (
	"context"
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

// newLogger writes text to a terminal and JSON to anything else. The lines of calls, of which there are many, go by calls,
// and may wait for each other when they say nothing out of the ordinary; flush writes what waits.
func newLogger(stderr io.Writer, level slog.Level) (log, calls *slog.Logger, flush func()) {
	options := &slog.HandlerOptions{Level: level}
	if file, ok := stderr.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		log = slog.New(slog.NewTextHandler(stderr, options))
		return log, log, func() {}
	}
	w := &logWriter{to: stderr}
	atOnce := slog.NewJSONHandler(promptly{w}, options)
	return slog.New(atOnce), slog.New(byLevel{slog.NewJSONHandler(w, options), atOnce}), w.flush
}

// byLevel is a handler for what is ordinary, and another for warnings and what is above.
type byLevel struct {
	slog.Handler
	warnings slog.Handler
}

// Handle hands a line to one of the two.
func (h byLevel) Handle(ctx context.Context, line slog.Record) error {
	if line.Level >= slog.LevelWarn {
		return h.warnings.Handle(ctx, line)
	}
	return h.Handler.Handle(ctx, line)
}

// WithAttrs is that of both.
func (h byLevel) WithAttrs(attributes []slog.Attr) slog.Handler {
	return byLevel{h.Handler.WithAttrs(attributes), h.warnings.WithAttrs(attributes)}
}

// WithGroup is that of both.
func (h byLevel) WithGroup(name string) slog.Handler {
	return byLevel{h.Handler.WithGroup(name), h.warnings.WithGroup(name)}
}

// logWriter writes lines that come in quick succession together, in their order. One that comes alone is written at once, and
// so is what waits when it becomes much: who logs faster than it can be written is slowed by it.
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

// promptly is a logWriter whose lines do not wait.
type promptly struct{ *logWriter }

// Write writes a line, behind those that wait.
func (w promptly) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting = append(w.waiting, line...)
	return len(line), w.write(time.Now())
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

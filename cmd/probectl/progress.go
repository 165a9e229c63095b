package main

import (
	"fmt"
	"sync"
	"time"

	probev1 "probed/gen/probe/v1"
)

// progress shows how far something is that takes its time. It is on stderr, if that is a terminal, from the first second
// on, and goes away at the end. While stdout, on a terminal as well, is within a line, it stays away: the two may be the
// same one.
type progress struct {
	stderr, stdout *printer
	text           func(elapsed time.Duration) string // called with mu held
	done           chan struct{}
	ended          chan struct{} // closed when the goroutine that draws has ended
	stopping       sync.Once

	mu    sync.Mutex // held while anything is printed
	begin time.Time
}

const progressInterval = time.Second

func startProgress(stderr, stdout *printer, text func(elapsed time.Duration) string) *progress {
	p := &progress{stderr: stderr, stdout: stdout, text: text, done: make(chan struct{}), ended: make(chan struct{}), begin: time.Now()}
	go func() {
		defer close(p.ended)
		p.draw()
	}()
	return p
}

func (p *progress) draw() {
	if !p.stderr.terminal {
		return
	}
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-ticker.C:
		}
		p.mu.Lock()
		text := p.text(time.Since(p.begin).Truncate(time.Second))
		if !p.stdout.terminal || !p.stdout.midLine() {
			p.stderr.status(text)
		}
		p.mu.Unlock()
	}
}

// during calls show with the progress out of its way.
func (p *progress) during(show func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stderr.status("")
	return show()
}

// stop takes the progress away, for good. It may be called again.
func (p *progress) stop() {
	p.stopping.Do(func() {
		close(p.done)
		<-p.ended
		p.stderr.status("")
	})
}

// transfer counts what comes, and is progress that shows how much, how fast, and since when.
type transfer struct {
	*progress

	// Guarded by mu of the progress.
	bytes, chunks uint64
	drawn         uint64 // the bytes when it was drawn last
}

func startTransfer(stderr, stdout *printer) *transfer {
	t := &transfer{}
	t.progress = startProgress(stderr, stdout, func(elapsed time.Duration) string {
		rate := (t.bytes - t.drawn) * uint64(time.Second/progressInterval)
		t.drawn = t.bytes
		return fmt.Sprintf("%s received, %s/s, %v", sizeText(t.bytes), sizeText(rate), elapsed)
	})
	return t
}

// during counts a chunk, nil for other events, and calls show with the progress out of its way.
func (t *transfer) during(chunk *probev1.Chunk, show func() error) error {
	return t.progress.during(func() error {
		if chunk != nil {
			t.chunks++
			t.bytes += uint64(len(chunk.GetData()))
		}
		return show()
	})
}

// received is what has come until now.
func (t *transfer) received() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return fmt.Sprintf("%s in %d %s", bytesText(t.bytes), t.chunks, plural(t.chunks, "chunk"))
}

// sizeText is a number of bytes in the largest binary unit it has one of.
func sizeText(n uint64) string {
	const units = "KMGT"
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	size, unit := float64(n)/(1<<10), 0
	for size >= 1<<10 && unit < len(units)-1 {
		size, unit = size/(1<<10), unit+1
	}
	return fmt.Sprintf("%.1f %ciB", size, units[unit])
}

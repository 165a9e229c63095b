package exchange

import (
	"runtime"
	"testing"
	"time"

	"probed/internal/nettest"
)

// Many streams that nobody takes anything of leave each other less and less, and never nothing.
func TestBuffersAreShared(t *testing.T) {
	t.Parallel()
	var b buffers
	var held []*Buffer
	last := b.room(maxChunk)
	if last != maxChunk {
		t.Errorf("the first one gets %d, want %d", last, maxChunk)
	}
	for range 1000 {
		room := b.room(maxChunk)
		if room > last || room < leastShare {
			t.Fatalf("%d after %d, behind %d bytes", room, last, b.out.Load())
		}
		last = room
		held = append(held, b.lend(room))
	}
	if out, most := b.out.Load(), int64(memoryOfChunks+1000*leastShare); out > most {
		t.Errorf("%d bytes are lent, want at most %d", out, most)
	}
	if room := b.room(minChunk); room != minChunk {
		t.Errorf("who wants little gets %d, want %d", room, minChunk)
	}
	for _, buffer := range held {
		buffer.Release()
	}
	if out, room := b.out.Load(), b.room(maxChunk); out != 0 || room != maxChunk {
		t.Errorf("%d bytes are lent at the end, and there is room for %d", out, room)
	}
}

// A buffer is somebody else's when the last has let go of it, and not before.
func TestBufferIsHeld(t *testing.T) {
	t.Parallel()
	var b buffers
	buffer := b.lend(1)
	if len(buffer.data) != minChunk {
		t.Errorf("%d bytes, want %d", len(buffer.data), minChunk)
	}
	buffer.Hold()
	buffer.Release()
	if b.out.Load() != minChunk {
		t.Errorf("%d bytes are lent while one holds, want %d", b.out.Load(), minChunk)
	}
	buffer.Release()
	if b.out.Load() != 0 {
		t.Errorf("%d bytes are lent when none holds", b.out.Load())
	}
	var own *Buffer
	own.Hold()
	own.Release()
}

// What is forgotten is not counted for ever.
func TestForgottenBuffer(t *testing.T) {
	t.Parallel()
	var b buffers
	b.lend(maxChunk)
	for deadline := time.Now().Add(10 * time.Second); b.out.Load() != 0; <-time.After(time.Millisecond) {
		runtime.GC()
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes count as lent", b.out.Load())
		}
	}
}

// Who holds the buffer of a chunk has its bytes when the exchange has long gone on.
func TestChunksAreKept(t *testing.T) {
	t.Parallel()
	want := nettest.Data(1 << 20)
	to, _ := streamTarget(t, "tcp4", nettest.ReplyAfter(0, want))
	exchanger := New(Config{Dial: dialer(admitAll), Resolve: hosts(t)})
	var kept []Chunk
	r := trial{exchanger: exchanger, request: Request{Target: to, Steps: DefaultSteps(to, nil, false)}, hook: func(event Event) error {
		if chunk, ok := event.(Chunk); ok {
			chunk.Buffer.Hold()
			kept = append(kept, chunk)
		}
		return nil
	}}.run(t)
	r.wants(t, PhaseClose, None, EndedByPeerClosed)
	for _, chunk := range kept {
		n := len(chunk.Data)
		if lent := chunk.Buffer.data[:n]; string(lent) != string(want[:n]) {
			t.Fatalf("the bytes from %d on are others by now", chunk.Offset)
		}
		want = want[n:]
		chunk.Buffer.Release()
	}
	if out := exchanger.buffers.out.Load(); len(want) > 0 || out != 0 {
		t.Errorf("%d bytes did not come, %d are lent", len(want), out)
	}
}

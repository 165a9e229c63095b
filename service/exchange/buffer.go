package exchange

import (
	"runtime"
	"sync"
	"sync/atomic"
)

const (
	// MaxBufferSize is the most bytes of one chunk.
	MaxBufferSize = 1 << 20
	// A chunk whose size the caller left open has between these two.
	minChunk, maxChunk = 4 << 10, 256 << 10
	// messageChunk has room for the largest UDP datagram.
	messageChunk = 64 << 10

	// memoryOfChunks is about the memory that chunks hold which nobody has taken yet, of all exchanges together. What is left
	// of it is shared out: a read gets at most a part of it, so that many callers who do not read leave each other less and
	// less, and never less than leastShare.
	memoryOfChunks = 8 << 20
	partOfRest     = 16
	leastShare     = 16 << 10
)

// Buffer is the memory that a chunk lies in. It is lent to many, one after the other, and counted as long as it is. A nil
// *Buffer stands for memory that nobody else uses, ever.
type Buffer struct {
	data    []byte
	holders atomic.Int32
	lender  *buffers
	loan    *loan
}

// loan is what a Buffer counts for. It is apart, so that what is forgotten without being given back is no longer counted
// once the garbage collector has found it.
type loan struct {
	size  int64
	out   atomic.Bool
	count *atomic.Int64
}

// Hold keeps what is in the buffer as it is until there has been a Release for it. Whoever holds may let others hold.
func (b *Buffer) Hold() {
	if b != nil {
		b.holders.Add(1)
	}
}

// Release ends a Hold. Behind the last one the memory is somebody else's.
func (b *Buffer) Release() {
	if b == nil || b.holders.Add(-1) > 0 {
		return
	}
	b.loan.out.Store(false)
	b.loan.count.Add(-b.loan.size)
	b.lender.pools[class(len(b.data))].Put(b)
}

// buffers lends them, in sizes of 4 KiB, 8 KiB and so on up to MaxBufferSize. The zero value is ready.
type buffers struct {
	pools [9]sync.Pool
	out   atomic.Int64 // bytes that are lent
}

// class is the number of the pool whose buffers have room for size bytes.
func class(size int) int {
	class := 0
	for minChunk<<class < size {
		class++
	}
	return class
}

// room is how many of so many bytes a stream should be read at once now.
func (b *buffers) room(wanted int) int {
	if wanted <= leastShare {
		return wanted
	}
	share := int(memoryOfChunks-b.out.Load()) / partOfRest
	if wanted <= share {
		return wanted
	}
	fits := leastShare
	for 2*fits <= share {
		fits *= 2
	}
	return fits
}

// lend returns a buffer with room for size bytes, which the caller holds.
func (b *buffers) lend(size int) *Buffer {
	class := class(size)
	buffer, ok := b.pools[class].Get().(*Buffer)
	if !ok {
		bytes := minChunk << class
		buffer = &Buffer{data: make([]byte, bytes), lender: b, loan: &loan{size: int64(bytes), count: &b.out}}
		runtime.AddCleanup(buffer, func(l *loan) {
			if l.out.Load() {
				l.count.Add(-l.size)
			}
		}, buffer.loan)
	}
	buffer.holders.Store(1)
	buffer.loan.out.Store(true)
	b.out.Add(buffer.loan.size)
	return buffer
}

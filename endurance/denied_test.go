package endurance

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"probed/internal/nettest"
	"probed/internal/probetest"
	"probed/internal/promise"
)

// everywhere is a host that every address there is belongs to, but for two that are allowed: those are of a neighbour, who
// echoes and is a name server. Whoever connects to another reaches a sink.
type everywhere struct {
	*nettest.Netns
	sinks   atomic.Int64 // connections and datagrams that reached what is none of the two
	allowed nettest.Tally

	mu    sync.Mutex
	first string // that reached a sink
}

const (
	peerPort   = 7
	serverPort = 5353 // of the name server

	allowed4, allowed6 = "198.51.100.1", "2001:db8:1::1"
	reachable          = "192.0.2.1" // where a probed listens that is not on loopback
)

// newEverywhere makes one whose own name server has the zone.
func newEverywhere(t *testing.T, zone func(*nettest.DNSExchange)) *everywhere {
	t.Helper()
	e := &everywhere{Netns: nettest.Namespace(t)}
	neighbour, prefix := nettest.Namespace(t), netip.MustParsePrefix
	link, _ := nettest.Link(e.Netns, []netip.Prefix{prefix("198.51.100.2/24"), prefix("2001:db8:1::2/64")},
		neighbour, []netip.Prefix{prefix(allowed4 + "/24"), prefix(allowed6 + "/64")})
	run(e.Netns, "ip addr add "+reachable+"/32 dev lo",
		"ip route add local 0.0.0.0/0 dev lo table local", "ip route add 198.51.100.0/24 dev "+link+" table local",
		"ip -6 route add local ::/0 dev lo table local", "ip -6 route add 2001:db8:1::/64 dev "+link+" table local")
	e.Do(func() {
		for _, port := range []int{peerPort, serverPort} {
			address := fmt.Sprintf("[::]:%d", port) // for IPv4, too
			nettest.Listen(t, "tcp", address, func(c net.Conn) {
				e.reached(c.LocalAddr(), c.RemoteAddr())
				nettest.Echo(c)
			})
			nettest.ListenPacket(t, "udp", address, func(pc net.PacketConn, from net.Addr, data []byte) {
				e.reached(pc.LocalAddr(), from)
				nettest.EchoPacket(pc, from, data)
			})
		}
		nettest.DNSAt(t, "127.0.0.1:53", zone)
	})
	neighbour.Do(func() {
		for _, address := range []string{allowed4, allowed6} {
			peer := net.JoinHostPort(address, strconv.Itoa(peerPort))
			nettest.Listen(t, "tcp", peer, e.allowed.Count(nettest.Echo))
			nettest.ListenPacket(t, "udp", peer, func(pc net.PacketConn, from net.Addr, data []byte) {
				e.allowed.Conns.Add(1)
				nettest.EchoPacket(pc, from, data)
			})
			nettest.DNSAt(t, net.JoinHostPort(address, strconv.Itoa(serverPort)), func(x *nettest.DNSExchange) {
				e.allowed.Conns.Add(1)
				localA(x)
			})
		}
	})
	return e
}

func (e *everywhere) reached(local, remote net.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.sinks.Add(1) == 1 {
		e.first = fmt.Sprintf("%v from %v", local, remote)
	}
}

// start starts a probed there, on loopback or not.
func (e *everywhere) start(t *testing.T, onLoopback bool) *probetest.Probed {
	t.Helper()
	o := probetest.Options{In: e.Netns, Config: "listeners:\n  http:\n    allowed_hosts: [probe.example]\n"}
	if !onLoopback {
		o.Args = []string{"--grpc-listen=" + reachable + ":0", "--http-listen=" + reachable + ":0", "--insecure-no-auth", "--drain-delay=0s"}
		o.Config += "limits:\n  dials_per_second: 0\n  targets_per_minute: 0\n"
	}
	return probetest.Start(t, o)
}

// forms are the ways to lead a caller to an address: given as it is, and as an answer to a name.
var forms = []string{"literal", "a", "aaaa", "mixed"}

// host is what to dial for a vector, by the form; empty when the vector has none. A name has the address in it.
func (v deniedVector) host(form string) string {
	switch {
	case form == "literal":
		return v.text
	case form == "a" && !v.address.Is4():
		return ""
	}
	return fmt.Sprintf("%s-%x.example.", form, v.address.AsSlice())
}

// answerForms answers for the names of the forms.
func answerForms(x *nettest.DNSExchange) {
	label, _, _ := strings.Cut(x.Name, ".")
	form, text, _ := strings.Cut(label, "-")
	bytes, err := hex.DecodeString(text)
	address, ok := netip.AddrFromSlice(bytes)
	if err != nil || !ok {
		nettest.DNSRcode(dns.RcodeNameError)(x)
		return
	}
	good4, good6, hidden := netip.MustParseAddr(allowed4), netip.MustParseAddr(allowed6), netip.AddrFrom16(address.As16())
	switch {
	case form == "a":
		sendAddresses(x, address)
	case form == "aaaa":
		sendAddresses(x, hidden)
	case address.Is4():
		sendAddresses(x, address, good4, hidden, good6)
	default:
		sendAddresses(x, good4, hidden, good6)
	}
}

// sendAddresses answers with those of the addresses that are of the type asked for. An IPv4-mapped one is an IPv6 address. It
// may not be kept.
func sendAddresses(x *nettest.DNSExchange, addresses ...netip.Addr) {
	m := x.Answer()
	hdr := dns.RR_Header{Name: x.Name, Rrtype: x.Type, Class: dns.ClassINET}
	for _, a := range addresses {
		switch {
		case a.Is4() && x.Type == dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: hdr, A: a.AsSlice()})
		case a.Is6() && x.Type == dns.TypeAAAA:
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: hdr, AAAA: a.AsSlice()})
		}
	}
	x.Send(m)
}

// No caller gets probed to dial an address that is denied, however it is written, whichever name leads there, and whatever
// else that name leads to.
func TestDeniedIsNeverDialled(t *testing.T) {
	vectors := deniedVectors(t)
	e := newEverywhere(t, answerForms)
	ways := promise.Times(1, len(dialling)) // of dialling each
	for _, onLoopback := range []bool{true, false} {
		p := e.start(t, onLoopback)
		counts, dials := make(map[string]int), 0
		jobs, wait := atOnce(8)
		callers := p.Callers()
		for _, form := range forms {
			for i, v := range vectors {
				host := v.host(form)
				if host == "" || onLoopback && !v.always {
					continue
				}
				counts[form]++
				for way := range ways {
					d, caller := dialling[(i+way)%len(dialling)], callers[(i/len(dialling)+way)%2]
					dials++
					jobs <- func() {
						err := d.dial(t, caller, host, 0)
						if form == "mixed" && err != nil || form != "mixed" && !isDenied(err) {
							t.Errorf("%s (%s), %s, %v, on loopback: %v: %v", host, v.text, d.name, caller, onLoopback, err)
						}
					}
				}
			}
		}
		wait()
		own := e.ownListeners(t, p)
		e.untouched(t)
		promise.NeverDialled.Reached(t, "vectors, on loopback %v: %d literal, %d A, %d AAAA, %d mixed, %d own listeners; %d dials, 0 connects",
			onLoopback, counts["literal"], counts["a"], counts["aaaa"], counts["mixed"], own, dials+own)
	}
	e.control(t, vectors, 300)
}

// ownListeners asserts that those of p are denied too.
func (e *everywhere) ownListeners(t *testing.T, p *probetest.Probed) (dials int) {
	t.Helper()
	callers := p.Callers()
	for _, listener := range []string{p.GRPCAddress, p.HTTPAddress, p.OpsAddress} {
		own := netip.MustParseAddrPort(listener)
		vectors := []deniedVector{{text: own.Addr().String(), address: own.Addr()}, {text: "0.0.0.0", address: netip.IPv4Unspecified()}, {text: "::", address: netip.IPv6Unspecified()}}
		for _, text := range spellings(own.Addr()) {
			vectors = append(vectors, deniedVector{text: text, address: own.Addr()})
		}
		for _, hidden := range hidings(own.Addr()) {
			vectors = append(vectors, deniedVector{text: hidden.String(), address: hidden})
		}
		for i, v := range vectors {
			for _, form := range forms[:3] {
				host := v.host(form)
				if host == "" {
					continue
				}
				d, caller := dialling[i%len(dialling)], callers[i/2%2]
				dials++
				if err := d.dial(t, caller, host, int(own.Port())); !isDenied(err) {
					t.Errorf("%s (%s), port %d, %s, %v: %v", host, v.text, own.Port(), d.name, caller, err)
				}
			}
		}
	}
	return dials
}

// untouched asserts that no sink was reached.
func (e *everywhere) untouched(t *testing.T) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := e.sinks.Load(); n != 0 {
		t.Errorf("sinks were reached %d times, first %s", n, e.first)
	}
}

// control asserts that the sinks would have told: at least so many of the addresses can be connected to.
func (e *everywhere) control(t *testing.T, vectors []deniedVector, least int64) {
	t.Helper()
	want := e.sinks.Load()
	var refused []string // multicast, mostly
	for _, v := range vectors {
		to := netip.AddrPortFrom(v.address, peerPort)
		if v.address.IsLinkLocalUnicast() && v.address.Is6() {
			to = netip.AddrPortFrom(v.address.WithZone("lo"), peerPort)
		}
		e.Do(func() {
			c, err := net.DialTimeout("tcp", to.String(), time.Second)
			if err != nil {
				refused = append(refused, err.Error())
				return
			}
			want++
			_ = c.Close()
		})
	}
	for deadline := time.Now().Add(5 * time.Second); e.sinks.Load() < want && time.Now().Before(deadline); {
		<-time.After(5 * time.Millisecond)
	}
	if got := e.sinks.Load(); got != want || want < least {
		t.Errorf("sinks were reached %d times by %d connections, want %d and more; what the kernel does not let connect: %q", got, want, least, refused)
	}
}

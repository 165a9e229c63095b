package exchange

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"probed/internal/nettest"
)

func TestRouteToThisHost(t *testing.T) {
	t.Parallel()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	none := netip.Addr{}
	for _, tt := range []struct {
		to, source, iface string
		want              netip.Addr
	}{
		{"127.0.0.1", "", "", netip.MustParseAddr("127.0.0.1")},
		{"::ffff:127.0.0.1", "", "", netip.MustParseAddr("127.0.0.1")},
		{"::1", "", "", netip.IPv6Loopback()},
		{"::1%lo", "", "", netip.IPv6Loopback()},
		{"::1%1", "", "", netip.IPv6Loopback()},
		{"127.0.0.1", "", "lo", netip.MustParseAddr("127.0.0.1")},
		{"127.0.0.1", "127.0.0.9", "", netip.MustParseAddr("127.0.0.9")},
		{"127.0.0.1", "::1", "", netip.MustParseAddr("127.0.0.1")}, // of the other family: none
		{"0.0.0.0", "", "", netip.MustParseAddr("127.0.0.1")},
		{"127.0.0.1", "", "nowhere", none},
		{"127.0.0.1", "", "a name longer than any interface has", none},
		{"::1%99999", "", "", none},
	} {
		source, _ := netip.ParseAddr(tt.source)
		route := new(router).to(netip.AddrPortFrom(netip.MustParseAddr(tt.to), 80), source, tt.iface, make([]byte, minChunk))
		switch want := (Route{Source: tt.want, Interface: "lo", MTU: lo.MTU}); {
		case !tt.want.IsValid():
			if route != nil {
				t.Errorf("%+v: %+v, want none", tt, *route)
			}
		case route == nil || *route != want:
			t.Errorf("%+v: %+v, want %+v", tt, route, want)
		}
	}
	if route := new(router).to(netip.AddrPort{}, none, "", make([]byte, minChunk)); route != nil {
		t.Errorf("no address: %+v", *route)
	}
}

func TestRouteLeavesNothing(t *testing.T) {
	nettest.CheckFDs(t)
	var r router
	ask := func() {
		r.to(netip.MustParseAddrPort("127.0.0.1:80"), netip.Addr{}, "", make([]byte, minChunk))
		r.to(netip.MustParseAddrPort("127.0.0.1:80"), netip.Addr{}, "nowhere", make([]byte, minChunk))
		r.to(netip.MustParseAddrPort("[2001:db8::1]:80"), netip.Addr{}, "", make([]byte, minChunk))
	}
	ask()
	for range 3 {
		r.begin()
		var all sync.WaitGroup
		for range 20 {
			all.Go(ask)
		}
		all.Wait()
		r.end()
	}
}

// What is kept for the next question answers it, and not one of before.
func TestRouteIsOfTheQuestion(t *testing.T) {
	t.Parallel()
	var r router
	r.begin()
	defer r.end()
	here, none := netip.MustParseAddr("127.0.0.1"), netip.Addr{}
	for _, tt := range []struct{ to, iface string }{
		{"127.0.0.1", ""}, {"192.0.2.1", "nowhere"}, {"127.0.0.2", ""}, {"[::]", ""}, {"127.0.0.1", "lo"}, {"::ffff:127.0.0.1", ""},
	} {
		to, _ := netip.ParseAddr(tt.to) // [::] is none
		route := r.to(netip.AddrPortFrom(to, 80), none, tt.iface, make([]byte, minChunk))
		if to.Unmap().IsLoopback() != (route != nil) {
			t.Errorf("%+v: %+v", tt, route)
		} else if route != nil && (route.Source != here || route.Interface != "lo") {
			t.Errorf("%+v: %+v", tt, *route)
		}
		if len(r.idle) != 1 {
			t.Errorf("behind %+v %d sockets are kept, want one", tt, len(r.idle))
		}
	}
}

// A route that the test machine does not have: a gateway of the other family, and an MTU of its own.
func TestParseRoute(t *testing.T) {
	t.Parallel()
	route, index := parseRoute(viaReply())
	want := Route{Source: netip.MustParseAddr("192.0.2.1"), Gateway: netip.MustParseAddr("fe80::1"), MTU: 1280}
	if route == nil || *route != want || index != 7 {
		t.Errorf("%+v by %d, want %+v by 7", route, index, want)
	}
	for _, kind := range []byte{unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW} {
		reply := viaReply()
		reply[unix.SizeofNlMsghdr+7] = kind
		if route, _ := parseRoute(reply); route != nil {
			t.Errorf("type %d: %+v, want none", kind, *route)
		}
	}
	for end := range viaReply() {
		parseRoute(viaReply()[:end]) // does not panic
	}
}

func viaReply() []byte {
	word := func(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
	reply := routeRequest(netip.MustParseAddr("198.51.100.1"), netip.Addr{}, 7)
	binary.NativeEndian.PutUint16(reply[4:], unix.RTM_NEWROUTE)
	reply[unix.SizeofNlMsghdr+7] = unix.RTN_UNICAST
	reply = appendAttribute(reply, unix.RTA_PREFSRC, []byte{192, 0, 2, 1})
	via := append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET6), netip.MustParseAddr("fe80::1").AsSlice()...)
	reply = append(appendAttribute(reply, unix.RTA_VIA, via), 0, 0) // to a whole word
	metrics := appendAttribute(nil, unix.RTAX_LOCK, word(1))
	metrics = appendAttribute(metrics, unix.RTAX_MTU, word(1280))
	reply = appendAttribute(reply, unix.RTA_METRICS, metrics)
	binary.NativeEndian.PutUint32(reply, uint32(len(reply)))
	return reply
}

func FuzzParseRoute(f *testing.F) {
	f.Add(viaReply())
	f.Add(viaReply()[:40])
	ragged := append(viaReply(), 5, 0, unix.RTA_OIF, 0, 7) // ends within a word
	binary.NativeEndian.PutUint32(ragged, uint32(len(ragged)))
	f.Add(ragged)
	f.Fuzz(func(t *testing.T, reply []byte) {
		if route, index := parseRoute(reply); route == nil && index != 0 {
			t.Errorf("interface %d without a route", index)
		}
	})
}

package policy

import (
	"encoding/hex"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// FuzzDecide compares Decide with naive, an evaluator of the same rules that
// shares nothing with it: it works on hexadecimal digits.
func FuzzDecide(f *testing.F) {
	for _, v := range readVectors(f) {
		if v.target.Address.IsValid() {
			a := v.target.Address.Addr()
			f.Add(a.AsSlice(), a.Zone(), v.target.Address.Port(), a.AsSlice(), []byte{127, 0, 0, 1}, v.policy == "loopback")
			f.Add(a.AsSlice(), a.Zone(), v.target.Address.Port(), make([]byte, 4), a.Unmap().AsSlice(), v.policy == "loopback")
		}
	}
	f.Fuzz(func(t *testing.T, target []byte, zone string, port uint16, listener, lift []byte, loopback bool) {
		compareWithNaive(t, target, zone, port, listener, lift, loopback)
	})
}

func compareWithNaive(t *testing.T, target []byte, zone string, port uint16, listener, lift []byte, loopback bool) {
	t.Helper()
	addr, _ := netip.AddrFromSlice(target)
	addr = addr.WithZone(zone)
	listening, _ := netip.AddrFromSlice(listener)
	lifted, _ := netip.AddrFromSlice(lift)
	p := &Policy{
		Loopback:  loopback,
		Listeners: []netip.AddrPort{netip.AddrPortFrom(listening, 8080)},
		Lift:      []netip.Prefix{netip.PrefixFrom(lifted, lifted.BitLen()), netip.PrefixFrom(lifted, 8)},
	}
	got := p.Decide(Target{Network: "tcp", Address: netip.AddrPortFrom(addr, port)})
	want := naive(target, port, listener, 8080, lift, loopback)
	if got.Rule != want || got.Allowed != (want == "allow-all") {
		t.Errorf("target %v port %d, listener %v, lift %v, loopback %t: %+v, naive says %q",
			addr, port, listening, lifted, loopback, got, want)
	}
}

// Random addresses hardly ever look special, so this makes them up from the parts
// that special ones are made of.
func TestDecideAgainstNaive(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	v4s := []string{"7f000001", "00000000", "00000001", "a9fea9fe", "a9fe0101", "a83f8110", "646464c8", "e0000001",
		"ffffffff", "0a000005", "c0000207", "80fffffe", "56015601", "00000000", "f5fffffe", "7fa9fe00"}
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	v4 := func() string { return pick(v4s...) }
	v6 := func() string {
		a, b := v4(), v4()
		s := pick(
			"000000000000000000000000"+a, "00000000000000000000ffff"+a, "0000000000000000ffff0000"+a,
			"0064ff9b0000000000000000"+a, "0064ff9b0001"+a[:4]+"00"+a[4:]+"0000000000",
			"0064ff9b000100"+a[:2]+"00"+a[2:]+"00000000", "0064ff9b0001000000"+a+"000000",
			"0064ff9b0001000000000000"+a, "0064ff9b0001"+b[:4]+b+a+"0000", "0064ff9b0001"+b+"0000"+a,
			"2002"+a+"00000000000000000000", "2002"+a+"0000"+"00005efe"+b, "20010000"+a+"00000000"+b,
			"20010db8"+b+"00005efe"+a, "20010db8"+b+"02005efe"+a, "fe80000000000000"+"00005efe"+a,
			"fd000ec2000000000000000000000254", "fd2000ce000000000000000000000254", "ff020000000000000000000000000001",
			"00000000000000000000000000000001", "20010db8000000000000000000000001",
		)
		return s[:32]
	}
	address := func() []byte {
		b, err := hex.DecodeString(pick(v4(), v6(), v6()))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for range 200_000 {
		compareWithNaive(t, address(), pick("", "", "eth0"), []uint16{80, 8080}[r.IntN(2)], address(), address(), r.IntN(2) == 0)
		if t.Failed() {
			return
		}
	}
}

// naive evaluates one listener and one exact lift.
func naive(target []byte, port uint16, listener []byte, listenerPort uint16, lift []byte, loopback bool) string {
	if len(target) != 4 && len(target) != 16 {
		return "deny-unparsable"
	}
	var all []string // what the target may turn out to be, as 8 or 32 digits
	x := digits(target)
	all = append(all, x)
	if len(x) == 32 {
		all = append(all, naiveEmbedded(x)...)
	}

	for _, a := range all {
		if port != listenerPort {
			break
		}
		l := digits(listener)
		wild := l == "00000000" || l == strings.Repeat("0", 32) || len(listener) != 4 && len(listener) != 16
		if a == l || naiveClass(a) == "unspecified" || wild && (naiveClass(a) == "loopback" || naiveLocal(a)) {
			return "deny-own-listener"
		}
	}
	for _, a := range all {
		class := naiveClass(a)
		switch {
		case class == "":
		case loopback && (class == "loopback" || class == "unspecified"):
		case (len(lift) == 4 || len(lift) == 16) && digits(lift) == a:
		default:
			return "deny-" + class
		}
	}
	return "allow-all"
}

// digits gives an address as hexadecimal digits, an IPv4-mapped one as IPv4.
func digits(b []byte) string {
	return strings.TrimPrefix(hex.EncodeToString(b), "00000000000000000000ffff")
}

func naiveEmbedded(x string) []string {
	var found []string
	last := x[24:]
	zeros := strings.Repeat("0", 31)
	switch {
	case x[:31] == zeros && (x[31] == '0' || x[31] == '1'):
	case x[:24] == zeros[:24], x[:24] == "0000000000000000ffff0000", x[:24] == "0064ff9b0000000000000000":
		found = append(found, last)
	case x[:12] == "0064ff9b0001":
		rest := x[12:]
		for _, at := range []string{
			rest[0:4] + rest[6:10], // after 48 bits, around the reserved octet
			rest[2:4] + rest[6:12], // after 56
			rest[6:14],             // after 64
			rest[12:20],            // after 96
		} {
			if at[:2] != "00" {
				found = append(found, at)
			}
		}
		if found == nil {
			found = append(found, last)
		}
	case x[:4] == "2002":
		found = append(found, x[4:12])
	case x[:8] == "20010000":
		inverted := ""
		for _, d := range last {
			inverted += string("fedcba9876543210"[strings.IndexRune("0123456789abcdef", d)])
		}
		found = append(found, x[8:16], inverted)
	}
	if id := x[16:24]; id == "00005efe" || id == "02005efe" {
		found = append(found, last)
	}
	return found
}

func naiveClass(x string) string {
	has := func(prefixes ...string) bool {
		for _, p := range prefixes {
			if strings.HasPrefix(x, p) {
				return true
			}
		}
		return false
	}
	if len(x) == 8 {
		switch {
		case has("00"):
			return "unspecified"
		case has("7f"):
			return "loopback"
		case has("a9fea9fe", "a83f8110", "646464c8"):
			return "metadata"
		case has("a9fe"):
			return "link-local"
		case has("e"):
			return "multicast"
		case has("ffffffff"):
			return "broadcast"
		}
		return ""
	}
	switch {
	case x == strings.Repeat("0", 32):
		return "unspecified"
	case x == strings.Repeat("0", 31)+"1":
		return "loopback"
	case has("fd000ec2000000000000000000000254", "fd000ec2000000000000000000000023", "fd2000ce000000000000000000000254"):
		return "metadata"
	case has("fe8", "fe9", "fea", "feb"):
		return "link-local"
	case has("ff"):
		return "multicast"
	}
	return ""
}

func naiveLocal(x string) bool {
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if digits(a.(*net.IPNet).IP.To16()) == x {
			return true
		}
	}
	return false
}

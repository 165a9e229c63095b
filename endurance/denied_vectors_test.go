package endurance

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// deniedVector is an address that no caller may reach, in one way to write it.
type deniedVector struct {
	text    string
	address netip.Addr
	always  bool // by a probed on loopback, too
}

// deniedVectors are those of the table that the policy is held against, and more: of each range some addresses, in whatever way
// an IPv4 address can be written, and can be hidden in an IPv6 address.
func deniedVectors(t *testing.T) []deniedVector {
	t.Helper()
	all := deniedByTable(t)
	known := make(map[string]bool)
	for _, v := range all {
		known[v.text] = true
	}
	add := func(text string, address netip.Addr, always bool) {
		if !known[text] {
			known[text] = true
			all = append(all, deniedVector{text, address, always})
		}
	}
	for _, block := range []struct {
		prefix string
		n      int
		always bool
	}{
		{"127.0.0.0/8", 40, false},
		{"0.0.0.0/8", 40, false},
		{"169.254.0.0/16", 40, true},
		{"224.0.0.0/4", 40, true},
		{"169.254.169.254/32", 1, true},
		{"168.63.129.16/32", 1, true},
		{"100.100.100.200/32", 1, true},
		{"255.255.255.255/32", 1, true},
	} {
		prefix := netip.MustParsePrefix(block.prefix)
		first, size := prefix.Addr().As4(), uint32(1)<<(32-prefix.Bits())
		for i := range uint32(block.n) {
			a := fromUint32(binary.BigEndian.Uint32(first[:]) + size/uint32(block.n)*i + min(i, size-1))
			add(a.String(), a, block.always)
			if i > 1 {
				continue
			}
			for _, text := range spellings(a) {
				add(text, a, block.always)
			}
			for _, hidden := range hidings(a) {
				add(hidden.String(), hidden, block.always)
			}
		}
	}
	for _, text := range []string{"fe80::1", "fe80::ffff:1", "febf::1", "ff01::1", "ff02::fb", "ff05::2", "ff0e::1", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"} {
		a := netip.MustParseAddr(text).WithZone("")
		for _, text := range []string{text, a.StringExpanded(), strings.ToUpper(text), text + "%1"} {
			add(text, a, true)
		}
	}
	for _, text := range []string{"fe80::1%lo", "febf::1%lo", "ff02::1%lo", "ff01::1%lo"} {
		add(text, netip.MustParseAddr(text).WithZone(""), true)
	}
	for _, text := range []string{"::", "::1", "0:0:0:0:0:0:0:0", "0::0001", "::1%1", "::%1"} {
		add(text, netip.MustParseAddr(text).WithZone(""), false)
	}
	return all
}

// spellings are the ways in which inet_aton(3) reads a.
func spellings(a netip.Addr) []string {
	b, n := a.As4(), toUint32(a)
	return []string{
		fmt.Sprint(n), fmt.Sprintf("0x%x", n), fmt.Sprintf("0X%08X", n), fmt.Sprintf("0%o", n),
		fmt.Sprintf("%d.%d", b[0], n&0xffffff), fmt.Sprintf("%d.%d.%d", b[0], b[1], n&0xffff),
		fmt.Sprintf("0x%x.0x%x.0x%x.0x%x", b[0], b[1], b[2], b[3]), fmt.Sprintf("0%o.0%o.0%o.0%o", b[0], b[1], b[2], b[3]),
		fmt.Sprintf("0x%x.%d.0%o", b[0], b[1], n&0xffff),
	}
}

// hidings are the IPv6 addresses with a in them: mapped, compatible, translated, for NAT64 with the well-known prefix and with
// a site's own of each length, 6to4, Teredo (as the server and as the client), ISATAP.
func hidings(a netip.Addr) (all []netip.Addr) {
	b, n := a.As4(), toUint32(a)
	hex := fmt.Sprintf("%x:%x", n>>16, n&0xffff)
	texts := []string{
		"::ffff:" + hex, "::ffff:0:" + hex, "64:ff9b::" + hex, "2002:" + hex + "::1", "2001:db8::5efe:" + hex, "2001:db8::200:5efe:" + hex,
		"2001:0:" + hex + ":0:0:f5ff:fffe", fmt.Sprintf("2001:0:4136:e378:8000:63bf:%x:%x", ^n>>16, ^n&0xffff),
	}
	if n > 1 { // of the others one is :: and one is ::1
		texts = append(texts, "::"+hex)
	}
	if b[0] != 0 { // what begins with 0 is taken for empty, and the address looked for elsewhere
		site := func(text string, hextets ...int) {
			texts = append(texts, fmt.Sprintf(text, hextets[0], hextets[1], hextets[2]))
		}
		b0, b1, b2, b3 := int(b[0]), int(b[1]), int(b[2]), int(b[3])
		site("64:ff9b:1:%x:%x:%x::", b0<<8|b1, b2, b3<<8) // RFC 6052, section 2.2: /48
		site("64:ff9b:1:%x:%x:%x::", b0, b1, b2<<8|b3)    // /56
		site("64:ff9b:1:0:%x:%x:%x:0", b0, b1<<8|b2, b3<<8)
		texts = append(texts, "64:ff9b:1:1:2:3:"+hex)
	}
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

func toUint32(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func fromUint32(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

// deniedByTable are those of the addresses in the table that a reachable probed denies.
func deniedByTable(t *testing.T) (all []deniedVector) {
	t.Helper()
	file, err := os.Open("../service/policy/testdata/decisions.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	known, section := make(map[string]bool), ""
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) > 0 && strings.HasPrefix(words[0], "[") {
			section = lines.Text()
		}
		if section != "[reachable loopback]" || len(words) != 4 || !strings.HasPrefix(words[2], "deny-") {
			continue
		}
		target, err := netip.ParseAddrPort(words[1])
		if err != nil || words[2] == "deny-unparsable" {
			continue // a unix socket, or nothing at all
		}
		address := target.Addr()
		if address.Zone() != "" {
			address = address.WithZone("1") // an interface that is there
		}
		if text := address.String(); !known[text] {
			known[text] = true
			all = append(all, deniedVector{text, address.WithZone(""), words[3] == words[2]})
		}
	}
	if err := lines.Err(); err != nil || len(all) < 50 {
		t.Fatalf("%d denied addresses in the table, %v", len(all), err)
	}
	return all
}

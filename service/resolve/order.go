package resolve

import (
	"math/bits"
	"net/netip"
)

// candidate is a destination address with what RFC 6724 wants to know of it.
type candidate struct {
	addr      netip.Addr // without zone; IPv4-mapped stays IPv6
	scopeID   uint32
	reachable bool       // the kernel has a route and a source address
	source    netip.Addr // valid when reachable
	flags     uint8      // of the source address
	prefixLen int        // of the network of the source address
	index     uint32     // interface of the source address

	scope, sourceScope int
	label, sourceLabel int
	precedence         int
}

const (
	flagDeprecated  = 1
	flagHomeAddress = 2

	noIndex = 0xffffffff

	scopeHost    = 254 // RT_SCOPE_HOST
	scopeNowhere = 255 // RT_SCOPE_NOWHERE
)

// localAddress is an address of this machine.
type localAddress struct {
	addr      netip.Addr
	flags     uint8
	prefixLen int
	index     uint32
	scope     uint8 // RT_SCOPE_*
}

// orderer compares destinations as glibc does, which is RFC 3484 with the
// later changes of RFC 6724 left to gai.conf.
type orderer struct {
	tables *gaiTables
	links  func() map[uint32]bool // interface index to "is a tunnel", read when first needed
	known  map[uint32]bool
}

// probe fills in what the kernel knows about reaching each candidate. local is
// empty when nothing is known of the machine's own addresses.
//
// The source address comes from connecting a datagram socket, which asks the
// routing table and sends nothing. Like the C library it keeps one socket for
// as long as its family fits.
func probe(candidates []candidate, local []localAddress) {
	byAddr := make(map[netip.Addr]*localAddress, len(local))
	for i := range local {
		a := local[i].addr
		if a.Is4() {
			a = netip.AddrFrom16(a.As16())
		}
		if _, have := byAddr[a]; !have {
			byAddr[a] = &local[i]
		}
	}
	var s sourceSocket
	defer s.close()
	for i := range candidates {
		c := &candidates[i]
		c.index = noIndex
		if i > 0 && c.addr == candidates[i-1].addr && c.scopeID == candidates[i-1].scopeID {
			p := &candidates[i-1]
			c.reachable, c.source, c.flags, c.prefixLen, c.index = p.reachable, p.source, p.flags, p.prefixLen, p.index
			continue
		}
		source, ok := s.sourceFor(c.addr, c.scopeID)
		if !ok {
			continue
		}
		c.reachable = true
		key := source
		if c.addr.Is4() {
			c.source = source.Unmap()
			if s.family == AF_INET && source.IsLoopback() {
				// Any address of 127.0.0.0/8 stands for the loopback one.
				key = netip.AddrFrom4([4]byte{127, 0, 0, 1})
			}
		} else {
			c.source = source
		}
		if l := byAddr[netip.AddrFrom16(key.As16())]; l != nil {
			c.flags, c.prefixLen, c.index = l.flags, l.prefixLen, l.index
		}
	}
}

// rank fills in scopes, labels and precedence.
func (o *orderer) rank(candidates []candidate) {
	for i := range candidates {
		c := &candidates[i]
		c.scope = o.tables.scope(c.addr)
		c.label = match(o.tables.labels, c.addr)
		c.precedence = match(o.tables.precedence, c.addr)
		if c.reachable {
			c.sourceScope = o.tables.scope(c.source)
			c.sourceLabel = match(o.tables.labels, c.source)
		} else {
			c.sourceScope, c.sourceLabel = 15, -1
		}
	}
}

// compare is negative when a comes before b, by the rules of RFC 6724 section
// 6 as glibc has them; zero leaves the order as it is.
func (o *orderer) compare(a, b *candidate) int {
	// Rule 1: avoid unusable destinations.
	if a.reachable != b.reachable {
		return first(a.reachable)
	}
	if a.reachable {
		// Rule 2: prefer matching scope.
		if am, bm := a.scope == a.sourceScope, b.scope == b.sourceScope; am != bm {
			return first(am)
		}
		// Rule 3: avoid deprecated addresses.
		if ad, bd := a.flags&flagDeprecated != 0, b.flags&flagDeprecated != 0; ad != bd {
			return first(bd)
		}
		// Rule 4: prefer home addresses.
		if ah, bh := a.flags&flagHomeAddress != 0, b.flags&flagHomeAddress != 0; ah != bh {
			return first(ah)
		}
		// Rule 5: prefer matching label.
		if am, bm := a.label == a.sourceLabel, b.label == b.sourceLabel; am != bm {
			return first(am)
		}
	}
	// Rule 6: prefer higher precedence.
	if a.precedence != b.precedence {
		return first(a.precedence > b.precedence)
	}
	// Rule 7: prefer native transport.
	if a.reachable && a.index != b.index {
		if at, bt := o.tunnel(a.index), o.tunnel(b.index); at != bt {
			return first(bt)
		}
	}
	// Rule 8: prefer smaller scope.
	if a.scope != b.scope {
		return a.scope - b.scope
	}
	// Rule 9: use longest matching prefix.
	if a.reachable && a.addr.Is4() == b.addr.Is4() {
		am, bm := commonBits(a, b)
		return bm - am
	}
	return 0
}

func first(yes bool) int {
	if yes {
		return -1
	}
	return 1
}

// tunnel tells whether an interface is one; an unknown one counts as such.
func (o *orderer) tunnel(index uint32) bool {
	if o.known == nil {
		o.known = o.links()
	}
	tunnel, known := o.known[index]
	return tunnel || !known
}

// commonBits is how long each destination agrees with its source. For IPv4 it
// counts within the source's own network only.
func commonBits(a, b *candidate) (int, int) {
	if a.addr.Is4() {
		within := func(c *candidate) int {
			dst, src := uint32From(c.addr), uint32From(c.source)
			// A shift by 32 is a shift by 0 to the processor glibc runs on:
			// without a known network only the very same address counts.
			mask := uint32(0xffffffff) << ((32 - c.prefixLen) & 31)
			if dst&mask != src&mask {
				return 0
			}
			return bits.LeadingZeros32(dst ^ src)
		}
		return within(a), within(b)
	}
	// Both are measured in the first word in which either of them differs.
	ad, as, bd, bs := a.addr.As16(), a.source.As16(), b.addr.As16(), b.source.As16()
	for i := 0; i < 16; i += 4 {
		av := word(ad, i) ^ word(as, i)
		bv := word(bd, i) ^ word(bs, i)
		if av != 0 || bv != 0 {
			return bits.LeadingZeros32(av), bits.LeadingZeros32(bv)
		}
	}
	return 0, 0
}

func word(b [16]byte, i int) uint32 {
	return uint32(b[i])<<24 | uint32(b[i+1])<<16 | uint32(b[i+2])<<8 | uint32(b[i+3])
}

func uint32From(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// sort returns the order of the candidates, as positions. It is the merge sort
// of the C library and not the one of package sort, because rule 9 is not
// transitive and the outcome then depends on which pairs get compared.
func (o *orderer) sort(candidates []candidate) []int {
	order := make([]int, len(candidates))
	for i := range order {
		order[i] = i
	}
	scratch := make([]int, len(order))
	var merge func(b []int)
	merge = func(b []int) {
		if len(b) <= 1 {
			return
		}
		half := len(b) / 2
		merge(b[:half])
		merge(b[half:])
		left, right, out := b[:half], b[half:], scratch[:0]
		for len(left) > 0 && len(right) > 0 {
			c := o.compare(&candidates[left[0]], &candidates[right[0]])
			if c == 0 {
				c = left[0] - right[0]
			}
			if c <= 0 {
				out, left = append(out, left[0]), left[1:]
			} else {
				out, right = append(out, right[0]), right[1:]
			}
		}
		out = append(out, left...)
		copy(b, out)
	}
	merge(order)
	return order
}

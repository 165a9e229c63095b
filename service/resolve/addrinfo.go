package resolve

import "net/netip"

// Hints narrow down what GetAddrInfo returns. The zero value asks for
// everything, like a zeroed struct addrinfo does. (A NULL hints pointer in C
// means AI_V4MAPPED|AI_ADDRCONFIG; ask for these explicitly.)
type Hints struct {
	Flags      AIFlags
	Family     Family     // AF_UNSPEC, AF_INET or AF_INET6
	SocketType SocketType // zero: all
	Protocol   Protocol   // zero: all
}

// SocketAddress is what a struct sockaddr_in or sockaddr_in6 holds.
type SocketAddress struct {
	IP       netip.Addr // without zone; a mapped IPv4 address stays ::ffff:a.b.c.d
	Port     uint16     // host byte order
	FlowInfo uint32     // IPv6 only; getaddrinfo always leaves it zero
	ScopeID  uint32     // IPv6 only: the interface index of a zone; zero without one
}

// AddrInfo is one entry of getaddrinfo's list.
type AddrInfo struct {
	Flags         AIFlags // those of the hints
	Family        Family
	SocketType    SocketType
	Protocol      Protocol
	CanonicalName string // on the first entry alone, and only with AI_CANONNAME
	Address       SocketAddress
}

// NameInfo is what getnameinfo fills in.
type NameInfo struct {
	Host    string
	Service string
}

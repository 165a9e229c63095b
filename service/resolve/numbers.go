package resolve

import "strconv"

// Family is an address family, by the numbers of Linux.
type Family int

// The address families this package knows, with the numbers of socket(2).
const (
	AF_UNSPEC Family = 0
	AF_UNIX   Family = 1
	AF_INET   Family = 2
	AF_INET6  Family = 10
)

// String is the C name, or the number for a family without one here.
func (f Family) String() string {
	switch f {
	case AF_UNSPEC:
		return "AF_UNSPEC"
	case AF_UNIX:
		return "AF_UNIX"
	case AF_INET:
		return "AF_INET"
	case AF_INET6:
		return "AF_INET6"
	}
	return strconv.Itoa(int(f))
}

// SocketType is a socket type, by the numbers of Linux. Zero in hints means
// any type.
type SocketType int

// The socket types, with the numbers of socket(2).
const (
	SOCK_STREAM    SocketType = 1
	SOCK_DGRAM     SocketType = 2
	SOCK_RAW       SocketType = 3
	SOCK_RDM       SocketType = 4
	SOCK_SEQPACKET SocketType = 5
	SOCK_DCCP      SocketType = 6
)

// Protocol is an IP protocol number as IANA assigns them. Zero in hints means
// any protocol.
type Protocol int

// The protocols getaddrinfo hands out, and those of ICMP, which it does not.
const (
	IPPROTO_ICMP    Protocol = 1
	IPPROTO_TCP     Protocol = 6
	IPPROTO_UDP     Protocol = 17
	IPPROTO_DCCP    Protocol = 33
	IPPROTO_ICMPV6  Protocol = 58
	IPPROTO_SCTP    Protocol = 132
	IPPROTO_UDPLITE Protocol = 136
)

// AIFlags are the flags of getaddrinfo(3), with glibc's values.
type AIFlags int

// The flags of getaddrinfo(3).
const (
	AI_PASSIVE     AIFlags = 0x0001
	AI_CANONNAME   AIFlags = 0x0002
	AI_NUMERICHOST AIFlags = 0x0004
	AI_V4MAPPED    AIFlags = 0x0008
	AI_ALL         AIFlags = 0x0010
	AI_ADDRCONFIG  AIFlags = 0x0020
	AI_IDN         AIFlags = 0x0040 // GNU extension: encode the host by IDNA first
	AI_CANONIDN    AIFlags = 0x0080 // GNU extension: decode the canonical name
	AI_NUMERICSERV AIFlags = 0x0400
)

// NIFlags are the flags of getnameinfo(3), with glibc's values.
type NIFlags int

// The flags of getnameinfo(3).
const (
	NI_NUMERICHOST NIFlags = 1
	NI_NUMERICSERV NIFlags = 2
	NI_NOFQDN      NIFlags = 4
	NI_NAMEREQD    NIFlags = 8
	NI_DGRAM       NIFlags = 16
	NI_IDN         NIFlags = 32
)

// EAI is a failure of getaddrinfo(3) or getnameinfo(3), with glibc's values.
// Zero is success.
type EAI int

// The failures of getaddrinfo(3) and getnameinfo(3).
const (
	EAI_BADFLAGS   EAI = -1
	EAI_NONAME     EAI = -2
	EAI_AGAIN      EAI = -3
	EAI_FAIL       EAI = -4
	EAI_NODATA     EAI = -5
	EAI_FAMILY     EAI = -6
	EAI_SOCKTYPE   EAI = -7
	EAI_SERVICE    EAI = -8
	EAI_ADDRFAMILY EAI = -9
	EAI_MEMORY     EAI = -10
	EAI_SYSTEM     EAI = -11
	EAI_OVERFLOW   EAI = -12
	EAI_IDN_ENCODE EAI = -105
)

// String is the C name, as in EAI_NONAME.
func (e EAI) String() string {
	switch e {
	case 0:
		return "0"
	case EAI_BADFLAGS:
		return "EAI_BADFLAGS"
	case EAI_NONAME:
		return "EAI_NONAME"
	case EAI_AGAIN:
		return "EAI_AGAIN"
	case EAI_FAIL:
		return "EAI_FAIL"
	case EAI_NODATA:
		return "EAI_NODATA"
	case EAI_FAMILY:
		return "EAI_FAMILY"
	case EAI_SOCKTYPE:
		return "EAI_SOCKTYPE"
	case EAI_SERVICE:
		return "EAI_SERVICE"
	case EAI_ADDRFAMILY:
		return "EAI_ADDRFAMILY"
	case EAI_MEMORY:
		return "EAI_MEMORY"
	case EAI_SYSTEM:
		return "EAI_SYSTEM"
	case EAI_OVERFLOW:
		return "EAI_OVERFLOW"
	case EAI_IDN_ENCODE:
		return "EAI_IDN_ENCODE"
	}
	return "EAI(" + strconv.Itoa(int(e)) + ")"
}

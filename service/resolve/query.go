package resolve

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"time"
)

// Query is one DNS question. Name alone has to be set.
type Query struct {
	Name  string // taken as fully qualified: no search list; by presentation rules (RFC 4343), non-ASCII by IDNA
	Type  uint16 // record type; zero: A
	Class uint16 // zero: IN

	// Server is the server to ask: an address, "address:port", "[v6]:port",
	// a host name or "name:port". Empty: the configured name servers, each in
	// turn until one answers. The port is 53, or 853 for TLS, when not given.
	Server string
	// Transport is "udp" (or empty), "tcp" or "tls" (RFC 7858). A truncated
	// answer over UDP is asked for again over TCP, unless IgnoreTruncation.
	Transport string

	NoRecursion      bool   // clear RD
	AuthenticData    bool   // set AD: tell whether the data was validated (RFC 6840)
	CheckingDisabled bool   // set CD
	DNSSEC           bool   // set DO: include signatures (RFC 4035)
	NoEDNS           bool   // send no OPT record; DNSSEC and UDPSize then have no effect
	UDPSize          uint16 // EDNS buffer size; zero: 1232; bounded to 512..4096
	IgnoreTruncation bool   // return a truncated answer as it is

	// Timeout is for the whole query, all servers and TCP included.
	// Zero: Config.Timeout, or 5 s when that is negative. It may be longer than
	// either.
	Timeout time.Duration

	// Dial opens the connection to a Server that a caller chose; it is the
	// place for that caller's policy, and what it denies with a
	// *dial.DeniedError fails with Denied, with a *dial.LimitError with Limited. network is "udp" or "tcp" (also for
	// TLS). Nil: Config.DialServer. Not used without Server.
	Dial func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error)
	// TLS is the configuration for Transport "tls". Nil: the machine's roots,
	// and the name or address of Server as the name to verify.
	TLS *tls.Config
}

// Flags are the bits of a DNS message header (RFC 1035, RFC 4035).
type Flags struct {
	Response           bool // QR
	Authoritative      bool // AA
	Truncated          bool // TC
	RecursionDesired   bool // RD
	RecursionAvailable bool // RA
	AuthenticData      bool // AD
	CheckingDisabled   bool // CD
}

// Record is one resource record.
type Record struct {
	Name     string // owner, with a trailing dot, in presentation format
	Type     uint16
	TypeName string // as "AAAA"; "TYPE65280" for one without a name (RFC 3597)
	Class    uint16 // 1: IN
	TTL      uint32 // seconds
	// Data is the RDATA in presentation format, as in a zone file: control
	// and non-ASCII bytes are escaped (\DDD), unknown types are \# LENGTH HEX.
	Data string
}

// Response is a DNS message that answers a Query, and how it came.
type Response struct {
	Rcode      int
	RcodeName  string // as "NXDOMAIN"; the number in decimal for one without a name
	Opcode     int
	ID         uint16
	Flags      Flags
	Question   string // name asked, with a trailing dot
	Answers    []Record
	Authority  []Record
	Additional []Record // without the OPT pseudo record
	EDNS       *EDNS    // nil: the answer had no OPT record
	Server     string   // address and port that answered
	Transport  string   // "udp", "tcp" or "tls": the one that brought this answer
	Size       int      // bytes of the message
	Duration   time.Duration
	Trace      []Step // every attempt, this answer's last
	TLS        *tls.ConnectionState
}

// EDNS is the OPT pseudo record of an answer (RFC 6891).
type EDNS struct {
	Version        uint8
	UDPSize        uint16
	DNSSECOK       bool
	ExtendedErrors []string // RFC 8914, as "18 Prohibited: text"
}

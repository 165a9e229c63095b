package exchange

import (
	"net/netip"
	"time"

	"probed/service/dial"
	"probed/service/resolve"
)

// Phase is how far an exchange got.
type Phase int

// The phases, in order.
const (
	PhaseNone Phase = iota
	PhaseResolve
	PhasePolicy
	PhaseConnect
	PhaseTLS
	PhaseSend
	PhaseReceive
	PhaseClose
)

// Layer is the layer of the Internet protocol suite (RFC 1122) in which a failure happened.
type Layer int

// The layers. LayerNone: no failure, or one of no layer.
const (
	LayerNone Layer = iota
	LayerLink
	LayerInternet
	LayerTransport
	LayerApplication
)

// EndedBy is the rule that ended an exchange.
type EndedBy int

// The rules. EndedByNone: it failed.
const (
	EndedByNone EndedBy = iota
	EndedByPeerClosed
	EndedByLength
	EndedByDelimiter
	EndedByIdle
	EndedByCount
	EndedByMaxBytes
	EndedByDeadline
	EndedByLastStep
)

// NoStep is the FailedStep of an exchange in which no step failed.
const NoStep = -1

// Match is what an [Expect] with a regular expression has matched.
type Match struct {
	Step   int
	Groups [][]byte // all of it, and then each group; cut where the outcome has no more room
}

// Outcome tells how an exchange ended.
type Outcome struct {
	OK      bool
	Phase   Phase // it ended in
	Layer   Layer
	Reason  Reason // None when OK
	Errno   int    // of the system call that failed; 0: none did
	Error   string // for a person; empty when OK
	Hint    string // what such a failure usually means; empty when OK
	EndedBy EndedBy

	BytesSent         uint64  // handed to the kernel
	BytesReceived     uint64  // handed on as chunks
	BytesAcknowledged *uint64 // by the peer's kernel; nil where the transport does not tell
	BytesUnread       uint64  // read from the peer, and taken by no step
	Chunks            uint64

	Local, Remote string // empty when there was no connection
	Socket        Socket
	Attempts      []Attempt // in the order they were begun
	Timings       Timings
	TCPInfo       *TCPInfo       // nil for other transports
	TLS           *TLSInfo       // nil without a handshake
	SocketOptions *SocketOptions // nil without a connection
	Matches       []Match        // of expressions, in the order of the steps
	Route         *Route         // to the peer, or to the address that the failure is about; nil when unknown
	ICMP          *ICMPError     // that made it fail; nil when none did
	FailedStep    int            // NoStep when none did
	StepReceived  []byte         // of a step that failed, the last of what came while it waited, at most lastOfStep bytes
	Resolution    *resolve.Error // of a failure in RESOLVE, the lookup with its steps; else nil

	// Denied says that the policy admitted no address; the reason is PolicyDenied then, and it is not told by an event.
	// When another address was admitted, the denial is in its attempt alone, and, if that is all that failed, the reason.
	Denied bool

	// Limit is set when the policy admitted no address because of a limit, and may later; the reason is LimitReached then,
	// in the phase PhasePolicy, and like a denial it is not told by an event. When another address was admitted, the limit
	// is in its attempt's error alone.
	Limit *dial.LimitError
}

// Timings tells where the time went; zero: not reached, or no time at all.
type Timings struct {
	Resolve   time.Duration
	Connect   time.Duration // from the first attempt to the open connection or the last failure; no DNS in it
	TLS       time.Duration // the handshake
	FirstByte time.Duration // from the open connection; with the scheme tls, from the end of the handshake
	Total     time.Duration
}

// TCPInfo is what the kernel knew of a TCP connection when it ended (TCP_INFO, tcp(7)).
type TCPInfo struct {
	RTT, RTTVar      time.Duration
	Retransmits      uint32 // in the whole life of the connection
	MSS              uint32 // bytes
	PMTU             uint32 // bytes
	CongestionWindow uint32 // segments
	Unacknowledged   uint32 // segments
	Lost             uint32 // segments
}

// SocketOptions are those options of a socket that change how a connection behaves (getsockopt(2)).
type SocketOptions struct {
	ReceiveBuffer, SendBuffer int    // bytes, as the kernel counts them
	TTL                       int    // or hop limit; 0 for unix sockets
	NoDelay                   bool   // TCP_NODELAY
	KeepAlive                 bool   // SO_KEEPALIVE
	CongestionControl         string // empty for other transports than TCP
}

// Route is the way packets to an address take out of this host.
type Route struct {
	Source    netip.Addr // they come from
	Interface string     // they leave by
	Gateway   netip.Addr // the next hop; invalid when the address is on the same link, or this host's own
	MTU       int        // bytes
}

// ICMPError is the message with which a host on the way answered (icmp(7)).
type ICMPError struct {
	From       netip.Addr // who sent it
	Type, Code uint8      // RFC 792; RFC 4443 for IPv6
	Meaning    string     // both in words

	sender sender // who that is, seen from here
}

func (o *Outcome) fail(f *failure, target Target) {
	o.OK = false
	o.Phase, o.Reason, o.Errno, o.Error = f.phase, f.reason, f.errno, f.text
	if o.Layer = f.layer; o.Layer == LayerNone {
		o.Layer = f.reason.layer()
	}
	o.ICMP = f.icmp
	if target.IsUnix() && o.Layer == LayerInternet { // there is no network below a unix socket
		o.Layer = LayerTransport
	}
	if target.IsICMP() && o.Phase >= PhaseConnect && o.Layer > LayerInternet { // there is nothing above ICMP
		o.Layer = LayerInternet
	}
	o.Hint = hint(f, target)
	o.Resolution = f.lookup
	o.EndedBy = EndedByNone
	if f.deadline {
		o.EndedBy = EndedByDeadline
	}
}

package exchange

import (
	"net/netip"
	"time"

	"probed/service/dial"
	"probed/service/resolve"
)

// Event is something that happened: [Resolved], [Attempt], [Connected], [TLSInfo], [Sent], [Chunk], [PeerClosed], and last
// of all *[Outcome].
type Event interface{ event() }

// Resolved is the event that the target's host has been turned into addresses.
type Resolved struct {
	Host          string
	CanonicalName string        // empty when there is none
	Addresses     []netip.Addr  // in the order in which they will be tried
	Source        string        // as [resolve.HostResult] has it
	Duration      time.Duration // zero for an address
}

// Attempt is one address that was tried.
type Attempt struct {
	Address  string // with port, or the path of a unix socket
	OK       bool
	Phase    Phase  // it ended in
	Reason   Reason // None when OK
	Errno    int    // of the system call that failed; 0: none did
	Error    string // for a person; empty when OK
	ICMP     *ICMPError
	TLS      *TLSInfo // when every address is checked, and by TLS; else nil
	Local    string   // empty when it was not connected
	Start    time.Duration
	Duration time.Duration // to connect, or to fail to

	TLSDuration time.Duration // of the handshake, if there was one

	// What an outcome that speaks of this attempt needs.
	address netip.AddrPort // invalid for a unix socket
	layer   Layer
	hint    string
	limit   *dial.LimitError
}

// Socket is what socket(2) was called with.
type Socket struct {
	Family   resolve.Family
	Type     resolve.SocketType
	Protocol resolve.Protocol
}

// Connected is the event that a connection is open.
type Connected struct {
	Local, Remote string
	Socket        Socket
}

// Sent is the event that the bytes of a send have been handed to the kernel.
type Sent struct {
	Step    int
	Bytes   int
	Elapsed time.Duration
}

// Chunk is what one read returned, or, of a stream, what several did while a send was stuck.
type Chunk struct {
	Data     []byte        // valid until the call that hands it over returns, and while Buffer is held
	Buffer   *Buffer       // that Data lies in; nil: Data stays as it is
	Offset   uint64        // bytes that came before
	Elapsed  time.Duration // when it was read, which may be before the event that came before this one
	Datagram *Datagram     // nil on streams
}

// Datagram is what is told of a message: a datagram, or a record of a unixpacket socket.
type Datagram struct {
	Peer      string // empty when the sender has no address
	Truncated bool
	Length    int // as it was sent
}

// PeerClosed is the event that the peer closed its side.
type PeerClosed struct {
	Elapsed time.Duration
	Unclean bool // under TLS: without saying so, see RFC 8446, section 6.1
}

func (Resolved) event()   {}
func (Attempt) event()    {}
func (Connected) event()  {}
func (TLSInfo) event()    {}
func (Sent) event()       {}
func (Chunk) event()      {}
func (PeerClosed) event() {}
func (*Outcome) event()   {}

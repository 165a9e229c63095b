package exchange

import (
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tcpInfo is what the kernel knows of the connection; nil for other transports.
func (c *conn) tcpInfo() *TCPInfo {
	if !strings.HasPrefix(c.target.network(), "tcp") {
		return nil
	}
	var info *unix.TCPInfo
	var err error
	controlErr := c.raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if controlErr != nil || err != nil {
		return nil
	}
	return &TCPInfo{
		RTT:              time.Duration(info.Rtt) * time.Microsecond,
		RTTVar:           time.Duration(info.Rttvar) * time.Microsecond,
		Retransmits:      info.Total_retrans,
		MSS:              info.Snd_mss,
		PMTU:             info.Pmtu,
		CongestionWindow: info.Snd_cwnd,
		Unacknowledged:   info.Unacked,
		Lost:             info.Lost,
	}
}

// unacknowledged is how many of the bytes sent the peer's kernel has not acknowledged; false: the transport does not
// tell.
func (c *conn) unacknowledged() (uint64, bool) {
	if !strings.HasPrefix(c.target.network(), "tcp") {
		return 0, false
	}
	var queued int
	var err error
	controlErr := c.raw.Control(func(fd uintptr) { queued, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	if controlErr != nil || err != nil {
		return 0, false
	}
	// Under TLS these are the bytes of records, which are more than those in them.
	// A FIN takes a sequence number too, and the queue counts it (tcp(7), SIOCOUTQ).
	if c.halfClosed.Load() && queued > 0 {
		queued--
	}
	return uint64(queued), true
}

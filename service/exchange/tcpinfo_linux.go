package exchange

import (
	"time"

	"golang.org/x/sys/unix"

	"probed/service/resolve"
)

// ask reads what only the open socket tells; of a closed one nothing is known.
func (c *conn) ask() facts {
	var now facts
	_ = c.raw.Control(func(fd uintptr) {
		now.options = readSocketOptions(int(fd), c.socket)
		if c.socket.Protocol != resolve.IPPROTO_TCP {
			return
		}
		now.tcpInfo = readTCPInfo(int(fd))
		now.unacknowledged, now.acknowledges = c.readUnacknowledged(int(fd))
	})
	return now
}

// readTCPInfo is what the kernel knows of the connection.
func readTCPInfo(fd int) *TCPInfo {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
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
func (c *conn) unacknowledged() (n uint64, told bool) {
	if c.socket.Protocol != resolve.IPPROTO_TCP {
		return 0, false
	}
	_ = c.raw.Control(func(fd uintptr) { n, told = c.readUnacknowledged(int(fd)) })
	return n, told
}

func (c *conn) readUnacknowledged(fd int) (uint64, bool) {
	queued, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return 0, false
	}
	// Under TLS these are the bytes of records, which are more than those in them.
	// A FIN takes a sequence number too, and the queue counts it (tcp(7), SIOCOUTQ).
	if c.halfClosed.Load() && queued > 0 {
		queued--
	}
	return uint64(queued), true
}

package exchange

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"math"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"probed/service/dial"
	"probed/service/resolve"
)

const (
	// echoInterval is how long a reply may take until another request is sent, as ping(8) does it: a packet may be lost.
	echoInterval = time.Second
	// echoHeader is the length of the header of an echo request, and of the reply (RFC 792; RFC 4443, section 4).
	echoHeader = 8
	// mostStrays bounds how many packets that are no replies to us are passed over where nobody looks at the time.
	mostStrays = 100
)

// isPing tells whether to be connected means to have had an echo reply: a datagram socket opens without asking anybody.
// An exchange with steps, and a conversation, send nothing but what they are asked to.
func (s *session) isPing() bool {
	return s.request.Target.IsICMP() && len(s.request.Steps) == 0 && !s.sends
}

// ping sends echo requests until one is answered, as a TCP connect repeats its SYN. So a loss shows as time, and not as a
// host that is not there. An ICMP error ends it.
func (s *session) ping(ctx context.Context, netConn net.Conn) error {
	c := newConn(netConn, s.request.Target, &s.buffers)
	defer wokenBy(ctx, netConn, nil)()
	// Words for who looks at the packet, and a secret: only who has seen the request can answer.
	payload := []byte("probed " + rand.Text())
	for {
		_, err := c.Write(payload)
		setReadDeadline(ctx, netConn, time.Now().Add(echoInterval))
		for err == nil {
			var reply piece
			if reply, err = c.read(0, 0); err == nil {
				answered := bytes.Equal(reply.data, payload)
				reply.done()
				if answered {
					return nil
				}
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return &net.OpError{Op: "ping", Net: s.request.Target.Scheme, Addr: netConn.RemoteAddr(), Err: dial.WithICMP(c.raw, err)}
		}
	}
}

// writeEcho sends data as the payload of the next echo request, and returns how much of the payload was sent, which is
// all or nothing.
func (c *conn) writeEcho(write func([]byte) (int, error), data []byte) (int, error) {
	request := echoRequest(c.socket.Family, uint16(c.requests.Add(1)), data)
	for {
		n, err := write(request)
		advice, err := c.explained(err)
		if !advice {
			return max(n-echoHeader, 0), err
		}
	}
}

// readEcho is readBy for the payloads of echo replies: those of the peer to a request of this connection, whatever is in
// them, and each as often as it comes. It passes over so many packets that are no such replies.
func (c *conn) readEcho(run func(try func(fd uintptr) bool) error, strays, size, most int) (piece, error) {
	room := cmp.Or(size, messageChunk)
	if most > 0 {
		room = min(room, most)
	}
	for range strays {
		var p piece
		var err error
		var ours bool
		runErr := run(func(fd uintptr) bool {
			var n int
			var from netip.Addr
			// The kernel does not tell how long a reply was that does not fit, so there is room for any.
			packet := p.lend(c.buffers, messageChunk)
			n, from, err = rawReceiveFrom(fd, packet)
			if err != nil {
				p.done()
				p = piece{}
				return !errors.Is(err, syscall.EAGAIN)
			}
			p.data, ours = c.payload(packet[:n], from)
			return true
		})
		if runErr != nil {
			return piece{}, runErr
		}
		if advice, err := c.explained(err); err != nil && !advice {
			return piece{}, err
		}
		if ours {
			p.datagram = &Datagram{Peer: c.RemoteAddr().String(), Truncated: len(p.data) > room, Length: len(p.data)}
			p.data = p.data[:min(len(p.data), room)]
			return p, nil
		}
		p.done()
	}
	return piece{}, os.ErrDeadlineExceeded
}

// explained is the error of a system call with the ICMP message behind it, which the kernel tells once. advice says that it
// is none of an error: a redirect goes with a packet that was forwarded, and a source quench is of old (RFC 6633). Of all
// sockets only those of ICMP are told of them (EREMOTEIO).
func (c *conn) explained(err error) (advice bool, explained error) {
	var number syscall.Errno
	if !errors.As(err, &number) || number == syscall.EAGAIN {
		return false, err
	}
	explained = dial.WithICMP(c.raw, err)
	message, ok := errors.AsType[*dial.ICMPError](explained)
	return ok && !message.V6 && (message.Type == icmpRedirect || message.Type == icmpSourceQuench), explained
}

// payload is what a packet has in it that came from an address; false: it is no reply of the peer to what was sent. The
// kernel looks at the identifier alone.
func (c *conn) payload(packet []byte, from netip.Addr) (payload []byte, ours bool) {
	sequence, payload, ok := parseEchoReply(c.socket.Family, packet)
	sent := c.requests.Load()
	asked := 1 <= sequence && uint32(sequence) <= sent || sent > math.MaxUint16
	return payload, ok && asked && from == remoteAddress(c).Addr().WithZone("")
}

// The types of ICMP messages, of IPv4 and of IPv6, with which pings have to do (RFC 792; RFC 4443).
const (
	icmpEchoReply, icmp6EchoReply     = 0, 129
	icmpEchoRequest, icmp6EchoRequest = 8, 128
	icmpSourceQuench, icmpRedirect    = 4, 5
)

// echoRequest is an echo request without its checksum and its identifier, which are the kernel's to fill in.
func echoRequest(family resolve.Family, sequence uint16, payload []byte) []byte {
	request := make([]byte, echoHeader+len(payload))
	request[0] = icmp6EchoRequest
	if family == resolve.AF_INET {
		request[0] = icmpEchoRequest
	}
	binary.BigEndian.PutUint16(request[6:], sequence)
	copy(request[echoHeader:], payload)
	return request
}

// parseEchoReply reads an echo reply. The kernel has held it against its checksum.
func parseEchoReply(family resolve.Family, packet []byte) (sequence uint16, payload []byte, ok bool) {
	kind := byte(icmp6EchoReply)
	if family == resolve.AF_INET {
		kind = icmpEchoReply
	}
	if len(packet) < echoHeader || packet[0] != kind || packet[1] != 0 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint16(packet[6:]), packet[echoHeader:], true
}

// isNotPermitted tells whether there is no ICMP socket to be had here: not for this group, not through this filter of
// system calls, not of this kernel.
func isNotPermitted(err error) bool {
	call, ok := errors.AsType[*os.SyscallError](err)
	return ok && call.Syscall == "socket" &&
		(errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EPROTONOSUPPORT))
}

package exchange

import (
	"errors"
	"fmt"
	"net"

	"probed/service/dial"
)

// sender is who sent an ICMP message, seen from here.
type sender int

const (
	senderRouter sender = iota // somebody on the way
	senderPeer                 // the address that was meant
	senderSelf                 // this host, about somebody else
)

// icmpOf is the ICMP message behind an error of a dial; nil when there is none.
func icmpOf(err error) *ICMPError {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok {
		return nil
	}
	return icmpAbout(err, op.Addr)
}

// icmp is the ICMP message behind an error of a read or a write; nil when there is none. Only datagrams have it: what
// ICMP says of an open TCP connection is for the kernel alone.
func (c *conn) icmp(err error) *ICMPError {
	return icmpAbout(dial.WithICMP(c.raw, err), c.RemoteAddr())
}

func icmpAbout(err error, target net.Addr) *ICMPError {
	message, ok := errors.AsType[*dial.ICMPError](err)
	if !ok {
		return nil
	}
	i := &ICMPError{From: message.From, Type: message.Type, Code: message.Code, Meaning: meaning(message)}
	switch {
	case addrPort(target).Addr().WithZone("") == i.From.WithZone(""):
		i.sender = senderPeer
	case message.Own:
		i.sender = senderSelf
	}
	return i
}

// kind is the type and the code of an ICMP message.
type kind [2]uint8

// meanings4 are the errors of ICMP: RFC 792; the codes of type 3 from 6 on, RFC 1122, section 3.2.2.1, and RFC 1812,
// section 5.2.7.1.
var meanings4 = map[kind]string{
	{3, 0}:  "network unreachable",
	{3, 1}:  "host unreachable",
	{3, 2}:  "protocol unreachable",
	{3, 3}:  "port unreachable",
	{3, 4}:  "fragmentation needed",
	{3, 5}:  "source route failed",
	{3, 6}:  "network unknown",
	{3, 7}:  "host unknown",
	{3, 8}:  "source host isolated",
	{3, 9}:  "network administratively prohibited",
	{3, 10}: "host administratively prohibited",
	{3, 11}: "network unreachable for the type of service",
	{3, 12}: "host unreachable for the type of service",
	{3, 13}: "administratively prohibited",
	{3, 14}: "host precedence violation",
	{3, 15}: "precedence cutoff in effect",
	{11, 0}: "time to live exceeded",
	{11, 1}: "fragment reassembly time exceeded",
	{12, 0}: "parameter problem",
	{12, 1}: "required option missing",
	{12, 2}: "bad length",
}

// meanings6 are the errors of ICMPv6: RFC 4443.
var meanings6 = map[kind]string{
	{1, 0}: "no route to destination",
	{1, 1}: "administratively prohibited",
	{1, 2}: "beyond scope of source address",
	{1, 3}: "address unreachable",
	{1, 4}: "port unreachable",
	{1, 5}: "source address failed ingress or egress policy",
	{1, 6}: "reject route to destination",
	{2, 0}: "packet too big",
	{3, 0}: "hop limit exceeded",
	{3, 1}: "fragment reassembly time exceeded",
	{4, 0}: "erroneous header field",
	{4, 1}: "unrecognized next header",
	{4, 2}: "unrecognized option",
}

func meaning(message *dial.ICMPError) string {
	meanings := meanings4
	if message.V6 {
		meanings = meanings6
	}
	if words, ok := meanings[kind{message.Type, message.Code}]; ok {
		return words
	}
	return fmt.Sprintf("type %d code %d", message.Type, message.Code)
}

const (
	hintLink            = "Nobody answers on the link (ARP, neighbour discovery): the host, or the gateway if the route has one, is down, the address belongs to nobody, or a VLAN or a bridge is broken. A firewall rule here that rejects as \"host unreachable\" looks the same."
	hintRejected        = "A firewall or a network policy rejects this: on the way, or on the host itself if the ICMP message is from its address."
	hintRejectedHere    = "A firewall rule of this host itself rejects this."
	hintRefusedOnTheWay = "Not the host answered but somebody before it, see the ICMP message: a firewall rejects, or the Service has no ready endpoints, which its node says in this way."
	hintRefusedHere     = "This host itself answered: a firewall rule here rejects, or the Service has no ready endpoints."
	hintNoRouteThere    = "A router on the way, see the ICMP message, has no route there or may not use it."
	hintLoop            = "The packets ran out of hops: two routers send them to each other, or the way is too long."
)

// judge says what the message means: for which reason it failed, other than the error number told, in which layer, and
// what to look at. LayerNone and no hint: those of the reason.
func (i *ICMPError) judge(told Reason) (reason Reason, layer Layer, hint string) {
	self := i.sender == senderSelf
	// Which of the two protocols it is, the address tells.
	switch v6, k := i.From.Is6(), (kind{i.Type, i.Code}); {
	case !v6 && k == kind{3, 3}, v6 && k == kind{1, 4}: // port unreachable
		switch i.sender {
		case senderSelf:
			hint = hintRefusedHere
		case senderRouter:
			hint = hintRefusedOnTheWay
		case senderPeer:
		}
		return ConnectionRefused, LayerTransport, hint
	case !v6 && (k == kind{3, 9} || k == kind{3, 10} || k == kind{3, 13}),
		v6 && (k == kind{1, 1} || k == kind{1, 5} || k == kind{1, 6}): // prohibited
		if self {
			return DeniedLocally, LayerInternet, hintRejectedHere
		}
		return HostUnreachable, LayerInternet, hintRejected
	case !v6 && k == kind{3, 1}, v6 && k == kind{1, 3}: // host, or address, unreachable
		if self {
			return HostUnreachable, LayerLink, hintLink
		}
		return HostUnreachable, LayerInternet, ""
	case !v6 && (k == kind{3, 0} || k == kind{3, 6} || k == kind{3, 11}), v6 && k == kind{1, 0}: // network unreachable
		if self {
			return NetworkUnreachable, LayerInternet, hintRejectedHere
		}
		return NetworkUnreachable, LayerInternet, hintNoRouteThere
	case !v6 && k == kind{3, 8}: // ENONET, which means nothing else
		return HostUnreachable, LayerInternet, ""
	case !v6 && k == kind{11, 0}, v6 && k == kind{3, 0}: // out of hops
		return HostUnreachable, LayerInternet, hintLoop
	}
	return told, LayerNone, ""
}

package resolve

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"probed/service/dial"
)

// Reason says why a name or an address could not be resolved. The zero value
// is no failure.
type Reason int

// The reasons of a failed lookup.
const (
	ReasonNone        Reason = iota
	NotFound                 // NXDOMAIN everywhere asked, or absent from every source
	NoData                   // the name exists, with no record of the type asked for
	ServFail                 // a server answered SERVFAIL (or FORMERR, NOTIMP): it could not find out
	Refused                  // a server answered REFUSED: it does not serve this client or name
	Timeout                  // no server answered in time
	Unreachable              // no server could be reached: no route, port closed, or denied locally
	Malformed                // an answer came that cannot be read, or is a question itself
	BadName                  // what was asked is no host name: empty, too long, or an empty label in it
	Cancelled                // the caller gave up (a deadline that passed is a Timeout)
	NotConfigured            // nothing on this machine is set up to answer (nsswitch.conf names no source known here)
	Denied                   // the name server may not be asked: the policy does not admit it
	HandshakeFailed          // DNS over TLS: the handshake with the server failed
	UnknownServerName        // the name server a caller chose could not itself be resolved
	Limited                  // the name server may not be asked now: a limit of the caller is reached
	Mismatched               // nothing came in time but answers to something else: of another id, or about another name
	Looped                   // the CNAMEs of the answer lead back to themselves
)

// String is the reason in lower case, as "no data".
func (r Reason) String() string {
	switch r {
	case ReasonNone:
		return "none"
	case NotFound:
		return "name not found"
	case NoData:
		return "no data"
	case ServFail:
		return "server failure"
	case Refused:
		return "refused"
	case Timeout:
		return "timeout"
	case Unreachable:
		return "server unreachable"
	case Malformed:
		return "malformed answer"
	case BadName:
		return "bad name"
	case Cancelled:
		return "cancelled"
	case NotConfigured:
		return "no source configured"
	case Denied:
		return "denied by policy"
	case HandshakeFailed:
		return "tls handshake failed"
	case UnknownServerName:
		return "name server not found"
	case Limited:
		return "limit reached"
	case Mismatched:
		return "no answer to the question"
	case Looped:
		return "cname loop"
	}
	return fmt.Sprintf("reason %d", int(r))
}

// Hint is what such a failure usually means on a cluster network, and what to
// look at. It is empty where there is nothing to add: ReasonNone, Cancelled.
func (r Reason) Hint() string {
	switch r {
	case NotFound:
		return "No source this host asks knows the name. Check the spelling, and the namespace: from another one a Service is NAME.NAMESPACE.svc.CLUSTER-DOMAIN."
	case NoData:
		return "The name exists, without a record of the kind asked for. A headless Service has no address until a pod behind it is ready; IPv6 needs a dual-stack Service."
	case ServFail:
		return "The name server could not find out: its own upstream is silent or broken, or DNSSEC validation failed. Look at the log of the cluster DNS."
	case Refused:
		return "The name server does not answer this client, or not for this name: its access list or its zones leave it out. A Corefile without a matching server block refuses like this."
	case Timeout:
		return "No name server answered in time. Is the cluster DNS running, and does a network policy let port 53, UDP and TCP, out of here and into it?"
	case Unreachable:
		return "Nobody listens for DNS at the name server's address, or there is no route to it: the cluster DNS has no ready endpoints, or resolv.conf is stale."
	case Malformed:
		return "What answers on port 53 is no proper name server. A proxy or a firewall may be answering in its place."
	case BadName:
		return "This cannot be a host name: it is empty, longer than 253 characters, has an empty label, or a label longer than 63."
	case NotConfigured:
		return "nsswitch.conf names no source for hosts that is known here: files, dns, myhostname."
	case Denied:
		return "The policy of this probed does not let callers ask this name server."
	case HandshakeFailed:
		return "The server answers on the port, and TLS with it fails: it speaks no DNS over TLS there, or its certificate does not fit."
	case UnknownServerName:
		return "The name of the name server itself does not resolve here: give its address."
	case Limited:
		return "This caller asks too many servers in a short time. Ask again later; the operator of this probed has set the limit."
	case Mismatched:
		return "What came on port 53 until the time was over answers other questions, and was not believed: a proxy or a firewall mixes its clients up, or somebody tries to slip false answers in."
	case Looped:
		return "The zone is at fault: its CNAME records go round in a circle. The trace shows them."
	}
	return ""
}

// Temporary reports whether asking again later may give another answer: all
// but a name that does not exist, has no such data, or is no name.
func (r Reason) Temporary() bool {
	switch r {
	case ServFail, Refused, Timeout, Unreachable, Malformed, Cancelled, HandshakeFailed, UnknownServerName, Limited, Mismatched, Looped:
		return true
	}
	return false
}

// Error is a lookup that gave no answer. It carries the trace that led there.
type Error struct {
	Reason   Reason
	Name     string        // as the caller asked for it
	Server   string        // address and port of the name server that decided it; empty when none did
	Trace    []Step        // every step taken, in order
	Notes    []string      // remarks on the walk, as in HostResult
	Duration time.Duration // of the whole lookup
	Err      error         // the error of the operating system, when there is one
}

// Error names what was asked, why it failed and who said so. It is fit for a
// caller: the address it was asked from is not in it.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("resolve ")
	fmt.Fprintf(&b, "%q", e.Name)
	b.WriteString(": ")
	b.WriteString(e.Reason.String())
	if e.Server != "" {
		b.WriteString(" (server ")
		b.WriteString(e.Server)
		b.WriteString(")")
	}
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(bare(e.Err))
	}
	return b.String()
}

// bare is the text of an error without the addresses that package net puts in
// it: the server's has been told, and our own is nothing that callers need.
func bare(err error) string {
	if inner, ok := errors.AsType[*Error](err); ok { // the look-up of the server's name
		return inner.Error()
	}
	if icmp, ok := errors.AsType[*dial.ICMPError](err); ok && icmp.Own {
		return icmp.Err.Error()
	}
	// One of TLS that has come from the peer has no network in it.
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Net != "" {
		return op.Err.Error()
	}
	return err.Error()
}

// Unwrap is the error underneath, for errors.Is and errors.As.
func (e *Error) Unwrap() error { return e.Err }

// Timeout reports whether time ran out, as net.Error wants it.
func (e *Error) Timeout() bool { return e.Reason == Timeout || e.Reason == Mismatched }

// Temporary is Reason.Temporary, as net.Error wants it.
func (e *Error) Temporary() bool { return e.Reason.Temporary() }

// GAIError is a failure of GetAddrInfo or GetNameInfo.
type GAIError struct {
	Code     EAI
	Trace    []Step        // empty when the request itself was wrong and nobody was asked
	Duration time.Duration // of the whole call
	Err      error         // the cause, when there is one: the context's error, or an *Error of the walk
}

// Error is the C name of the code and the cause.
func (e *GAIError) Error() string {
	if e.Err != nil {
		return e.Code.String() + ": " + e.Err.Error()
	}
	return e.Code.String()
}

// Unwrap is the cause, for errors.Is and errors.As.
func (e *GAIError) Unwrap() error { return e.Err }

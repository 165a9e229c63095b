package resolve

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

const headerSize = 12

// parseAnswer reads a message and tells whether it answers the question (ours)
// and, if so, what is wrong with it.
func parseAnswer(data []byte, q *question) (msg *dns.Msg, problem Reason, ours bool) {
	msg = new(dns.Msg)
	err := msg.Unpack(data)
	if msg.Id != q.id {
		return nil, ReasonNone, false
	}
	if len(msg.Question) == 0 && len(data) == headerSize && (msg.Rcode == dns.RcodeServerFailure ||
		msg.Rcode == dns.RcodeNotImplemented || msg.Rcode == dns.RcodeRefused) {
		// Some servers refuse without repeating the question.
		return msg, rcodeReason(msg.Rcode), true
	}
	if len(msg.Question) != 1 || msg.Question[0].Qtype != q.qtype || msg.Question[0].Qclass != q.class ||
		!strings.EqualFold(msg.Question[0].Name, q.name) {
		return nil, ReasonNone, false
	}
	switch {
	case err != nil && !msg.Truncated, !msg.Response:
		return msg, Malformed, true
	case msg.Rcode == dns.RcodeServerFailure || msg.Rcode == dns.RcodeNotImplemented || msg.Rcode == dns.RcodeRefused:
		return msg, rcodeReason(msg.Rcode), true
	case msg.Rcode == dns.RcodeSuccess && len(msg.Answer) == 0 && !msg.Truncated &&
		!msg.Authoritative && !msg.RecursionAvailable && len(msg.Extra) == 0:
		// A server that neither knows nor recurses points elsewhere.
		return msg, Refused, true
	}
	return msg, ReasonNone, true
}

// rcodeReason is what a response code means for a lookup.
func rcodeReason(rcode int) Reason {
	switch rcode {
	case dns.RcodeSuccess:
		return ReasonNone
	case dns.RcodeNameError:
		return NotFound
	case dns.RcodeRefused, dns.RcodeNotAuth:
		return Refused
	}
	return ServFail
}

// describe fills in what an answer says.
func (s *Step) describe(msg *dns.Msg, problem Reason) {
	s.Rcode = rcodeName(msg.Rcode)
	s.Truncated = msg.Truncated
	s.Reason = problem
	if problem == Malformed {
		return
	}
	if len(msg.Answer) > 0 {
		s.Answers = make([]string, 0, len(msg.Answer))
	}
	data := false
	for _, rr := range msg.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			if a, ok := netip.AddrFromSlice(rr.A.To4()); ok {
				s.Answers = append(s.Answers, a.String())
			}
			data = true
		case *dns.AAAA:
			if a, ok := netip.AddrFromSlice(rr.AAAA); ok {
				s.Answers = append(s.Answers, a.String())
			}
			data = true
		default:
			name := typeName(rr.Header().Rrtype)
			s.Answers = append(s.Answers, name+" "+rdata(rr))
			data = data || name == s.Type || s.Type == "ANY"
		}
	}
	if s.Reason == ReasonNone {
		if s.Reason = rcodeReason(msg.Rcode); s.Reason == ReasonNone && !data && !msg.Truncated {
			s.Reason = NoData
		}
	}
}

// newQuestion prepares a question. It fails on a name that is no domain name.
func newQuestion(name string, qtype, class uint16, shape func(*dns.Msg)) (question, bool) {
	q := question{name: dns.Fqdn(name), qtype: qtype, class: class, id: uint16(rand.Uint32())}
	plain := plainName(name)
	if !plain && !escapesOK(name) {
		return q, false
	}
	msg := dns.Msg{Question: []dns.Question{{Name: q.name, Qtype: qtype, Qclass: class}}}
	msg.Id, msg.RecursionDesired = q.id, true
	shape(&msg)
	wire, err := msg.Pack()
	if q.wire = wire; err != nil {
		return q, false
	}
	if end, ok := skipName(wire, headerSize); !ok || end-headerSize > maxWireName {
		return q, false // the library lets names through that are a little too long
	}
	if !plain {
		// Spelled the way answers will spell it.
		q.name, _, err = dns.UnpackDomainName(wire, headerSize)
	}
	return q, err == nil
}

// of is the same question about another type, with another id.
func (q *question) of(qtype uint16) question {
	other := *q
	for other.id == q.id {
		other.id = uint16(rand.Uint32())
	}
	other.qtype, other.wire = qtype, bytes.Clone(q.wire)
	binary.BigEndian.PutUint16(other.wire, other.id)
	end, _ := skipName(other.wire, headerSize)
	binary.BigEndian.PutUint16(other.wire[end:], qtype)
	return other
}

// escapesOK tells that every backslash of a name begins a whole escape. The
// library is laxer than resolvers are.
func escapesOK(name string) bool {
	for i := 0; i < len(name); i++ {
		if name[i] == '\\' {
			var ok bool
			if _, i, ok = unescape(name, i); !ok {
				return false
			}
		}
	}
	return true
}

// maxWireName is the length of the longest name on the wire (RFC 1035 2.3.4).
const maxWireName = 255

// skipName returns where an uncompressed name ends.
func skipName(wire []byte, at int) (int, bool) {
	for at < len(wire) {
		n := int(wire[at])
		if at++; n == 0 {
			return at, true
		}
		at += n
	}
	return 0, false
}

// plainName tells names that have one spelling only, but for case.
func plainName(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}

// typeName is the mnemonic of a record type, TYPEn for one without (RFC 3597).
func typeName(t uint16) string { return dns.Type(t).String() }

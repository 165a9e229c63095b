package nettest

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/miekg/dns"
)

// What follows are handlers for DNS that no honest server would have.

// DNSSilence answers nothing.
func DNSSilence(*DNSExchange) {}

// DNSRcode answers every question with a response code and nothing else.
func DNSRcode(rcode int) func(*DNSExchange) {
	return func(x *DNSExchange) {
		m := x.Answer()
		m.Rcode = rcode
		x.Send(m)
	}
}

// DNSRecords answers A and AAAA with n addresses each, 10.0.0.0 and up and
// 2001:db8:: and up. Over UDP the answer is cut off and marked as truncated
// when it is larger than 512 bytes; over TCP it ends at 65,535 bytes.
func DNSRecords(n int) func(*DNSExchange) {
	return func(x *DNSExchange) {
		m := x.Answer()
		for i := range n {
			hdr := dns.RR_Header{Name: x.Name, Rrtype: x.Type, Class: dns.ClassINET, Ttl: 60}
			switch x.Type {
			case dns.TypeA:
				m.Answer = append(m.Answer, &dns.A{Hdr: hdr, A: []byte{10, byte(i >> 16), byte(i >> 8), byte(i)}})
			case dns.TypeAAAA:
				ip := make([]byte, 16)
				copy(ip, []byte{0x20, 1, 0x0d, 0xb8})
				binary.BigEndian.PutUint32(ip[12:], uint32(i))
				m.Answer = append(m.Answer, &dns.AAAA{Hdr: hdr, AAAA: ip})
			}
		}
		m.Compress = true
		limit := dns.MinMsgSize
		if x.Transport == "tcp" {
			limit = dns.MaxMsgSize
		}
		m.Truncate(limit)
		if x.Transport == "tcp" {
			m.Truncated = false
		}
		x.Send(m)
	}
}

// DNSWrongID answers with an address under the id of another question, over
// and over, and never under the right one.
func DNSWrongID(x *DNSExchange) {
	for i := range 50 {
		m := x.Answer(x.Name + " 60 IN A 203.0.113.66")
		m.Id += uint16(i + 1)
		x.Send(m)
	}
}

// DNSWrongQuestion answers under the right id a question that was not asked.
func DNSWrongQuestion(x *DNSExchange) {
	for range 50 {
		m := x.Answer("evil.example. 60 IN A 203.0.113.66")
		m.Question[0].Name = "evil.example."
		x.Send(m)
	}
}

// DNSLiesThenAnswers answers wrongly in each of the ways above before it
// answers truly, with 192.0.2.1 for A and nothing for AAAA.
func DNSLiesThenAnswers(x *DNSExchange) {
	DNSWrongID(x)
	DNSWrongQuestion(x)
	x.SendBytes([]byte{1, 2, 3})
	if x.Type == dns.TypeA {
		x.Send(x.Answer(x.Name + " 60 IN A 192.0.2.1"))
	} else {
		x.Send(x.Answer())
	}
}

// DNSGarbage answers the right id and question and then bytes that are no
// records.
func DNSGarbage(x *DNSExchange) {
	m := x.Answer()
	data, _ := m.Pack()
	binary.BigEndian.PutUint16(data[6:], 3) // three answers announced
	x.SendBytes(append(data, 0xc0, 0xff, 0xee, 0xff, 0xff))
}

// DNSShort answers with less than a header.
func DNSShort(x *DNSExchange) { x.SendBytes([]byte{0, 1, 2}) }

// DNSEcho sends the question back as if it were the answer.
func DNSEcho(x *DNSExchange) { x.Send(x.Query) }

// DNSLoop answers with two CNAMEs that point at each other.
func DNSLoop(x *DNSExchange) {
	x.Send(x.Answer(x.Name+" 60 IN CNAME loop.example.", "loop.example. 60 IN CNAME "+x.Name))
}

// DNSLongChain answers with n CNAMEs and, at their end, 192.0.2.1 for A. Over
// UDP it is truncated.
func DNSLongChain(n int) func(*DNSExchange) {
	return func(x *DNSExchange) {
		if x.Transport == "udp" {
			DNSTruncate(x)
			return
		}
		m, name := x.Answer(), x.Name
		for i := range n {
			target := fmt.Sprintf("c%d.example.", i)
			m.Answer = append(m.Answer, &dns.CNAME{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: 60}, Target: target})
			name = target
		}
		if x.Type == dns.TypeA {
			rr, _ := dns.NewRR(name + " 60 IN A 192.0.2.1")
			m.Answer = append(m.Answer, rr)
		}
		x.Send(m)
	}
}

// DNSTruncate answers that the answer is too large, whatever the transport.
func DNSTruncate(x *DNSExchange) {
	m := x.Answer()
	m.Truncated = true
	x.Send(m)
}

// DNSDrip is truncated over UDP, and over TCP announces a long answer of which
// one byte comes in each interval.
func DNSDrip(interval time.Duration) func(*DNSExchange) {
	return func(x *DNSExchange) {
		if x.Transport == "udp" {
			DNSTruncate(x)
			return
		}
		for b := []byte{0xff}; ; b = []byte{0} {
			if _, err := x.raw.Write(b); err != nil {
				return
			}
			select {
			case <-x.done:
				return
			case <-time.After(interval):
			}
		}
	}
}

// DNSHangUp is truncated over UDP, and over TCP closes at once.
func DNSHangUp(x *DNSExchange) {
	if x.Transport == "udp" {
		DNSTruncate(x)
		return
	}
	x.raw.Close()
}

// DNSAnswersOne answers questions of one type with an address and is silent on
// all others.
func DNSAnswersOne(qtype uint16, address string) func(*DNSExchange) {
	return func(x *DNSExchange) {
		if x.Type == qtype {
			x.Send(x.Answer(fmt.Sprintf("%s 60 IN %s %s", x.Name, dns.TypeToString[qtype], address)))
		}
	}
}

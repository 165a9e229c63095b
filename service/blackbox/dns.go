package blackbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/miekg/dns"

	configv1 "probed/gen/probe/config/v1"
	probev1 "probed/gen/probe/v1"
)

// question is what a module of the prober dns asks, and what it wants of the answer.
type question struct {
	scheme      string // udp, tcp or tls
	name        string // fully qualified
	qtype       uint16
	class       uint16
	recursion   bool
	rcodes      []int
	sections    [3]recordRules // of answer, authority and additional records
	defaultPort string
}

// recordRules are expressions that are held against the records of a section.
type recordRules struct {
	section                            string
	anyMatch, allMatch, notAll, noneOf []*regexp.Regexp
}

func isUTF8(text string) bool { return utf8.ValidString(text) }

func (m *maker) ofDNS(c *configv1.DnsModule, files TLSFiles) {
	if c.GetQueryName() == "" {
		m.wrong("dns.query_name", "it is required")
		return
	}
	m.addresses("dns", c, optional(c, func(c *configv1.DnsModule) *bool { return c.IpProtocolFallback }))
	q := &question{scheme: "udp", name: dns.Fqdn(c.GetQueryName()), qtype: dns.TypeANY, class: dns.ClassINET, recursion: c.RecursionDesired == nil || *c.RecursionDesired, defaultPort: "53"}
	m.dns = q
	switch c.GetTransportProtocol() {
	case "", "udp":
	case "tcp":
		q.scheme = "tcp"
	default:
		m.wrong("dns.transport_protocol", "it is udp or tcp")
	}
	if c.GetDnsOverTls() {
		if q.scheme != "tcp" {
			m.wrong("dns.dns_over_tls", "it goes with transport_protocol tcp")
		}
		q.scheme, q.defaultPort = "tls", "853"
		m.secured = true
		m.tlsOptions("dns.tls_config", c.GetTlsConfig(), files)
	}
	var known bool
	if name := c.GetQueryType(); name != "" {
		if q.qtype, known = dns.StringToType[name]; !known {
			m.wrong("dns.query_type", "there is no type %q", name)
		}
	}
	if name := c.GetQueryClass(); name != "" {
		if q.class, known = dns.StringToClass[name]; !known {
			m.wrong("dns.query_class", "there is no class %q", name)
		}
	}
	if _, err := q.message().Pack(); err != nil {
		m.wrong("dns.query_name", "it cannot be asked for: %s", strings.TrimPrefix(err.Error(), "dns: "))
	}
	q.rcodes = []int{dns.RcodeSuccess}
	for i, name := range c.GetValidRcodes() {
		rcode, known := dns.StringToRcode[name]
		if !known {
			m.wrong(fmt.Sprintf("dns.valid_rcodes[%d]", i), "there is no code %q", name)
		}
		if i == 0 {
			q.rcodes = nil
		}
		q.rcodes = append(q.rcodes, rcode)
	}
	for i, section := range []struct {
		name  string
		rules *configv1.RecordRules
	}{{"answer", c.GetValidateAnswerRrs()}, {"authority", c.GetValidateAuthorityRrs()}, {"additional", c.GetValidateAdditionalRrs()}} {
		field := "dns.validate_" + section.name + "_rrs"
		q.sections[i] = recordRules{
			section:  section.name,
			anyMatch: m.expressions(field+".fail_if_matches_regexp", section.rules.GetFailIfMatchesRegexp()),
			allMatch: m.expressions(field+".fail_if_all_match_regexp", section.rules.GetFailIfAllMatchRegexp()),
			notAll:   m.expressions(field+".fail_if_not_matches_regexp", section.rules.GetFailIfNotMatchesRegexp()),
			noneOf:   m.expressions(field+".fail_if_none_matches_regexp", section.rules.GetFailIfNoneMatchesRegexp()),
		}
	}
}

func (m *maker) expressions(field string, texts []string) (all []*regexp.Regexp) {
	for i, text := range texts {
		expression, err := regexp.Compile(text)
		if err != nil {
			m.wrong(fmt.Sprintf("%s[%d]", field, i), "%v", err)
		}
		all = append(all, expression)
	}
	return all
}

// message is the question, with an id of its own.
func (q *question) message() *dns.Msg {
	message := &dns.Msg{Question: []dns.Question{{Name: q.name, Qtype: q.qtype, Qclass: q.class}}}
	message.Id, message.RecursionDesired = dns.Id(), q.recursion
	return message
}

// target is the server that a caller named, with the port where it is asked.
func (q *question) target(text string) string {
	if _, _, err := net.SplitHostPort(text); err == nil {
		return q.scheme + "://" + text
	}
	host := text
	if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
		host = text[1 : len(text)-1]
	}
	return q.scheme + "://" + net.JoinHostPort(host, q.defaultPort)
}

// steps ask the question and take its answer.
func (q *question) steps(message *dns.Msg) ([]*probev1.Step, error) {
	wire, err := message.Pack()
	if err != nil {
		return nil, err
	}
	receive := &probev1.Receive{Count: 1}
	if q.scheme != "udp" {
		wire = append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)
		receive = &probev1.Receive{LengthPrefix: 2}
	}
	return []*probev1.Step{
		{Step: &probev1.Step_Send{Send: &probev1.Send{Content: &probev1.Send_Data{Data: wire}}}},
		{Step: &probev1.Step_Receive{Receive: receive}},
	}, nil
}

var errNoAnswer = errors.New("what came is no answer to the question")

// read is the answer in what came.
func (q *question) read(asked *dns.Msg, data []byte) (*dns.Msg, error) {
	if q.scheme != "udp" {
		if len(data) < 2 {
			return nil, errNoAnswer
		}
		data = data[2:]
	}
	answer := new(dns.Msg)
	if err := answer.Unpack(data); err != nil {
		return nil, fmt.Errorf("the answer cannot be read: %s", strings.TrimPrefix(err.Error(), "dns: "))
	}
	if answer.Id != asked.Id {
		return nil, errNoAnswer
	}
	return answer, nil
}

// judge says what of an answer is not as it should be.
func (q *question) judge(answer *dns.Msg) error {
	if !slices.Contains(q.rcodes, answer.Rcode) {
		return fmt.Errorf("the code of the answer is %s", dns.RcodeToString[answer.Rcode])
	}
	for i, records := range [][]dns.RR{answer.Answer, answer.Ns, answer.Extra} {
		if err := q.sections[i].judge(records); err != nil {
			return err
		}
	}
	return nil
}

// judge holds the rules against the records of their section, each in the form of a zone file.
func (r *recordRules) judge(records []dns.RR) error {
	if len(records) == 0 && len(r.notAll)+len(r.noneOf) > 0 {
		return fmt.Errorf("there is no %s record to match", r.section)
	}
	someMatched := len(r.noneOf) == 0
	for _, record := range records {
		text := record.String()
		for _, expression := range r.anyMatch {
			if expression.MatchString(text) {
				return fmt.Errorf("an %s record matches %s: %q", r.section, expression, text)
			}
		}
		for _, expression := range slices.Concat(r.allMatch, r.notAll) {
			if !expression.MatchString(text) {
				return fmt.Errorf("an %s record does not match %s: %q", r.section, expression, text)
			}
		}
		someMatched = someMatched || slices.ContainsFunc(r.noneOf, func(e *regexp.Regexp) bool { return e.MatchString(text) })
	}
	if !someMatched {
		return fmt.Errorf("no %s record matches", r.section)
	}
	return nil
}

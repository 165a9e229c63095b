package resolve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// QueryDNS asks one DNS question. Any answer, NXDOMAIN and SERVFAIL included,
// is a Response; the error is an *Error and means that no answer came.
func (r *Resolver) QueryDNS(ctx context.Context, q Query) (*Response, error) {
	timeout := q.Timeout
	if timeout <= 0 {
		timeout = r.config.timeout()
	}
	if timeout <= 0 { // resolv.conf does not bound a query
		timeout = defaultTimeout
	}
	a := &ask{hostLookup: hostLookup{walk: r.newWalk(ctx, timeout), asked: q.Name}, query: q, open: r.dial}
	defer a.told()
	if err := a.prepare(); err != nil {
		return nil, err
	}
	if q.Server != "" {
		if q.Dial != nil {
			a.open = q.Dial
		}
		if err := a.chosenServers(); err != nil {
			return nil, err
		}
	} else {
		a.configuredServers()
	}
	return a.run()
}

// ask is one call of QueryDNS.
type ask struct {
	hostLookup
	query     Query
	question  question
	transport string
	open      dialFunc
	servers   []netip.AddrPort
	attempts  int
	hostName  string // of the server, for TLS
	state     *tls.ConnectionState
}

const (
	minUDPSize = 512
	maxUDPSize = 4096
)

func (a *ask) prepare() error {
	switch a.transport = a.query.Transport; a.transport {
	case "":
		a.transport = "udp"
	case "udp", "tcp", "tls":
	default:
		return a.fail(BadName, "", fmt.Errorf("transport %q is none of udp, tcp, tls", a.transport))
	}
	name, ok := idnaEncode(a.query.Name)
	if !ok || name == "" {
		return a.fail(BadName, "", errors.New("not a domain name"))
	}
	qtype, class := a.query.Type, a.query.Class
	if qtype == 0 {
		qtype = dns.TypeA
	}
	if class == 0 {
		class = dns.ClassINET
	}
	if a.question, ok = newQuestion(name, qtype, class, a.shape); !ok {
		return a.fail(BadName, "", errors.New("not a domain name"))
	}
	return nil
}

// shape puts the options of the query into the message.
func (a *ask) shape(m *dns.Msg) {
	q := &a.query
	m.RecursionDesired = !q.NoRecursion
	m.AuthenticatedData = q.AuthenticData
	m.CheckingDisabled = q.CheckingDisabled
	if q.NoEDNS {
		return
	}
	size := q.UDPSize
	if size == 0 {
		size = ednsSize
	}
	m.SetEdns0(min(max(size, minUDPSize), maxUDPSize), q.DNSSEC)
}

func (a *ask) port() uint16 {
	if a.transport == "tls" {
		return 853
	}
	return 53
}

// configuredServers are those of resolv.conf. Whether they may be asked over
// TLS, on another port than 53, is for Config.DialServer to say.
func (a *ask) configuredServers() {
	a.servers, a.attempts = slices.Clone(a.sys.resolv.servers), a.sys.resolv.attempts
	if a.sys.resolv.useVC && a.transport == "udp" {
		a.transport = "tcp"
	}
	if a.transport == "tls" {
		for i, s := range a.servers {
			a.servers[i] = netip.AddrPortFrom(s.Addr(), a.port())
		}
	}
}

// chosenServers are the addresses of the server a caller names.
func (a *ask) chosenServers() error {
	a.attempts = 2
	host, port, err := splitServer(a.query.Server, a.port())
	if err != nil {
		return a.fail(UnknownServerName, "", err)
	}
	a.hostName = host
	if addr, ok := parseLiteral(host); ok {
		a.servers = []netip.AddrPort{netip.AddrPortFrom(addr, port)}
		return nil
	}
	found, err := a.r.Addresses(a.ctx, host, AF_UNSPEC)
	if err != nil {
		return a.fail(UnknownServerName, "", err)
	}
	for _, addr := range found.Addresses {
		a.servers = append(a.servers, netip.AddrPortFrom(addr, port))
	}
	return nil
}

// ServerHost is the host name in Query.Server, which is looked up before the server
// can be asked; empty when it is an address, and when it cannot be read.
func ServerHost(server string) string {
	host, _, err := splitServer(server, 0)
	if err != nil || IsLiteral(host) {
		return ""
	}
	return host
}

// splitServer reads "host", "host:port", "address" or "[address]:port".
func splitServer(s string, port uint16) (string, uint16, error) {
	s = strings.TrimPrefix(s, "@")
	if _, ok := parseLiteral(s); ok {
		return s, port, nil
	}
	if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
		return strings.TrimSuffix(inner, "]"), port, nil
	}
	if !strings.Contains(s, ":") {
		return s, port, nil
	}
	host, text, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || host == "" {
		return "", 0, fmt.Errorf("%q is no server", s)
	}
	return host, uint16(n), nil
}

func (a *ask) run() (*Response, error) {
	s := &sent{replies: make([]reply, 1)}
	questions := []question{a.question}
	somewhere := false
	var errno syscall.Errno
	attempts := a.attempts
	if a.transport != "udp" {
		attempts = 1
	}
	left := attempts * len(a.servers)
	for range attempts {
		for _, server := range a.servers {
			if a.over() {
				break
			}
			wait := a.share(time.Minute, left)
			left--
			v := truncated
			if a.transport == "udp" {
				t := &udpTry{
					w: a.walk, s: s, questions: questions, server: server, name: server.String(),
					somewhere: &somewhere, dial: a.open, whole: true, keepTruncated: a.query.IgnoreTruncation,
				}
				v, _ = t.run(wait)
			}
			if v == truncated {
				open, transport := a.open, "tcp"
				if a.transport == "tls" {
					open, transport = a.openTLS, "tls"
				}
				v = a.sendTCP(s, questions, server, open, transport, a.share(time.Minute, left+1), &errno)
			}
			if v == answered {
				return a.response(&s.replies[0]), nil
			}
		}
	}
	r := &s.replies[0]
	if r.reason == ReasonNone {
		a.expire(s, a.servers[0])
	}
	return nil, a.fail(r.reason, r.server, r.err)
}

// handshakeError tells a failed TLS handshake from a failed connection.
type handshakeError struct{ err error }

func (e *handshakeError) Error() string { return "tls handshake: " + e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

// openTLS connects and shakes hands. The name to verify is the one the caller
// wrote, be it an address.
func (a *ask) openTLS(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	conn, err := a.open(ctx, network, server)
	if err != nil {
		return nil, err
	}
	config := a.query.TLS.Clone()
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if config.ServerName == "" {
		if config.ServerName = a.hostName; config.ServerName == "" {
			config.ServerName = server.Addr().WithZone("").String()
		}
	}
	if len(config.NextProtos) == 0 {
		config.NextProtos = []string{"dot"}
	}
	t := tls.Client(conn, config)
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		if isTimeout(err) || errors.Is(err, context.Canceled) {
			return nil, err
		}
		return nil, &handshakeError{err}
	}
	state := t.ConnectionState()
	a.state = &state
	return t, nil
}

func (a *ask) response(r *reply) *Response {
	m := r.msg
	resp := &Response{
		Rcode: m.Rcode, RcodeName: rcodeName(m.Rcode), Opcode: m.Opcode, ID: m.Id,
		Flags: Flags{
			Response: m.Response, Authoritative: m.Authoritative, Truncated: m.Truncated,
			RecursionDesired: m.RecursionDesired, RecursionAvailable: m.RecursionAvailable,
			AuthenticData: m.AuthenticatedData, CheckingDisabled: m.CheckingDisabled,
		},
		Question: a.question.name,
		Answers:  records(m.Answer), Authority: records(m.Ns), Additional: records(m.Extra),
		Server: r.server, Transport: r.via, Size: r.size,
		Duration: time.Since(a.start), Trace: a.trace, TLS: a.state,
	}
	if opt := m.IsEdns0(); opt != nil {
		resp.EDNS = &EDNS{Version: opt.Version(), UDPSize: opt.UDPSize(), DNSSECOK: opt.Do()}
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				resp.EDNS.ExtendedErrors = append(resp.EDNS.ExtendedErrors, extendedError(e))
			}
		}
	}
	return resp
}

func extendedError(e *dns.EDNS0_EDE) string {
	s := strconv.Itoa(int(e.InfoCode))
	if name := dns.ExtendedErrorCodeToString[e.InfoCode]; name != "" {
		s += " " + name
	}
	if e.ExtraText != "" {
		s += ": " + printable(e.ExtraText)
	}
	return s
}

// records turns a section into plain data, without the OPT pseudo record.
func records(rrs []dns.RR) []Record {
	list := make([]Record, 0, len(rrs))
	for _, rr := range rrs {
		h := rr.Header()
		if h.Rrtype == dns.TypeOPT {
			continue
		}
		list = append(list, Record{
			Name: printable(h.Name), Type: h.Rrtype, TypeName: typeName(h.Rrtype),
			Class: h.Class, TTL: h.Ttl, Data: rdata(rr),
		})
	}
	return list
}

// rdata is the data of a record as a zone file would have it.
func rdata(rr dns.RR) string {
	if u, ok := rr.(*dns.RFC3597); ok {
		if u.Rdata == "" {
			return `\# 0`
		}
		return fmt.Sprintf(`\# %d %s`, len(u.Rdata)/2, u.Rdata)
	}
	return printable(strings.TrimPrefix(rr.String(), rr.Header().String()))
}

// printable makes sure that no byte outside printable ASCII is left; the
// library escapes them by itself in most places.
func printable(s string) string {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] > '~' {
			var b strings.Builder
			for _, c := range []byte(s) {
				if c < ' ' || c > '~' {
					fmt.Fprintf(&b, `\%03d`, c)
				} else {
					b.WriteByte(c)
				}
			}
			return b.String()
		}
	}
	return s
}

// rcodeName is the mnemonic of a response code, or its number.
func rcodeName(rcode int) string {
	if rcode == dns.RcodeBadVers {
		return "BADVERS" // shares its number with BADSIG, which is for TSIG alone
	}
	if name, ok := dns.RcodeToString[rcode]; ok {
		return name
	}
	return strconv.Itoa(rcode)
}

// ParseType reads a record type: a mnemonic in any case ("aaaa"), a number
// ("28") or the form for unknown types ("TYPE65280", RFC 3597).
func ParseType(s string) (uint16, bool) {
	upper := strings.ToUpper(s)
	if t, ok := dns.StringToType[upper]; ok && t != dns.TypeNone {
		return t, true
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(upper, "TYPE"), 10, 16)
	return uint16(n), err == nil && n > 0
}

// TypeName is the mnemonic of a record type, or TYPEn for one without.
func TypeName(t uint16) string { return typeName(t) }

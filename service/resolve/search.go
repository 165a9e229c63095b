package resolve

import (
	"strings"
	"syscall"

	"github.com/miekg/dns"
)

// asked is the outcome for one full name: the replies, and what the C library
// makes of them together.
type asked struct {
	name    string // fully qualified
	replies []reply
	ok      bool // at least one answer with records
	herr    hostErrno
	errno   syscall.Errno
	rcode   int
}

// maxName is where the C library cuts off before it even builds a question.
const maxName = 1025

// query asks for one full name. The two questions for addresses go together.
func (w *walk) query(name string, types []uint16) *asked {
	conf := w.sys.resolv
	a := &asked{herr: noRecovery}
	if name == "" || len(name) >= maxName {
		return a.bad(name, types)
	}
	// With no-aaaa the question for AAAA alone becomes one for A, which tells
	// whether the name exists; its records are not handed on.
	withhold := conf.noAAAA && len(types) == 1 && types[0] == dns.TypeAAAA
	if withhold {
		types = []uint16{dns.TypeA}
	}
	questions := make([]question, len(types))
	var ok bool
	if questions[0], ok = newQuestion(name, types[0], dns.ClassINET, conf.shape); !ok {
		a.errno = syscall.EMSGSIZE
		return a.bad(name, types)
	}
	for i := 1; i < len(types); i++ {
		questions[i] = questions[0].of(types[i])
	}
	a.name = questions[0].name
	s := w.send(questions)
	a.replies, a.rcode = s.replies, s.rcode
	if !s.any {
		a.herr, a.errno = tryAgain, s.errno
		return a
	}
	// Of two answers either may bring the records; the code of the first that
	// is no success counts.
	rcode, records := dns.RcodeSuccess, false
	for i := range a.replies {
		m := a.replies[i].msg
		if m == nil {
			continue
		}
		if withhold {
			m.Answer = nil
		}
		records = records || m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0
		if rcode == dns.RcodeSuccess {
			rcode = m.Rcode
		}
	}
	if records {
		a.ok, a.herr = true, netdbSuccess
		return a
	}
	switch rcode {
	case dns.RcodeSuccess:
		a.herr = noData
	case dns.RcodeNameError:
		a.herr = hostNotFound
	case dns.RcodeServerFailure:
		a.herr = tryAgain
	default:
		a.herr = noRecovery
	}
	return a
}

func (a *asked) bad(name string, types []uint16) *asked {
	a.name = dns.Fqdn(name)
	a.replies = make([]reply, len(types))
	for i := range a.replies {
		a.replies[i].reason = BadName
	}
	return a
}

// shape puts the options of resolv.conf into a query.
func (c *resolvConf) shape(m *dns.Msg) {
	m.AuthenticatedData = c.trustAD
	if c.edns0 {
		m.SetEdns0(ednsSize, false)
	}
}

// ednsSize is what a query offers to receive in one datagram: small enough not
// to be fragmented on any common path.
const ednsSize = 1232

// search tries the name in the domains of resolv.conf, as res_search(3) does.
// It returns the outcome the C library would see, and every name asked.
func (w *walk) search(name string, types []uint16) (*asked, []*asked) {
	conf := w.sys.resolv
	var all []*asked
	try := func(full string) *asked {
		a := w.query(full, types)
		all = append(all, a)
		return a
	}
	dots := strings.Count(name, ".")
	absolute := len(name) > 0 && name[len(name)-1] == '.'
	var first *asked // the name as it stands, when it came first
	if dots >= conf.ndots || absolute {
		if first = try(name); first.ok || absolute {
			return first, all
		}
	}
	var last *asked
	noDataSeen, servFailSeen, rootListed := false, false, false
	for _, domain := range conf.search {
		domain = strings.TrimPrefix(domain, ".")
		if domain == "" {
			rootListed = true
		}
		if len(name)+len(domain)+1 >= maxName {
			last = &asked{herr: noRecovery}
			last.bad(name, types)
			all = append(all, last)
			break
		}
		if last = try(name + "." + domain); last.ok {
			return last, all
		}
		if last.errno == syscall.ECONNREFUSED || w.over() {
			last.herr = tryAgain
			return last, all
		}
		if last.herr == noData {
			noDataSeen = true
		} else if last.herr == tryAgain && last.rcode == dns.RcodeServerFailure {
			servFailSeen = true
		} else if last.herr != hostNotFound {
			break
		}
	}
	if (dots > 0 || last == nil || !conf.noTLDQuery) && first == nil && !rootListed {
		if last = try(name); last.ok {
			return last, all
		}
	}
	// Nothing was found: which of the failures to report.
	result := asked{herr: hostNotFound}
	if last != nil {
		result = *last
	} else if first != nil {
		result = *first
	}
	switch {
	case first != nil:
		result.herr = first.herr
	case noDataSeen:
		result.herr = noData
	case servFailSeen:
		result.herr = tryAgain
	}
	return &result, all
}

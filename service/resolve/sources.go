package resolve

import (
	"net/netip"
	"syscall"

	"github.com/miekg/dns"
)

// outcome is what one source of nsswitch.conf gives the C library.
type outcome struct {
	status lookupStatus
	herr   hostErrno
	errno  syscall.Errno
	entry  *hostEntry // on statusSuccess
}

func missing() outcome {
	return outcome{status: statusNotFound, herr: hostNotFound}
}

// The sources known here. Everything else in nsswitch.conf is skipped, as a
// module that is not installed would be.
const (
	sourceFiles      = "files"
	sourceDNS        = "dns"
	sourceMyhostname = "myhostname"
	sourceLiteral    = "literal"
	sourceLocalhost  = "localhost"
)

// byName asks one source for a name. Family AF_UNSPEC is gethostbyname4_r of
// its module, the others are gethostbyname3_r with strict false and
// gethostbyname2_r with strict true: they differ in whether the dns module
// looks at the name before it asks.
func (w *walk) byName(source, name string, family Family, strict bool) (outcome, bool) {
	switch source {
	case sourceFiles:
		return w.filesByName(name, family), true
	case sourceDNS:
		if (family == AF_UNSPEC || strict) && !hostNameOK(name) {
			return missing(), true
		}
		return w.dnsByName(name, family), true
	case sourceMyhostname:
		return w.myhostnameByName(name, family), true
	}
	w.step(Step{Source: source, Name: name, Skipped: true})
	return outcome{status: statusUnavailable, herr: netdbInternal, errno: syscall.EBUSY}, false
}

func (w *walk) filesByName(name string, family Family) outcome {
	i := w.step(Step{Source: sourceFiles, Name: name})
	if w.sys.hosts == nil {
		w.trace[i].Reason = NotFound
		return outcome{status: statusUnavailable, herr: noData}
	}
	e := w.sys.hosts.lookupName(name, family, w.sys.multi)
	if e == nil {
		w.trace[i].Reason = NotFound
		return missing()
	}
	w.trace[i].Answers = addrStrings(e.addrs)
	return outcome{status: statusSuccess, entry: e}
}

// addressTypes are the record types for a family.
func (w *walk) addressTypes(family Family) []uint16 {
	switch {
	case family == AF_INET:
		return []uint16{dns.TypeA}
	case family == AF_INET6:
		return []uint16{dns.TypeAAAA}
	case w.sys.resolv.noAAAA:
		return []uint16{dns.TypeA}
	}
	return []uint16{dns.TypeA, dns.TypeAAAA}
}

func (w *walk) dnsByName(name string, family Family) outcome {
	a, _ := w.search(name, w.addressTypes(family))
	if !a.ok {
		return a.failure()
	}
	if family == AF_UNSPEC {
		return a.bothFamilies()
	}
	msg := a.replies[0].msg
	names, addrs := chain(msg)
	if msg.Rcode == dns.RcodeNameError || !hostNameOK(names[0]) {
		return missing()
	}
	if len(addrs) == 0 {
		// A CNAME that leads nowhere.
		return outcome{status: statusTryAgain, herr: noRecovery, errno: syscall.ENOENT}
	}
	return outcome{status: statusSuccess, entry: &hostEntry{name: names[len(names)-1], aliases: names[:len(names)-1], addrs: addrs}}
}

// failure is the status of the dns source when no name gave records.
func (a *asked) failure() outcome {
	switch a.errno {
	case syscall.EMFILE, syscall.ENFILE:
		return outcome{status: statusUnavailable, herr: netdbInternal, errno: a.errno}
	case syscall.ECONNREFUSED, syscall.ETIMEDOUT:
		return outcome{status: statusUnavailable, herr: a.herr, errno: a.errno}
	}
	return outcome{status: statusNotFound, herr: a.herr, errno: a.errno}
}

// bothFamilies joins the answers for A and AAAA. The canonical name is that of
// the first answer with addresses.
func (a *asked) bothFamilies() outcome {
	e := &hostEntry{}
	for i := range a.replies {
		msg := a.replies[i].msg
		if msg == nil || len(msg.Answer) == 0 || !hostNameOK(unrooted(msg.Question[0].Name)) {
			continue
		}
		names, addrs := chain(msg)
		if len(addrs) == 0 {
			continue
		}
		if len(e.addrs) == 0 {
			e.name, e.aliases = names[len(names)-1], names[:len(names)-1]
		}
		e.addrs = append(e.addrs, addrs...)
	}
	if len(e.addrs) == 0 {
		return missing()
	}
	return outcome{status: statusSuccess, entry: e}
}

// byAddr asks one source for an address.
func (w *walk) byAddr(source string, addr netip.Addr) (outcome, bool) {
	switch source {
	case sourceFiles:
		i := w.step(Step{Source: sourceFiles, Name: addr.String()})
		if w.sys.hosts == nil {
			w.trace[i].Reason = NotFound
			return outcome{status: statusUnavailable, herr: noData}, true
		}
		e := w.sys.hosts.lookupAddr(addr)
		if e == nil {
			w.trace[i].Reason = NotFound
			return missing(), true
		}
		w.trace[i].Answers = append([]string{e.name}, e.aliases...)
		return outcome{status: statusSuccess, entry: e}, true
	case sourceDNS:
		a := w.query(reverseName(addr), []uint16{dns.TypePTR})
		if !a.ok {
			return outcome{status: statusNotFound, herr: a.herr, errno: a.errno}, true
		}
		names, bad := pointers(a.replies[0].msg)
		switch {
		case bad:
			return outcome{status: statusUnavailable, herr: noRecovery}, true
		case len(names) == 0:
			return outcome{status: statusTryAgain, herr: noRecovery, errno: syscall.ENOENT}, true
		}
		return outcome{status: statusSuccess, entry: &hostEntry{name: names[0], aliases: names[1:], addrs: []netip.Addr{addr}}}, true
	case sourceMyhostname:
		return w.myhostnameByAddr(addr), true
	}
	w.step(Step{Source: source, Name: addr.String(), Skipped: true})
	return outcome{status: statusUnavailable, herr: netdbInternal, errno: syscall.EBUSY}, false
}

// reverseName is the name under which an address is found in the DNS. IPv4 in
// IPv6, mapped or compatible, is looked up as IPv4.
func reverseName(addr netip.Addr) string {
	if b := addr.As16(); addr.Is6() && [12]byte(b[:12]) == [12]byte{} && [4]byte(b[12:]) != [4]byte{0, 0, 0, 1} {
		addr = netip.AddrFrom4([4]byte(b[12:]))
	}
	name, _ := dns.ReverseAddr(addr.Unmap().String())
	return name
}

func addrStrings(addrs []netip.Addr) []string {
	s := make([]string, len(addrs))
	for i, a := range addrs {
		s[i] = a.String()
	}
	return s
}

package resolve

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"
)

// HostnameResult is the machine's own name and what it resolves to.
type HostnameResult struct {
	Hostname      string       // gethostname(2)
	CanonicalName string       // what it resolves to; the hostname when it does not
	Addresses     []netip.Addr // empty when the name does not resolve
	Err           *Error       // why it does not; nil when it does
}

// Interface is a network interface as ip(8) shows it.
type Interface struct {
	Name      string
	Index     int
	MTU       int
	Flags     []string       // as "UP", "LOOPBACK", "BROADCAST", "MULTICAST", "POINTTOPOINT", "RUNNING"
	Addresses []netip.Prefix // the address, and the length of its network; link-local ones without zone
}

// Route is a default route.
type Route struct {
	Destination netip.Prefix // 0.0.0.0/0 or ::/0
	Gateway     netip.Addr   // the zero Addr: none, directly attached
	Interface   string
	Metric      uint32
}

// ResolverConfiguration is what resolv.conf, nsswitch.conf and the environment
// come to, defaults filled in.
type ResolverConfiguration struct {
	Nameservers []netip.AddrPort // at most three, those asked
	Search      []string         // as written
	Ndots       int
	Timeout     time.Duration // of the first try with the first server
	Attempts    int
	Options     []string // the others that are set: "rotate", "edns0", "use-vc", …
	Sources     []string // the hosts line of nsswitch.conf: "files", "dns", …
	Notes       []string // what in the files was not understood or is over a limit
}

// Vantage is the place this process looks from.
type Vantage struct {
	Hostname      string
	Interfaces    []Interface
	DefaultRoutes []Route
	Resolver      ResolverConfiguration
}

// GetHostname tells the machine's own name, and what it resolves to. A name
// that does not resolve is not an error here, see HostnameResult; the error is
// that of gethostname(2).
func (r *Resolver) GetHostname(ctx context.Context) (*HostnameResult, error) {
	name, err := r.config.Hostname()
	if err != nil {
		return nil, err
	}
	result := &HostnameResult{Hostname: name, CanonicalName: name}
	found, err := r.LookupHost(ctx, name, AF_UNSPEC)
	if err != nil {
		result.Err, _ = errors.AsType[*Error](err)
		return result, nil
	}
	result.CanonicalName, result.Addresses = found.CanonicalName, found.Addresses
	return result, nil
}

// Vantage tells from where this resolver looks. The error is that of the
// kernel when it does not tell its interfaces.
func (r *Resolver) Vantage(ctx context.Context) (*Vantage, error) {
	sys := r.system()
	v := &Vantage{Hostname: sys.hostname, Resolver: sys.configuration()}
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	names := make(map[uint32]string, len(interfaces))
	for _, i := range interfaces {
		names[uint32(i.Index)] = i.Name
		described := Interface{Name: i.Name, Index: i.Index, MTU: i.MTU}
		if i.Flags != 0 {
			described.Flags = strings.Split(strings.ToUpper(i.Flags.String()), "|")
		}
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if addr, ok := netip.AddrFromSlice(n.IP); ok {
					ones, _ := n.Mask.Size()
					described.Addresses = append(described.Addresses, netip.PrefixFrom(addr.Unmap(), ones))
				}
			}
		}
		v.Interfaces = append(v.Interfaces, described)
	}
	// Some sandboxes keep their routes to themselves; the rest is worth telling.
	v.DefaultRoutes, _ = defaultRoutes(func(index uint32) string { return names[index] })
	return v, nil
}

// configuration is what the files come to, for people to read.
func (s *system) configuration() ResolverConfiguration {
	c := ResolverConfiguration{
		Nameservers: append([]netip.AddrPort(nil), s.resolv.servers...),
		Search:      append([]string(nil), s.resolv.search...),
		Ndots:       s.resolv.ndots, Timeout: s.resolv.tryTimeout(0), Attempts: s.resolv.attempts,
		Options: s.resolv.options(), Notes: append([]string(nil), s.resolv.notes...),
	}
	for _, src := range s.sources {
		c.Sources = append(c.Sources, src.name)
	}
	return c
}

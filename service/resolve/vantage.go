package resolve

import (
	"context"
	"net/netip"
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
	Flags     []string       // as "UP", "LOOPBACK", "BROADCAST", "MULTICAST", "POINTOPOINT", "RUNNING"
	Addresses []netip.Prefix // the address, and the length of its network
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
	Search      []string         // without trailing dots
	Ndots       int
	Timeout     time.Duration // of the first try with each server
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
// that does not resolve is not an error here, see HostnameResult.
func (r *Resolver) GetHostname(ctx context.Context) (*HostnameResult, error) {
	return nil, errSoon
}

// Vantage tells from where this resolver looks.
func (r *Resolver) Vantage(ctx context.Context) (*Vantage, error) {
	return nil, errSoon
}

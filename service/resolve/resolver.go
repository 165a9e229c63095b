package resolve

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

// Config says where a Resolver finds its facts. The zero value is the machine
// it runs on.
type Config struct {
	// Paths of the configuration files. Empty: /etc/resolv.conf, /etc/hosts,
	// /etc/nsswitch.conf, /etc/gai.conf.
	ResolvConf, Hosts, Nsswitch, GaiConf string

	// ServicePort is getservbyname(3): the port of a service for one protocol
	// ("tcp", "udp", "sctp", "dccp", "udplite"). ServiceName is
	// getservbyport(3), protocol as for ServicePort. Nil: no service has a name.
	ServicePort func(name, protocol string) (port uint16, ok bool)
	ServiceName func(port uint16, protocol string) (name string, ok bool)

	// DialServer opens a connection to a configured name server; network is
	// "udp" or "tcp". Nil: dial.NameServer.
	DialServer func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error)

	// Getenv reads RES_OPTIONS and LOCALDOMAIN. Nil: os.Getenv.
	Getenv func(string) string
	// Hostname is the machine's own name. Nil: os.Hostname.
	Hostname func() (string, error)
}

// Resolver resolves names and addresses. It may be used by many goroutines at
// the same time. It holds no sockets and starts no goroutine that outlives a
// call.
type Resolver struct {
	config Config
}

// New returns a Resolver. It reads no file yet.
func New(config Config) *Resolver { return &Resolver{config: config} }

var errSoon = errors.New("not there yet")

// LookupHost finds the addresses and names of a host, in the way
// gethostbyname_ex does, through the sources of nsswitch.conf. A literal
// address is an answer too. family narrows the addresses down; AF_UNSPEC is
// both. The error is an *Error.
func (r *Resolver) LookupHost(ctx context.Context, host string, family Family) (*HostResult, error) {
	return nil, &Error{Name: host, Reason: NotConfigured, Err: errSoon}
}

// LookupAddress finds the names of an address, in the way gethostbyaddr does.
// The error is an *Error.
func (r *Resolver) LookupAddress(ctx context.Context, addr netip.Addr) (*HostResult, error) {
	return nil, &Error{Name: addr.String(), Reason: NotConfigured, Err: errSoon}
}

// Addresses is LookupHost for a caller that wants to connect: the addresses
// come in the order of RFC 6724, each once, link-local ones with their zone.
// The inet_aton forms of IPv4 ("127.1") count as literals, as in getaddrinfo.
// The error is an *Error.
func (r *Resolver) Addresses(ctx context.Context, host string, family Family) (*HostResult, error) {
	return nil, &Error{Name: host, Reason: NotConfigured, Err: errSoon}
}

// GetAddrInfo is getaddrinfo(3). A nil host or service is C's NULL, which is
// not the same as an empty one. The error is a *GAIError.
func (r *Resolver) GetAddrInfo(ctx context.Context, host, service *string, hints Hints) ([]AddrInfo, error) {
	return nil, &GAIError{Code: EAI_FAIL, Err: errSoon}
}

// GetNameInfo is getnameinfo(3). The zone of the address is an interface name
// or index. The error is a *GAIError.
func (r *Resolver) GetNameInfo(ctx context.Context, addr netip.AddrPort, flags NIFlags) (NameInfo, error) {
	return NameInfo{}, &GAIError{Code: EAI_FAIL, Err: errSoon}
}

// QueryDNS asks one DNS question. Any answer, NXDOMAIN and SERVFAIL included,
// is a Response; the error is an *Error and means that no answer came.
func (r *Resolver) QueryDNS(ctx context.Context, q Query) (*Response, error) {
	return nil, &Error{Name: q.Name, Reason: NotConfigured, Err: errSoon}
}

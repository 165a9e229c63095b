package exchange

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"probed/service/resolve"
)

// Target is where to connect to.
type Target struct {
	// Scheme is one of Schemes.
	Scheme string
	// Host is a name or an address (IPv6 without brackets, with its zone); empty for unix sockets.
	Host string
	// Port is 1 to 65535; 0 for unix sockets and for ICMP.
	Port uint16
	// Path is that of a unix socket, absolute, or beginning with @ for an abstract one; else empty.
	Path string
}

// Schemes are those a target can have.
func Schemes() []string {
	return []string{"tcp", "tcp4", "tcp6", "udp", "udp4", "udp6", "icmp", "icmp4", "icmp6", "tls", "unix", "unixgram", "unixpacket"}
}

// PortLookup finds the port of a service by name for a transport ("tcp", "udp"), as getservbyname(3).
type PortLookup func(service, protocol string) (port uint16, ok bool)

// TargetError says why a target cannot be read.
type TargetError struct {
	Target string // as it was given
	Reason string // what is wrong, and what would be right
}

func (e *TargetError) Error() string { return e.Reason }

// ParseTarget reads [scheme://]host:service. Without a scheme it is tcp. The service is a number or a name that lookup
// knows. An IPv6 address stands in brackets; its zone follows % or, as URLs write it, %25. The schemes of ICMP have
// a host and no service; for the unix schemes what follows :// is a path. The error is a [TargetError].
func ParseTarget(s string, lookup PortLookup) (Target, error) {
	bad := func(format string, args ...any) (Target, error) {
		return Target{}, &TargetError{Target: s, Reason: fmt.Sprintf(format, args...)}
	}
	if s == "" {
		return bad("the target is empty: it is [scheme://]host:service, as tcp://example.org:80")
	}
	target := Target{Scheme: "tcp"}
	rest := s
	if scheme, after, ok := strings.Cut(s, "://"); ok {
		target.Scheme, rest = strings.ToLower(scheme), after
		if !validScheme(target.Scheme) {
			return bad("unknown scheme %q: it is one of %s", scheme, strings.Join(Schemes(), ", "))
		}
	}
	if strings.IndexFunc(rest, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0 {
		return bad("the target has a control character in it")
	}
	if target.IsUnix() {
		if !strings.HasPrefix(rest, "/") && !strings.HasPrefix(rest, "@") {
			return bad("the path of a unix socket is absolute, as %s:///run/x.sock", target.Scheme)
		}
		target.Path = rest
		return target, nil
	}

	if target.IsICMP() {
		host, problem := hostAlone(target.Scheme, rest)
		if problem != "" {
			return bad("%s", problem)
		}
		target.Host = host
		return target, nil
	}
	host, service, problem := splitHostService(rest)
	if problem != "" {
		return bad("%s", problem)
	}
	target.Host = host
	port, problem := parsePort(service, target.transport(), lookup)
	if problem != "" {
		return bad("%s", problem)
	}
	target.Port = port
	return target, nil
}

func validScheme(s string) bool {
	return slices.Contains(Schemes(), s)
}

// hostAlone reads a host without a service.
func hostAlone(scheme, s string) (host, problem string) {
	if strings.HasPrefix(s, "[") {
		inside, after, ok := strings.Cut(s[1:], "]")
		if !ok {
			return "", notClosed
		}
		if after != "" {
			return "", fmt.Sprintf("ICMP has no ports: the target ends behind the host, as %s://[%s]", scheme, inside)
		}
		return ipv6In(inside)
	}
	name, _, colon := strings.Cut(s, ":")
	switch {
	case strings.Count(s, ":") > 1:
		return "", fmt.Sprintf("an IPv6 address stands in brackets, as %s://[::1]", scheme)
	case name == "":
		return "", fmt.Sprintf("no host: behind %s:// comes a name or an address; this host itself is 127.0.0.1 or [::1]", scheme)
	case colon:
		return "", fmt.Sprintf("ICMP has no ports: the target ends behind the host, as %s://%s", scheme, name)
	case strings.ContainsAny(s, notInHosts):
		return "", fmt.Sprintf("%q is no host: it is a name or an address", s)
	}
	return s, ""
}

const (
	notClosed  = "the bracket before the IPv6 address is not closed"
	notInHosts = "/?#@[] "
)

// ipv6In reads what stands in brackets.
func ipv6In(inside string) (host, problem string) {
	if address, zone, ok := strings.Cut(inside, "%"); ok {
		if escaped := strings.TrimPrefix(zone, "25"); escaped != "" { // else it is the zone with index 25
			zone = escaped
		}
		inside = address + "%" + zone
	}
	address, err := netip.ParseAddr(inside)
	if err != nil || !address.Is6() {
		return "", fmt.Sprintf("%q in brackets is no IPv6 address", inside)
	}
	return inside, ""
}

func splitHostService(s string) (host, service, problem string) {
	if strings.HasPrefix(s, "[") {
		inside, after, ok := strings.Cut(s[1:], "]")
		if !ok {
			return "", "", notClosed
		}
		if !strings.HasPrefix(after, ":") {
			return "", "", fmt.Sprintf("no service: behind [%s] comes a colon and a port or a service name", inside)
		}
		host, problem = ipv6In(inside)
		return host, after[1:], problem
	}
	i := strings.LastIndexByte(s, ':')
	if i < 0 && s != "" {
		return "", "", fmt.Sprintf("no service: a port or a service name follows the host, as %s:80", s)
	}
	host, service = s[:max(i, 0)], s[i+1:]
	switch {
	case host == "":
		return "", "", "no host: before the colon comes a name or an address; this host itself is 127.0.0.1 or [::1]"
	case strings.Contains(host, ":"):
		return "", "", "an IPv6 address stands in brackets, as [::1]:80"
	case strings.ContainsAny(host, notInHosts):
		return "", "", fmt.Sprintf("%q is no host: it is a name or an address", host)
	}
	return host, service, ""
}

func parsePort(service, protocol string, lookup PortLookup) (port uint16, problem string) {
	if service == "" {
		return 0, "no service: behind the colon comes a port or a service name"
	}
	if isDigits(service) {
		n, err := strconv.ParseUint(service, 10, 64)
		if err != nil || n < 1 || n > 65535 {
			return 0, fmt.Sprintf("port %s is out of range: 1 to 65535", service)
		}
		return uint16(n), ""
	}
	if lookup != nil {
		if port, ok := lookup(service, protocol); ok && port != 0 {
			return port, ""
		}
	}
	return 0, fmt.Sprintf("unknown service %q for %s: give a port, 1 to 65535, or a name of the services table", service, protocol)
}

func isDigits(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' }) < 0
}

// String is the target as ParseTarget reads it, with scheme and port number.
func (t Target) String() string {
	if t.IsUnix() {
		return t.Scheme + "://" + t.Path
	}
	host := t.Host
	if address, zone, ok := strings.Cut(host, "%"); ok && strings.Contains(address, ":") && strings.HasPrefix(zone, "25") && zone != "25" {
		host = address + "%25" + zone // a zone that looks escaped
	}
	if t.IsICMP() {
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		return t.Scheme + "://" + host
	}
	return t.Scheme + "://" + net.JoinHostPort(host, strconv.Itoa(int(t.Port)))
}

// IsUnix tells whether it is a unix socket.
func (t Target) IsUnix() bool { return strings.HasPrefix(t.Scheme, "unix") }

// IsICMP tells whether it is asked by echo requests of ICMP.
func (t Target) IsICMP() bool { return strings.HasPrefix(t.Scheme, "icmp") }

// IsDatagram tells whether the socket sends datagrams: no half-close, and no end of file.
func (t Target) IsDatagram() bool {
	return strings.HasPrefix(t.Scheme, "udp") || t.Scheme == "unixgram" || t.IsICMP()
}

// HasMessages tells whether what is read comes in messages with borders.
func (t Target) HasMessages() bool { return t.IsDatagram() || t.Scheme == "unixpacket" }

func (t Target) family() resolve.Family {
	switch t.Scheme {
	case "tcp4", "udp4", "icmp4":
		return resolve.AF_INET
	case "tcp6", "udp6", "icmp6":
		return resolve.AF_INET6
	}
	return resolve.AF_UNSPEC
}

// transport is the protocol that a service name is looked up for.
func (t Target) transport() string {
	if strings.HasPrefix(t.Scheme, "udp") {
		return "udp"
	}
	return "tcp"
}

// network is what package dial calls it.
func (t Target) network() string {
	if t.Scheme == "tls" {
		return "tcp"
	}
	return t.Scheme
}

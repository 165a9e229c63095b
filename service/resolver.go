package service

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"strings"
	"time"

	probev1 "probed/gen/probe/v1"
	"probed/service/dial"
	"probed/service/resolve"
)

type resolverServer struct {
	probev1.UnimplementedResolverServiceServer
	*Service
}

func (s *resolverServer) GetHostname(ctx context.Context, _ *probev1.GetHostnameRequest) (*probev1.GetHostnameResponse, error) {
	begin := time.Now()
	result, err := s.resolver.GetHostname(ctx)
	if err != nil {
		return nil, s.lookup(ctx, "hostname", begin, err)
	}
	return &probev1.GetHostnameResponse{
		Hostname:      text(result.Hostname),
		CanonicalName: text(result.CanonicalName),
		Addresses:     addressStrings(result.Addresses),
	}, s.lookup(ctx, "hostname", begin, nil)
}

func (s *resolverServer) DescribeVantage(ctx context.Context, _ *probev1.DescribeVantageRequest) (*probev1.DescribeVantageResponse, error) {
	begin := time.Now()
	facts, err := s.resolver.Vantage(ctx)
	if err != nil {
		return nil, s.lookup(ctx, "vantage", begin, err)
	}
	return vantageDescription(s.where, facts), s.lookup(ctx, "vantage", begin, nil)
}

func (s *resolverServer) LookupHost(ctx context.Context, request *probev1.LookupHostRequest) (*probev1.LookupHostResponse, error) {
	begin := time.Now()
	if err := s.mayLookUpHost(ctx, request.GetHost()); err != nil {
		return nil, s.lookup(ctx, "host", begin, err)
	}
	result, err := s.resolver.LookupHost(ctx, request.GetHost(), resolve.Family(request.GetFamily()))
	if err != nil {
		return nil, s.lookup(ctx, "host", begin, err)
	}
	response := &probev1.LookupHostResponse{
		CanonicalName: text(result.CanonicalName),
		Aliases:       texts(result.Aliases),
		Addresses:     addressStrings(result.Addresses),
		Source:        text(result.Source),
		Duration:      duration(result.Duration),
		Notes:         texts(result.Notes),
	}
	if request.GetTrace() {
		response.Trace = traceMessages(result.Trace)
	}
	return response, s.lookup(ctx, "host", begin, nil)
}

func (s *resolverServer) LookupAddress(ctx context.Context, request *probev1.LookupAddressRequest) (*probev1.LookupAddressResponse, error) {
	begin := time.Now()
	address, err := parseAddress(request.GetAddress())
	if err != nil {
		return nil, s.lookup(ctx, "address", begin, err)
	}
	if err := s.mayLookUpAddress(ctx, address); err != nil {
		return nil, s.lookup(ctx, "address", begin, err)
	}
	result, err := s.resolver.LookupAddress(ctx, address)
	if err != nil {
		return nil, s.lookup(ctx, "address", begin, err)
	}
	response := &probev1.LookupAddressResponse{
		CanonicalName: text(result.CanonicalName),
		Aliases:       texts(result.Aliases),
		Addresses:     addressStrings(result.Addresses),
		Source:        text(result.Source),
		Duration:      duration(result.Duration),
		Notes:         texts(result.Notes),
	}
	if request.GetTrace() {
		response.Trace = traceMessages(result.Trace)
	}
	return response, s.lookup(ctx, "address", begin, nil)
}

func (s *resolverServer) GetAddressInfo(ctx context.Context, request *probev1.GetAddressInfoRequest) (*probev1.GetAddressInfoResponse, error) {
	begin := time.Now()
	// A string of C ends at a NUL, so what is behind one would silently not be asked.
	for field, text := range map[string]string{"host": request.GetHost(), "service": request.GetService()} {
		if strings.ContainsRune(text, 0) {
			return nil, s.lookup(ctx, "addrinfo", begin, &fieldError{field: field, problem: "has a NUL character in it"})
		}
	}
	hints := resolve.Hints{
		Family:     resolve.Family(request.GetFamily()),
		SocketType: resolve.SocketType(request.GetType()),
		Protocol:   resolve.Protocol(request.GetProtocol()),
	}
	for _, flag := range request.GetFlags() {
		hints.Flags |= resolve.AIFlags(flag)
	}
	if host := request.GetHost(); isName(host) {
		if hints.Flags&resolve.AI_IDN != 0 { // without it a name is asked as it stands
			host = resolve.ASCII(host)
		}
		if err := s.mayLookUpName(ctx, host); err != nil {
			return nil, s.lookup(ctx, "addrinfo", begin, err)
		}
	}
	entries, err := s.resolver.GetAddrInfo(ctx, request.Host, request.Service, hints)
	if err != nil {
		return nil, s.lookup(ctx, "addrinfo", begin, err)
	}
	response := &probev1.GetAddressInfoResponse{}
	for _, entry := range entries {
		response.Addresses = append(response.Addresses, addressInfoMessage(entry))
	}
	return response, s.lookup(ctx, "addrinfo", begin, nil)
}

func (s *resolverServer) GetNameInfo(ctx context.Context, request *probev1.GetNameInfoRequest) (*probev1.GetNameInfoResponse, error) {
	begin := time.Now()
	address, err := parseAddress(request.GetAddress())
	if err != nil {
		return nil, s.lookup(ctx, "nameinfo", begin, err)
	}
	var flags resolve.NIFlags
	for _, flag := range request.GetFlags() {
		flags |= resolve.NIFlags(flag)
	}
	if err := s.mayLookUpAddress(ctx, address); err != nil {
		return nil, s.lookup(ctx, "nameinfo", begin, err)
	}
	info, err := s.resolver.GetNameInfo(ctx, netip.AddrPortFrom(address, uint16(request.GetPort())), flags)
	if err != nil {
		return nil, s.lookup(ctx, "nameinfo", begin, err)
	}
	return &probev1.GetNameInfoResponse{Host: text(info.Host), Service: text(info.Service)}, s.lookup(ctx, "nameinfo", begin, nil)
}

func (s *resolverServer) QueryDNS(ctx context.Context, request *probev1.QueryDNSRequest) (*probev1.QueryDNSResponse, error) {
	begin := time.Now()
	query, err := s.query(request)
	if err != nil {
		return nil, s.lookup(ctx, "dns", begin, err)
	}
	answer, err := s.ask(ctx, query)
	if err != nil {
		return nil, s.lookup(ctx, "dns", begin, err)
	}
	return dnsMessage(answer), s.lookup(ctx, "dns", begin, nil)
}

// ask asks what the caller may ask. A server of the caller's choice is reached as the target of an exchange is: in a
// session, and by rules about it.
func (s *resolverServer) ask(ctx context.Context, query resolve.Query) (answer *resolve.Response, err error) {
	name := resolve.ASCII(query.Name)
	if query.Server == "" {
		if err := s.mayLookUpName(ctx, name); err != nil {
			return nil, err
		}
		return s.resolver.QueryDNS(ctx, query)
	}
	requestOf(ctx).Target = query.Server
	ctx, session, err := s.session(ctx, probev1.ResolverService_QueryDNS_FullMethodName, query.Server)
	if err != nil {
		return nil, err
	}
	defer func() { session.end(session.queried(answer, statusOf(err))) }()
	if err := s.mayLookUpHost(ctx, resolve.ServerHost(query.Server)); err != nil {
		return nil, err
	}
	if err := s.mayLookUpName(ctx, name); err != nil {
		return nil, err
	}
	return s.resolver.QueryDNS(ctx, query)
}

// mayLookUpHost decides whether the caller may look up a host: an address, and none at all, needs no lookup. A name is
// decided in the form in which it is asked.
func (s *Service) mayLookUpHost(ctx context.Context, host string) error {
	if !isName(host) {
		return nil
	}
	return s.mayLookUpName(ctx, resolve.ASCII(host))
}

// isName says whether a host is one that has to be looked up.
func isName(host string) bool { return host != "" && !resolve.IsLiteral(host) }

func (s *resolverServer) query(request *probev1.QueryDNSRequest) (resolve.Query, error) {
	recordType, ok := resolve.ParseType(cmp.Or(request.GetType(), "A"))
	if !ok {
		return resolve.Query{}, &fieldError{field: "type", problem: "is no type of DNS record: give a name (AAAA, TXT, TYPE65) or a number"}
	}
	query := resolve.Query{
		Name:   request.GetName(),
		Type:   recordType,
		Server: request.GetServer(),
		Dial: func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
			conn, err := s.dialer.Dial(ctx, dial.Request{
				Network: network, Address: server, Host: resolve.ASCII(resolve.ServerHost(request.GetServer())), Send: true,
			})
			if err != nil {
				return nil, err
			}
			return sessionFrom(ctx).counted(server, conn), nil
		},
	}
	switch request.GetTransport() {
	case probev1.DNSTransport_DNS_TRANSPORT_UDP:
		query.Transport, query.IgnoreTruncation = "udp", true
	case probev1.DNSTransport_DNS_TRANSPORT_TCP:
		query.Transport = "tcp"
	case probev1.DNSTransport_DNS_TRANSPORT_TLS:
		query.Transport = "tls"
	}
	return query, nil
}

func parseAddress(s string) (netip.Addr, error) {
	address, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, &fieldError{field: "address", problem: "is no address: give IPv4 (192.0.2.1) or IPv6 (2001:db8::1, fe80::1%eth0)"}
	}
	return address, nil
}

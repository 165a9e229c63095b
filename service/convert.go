package service

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/service/exchange"
	"probed/service/names"
	"probed/service/resolve"
)

// Enums of the engines have the numbers of the contract, so that they convert by a cast; a test holds them together.

func serviceMessages(services []names.Service) []*probev1.Service {
	messages := make([]*probev1.Service, len(services))
	for i, s := range services {
		messages[i] = &probev1.Service{
			Name:        s.Name,
			Port:        uint32(s.Port),
			Protocol:    s.Protocol,
			Aliases:     s.Aliases,
			Description: s.Description,
			PortClass:   probev1.PortClass(s.Class()),
			Source:      probev1.TableSource(s.Source),
		}
	}
	return messages
}

// stepOf is the step numbered i.
func stepOf(step *probev1.Step, i int) (exchange.Step, error) {
	switch step := step.GetStep().(type) {
	case *probev1.Step_Send:
		if text, ok := step.Send.GetContent().(*probev1.Send_Text); ok {
			return exchange.Send{Data: []byte(text.Text), Expand: true}, nil
		}
		return exchange.Send{Data: step.Send.GetData()}, nil
	case *probev1.Step_HalfClose:
		return exchange.HalfClose{}, nil
	case *probev1.Step_Receive:
		return exchange.Receive{
			Length:    step.Receive.GetLength(),
			Delimiter: step.Receive.GetDelimiter(),
			Idle:      step.Receive.GetIdle().AsDuration(),
			Count:     step.Receive.GetCount(),
			MaxBytes:  step.Receive.GetMaxBytes(),

			LengthPrefix: int(step.Receive.GetLengthPrefix()),
		}, nil
	case *probev1.Step_Expect:
		return expectOf(step.Expect, i)
	case *probev1.Step_StartTls:
		return exchange.StartTLS{ServerName: step.StartTls.GetServerName()}, nil
	}
	return nil, &fieldError{field: fmt.Sprintf("steps[%d]", i), problem: "says nothing to do"}
}

func expectOf(message *probev1.Expect, i int) (exchange.Step, error) {
	switch pattern := message.GetPattern().(type) {
	case *probev1.Expect_Data:
		return exchange.Expect{Literal: pattern.Data}, nil
	case *probev1.Expect_Text:
		return exchange.Expect{Literal: []byte(pattern.Text)}, nil
	case *probev1.Expect_Regex:
		expression, err := exchange.CompileExpect(pattern.Regex)
		if err != nil {
			return nil, &fieldError{field: fmt.Sprintf("steps[%d].expect.regex", i), problem: "cannot be used: " + err.Error()}
		}
		return exchange.Expect{Regexp: expression}, nil
	}
	return nil, &fieldError{field: fmt.Sprintf("steps[%d].expect", i), problem: "says nothing to wait for"}
}

// frameOf is the step that a frame of a conversation asks for; not the first frame.
func frameOf(frame *probev1.ConverseRequest) (exchange.Step, error) {
	switch frame := frame.GetFrame().(type) {
	case *probev1.ConverseRequest_Data:
		return exchange.Send{Data: frame.Data}, nil
	case *probev1.ConverseRequest_HalfClose:
		return exchange.HalfClose{}, nil
	case *probev1.ConverseRequest_StartTls:
		return exchange.StartTLS{ServerName: frame.StartTls.GetServerName()}, nil
	case *probev1.ConverseRequest_Close:
		return exchange.Close{}, nil
	case *probev1.ConverseRequest_Open:
		return nil, &fieldError{field: "open", problem: "is the first frame, and only the first"}
	}
	return nil, &fieldError{field: "frame", problem: "says nothing to do"}
}

// eventMessage is an event as callers see it. stepped: the caller gave the steps, so their numbers mean something.
func (s *Service) eventMessage(event exchange.Event, stepped bool) *probev1.ExchangeResponse {
	switch e := event.(type) {
	case exchange.Resolved:
		return &probev1.ExchangeResponse{Event: &probev1.ExchangeResponse_Resolved{Resolved: &probev1.Resolved{
			Host:          e.Host,
			CanonicalName: text(e.CanonicalName),
			Addresses:     addressStrings(e.Addresses),
			Source:        text(e.Source),
			Duration:      durationpb.New(e.Duration),
		}}}
	case exchange.Attempt:
		return &probev1.ExchangeResponse{Event: &probev1.ExchangeResponse_Attempt{Attempt: attemptMessage(e)}}
	case exchange.Connected:
		return &probev1.ExchangeResponse{Event: &probev1.ExchangeResponse_Connected{Connected: &probev1.Connected{
			Local:    text(e.Local),
			Remote:   text(e.Remote),
			Family:   probev1.AddressFamily(e.Socket.Family),
			Type:     probev1.SocketType(e.Socket.Type),
			Protocol: probev1.IpProtocol(e.Socket.Protocol),
		}}}
	case exchange.TLSInfo:
		return &probev1.ExchangeResponse{Event: &probev1.ExchangeResponse_Tls{Tls: tlsMessage(&e)}}
	case exchange.Sent:
		message := &probev1.Sent{Bytes: uint64(e.Bytes), Elapsed: durationpb.New(e.Elapsed)}
		if stepped {
			message.Step = uint32(e.Step)
		}
		return &probev1.ExchangeResponse{Event: &probev1.ExchangeResponse_Sent{Sent: message}}
	case exchange.Chunk:
		return &probev1.ExchangeResponse{Event: &probev1.ExchangeResponse_Chunk{Chunk: chunkMessage(e)}}
	case exchange.PeerClosed:
		return &probev1.ExchangeResponse{Event: &probev1.ExchangeResponse_PeerClosed{PeerClosed: &probev1.PeerClosed{
			Elapsed: durationpb.New(e.Elapsed),
			Unclean: e.Unclean,
		}}}
	case *exchange.Outcome:
		message := s.outcomeMessage(e)
		if !stepped {
			message.FailedStep, message.FailedStepReceived = nil, nil
		}
		return &probev1.ExchangeResponse{Event: &probev1.ExchangeResponse_Outcome{Outcome: message}}
	}
	return nil
}

func chunkMessage(c exchange.Chunk) *probev1.Chunk {
	message := &probev1.Chunk{Data: c.Data, Offset: c.Offset, Elapsed: durationpb.New(c.Elapsed)}
	if c.Datagram != nil {
		message.Datagram = &probev1.Datagram{
			Peer: text(c.Datagram.Peer), Truncated: c.Datagram.Truncated, Length: uint64(c.Datagram.Length),
		}
	}
	return message
}

func attemptMessage(a exchange.Attempt) *probev1.Attempt {
	return &probev1.Attempt{
		Address:   a.Address,
		Ok:        a.OK,
		Reason:    probev1.Reason(a.Reason),
		Errno:     int32(a.Errno),
		ErrnoName: exchange.ErrnoName(a.Errno),
		Error:     text(a.Error),
		Start:     durationpb.New(a.Start),
		Duration:  durationpb.New(a.Duration),
		Icmp:      icmpMessage(a.ICMP),
		Phase:     probev1.Phase(a.Phase),
		Tls:       tlsMessage(a.TLS),
		Local:     a.Local,

		TlsDuration: duration(a.TLSDuration),
	}
}

func icmpMessage(i *exchange.ICMPError) *probev1.IcmpError {
	if i == nil {
		return nil
	}
	return &probev1.IcmpError{From: i.From.String(), Type: uint32(i.Type), Code: uint32(i.Code), Meaning: i.Meaning}
}

func routeMessage(r *exchange.Route) *probev1.NetworkRoute {
	if r == nil {
		return nil
	}
	message := &probev1.NetworkRoute{Interface: text(r.Interface), Mtu: uint32(r.MTU)}
	if r.Source.IsValid() {
		message.Source = r.Source.String()
	}
	if r.Gateway.IsValid() {
		message.Gateway = r.Gateway.String()
	}
	return message
}

func socketOptionsMessage(o *exchange.SocketOptions) *probev1.SocketOptions {
	if o == nil {
		return nil
	}
	return &probev1.SocketOptions{
		ReceiveBuffer:     uint32(o.ReceiveBuffer),
		SendBuffer:        uint32(o.SendBuffer),
		Ttl:               uint32(o.TTL),
		NoDelay:           o.NoDelay,
		KeepAlive:         o.KeepAlive,
		CongestionControl: o.CongestionControl,
	}
}

func (s *Service) outcomeMessage(o *exchange.Outcome) *probev1.Outcome {
	message := &probev1.Outcome{
		Ok:                o.OK,
		Phase:             probev1.Phase(o.Phase),
		Layer:             probev1.Layer(o.Layer),
		Reason:            probev1.Reason(o.Reason),
		Errno:             int32(o.Errno),
		ErrnoName:         exchange.ErrnoName(o.Errno),
		Error:             text(o.Error),
		Hint:              o.Hint,
		EndedBy:           probev1.EndedBy(o.EndedBy),
		BytesSent:         o.BytesSent,
		BytesReceived:     o.BytesReceived,
		BytesAcknowledged: o.BytesAcknowledged,
		BytesUnread:       o.BytesUnread,
		Chunks:            o.Chunks,
		Local:             text(o.Local),
		Remote:            text(o.Remote),
		Family:            probev1.AddressFamily(o.Socket.Family),
		Type:              probev1.SocketType(o.Socket.Type),
		Protocol:          probev1.IpProtocol(o.Socket.Protocol),
		Timings: &probev1.Timings{
			Resolve:   duration(o.Timings.Resolve),
			Connect:   duration(o.Timings.Connect),
			Tls:       duration(o.Timings.TLS),
			FirstByte: duration(o.Timings.FirstByte),
			Total:     duration(o.Timings.Total),
		},
		Tls:                tlsMessage(o.TLS),
		FailedStepReceived: o.StepReceived,
		SocketOptions:      socketOptionsMessage(o.SocketOptions),
		Route:              routeMessage(o.Route),
		Icmp:               icmpMessage(o.ICMP),
		Vantage:            s.vantage,
	}
	for _, attempt := range o.Attempts {
		message.Attempts = append(message.Attempts, attemptMessage(attempt))
	}
	for _, match := range o.Matches {
		message.Matches = append(message.Matches, &probev1.Match{Step: uint32(match.Step), Groups: match.Groups})
	}
	if i := o.TCPInfo; i != nil {
		message.TcpInfo = &probev1.TcpInfo{
			Rtt:              durationpb.New(i.RTT),
			RttVar:           durationpb.New(i.RTTVar),
			Retransmits:      i.Retransmits,
			Mss:              i.MSS,
			Pmtu:             i.PMTU,
			CongestionWindow: i.CongestionWindow,
			Unacknowledged:   i.Unacknowledged,
			Lost:             i.Lost,
		}
	}
	if o.Resolution != nil {
		message.Resolution = lookupFailure(o.Resolution)
	}
	if o.FailedStep != exchange.NoStep {
		step := uint32(o.FailedStep)
		message.FailedStep = &step
	}
	return message
}

func vantageMessage(v Vantage) *probev1.Vantage {
	return &probev1.Vantage{
		Hostname: text(v.Hostname), Pod: text(v.Pod), Namespace: text(v.Namespace), Node: text(v.Node), Version: text(v.Version),
	}
}

func vantageDescription(v Vantage, facts *resolve.Vantage) *probev1.DescribeVantageResponse {
	message := &probev1.DescribeVantageResponse{
		Hostname:  text(facts.Hostname),
		Pod:       text(v.Pod),
		Namespace: text(v.Namespace),
		Node:      text(v.Node),
		Version:   text(v.Version),
		Resolver: &probev1.ResolverConfiguration{
			Search:   texts(facts.Resolver.Search),
			Ndots:    uint32(facts.Resolver.Ndots),
			Timeout:  durationpb.New(facts.Resolver.Timeout),
			Attempts: uint32(facts.Resolver.Attempts),
			Options:  texts(facts.Resolver.Options),
			Sources:  texts(facts.Resolver.Sources),
			Notes:    texts(facts.Resolver.Notes),
		},
	}
	for _, server := range facts.Resolver.Nameservers {
		message.Resolver.Nameservers = append(message.Resolver.Nameservers, server.String())
	}
	for _, i := range facts.Interfaces {
		entry := &probev1.Interface{Name: text(i.Name), Index: int32(i.Index), Mtu: int32(i.MTU)}
		for _, flag := range i.Flags {
			entry.Flags = append(entry.Flags, strings.ToLower(flag))
		}
		for _, prefix := range i.Addresses {
			entry.Addresses = append(entry.Addresses, prefix.String())
		}
		message.Interfaces = append(message.Interfaces, entry)
	}
	for _, r := range facts.DefaultRoutes {
		route := &probev1.Route{Family: probev1.AddressFamily_AF_INET, Interface: text(r.Interface), Metric: r.Metric}
		if r.Destination.Addr().Is6() {
			route.Family = probev1.AddressFamily_AF_INET6
		}
		if r.Gateway.IsValid() {
			route.Gateway = r.Gateway.String()
		}
		message.DefaultRoutes = append(message.DefaultRoutes, route)
	}
	return message
}

func traceMessages(trace []resolve.Step) []*probev1.TraceStep {
	messages := make([]*probev1.TraceStep, len(trace))
	for i, step := range trace {
		messages[i] = &probev1.TraceStep{
			Source:    text(step.Source),
			Name:      text(step.Name),
			Type:      step.Type,
			Server:    step.Server,
			Transport: step.Transport,
			Rcode:     step.Rcode,
			Answers:   texts(step.Answers),
			Duration:  durationpb.New(step.Duration),
			Error:     text(stepError(step)),
		}
	}
	return messages
}

// lookupFailure is why a lookup failed, with the steps that led there.
func lookupFailure(err *resolve.Error) *probev1.ResolutionFailure {
	_, reason := lookupCode(err.Reason)
	return resolutionFailure(reason.String(), err.Trace, err.Duration, err.Reason.Hint())
}

func resolutionFailure(reason string, trace []resolve.Step, took time.Duration, hint string) *probev1.ResolutionFailure {
	return &probev1.ResolutionFailure{Reason: reason, Trace: traceMessages(trace), Duration: duration(took), Hint: hint}
}

// stepError says in words why a step gave no answer; empty when it gave one.
func stepError(step resolve.Step) string {
	switch {
	case step.Skipped:
		return "skipped"
	case step.Reason == resolve.ReasonNone:
		return ""
	}
	// Server and transport have fields of their own; of the error, the number alone is news.
	if errno, ok := errors.AsType[syscall.Errno](step.Err); ok {
		return step.Reason.String() + ": " + errno.Error()
	}
	return step.Reason.String()
}

func addressInfoMessage(entry resolve.AddrInfo) *probev1.AddressInfo {
	return &probev1.AddressInfo{
		Family:        probev1.AddressFamily(entry.Family),
		Type:          probev1.SocketType(entry.SocketType),
		Protocol:      probev1.IpProtocol(entry.Protocol),
		CanonicalName: text(entry.CanonicalName),
		Address: &probev1.SocketAddress{
			Ip:       entry.Address.IP.String(),
			Port:     uint32(entry.Address.Port),
			FlowInfo: entry.Address.FlowInfo,
			ScopeId:  entry.Address.ScopeID,
		},
	}
}

func dnsMessage(answer *resolve.Response) *probev1.QueryDNSResponse {
	message := &probev1.QueryDNSResponse{
		Rcode: answer.RcodeName,
		Flags: &probev1.DNSFlags{
			Response:           answer.Flags.Response,
			Authoritative:      answer.Flags.Authoritative,
			Truncated:          answer.Flags.Truncated,
			RecursionDesired:   answer.Flags.RecursionDesired,
			RecursionAvailable: answer.Flags.RecursionAvailable,
			AuthenticatedData:  answer.Flags.AuthenticData,
			CheckingDisabled:   answer.Flags.CheckingDisabled,
		},
		Answers:    recordMessages(answer.Answers),
		Authority:  recordMessages(answer.Authority),
		Additional: recordMessages(answer.Additional),
		Server:     answer.Server,
		Duration:   durationpb.New(answer.Duration),
	}
	switch answer.Transport {
	case "udp":
		message.Transport = probev1.DNSTransport_DNS_TRANSPORT_UDP
	case "tcp":
		message.Transport = probev1.DNSTransport_DNS_TRANSPORT_TCP
	case "tls":
		message.Transport = probev1.DNSTransport_DNS_TRANSPORT_TLS
	}
	return message
}

func recordMessages(records []resolve.Record) []*probev1.DNSRecord {
	messages := make([]*probev1.DNSRecord, len(records))
	for i, r := range records {
		messages[i] = &probev1.DNSRecord{Name: text(r.Name), Type: r.TypeName, Class: className(r.Class), Ttl: r.TTL, Data: text(r.Data)}
	}
	return messages
}

// className is the name of a DNS class (RFC 1035, section 3.2.4), or its number as RFC 3597 writes it.
func className(class uint16) string {
	switch class {
	case 1:
		return "IN"
	case 3:
		return "CH"
	case 4:
		return "HS"
	}
	return fmt.Sprintf("CLASS%d", class)
}

// text is s as the contract can carry it. Files, peers and the kernel may say any bytes; what is no UTF-8 is replaced.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func texts(all []string) []string {
	valid := make([]string, len(all))
	for i, s := range all {
		valid[i] = text(s)
	}
	return valid
}

func addressStrings(addresses []netip.Addr) []string {
	texts := make([]string, len(addresses))
	for i, address := range addresses {
		texts[i] = address.String()
	}
	return texts
}

// duration is d, or unset when it is zero.
func duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

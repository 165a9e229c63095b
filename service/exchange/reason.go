package exchange

import "strconv"

// Reason is why an exchange or an attempt failed. The list is closed; what fits nowhere is Internal, and a bug.
type Reason int

// The reasons, with the numbers of the contract.
const (
	None               Reason = iota // it did not fail
	NameNotFound                     // the name does not exist
	NameHasNoAddress                 // the name has no address of the family
	DNSTimeout                       // no name server answered in time
	DNSFailure                       // a name server failed, answered garbage, or could not be reached
	PolicyDenied                     // the policy does not admit the address
	ConnectionRefused                // ECONNREFUSED
	ConnectTimeout                   // nobody answered
	HostUnreachable                  // EHOSTUNREACH, EHOSTDOWN
	NetworkUnreachable               // ENETUNREACH, ENETDOWN; EINVAL, from a blackhole route
	DeniedLocally                    // EPERM, EACCES
	AddressUnavailable               // EADDRNOTAVAIL, EADDRINUSE, EAFNOSUPPORT
	TLSExpired                       // the certificate is out of its dates
	TLSUntrusted                     // its issuer is not trusted
	TLSWrongName                     // it is for other names
	TLSNotSpoken                     // the peer does not speak TLS
	TLSHandshake                     // the handshake failed otherwise
	ExpectFailed                     // what came is not what was expected
	ConnectionReset                  // ECONNRESET
	BrokenPipe                       // EPIPE
	ReceiveTimeout                   // the deadline passed before the end rule held
	LimitReached                     // a limit of the service
	Cancelled                        // the caller went away, or another address won
	Drained                          // the service is shutting down
	Internal                         // a bug
	SendTimeout                      // the deadline passed while the peer took no more bytes
	PeerClosedEarly                  // the peer closed before the end rule held
	SocketNotFound                   // ENOENT, ENOTSOCK: there is no unix socket
	WrongSocketType                  // EPROTOTYPE
	MessageTooLarge                  // EMSGSIZE
)

// reasons holds what is to be known of each: its name in the contract, the layer it belongs to, and the hint: what such
// a failure usually means on a cluster network, and what to look at.
var reasons = [...]struct {
	name  string
	layer Layer
	hint  string
}{
	None:               {"UNSPECIFIED", LayerNone, ""},
	NameNotFound:       {"NAME_NOT_FOUND", LayerApplication, "No source this host asks knows the name. Check the spelling, and the namespace: a Service is NAME.NAMESPACE.svc.CLUSTER-DOMAIN from elsewhere."},
	NameHasNoAddress:   {"NAME_HAS_NO_ADDRESS", LayerApplication, "The name exists, without an address of the family asked for. A headless Service has none until a pod behind it is ready."},
	DNSTimeout:         {"DNS_TIMEOUT", LayerApplication, "No name server answered. Is the cluster DNS running, and does a network policy here allow port 53, UDP and TCP, to it?"},
	DNSFailure:         {"DNS_FAILURE", LayerApplication, "The name server could not answer: its upstream fails, it refuses this client, or it cannot be reached. Look at its log."},
	PolicyDenied:       {"POLICY_DENIED", LayerNone, "The policy of this probed does not admit the address."},
	ConnectionRefused:  {"CONNECTION_REFUSED", LayerTransport, "The host is there and nobody listens on this port: the process is down or listens elsewhere (only on loopback?), the Service has no ready endpoints, or a firewall rejects."},
	ConnectTimeout:     {"CONNECT_TIMEOUT", LayerTransport, "Nobody answered. Dropped by a network policy or a firewall on the way, no route back, or the address belongs to nobody; a full accept queue looks the same."},
	HostUnreachable:    {"HOST_UNREACHABLE", LayerInternet, "A router or firewall says the host cannot be reached, or the host does not answer on its own link: it is down, or a rule rejects it."},
	NetworkUnreachable: {"NETWORK_UNREACHABLE", LayerInternet, "This host has no route there, or a blackhole route. For IPv6: does this host have it at all?"},
	DeniedLocally:      {"DENIED_LOCALLY", LayerInternet, "This host itself refuses: a local firewall rule, a prohibit route, or, for a unix socket, the permissions of its file."},
	AddressUnavailable: {"ADDRESS_UNAVAILABLE", LayerInternet, "There is no local address to send from: the source address is not of this host, the interface does not exist, the family is off, or all local ports are taken."},
	TLSExpired:         {"TLS_EXPIRED", LayerApplication, "The certificate is out of its dates. Was it renewed without reloading the server? Is the clock right?"},
	TLSUntrusted:       {"TLS_UNTRUSTED", LayerApplication, "The certificate's issuer is unknown here: a private CA whose certificate was not given, or an incomplete chain."},
	TLSWrongName:       {"TLS_WRONG_NAME", LayerApplication, "The certificate is for other names: a default certificate, or a name inside the cluster that it does not carry."},
	TLSNotSpoken:       {"TLS_NOT_SPOKEN", LayerApplication, "The peer does not speak TLS on this port, or not at once (SMTP, IMAP and PostgreSQL begin in plain text: use the step startTls). One that closes without a word may also have no certificate for this name."},
	TLSHandshake:       {"TLS_HANDSHAKE", LayerApplication, "The handshake broke off: the error says by which side, and why."},
	ExpectFailed:       {"EXPECT_FAILED", LayerApplication, "The peer answered something else than expected: look at what came. Another service on this port, or one that refuses?"},
	ConnectionReset:    {"CONNECTION_RESET", LayerTransport, "The connection was open and has been reset: the process crashed or closed with data unread, a proxy or firewall cut in, or the other end no longer knew the connection. In a TLS handshake: the port may not speak TLS, or something on the way minds the name."},
	BrokenPipe:         {"BROKEN_PIPE", LayerTransport, "The peer had closed the connection before all was sent. What it said before, if anything, is in the chunks."},
	ReceiveTimeout:     {"RECEIVE_TIMEOUT", LayerApplication, "The connection is open, and the end did not come in time: the server is slow, waits for more, or keeps the connection open. An end rule (idle, length, delimiter) ends sooner."},
	LimitReached:       {"LIMIT_REACHED", LayerNone, "A limit of this probed ended it."},
	Cancelled:          {"CANCELLED", LayerNone, "The caller went away."},
	Drained:            {"DRAINED", LayerNone, "This probed is shutting down. Ask again: another one may answer."},
	Internal:           {"INTERNAL", LayerNone, "A failure of probed itself. Its log may tell more; please report it."},
	SendTimeout:        {"SEND_TIMEOUT", LayerTransport, "The connection is open, and the peer takes no more bytes: its process hangs or does not read."},
	PeerClosedEarly:    {"PEER_CLOSED_EARLY", LayerApplication, "The peer closed in an orderly way, and earlier than it should have: it may not have liked the request, or speaks another protocol."},
	SocketNotFound:     {"SOCKET_NOT_FOUND", LayerTransport, "There is no socket at this path: the process is down, or the path is not mounted here."},
	WrongSocketType:    {"WRONG_SOCKET_TYPE", LayerTransport, "The socket at this path is of another type: try unix, unixgram or unixpacket."},
	MessageTooLarge:    {"MESSAGE_TOO_LARGE", LayerTransport, "The message is larger than the transport takes in one piece: for UDP and ICMP 65,507 bytes, and in practice the path MTU."},
}

const (
	hintDatagramSilence   = "UDP silence proves nothing: the datagram or its answer was dropped, or the service does not answer what it does not understand."
	hintNoReply           = "No echo reply: the host is down, the address belongs to nobody, there is no way back, or ICMP is dropped, by a network policy or a firewall on the way or by the host itself. Many drop it who let other things pass, and the address of a Service need not answer at all: try a port."
	hintEchoRefused       = "Not the host answered but somebody before it, see the ICMP message: a firewall rejects, or the address is that of a Service, which is its ports and nothing else: try one of them."
	textPingGroups        = " (net.ipv4.ping_group_range must include the group of probed; in a pod the component icmp of the manifests does that)"
	hintPingGroups        = "The kernel gives ICMP sockets, of IPv6 too, to the groups of net.ipv4.ping_group_range alone. Each network namespace has its own: of a pod it is a sysctl of the securityContext, which the component icmp of the manifests sets to the group of probed."
	hintUnixRefused       = "The socket's file is there and nobody listens on it: the process that made it is gone."
	hintClientCertificate = "The peer lets in only who shows a certificate it trusts: give a client certificate and its key."
	hintHelloSilence      = "The peer does not speak TLS on this port and waits for more, as one that reads lines does; or its process hangs."
	hintClientRefused     = "The peer does not accept the client certificate: of an authority it does not know, out of its dates, or not made for clients."
	hintNothingInCommon   = "The two have no version of TLS, no cipher or no signature algorithm in common: a server that is very old, or very strict. Some refuse in this way for want of a client certificate."
	hintUnrecognizedName  = "The peer serves no such name: look at the name asked for (serverName), or at where the request was routed."
	hintNoALPN            = "The peer speaks none of the application protocols offered by ALPN: offer others, or none."
	hintHandshakeSlow     = "The peer has begun to answer the handshake and does not go on: it is overloaded, or its longer packets do not get through (a path MTU that is smaller than it looks)."
	hintUnacknowledged    = "The connection is open on this side alone: packets are dropped on the way, by a network policy or a firewall that has forgotten it, or the host has gone."
	hintUnheard           = "The connection is open, and what was sent is not acknowledged, however often it is sent again. If short messages arrive, the path MTU is smaller than it looks: a tunnel, and a firewall that drops the ICMP about it. Else packets are lost or dropped on the way, or the host has gone."
	hintHelloLost         = "The connection is open, and the TLS hello was not even acknowledged: packets of its size may not get through (a path MTU that is smaller than it looks), or the host has gone."
	hintPlainLeft         = "What comes in plain text before TLS must be expected whole: a line with its end, and the last line of an answer of several."
	hintOldVersion        = "The peer knows no newer version of TLS: it needs an update, or, where that cannot be, lower the least version to accept."
	hintHungUp            = "The peer heard the request and closed without a word: it did not like it, or speaks another protocol. Servers of TLS do so when spoken to in plain text: connect with the scheme tls to find out."
	hintWantsTLS          = "Use the scheme tls, as tls://HOST:PORT, or the step startTls where the protocol has one."
	hintBytes             = "The operator of this probed has set the limit, of %d bytes."
	hintFewerBytes        = hintBytes + " To receive no more than is needed, end by maxBytes or length."
	hintDials             = "This caller opens too many connections, or to too many targets, in a short time. Ask again later; the operator of this probed has set the limit."
	hintUnixTimeout       = "The listener does not accept: its process hangs, and its queue is full."
)

// String is the reason's name in the contract, without the prefix.
func (r Reason) String() string {
	if r < 0 || int(r) >= len(reasons) {
		return "REASON(" + strconv.Itoa(int(r)) + ")"
	}
	return reasons[r].name
}

func (r Reason) layer() Layer { return reasons[r].layer }

func hint(f *failure, target Target) string {
	switch {
	case target.IsICMP() && f.hint == hintRefusedOnTheWay: // which is for those who asked for a port
		return hintEchoRefused
	case f.hint != "":
		return f.hint
	case target.IsICMP() && (f.reason == ConnectTimeout || f.reason == ReceiveTimeout):
		return hintNoReply
	case target.IsICMP() && f.reason == ConnectionRefused: // which has no ports that nobody listens on
		return hintRejected
	case f.reason == ReceiveTimeout && target.IsDatagram():
		return hintDatagramSilence
	case f.reason == ConnectionRefused && target.IsUnix():
		return hintUnixRefused
	case f.reason == ConnectTimeout && target.IsUnix():
		return hintUnixTimeout
	case f.lookup != nil && f.lookup.Reason.Hint() != "": // which knows more than the few reasons for it here
		return f.lookup.Reason.Hint()
	}
	return reasons[f.reason].hint
}

// Package dial opens outgoing sockets, and is the only one that does.
//
// Dialer.Dial connects to one destination, an IP address or the path of a unix
// socket; names are resolved elsewhere. A policy is asked at the last moment: the
// socket exists, its destination is fixed, and what follows is connect(2). What is
// asked about is what the kernel is about to be given, not what the caller wrote,
// so nothing that changes in between (a DNS answer, a symbolic link, a socket
// renamed into place) can lead past the policy. Without a policy everything is
// denied.
//
// A dial is as plain as a connect(2) in C: one address, no fallback to another, no
// proxy, no Multipath TCP (the protocol stays IPPROTO_TCP), no keep-alive probes,
// no broadcast. Two things are Go's own: sockets are close-on-exec, and TCP has
// TCP_NODELAY set. One is ours: on Linux what ICMP says of a connect, and of a UDP
// or ICMP socket, is kept (IP_RECVERR, ip(7)), see ICMPError. How long it may take is the
// context's to say; when that says nothing, TCP gives up after about two minutes
// (tcp_syn_retries, tcp(7)). By ICMP nothing is sent: see PingConn.
//
// NameServer is the one way around the policy, for the servers of resolv.conf;
// NameServers is the same for those who ask often.
package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

// Destination is what a socket is about to be connected to.
type Destination struct {
	// Network is what the socket is: tcp4, tcp6, udp4, udp6, icmp4, icmp6, unix,
	// unixgram or unixpacket.
	Network string

	// Address is the address and port, for IP networks: never IPv4-mapped, and
	// without a zone. The unspecified address is not replaced by what it leads to.
	// ICMP has no ports: there it is 0.
	Address netip.AddrPort

	// Path is the path of a unix socket: absolute, and with every symbolic link
	// resolved, if its directory can be opened; else it is the path as asked, cleaned,
	// and without what is behind a "..". Magic links (symlink(7)), as /proc/PID/root,
	// lead to no directory.
	Path string

	// Host is Request.Host.
	Host string

	// Send is Request.Send.
	Send bool

	// SkipVerify is Request.SkipVerify.
	SkipVerify bool
}

// String is the path, or the address, with the port where there are ports.
func (d Destination) String() string {
	switch {
	case !d.Address.IsValid():
		return d.Path
	case isPing(d.Network):
		return d.Address.Addr().String()
	}
	return d.Address.String()
}

// isPing says whether a network is icmp, icmp4 or icmp6.
func isPing(network string) bool { return strings.HasPrefix(network, "icmp") }

// Policy decides about one destination: nil admits it, an error denies it and says
// why; a *LimitError does not deny it, and says that there are too many dials now.
// It may be asked again about the same one, since a TCP connect that hits a
// quirk of the kernel (connecting to itself) is repeated with a new socket.
type Policy func(context.Context, Destination) error

// DeniedError is what Dial fails with when the destination is not admitted. Its
// text is fit for the caller: it does not tell how a path was resolved.
type DeniedError struct {
	Destination Destination
	Err         error // why; what the policy returned, if it was asked
}

func (e *DeniedError) Error() string { return fmt.Sprintf("denied: %v", e.Err) }

func (e *DeniedError) Unwrap() error { return e.Err }

// LimitError is what Dial fails with when the policy returned one: the destination
// may be admitted later, and nothing is known against it. Its text is fit for the
// caller.
type LimitError struct {
	// Limit names what was reached, for a person, as "50 dials a second".
	Limit string

	// RetryAfter is when to try again, counted from now; zero: not known.
	RetryAfter time.Duration

	// Err is what the policy knows of it, for who can read that; may be nil.
	Err error
}

func (e *LimitError) Unwrap() error { return e.Err }

func (e *LimitError) Error() string {
	if e.RetryAfter <= 0 {
		return "limit reached: " + e.Limit
	}
	return fmt.Sprintf("limit reached: %s; try again in %v", e.Limit, e.RetryAfter)
}

var (
	errNoPolicy      = errors.New("no policy")
	errUnparsable    = errors.New("the address cannot be parsed")
	errAbstract      = errors.New("abstract unix sockets are never dialled")
	errNotNameServer = errors.New("a name server is asked on port 53 only")
)

// Request is what Dial is asked for.
type Request struct {
	// Network is tcp, udp, icmp, unix, unixgram or unixpacket, or one of tcp4, tcp6,
	// udp4, udp6, icmp4, icmp6, which an address of the other family fails with
	// EAFNOSUPPORT.
	Network string

	// Address is where to, for IP networks; with icmp its port is left out. An IPv4-mapped address is dialled as
	// IPv4. A zone names an interface or is its index; one that does not exist is
	// ENODEV.
	Address netip.AddrPort

	// Path is where to, for unix networks; it may be longer than a sockaddr_un has
	// room for.
	Path string

	// Host is the name Address was resolved from, for policies that look at names;
	// empty if there was none. It decides nothing here.
	Host string

	// Send says that bytes of the caller's will be handed to the peer, for policies
	// that leave that to some callers; a TLS handshake is not such. It decides nothing
	// here.
	Send bool

	// SkipVerify says that TLS will be spoken over the connection and the peer's
	// certificate not be verified, for policies that leave that to some callers. It
	// decides nothing here.
	SkipVerify bool

	// Source is the address to dial from, for IP networks; unset, the kernel chooses.
	// One of the other family than Address is EADDRNOTAVAIL, as is one this host
	// does not have.
	Source netip.Addr

	// Interface is the one to dial through, for IP networks on Linux
	// (SO_BINDTODEVICE, socket(7); before Linux 5.7 that takes CAP_NET_RAW). Empty,
	// the routes decide.
	Interface string

	// Admitted, if set, is called once, after the policy has admitted the destination
	// and before the connect.
	Admitted func()
}

// Dialer opens sockets that its policy admits. It holds no state: one may be used
// from many goroutines at once.
type Dialer struct {
	Policy Policy // nil denies everything
}

// Dial connects to what r names. The connection is a *net.TCPConn, *net.UDPConn,
// *PingConn or *net.UnixConn. Cancelling ctx ends the attempt; a connection once made is not
// touched by it.
//
// Every error is a *net.OpError. In it is, to be found with errors.As,
//
//   - a *DeniedError, if the destination was not admitted; no packet was sent, and
//     whether there is something at a path is not told;
//   - a *LimitError, if the policy holds that there are too many dials now; this is
//     no *DeniedError, and else as with one;
//   - a syscall.Errno, if the kernel refused, and around it an *ICMPError, if the
//     network told it to;
//   - or one that errors.Is knows as context.Canceled or context.DeadlineExceeded.
//
// For unix networks the last component of the path is not followed if it is a
// symbolic link (ELOOP) and must be a socket (ENOTSOCK); a path that ends in a
// slash or in dots names no socket (EINVAL); a socket whose queue of connections is
// full is EAGAIN, at once. A magic link in the path, as /proc/PID/root, is not
// followed (ELOOP), since it leads out of what paths mean here. A unixgram socket is
// given an address of its own, so that the peer can answer. Other systems than Linux,
// and Linux without openat2(2), which came with 5.6, have no unix networks here:
// errors.ErrUnsupported.
//
// For icmp the socket is one of those that need no privilege, and which the kernel
// gives to the groups of net.ipv4.ping_group_range alone (icmp(7)), for IPv6 too: to
// others it is EACCES, of socket(2). The policy is asked before. Only Linux has them
// here.
//
// A panic of the policy, or of Admitted, comes out of Dial, as a string with its stack.
func (d *Dialer) Dial(ctx context.Context, r Request) (net.Conn, error) {
	c, err := d.dial(ctx, r)
	if fell, ok := errors.AsType[*panicError](err); ok {
		panic(fell.Error())
	}
	return c, err
}

func (d *Dialer) dial(ctx context.Context, r Request) (net.Conn, error) {
	switch r.Network {
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6":
		return d.dialIP(ctx, r)
	case "icmp", "icmp4", "icmp6":
		return d.dialPing(ctx, r)
	case "unix", "unixgram", "unixpacket":
		// The kernel takes a leading NUL for an abstract socket, package net an "@".
		if r.Path == "" || r.Path[0] == '@' || strings.ContainsRune(r.Path, 0) {
			denied := &DeniedError{r.destination(), errAbstract}
			return nil, r.failed(denied)
		}
		return d.dialUnix(ctx, r)
	}
	return nil, r.failed(net.UnknownNetworkError(r.Network))
}

// NameServer connects to a server of the system's resolver configuration, which
// the operator chose, without asking a policy: NodeLocal DNS and systemd-resolved
// live on addresses that policies deny. network is udp or tcp, or with a 4 or 6;
// any port but 53 fails with a *DeniedError. A server that a caller chose goes
// through Dial.
func NameServer(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	r := Request{Network: network, Address: server}
	if !server.IsValid() || server.Port() != 53 {
		return nil, r.failed(&DeniedError{r.destination(), errNotNameServer})
	}
	switch network {
	case "udp", "udp4", "udp6", "tcp", "tcp4", "tcp6":
		return connectIP(ctx, r, func(context.Context, Destination) error { return nil }, nil)
	}
	return nil, r.failed(net.UnknownNetworkError(network))
}

// ask puts the question to the policy.
func (d *Dialer) ask(ctx context.Context, to Destination) error {
	if d.Policy == nil {
		return &DeniedError{to, errNoPolicy}
	}
	err := d.Policy(ctx, to)
	if limit, ok := errors.AsType[*LimitError](err); ok {
		return limit
	}
	if err != nil {
		return &DeniedError{to, err}
	}
	return nil
}

// panicError carries a panic through package net, which would not close the socket
// for it.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("%v\n\n%s", e.value, e.stack) }

// asker returns ask as the sockets of one request need it: it calls Admitted the
// first time that the answer is yes.
func (d *Dialer) asker(r Request) func(context.Context, Destination) error {
	told := false
	return func(ctx context.Context, to Destination) (err error) {
		defer func() {
			if value := recover(); value != nil {
				err = &panicError{value, debug.Stack()}
			}
		}()
		if err := d.ask(ctx, to); err != nil {
			return err
		}
		if !told && r.Admitted != nil {
			r.Admitted()
		}
		told = true
		return nil
	}
}

// destination is where to as the caller wrote it, for what is denied before there is
// a socket.
func (r Request) destination() Destination {
	return Destination{Network: r.Network, Address: r.Address, Path: r.Path, Host: r.Host, Send: r.Send, SkipVerify: r.SkipVerify}
}

// failed wraps err as package net does, once. The address is the one that was
// asked for.
func (r Request) failed(err error) *net.OpError {
	if inner, ok := err.(*net.OpError); ok { //nolint:errorlint // what a policy returned may have such an error in it
		err = inner.Err
		// The end of a context shows as the context's own error or as that of the
		// socket's deadline, which package net sets to the same time; which comes first
		// is chance. ETIMEDOUT is neither.
		if _, kernel := errors.AsType[*os.SyscallError](err); inner.Timeout() && !kernel {
			err = context.DeadlineExceeded
		}
	}
	op := &net.OpError{Op: "dial", Net: r.Network, Err: err}
	switch {
	case strings.HasPrefix(r.Network, "unix"):
		op.Addr = &net.UnixAddr{Name: r.Path, Net: r.Network}
	case r.Address.IsValid() && strings.HasPrefix(r.Network, "tcp"):
		op.Addr = net.TCPAddrFromAddrPort(r.Address)
	case r.Address.IsValid() && isPing(r.Network):
		op.Addr = ipAddr(r.Address.Addr())
	case r.Address.IsValid():
		op.Addr = net.UDPAddrFromAddrPort(r.Address)
	}
	return op
}

// errno is an error of the system call op, for what is found out before making it.
func errno(op string, e syscall.Errno) error {
	return os.NewSyscallError(op, e)
}

package exchange

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"probed/service/dial"
	"probed/service/resolve"
)

// failure is why an exchange cannot go on.
type failure struct {
	phase    Phase
	reason   Reason
	errno    int
	text     string
	hint     string           // more to the point than the reason's own; empty: none
	layer    Layer            // other than the reason's own; LayerNone: that
	icmp     *ICMPError       // the message behind it
	limit    *dial.LimitError // of the policy
	deadline bool             // the exchange's own timeout is what ended it
	lookup   *resolve.Error   // of a lookup that failed
}

// byErrno says what the error numbers of connect(2), send(2) and recv(2) mean.
var byErrno = map[syscall.Errno]Reason{
	syscall.ECONNREFUSED:  ConnectionRefused,
	syscall.ETIMEDOUT:     ConnectTimeout,
	syscall.EAGAIN:        ConnectTimeout, // from connect(2) on a unix socket whose queue is full
	syscall.EHOSTUNREACH:  HostUnreachable,
	syscall.EHOSTDOWN:     HostUnreachable,
	syscall.ENOPROTOOPT:   HostUnreachable, // ICMP protocol unreachable, which firewalls can be told to answer
	syscall.EPROTO:        HostUnreachable, // ICMP parameter problem
	syscall.EOPNOTSUPP:    HostUnreachable, // ICMP source route failed
	syscall.ENETUNREACH:   NetworkUnreachable,
	syscall.ENETDOWN:      NetworkUnreachable,
	syscall.EINVAL:        NetworkUnreachable, // from a blackhole route
	syscall.EPERM:         DeniedLocally,
	syscall.EACCES:        DeniedLocally,
	syscall.EADDRNOTAVAIL: AddressUnavailable,
	syscall.EADDRINUSE:    AddressUnavailable,
	syscall.ENODEV:        AddressUnavailable, // an interface or a zone that does not exist
	syscall.EAFNOSUPPORT:  AddressUnavailable,
	syscall.ECONNRESET:    ConnectionReset,
	syscall.ECONNABORTED:  ConnectionReset,
	syscall.ENOTCONN:      ConnectionReset, // from shutdown(2) on a connection that the peer has reset
	syscall.EPIPE:         BrokenPipe,
	syscall.ENOENT:        SocketNotFound,
	syscall.ENOTDIR:       SocketNotFound,
	syscall.ENOTSOCK:      SocketNotFound,
	syscall.ELOOP:         SocketNotFound, // a symbolic link, which package dial does not follow
	syscall.ENAMETOOLONG:  SocketNotFound,
	syscall.EPROTOTYPE:    WrongSocketType,
	syscall.EMSGSIZE:      MessageTooLarge,
	syscall.EMFILE:        LimitReached,
	syscall.ENFILE:        LimitReached,
	syscall.ENOBUFS:       LimitReached,
	syscall.ENOMEM:        LimitReached,
}

// fromErrno fills in reason, errno and text from the error of a system call, INTERNAL when it is none we know.
func fromErrno(err error) (reason Reason, errno int, text string) {
	var number syscall.Errno
	if !errors.As(err, &number) {
		return Internal, 0, err.Error()
	}
	reason, ok := byErrno[portable(number)]
	if !ok {
		reason = Internal
	}
	return reason, int(number), number.Error()
}

// over tells whether the exchange must end. A socket's deadline that was set from that of the context can pass a moment
// before the context says so itself.
func (s *session) over() bool {
	deadline, bounded := s.ctx.Deadline()
	return s.ctx.Err() != nil || bounded && !time.Now().Before(deadline)
}

// interrupted says which failure it is that the exchange must end, or nil when it need not.
func (s *session) interrupted(phase Phase) *failure {
	if !s.over() {
		return nil
	}
	if errors.Is(s.callerCtx.Err(), context.Canceled) {
		return s.cancelled(phase)
	}
	f := &failure{phase: phase, deadline: true}
	after := s.request.Timeout
	switch phase {
	case PhaseResolve:
		f.reason, f.text = DNSTimeout, fmt.Sprintf("no answer to the name within %v", after)
	case PhaseConnect:
		f.reason, f.text = ConnectTimeout, fmt.Sprintf("not connected within %v", after)
	case PhaseTLS:
		f.reason, f.text = TLSHandshake, fmt.Sprintf("the TLS handshake did not end within %v", after)
	case PhaseSend:
		f.reason, f.text = SendTimeout, fmt.Sprintf("the peer took no more bytes, given up after %v", after)
	default:
		f.reason, f.text = ReceiveTimeout, fmt.Sprintf("the end did not come within %v", after)
	}
	return f
}

// cancelled is the failure that the caller, or the service, wants no more of it.
func (s *session) cancelled(phase Phase) *failure {
	if errors.Is(context.Cause(s.callerCtx), ErrDrained) {
		return &failure{phase: phase, reason: Drained, text: ErrDrained.Error()}
	}
	return &failure{phase: phase, reason: Cancelled, text: "the caller went away"}
}

// ioFailure is the failure of a read, a write or a shutdown on the open connection.
func (s *session) ioFailure(phase Phase, err error) *failure {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) { // see wokenBy
		if f := s.interrupted(phase); f != nil {
			return f
		}
	}
	if s.gone {
		return s.cancelled(phase)
	}
	if limit, ok := errors.AsType[*limitError](err); ok {
		return limit.failure(phase)
	}
	f := &failure{phase: phase}
	f.reason, f.errno, f.text = fromErrno(err)
	if f.icmp = s.conn.icmp(err); f.icmp != nil {
		f.reason, f.layer, f.hint = f.icmp.judge(f.reason)
	}
	if f.errno == 0 && s.conn.secured != nil { // what TLS itself finds wrong, or the peer's alert
		f.reason, f.text = TLSHandshake, "TLS broke: "+strings.TrimPrefix(err.Error(), "tls: ")
	}
	if f.reason == ConnectTimeout { // ETIMEDOUT on an open connection: segments go unacknowledged
		f.reason = SendTimeout
		if phase == PhaseReceive {
			f.reason = ReceiveTimeout
		}
	}
	return f
}

// resolveFailure is the failure of a lookup.
func (s *session) resolveFailure(err error) *failure {
	var lookup *resolve.Error
	known := errors.As(err, &lookup)
	if f := s.interrupted(PhaseResolve); f != nil {
		f.lookup = lookup // whom it asked, and who was silent
		return f
	}
	f := &failure{phase: PhaseResolve, reason: DNSFailure, text: err.Error()}
	if !known {
		f.reason = Internal
		return f
	}
	f.lookup = lookup
	switch lookup.Reason {
	case resolve.NotFound, resolve.BadName:
		f.reason = NameNotFound
	case resolve.NoData:
		f.reason = NameHasNoAddress
	case resolve.Timeout:
		f.reason = DNSTimeout
	}
	return f
}

// attemptFailure says why an attempt failed; ctx is the attempt's own.
func (s *session) attemptFailure(ctx context.Context, err error) *failure {
	f := &failure{phase: PhaseConnect}
	if denied, ok := errors.AsType[*dial.DeniedError](err); ok {
		f.reason, f.text = PolicyDenied, denied.Error()
		return f
	}
	if limit, ok := errors.AsType[*dial.LimitError](err); ok {
		f.phase, f.reason, f.text, f.hint, f.limit = PhasePolicy, LimitReached, limit.Error(), hintDials, limit
		return f
	}
	var number syscall.Errno
	if !errors.As(err, &number) {
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, errOutrun):
			f.reason, f.text = Cancelled, errOutrun.Error()
			return f
		case errors.Is(err, context.DeadlineExceeded), errors.Is(cause, context.DeadlineExceeded):
			f.reason, f.text = ConnectTimeout, "nobody answered in time"
			return f
		case cause != nil:
			return s.cancelled(PhaseConnect)
		}
	}
	f.reason, f.errno, f.text = fromErrno(err)
	if source := s.request.Source; number == syscall.EINVAL && source.IsValid() && source.IsLoopback() {
		f.reason = AddressUnavailable // it leads nowhere else
	}
	if number == syscall.EINVAL && s.request.Target.IsUnix() { // a path that ends in a slash or in dots
		f.reason = SocketNotFound
	}
	if s.request.Target.IsICMP() && isNotPermitted(err) {
		f.reason, f.hint = DeniedLocally, hintPingGroups
		f.text = "no ICMP socket: " + f.text + textPingGroups
	}
	if f.icmp = icmpOf(err); f.icmp != nil {
		f.reason, f.layer, f.hint = f.icmp.judge(f.reason)
	}
	return f
}

package exchange

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"probed/service/resolve"
)

// Request is one exchange to carry out.
type Request struct {
	Target Target
	// Steps are carried out in order; then the connection is closed. None: it is opened and closed.
	Steps []Step
	// Family restricts the addresses to one family; zero: both, unless the target's scheme says.
	Family resolve.Family
	// PreferredFamily is the family whose addresses are tried first; zero: the order is that of Resolve. FirstAddressOnly
	// tries no address but the first.
	PreferredFamily  resolve.Family
	FirstAddressOnly bool
	// Source is the address to connect from, and Interface the one to connect through; unset: the kernel chooses.
	Source    netip.Addr
	Interface string
	// TLS is how it is spoken, where it is; nil: as the zero value says.
	TLS *TLSOptions
	// AllAddresses checks every address, and carries out no steps, of which there must be none.
	AllAddresses bool
	// BufferSize is the most bytes of one chunk, and at most MaxBufferSize, whatever it says; zero: it grows with the
	// flow, from 4 KiB to 256 KiB, and is 64 KiB for messages.
	BufferSize int
	// Timeout is for all of it; zero: what [Limits] say.
	Timeout time.Duration
}

// Step is one thing to do with an open connection: [Send], [Expect], [StartTLS], [HalfClose] or [Receive]; in a
// conversation also [Close].
type Step interface{ step() }

// Send sends Data: on a stream all of it, on a datagram socket as one datagram, which may be empty.
type Send struct {
	Data []byte
	// Expand replaces ${1}, ${name} and so on in Data by what the groups of the latest Expect with a regular expression
	// have matched. Without such an Expect before, Data is sent as it is.
	Expand bool
}

// Expect waits until what it looks for has come, on a stream; what came beyond stays for the next step. It looks at no
// more than expectWindow bytes. One of the two is set.
type Expect struct {
	// Literal is to come byte for byte.
	Literal []byte
	// Regexp is tried on each line without its end, and consumes the line in which it matches. When it matches none, it
	// is tried on all that has come, and consumes what it matches. A line without an end is tried when the peer has been
	// silent for expectSilence, or for expectLongSilence if more bytes would make the match longer, or has closed. See
	// [CompileExpect].
	Regexp *regexp.Regexp
}

// StartTLS begins TLS on a stream, as the request's TLS says.
type StartTLS struct {
	ServerName string // goes before that of the request
}

// Close closes the connection; the last step of a conversation.
type Close struct{}

// HalfClose closes the sending side, so that the peer reads end of file (shutdown(2), SHUT_WR).
type HalfClose struct{}

// Receive reads until one of its rules holds; the zero value reads until the peer closes. A short read is never an end.
// When the peer closes before Length, Delimiter or Count held, the exchange fails with [PeerClosedEarly].
type Receive struct {
	// Length ends it after exactly so many bytes, and no further byte is read; zero: no such rule.
	Length int64
	// Delimiter ends it behind these bytes; empty: no such rule. What came beyond stays for the next step.
	Delimiter string
	// Idle ends it when nothing came for so long; zero: no such rule. On a datagram socket on which nothing came in
	// this step at all it is a failure, [ReceiveTimeout], since silence there says nothing.
	Idle time.Duration
	// Count ends it after so many messages; zero: no such rule.
	Count uint32
	// MaxBytes ends it after at most so many bytes, and no further byte is read; zero: no such rule. A message that
	// goes beyond is truncated.
	MaxBytes int64
	// LengthPrefix ends it after as many bytes as the first ones of the message say, a number of so many bytes, the most
	// significant first, and no further byte is read; zero: no such rule. At most 4.
	LengthPrefix int
}

func (Send) step()      {}
func (Expect) step()    {}
func (StartTLS) step()  {}
func (Close) step()     {}
func (HalfClose) step() {}
func (Receive) step()   {}

// DefaultSteps are those of a first socket program: send everything, half-close (unless holdOpen) and receive until the
// peer closes. A datagram socket has neither half-close nor end of file, so there one datagram is sent and one
// received.
func DefaultSteps(target Target, data []byte, holdOpen bool) []Step {
	var steps []Step
	if len(data) > 0 || target.IsDatagram() {
		steps = append(steps, Send{Data: data})
	}
	if target.IsDatagram() {
		return append(steps, Receive{Count: 1})
	}
	if !holdOpen {
		steps = append(steps, HalfClose{})
	}
	return append(steps, Receive{})
}

// sends says whether a step hands bytes of the caller's to the peer, or an empty message, which the peer sees too.
func (r *Request) sends() bool {
	return slices.ContainsFunc(r.Steps, func(step Step) bool {
		send, ok := step.(Send)
		return ok && (len(send.Data) > 0 || r.Target.HasMessages())
	})
}

// StepError says that a step cannot be carried out.
type StepError struct {
	Step   int    // counted from 0
	Field  string // the field of the step, as "receive.count", "half_close"
	Reason string // what is wrong with it
}

func (e *StepError) Error() string { return e.Reason }

// FieldError says that something of a request does not go with the rest.
type FieldError struct {
	Field  string // as "family", "tls.server_name"
	Reason string // what is wrong with it
}

func (e *FieldError) Error() string { return e.Reason }

// Validate finds what does not go with the target, steps that do not go with the steps before, or end rules that do not
// go together. The error is a [FieldError] or a [StepError].
func (r *Request) Validate() error {
	if err := r.validateTarget(); err != nil {
		return err
	}
	if r.AllAddresses && r.FirstAddressOnly {
		return &FieldError{"first_address_only", "goes against all_addresses"}
	}
	order := order{target: r.Target, options: r.TLS, secured: r.Target.Scheme == "tls"}
	var match *regexp.Regexp
	for i, step := range r.Steps {
		if field, problem := order.next(step); problem != "" {
			return &StepError{Step: i, Field: field, Reason: problem}
		}
		bad := func(field, format string, args ...any) error {
			return &StepError{Step: i, Field: field, Reason: fmt.Sprintf(format, args...)}
		}
		switch step := step.(type) {
		case Send:
			if group := missingGroup(step, match); group != "" {
				return bad("send.text", "the expression expected before has no group ${%s}; text with a literal ${%s} can be sent as data", group, group)
			}
		case Expect:
			if step.Regexp != nil {
				match = step.Regexp
			}
		case Receive:
			scheme := r.Target.Scheme
			switch {
			case step.Length > 0 && r.Target.HasMessages():
				return bad("receive.length", "length is for streams; messages (%s) end by count or idle", scheme)
			case step.Delimiter != "" && r.Target.HasMessages():
				return bad("receive.delimiter", "delimiter is for streams; messages (%s) end by count or idle", scheme)
			case step.Count > 0 && !r.Target.HasMessages():
				return bad("receive.count", "count is for messages; a stream (%s) has no borders to count: use length, delimiter or idle", scheme)
			case step.Length > 0 && step.Delimiter != "":
				return bad("receive.delimiter", "length and delimiter exclude each other")
			case step.Length > 0 && step.MaxBytes > 0:
				return bad("receive.max_bytes", "length and maxBytes exclude each other")
			case step.LengthPrefix > 0 && r.Target.HasMessages():
				return bad("receive.length_prefix", "lengthPrefix is for streams; messages (%s) come whole", scheme)
			case step.LengthPrefix > 0 && (step.Length > 0 || step.Delimiter != "" || step.MaxBytes > 0):
				return bad("receive.length_prefix", "lengthPrefix excludes length, delimiter and maxBytes: the peer tells how long its message is")
			}
		}
	}
	if r.TLS != nil && !order.secured {
		return &FieldError{"tls", "goes with the scheme tls, as tls://HOST:PORT, or with a step startTls"}
	}
	return nil
}

// ValidateConversation is Validate for the request of a [Conversation], which has no steps yet.
func (r *Request) ValidateConversation() error {
	if err := r.validateTarget(); err != nil {
		return err
	}
	if r.TLS != nil && r.Target.HasMessages() {
		return &FieldError{"tls", fmt.Sprintf("goes over streams, not over messages (%s)", r.Target.Scheme)}
	}
	return nil
}

// validateTarget finds what does not go with the target.
func (r *Request) validateTarget() error {
	bad := func(field, format string, args ...any) error {
		return &FieldError{field, fmt.Sprintf(format, args...)}
	}
	target := r.Target
	unspecified := resolve.AF_UNSPEC
	switch {
	case target.IsUnix() && r.Family != unspecified:
		return bad("family", "a unix socket has no addresses to choose from")
	case target.IsUnix() && r.PreferredFamily != unspecified:
		return bad("preferred_family", "a unix socket has no addresses to choose from")
	case target.IsUnix() && r.Source.IsValid():
		return bad("source", "a unix socket has no source address")
	case target.IsUnix() && r.Interface != "":
		return bad("interface", "a unix socket has no interface")
	case strings.ContainsAny(r.Interface, "/ \t\n\x00"):
		return bad("interface", "%q is no name of an interface", r.Interface)
	case r.Family != unspecified && target.family() != unspecified && r.Family != target.family():
		return bad("family", "the scheme %s says otherwise", target.Scheme)
	}
	if address, err := netip.ParseAddr(target.Host); err == nil && r.Family != unspecified {
		if address.Unmap().Is4() != (r.Family == resolve.AF_INET) {
			return bad("family", "%s is an address of the other family", target.Host)
		}
	}
	return nil
}

// order is the order that the steps of a script and the frames of a conversation have in common. It is changed by next.
type order struct {
	target     Target
	options    *TLSOptions
	secured    bool // TLS is spoken by now
	halfClosed bool
	closed     bool
}

// next takes a step and says what is wrong with it at this place, and in which field; empty: nothing.
func (o *order) next(step Step) (field, problem string) {
	scheme := o.target.Scheme
	stream := !o.target.HasMessages()
	if o.closed {
		return "close", "the conversation is closed already"
	}
	switch step := step.(type) {
	case Send:
		if o.halfClosed {
			return "send", "the sending side is closed already"
		}
	case HalfClose:
		switch {
		case o.target.IsDatagram():
			return "half_close", fmt.Sprintf("a datagram socket (%s) has no half-close", scheme)
		case o.halfClosed:
			return "half_close", "the sending side is closed already"
		}
		o.halfClosed = true
	case Expect:
		if !stream {
			return "expect", fmt.Sprintf("expect is for streams; messages (%s) come whole", scheme)
		}
	case StartTLS:
		name := step.ServerName
		if name == "" && o.options != nil {
			name = o.options.ServerName
		}
		switch {
		case !stream:
			return "start_tls", fmt.Sprintf("TLS goes over streams, not over messages (%s)", scheme)
		case o.secured:
			return "start_tls", "TLS is spoken already"
		case o.halfClosed:
			return "start_tls", "the sending side is closed already"
		case o.target.IsUnix() && name == "" && (o.options == nil || !o.options.SkipVerify):
			return "start_tls.server_name", "a unix socket has no host that the certificate could be for: give the name"
		}
		o.secured = true
	case Close:
		o.closed = true
	}
	return "", ""
}

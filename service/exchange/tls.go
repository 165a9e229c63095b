package exchange

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
	"time"

	"golang.org/x/net/idna"
)

const (
	// DefaultHandshakeTimeout is what a TLS handshake gets.
	DefaultHandshakeTimeout = 10 * time.Second
	// verdictPatience bounds the wait for a word of a peer that has asked for a client certificate, see awaitVerdict.
	verdictPatience = time.Second
	// helloPatience is how long a peer that has the hello may be silent.
	helloPatience = 3 * time.Second
	// closePatience bounds what saying goodbye may take when the peer reads nothing any more.
	closePatience = 100 * time.Millisecond
)

// TLSOptions is how TLS is spoken with the peer. The zero value trusts whom this host trusts.
type TLSOptions struct {
	ServerName  string            // the certificate must be for, and SNI; empty: the target's host
	ALPN        []string          // to offer, the preferred one first
	MinVersion  uint16            // to accept, of [tls.VersionTLS10] and so on; zero: TLS 1.2
	MaxVersion  uint16            // to offer; zero: TLS 1.3
	Roots       *x509.CertPool    // to trust; nil: those of this host
	Certificate []tls.Certificate // the client's, for peers that ask; at most one
	SkipVerify  bool              // go on whatever the certificate says
}

// TLSInfo is what a handshake told, also one that failed.
type TLSInfo struct {
	Version                    string // as "TLS 1.3"; empty when it did not get so far
	Cipher                     string // by its IANA name
	ALPN                       string // empty when none was agreed on
	KeyExchange                string // by its IANA name; empty when there was none to name
	ServerName                 string // the certificate had to be for
	ClientCertificateRequested bool
	Verified                   bool
	VerifyError                string    // all that stood in the way; empty when verified
	VerifiedUntil              time.Time // when the first of the certificates that vouch for it ends to be valid; zero: not verified
	Chain                      []Certificate
}

// Certificate is one of a peer's chain.
type Certificate struct {
	Subject, Issuer     string   // as RFC 2253 writes them
	Names               []string // of subjectAltName
	DNSNames            []string // those of Names that are DNS names
	NotBefore, NotAfter time.Time
	SerialNumber        string // hexadecimal
	SHA256              string // of all of it, hexadecimal
	KeyType             string // as "RSA 2048", "ECDSA P-256", "Ed25519"
	CA                  bool
}

// tlsError is a handshake that ended on our side: because of the certificate, or of the version.
type tlsError struct {
	reason Reason
	text   string
	hint   string // empty: that of the reason
}

func (e *tlsError) Error() string { return e.text }

// handshake is TLS over a connection: how it came about, and what it told.
type handshake struct {
	options *TLSOptions
	name    string // the certificate must be for
	info    TLSInfo
	wire    *wire
	conn    *tls.Conn
	took    time.Duration
	early   []byte // data that came instead of the peer's verdict
	room    int    // for it
	waiting bool   // for the peer's verdict
	ticket  bool   // it came, as a session ticket
}

// newHandshake prepares one with options, which may be nil, over an open connection; name goes before that of options,
// and the target's host behind it.
func newHandshake(c net.Conn, options *TLSOptions, name string, target Target) *handshake {
	if options == nil {
		options = &TLSOptions{}
	}
	for _, other := range []string{options.ServerName, target.Host} {
		if name == "" {
			name = other
		}
	}
	name, _, _ = strings.Cut(strings.TrimSuffix(name, "."), "%") // certificates know neither the root's dot nor zones
	if ascii, err := idna.Lookup.ToASCII(name); err == nil {     // as certificates and SNI have it; an address is none
		name = ascii
	}
	h := &handshake{
		options: options, name: name, room: minChunk,
		wire: &wire{Conn: c, unacknowledged: newConn(c, target, nil).unacknowledged},
	}
	h.info.ServerName = name
	h.conn = tls.Client(h.wire, &tls.Config{
		ServerName: name,
		NextProtos: options.ALPN,
		// A peer that can do no better than an old version shall be told by it, so what is accepted is judged behind.
		MinVersion: tls.VersionTLS10,
		MaxVersion: options.MaxVersion,
		// The chain is verified in verify, where it is also told.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection:   h.verify,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			h.info.ClientCertificateRequested = true
			if len(options.Certificate) > 0 {
				return &options.Certificate[0], nil
			}
			return &tls.Certificate{}, nil
		},
		ClientSessionCache: ticketWatch{h},
	})
	return h
}

// run carries the handshake out. It ends with ctx, and leaves some deadline on the connection.
func (h *handshake) run(ctx context.Context, timeout time.Duration) error {
	begin := time.Now()
	defer func() { h.took = time.Since(begin) }()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer wokenBy(ctx, h.wire.Conn, nil)()
	h.wire.ctx = ctx
	defer func() { h.wire.ctx = nil }()
	if err := h.conn.Handshake(); err != nil {
		return err
	}
	h.info.KeyExchange = groupName(h.conn.ConnectionState().CurveID) // with TLS 1.2 it is not known before
	return h.awaitVerdict(time.Since(begin))
}

// awaitVerdict waits for what a peer says to our certificate, or to our having none. With TLS 1.3 the handshake is over
// for the client before the peer has looked at it (RFC 8446, section 4.4.2.4), so that a refusal would otherwise come as
// the answer to the first question. A session ticket, or data, is consent.
func (h *handshake) awaitVerdict(took time.Duration) error {
	if !h.info.ClientCertificateRequested || h.conn.ConnectionState().Version < tls.VersionTLS13 {
		return nil
	}
	_ = h.wire.SetReadDeadline(time.Now().Add(min(verdictPatience, 100*time.Millisecond+2*took)))
	buffer := make([]byte, h.room)
	h.waiting = true
	n, err := h.conn.Read(buffer)
	h.waiting = false
	h.early = buffer[:n]
	if n > 0 || h.ticket || errors.Is(err, io.EOF) {
		return nil
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return nil
	}
	return err
}

// ticketWatch learns of the session tickets that a peer sends, and keeps none.
type ticketWatch struct{ *handshake }

func (ticketWatch) Get(string) (*tls.ClientSessionState, bool) { return nil, false }

func (w ticketWatch) Put(string, *tls.ClientSessionState) {
	if w.waiting { // in a read, on this very goroutine
		w.ticket = true
		_ = w.wire.SetReadDeadline(longAgo())
	}
}

// verify notes what the handshake has told so far, and judges it.
func (h *handshake) verify(state tls.ConnectionState) error {
	h.info.Version, h.info.Cipher = tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite)
	h.info.ALPN = state.NegotiatedProtocol
	h.info.KeyExchange = groupName(state.CurveID)
	for _, certificate := range state.PeerCertificates {
		h.info.Chain = append(h.info.Chain, describe(certificate))
	}
	problems := h.problems(state.PeerCertificates, time.Now())
	texts := make([]string, len(problems))
	for i, problem := range problems {
		texts[i] = problem.text
	}
	h.info.Verified, h.info.VerifyError = len(problems) == 0, strings.Join(texts, "; ")
	if !h.info.Verified {
		h.info.VerifiedUntil = time.Time{}
	}

	least := h.options.MinVersion
	if least == 0 {
		least = tls.VersionTLS12
	}
	if state.Version < least {
		return &tlsError{TLSHandshake, fmt.Sprintf("the peer speaks %s at best, and %s is the least to accept", h.info.Version, tls.VersionName(least)), hintOldVersion}
	}
	if len(problems) > 0 && !h.options.SkipVerify {
		return &tlsError{reason: problems[0].reason, text: h.info.VerifyError}
	}
	return nil
}

// groupName is the name of a key exchange in IANA's registry of TLS supported groups; empty for none.
func groupName(group tls.CurveID) string {
	switch group {
	case 0:
		return ""
	case tls.CurveP256:
		return "secp256r1"
	case tls.CurveP384:
		return "secp384r1"
	case tls.CurveP521:
		return "secp521r1"
	case tls.X25519:
		return "x25519"
	}
	return group.String()
}

// failure says why the handshake failed, or what was read right behind it.
func (h *handshake) failure(err error) *failure {
	f := &failure{phase: PhaseTLS, reason: TLSHandshake}
	ours, judged := errors.AsType[*tlsError](err)
	remote, hasRemote := errors.AsType[*net.OpError](err)
	var timeout net.Error
	switch {
	case judged:
		f.reason, f.text, f.hint = ours.reason, ours.text, ours.hint
	case h.wire.notTLS():
		f.reason, f.text = TLSNotSpoken, "the peer answered the TLS handshake with something else: "+excerpt(h.wire.received)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		f.text = "the peer closed during the handshake"
		if len(h.wire.received) == 0 {
			f.reason, f.text = TLSNotSpoken, "the peer closed without a word when the TLS handshake began"
		}
	case hasRemote && remote.Op == "remote error": // what crypto/tls makes of an alert
		f.text = "the peer refused: " + strings.TrimPrefix(remote.Err.Error(), "tls: ")
		switch alert := alertOf(remote.Err); {
		case h.info.ClientCertificateRequested && len(h.options.Certificate) == 0:
			f.text += " (it had asked for a client certificate, and none was given)"
			f.hint = hintClientCertificate
		case h.info.ClientCertificateRequested && alert >= 42 && alert <= 49: // about certificates
			f.hint = hintClientRefused
		default:
			f.hint = alertHints[alert]
		}
	case errors.Is(err, errSilent):
		f.reason, f.hint = TLSNotSpoken, hintHelloSilence
		f.text = fmt.Sprintf("the peer took the TLS hello, and said nothing for %v", helloPatience)
	case errors.As(err, &timeout) && timeout.Timeout():
		f.text = fmt.Sprintf("the handshake did not end within %v", h.took.Round(time.Millisecond))
		f.hint = hintHandshakeSlow
		if len(h.wire.received) == 0 {
			f.text = fmt.Sprintf("no answer to the TLS handshake within %v", h.took.Round(time.Millisecond))
			f.hint = hintHelloLost
		}
	default:
		var errno int
		var text string
		if reason, number, said := fromErrno(err); number != 0 {
			f.reason, errno, text = reason, number, said
		} else {
			text = strings.TrimPrefix(err.Error(), "tls: ")
		}
		f.errno, f.text = errno, text
	}
	return f
}

// excerpt is the beginning of what came, quoted.
func excerpt(data []byte) string {
	const most = 40
	if len(data) > most {
		return fmt.Sprintf("%q…", data[:most])
	}
	return fmt.Sprintf("%q", data)
}

// alertHints says what to look at for alerts (RFC 8446, section 6) that tell it.
var alertHints = map[uint8]string{
	40:  hintNothingInCommon, // handshake_failure
	70:  hintNothingInCommon, // protocol_version
	71:  hintNothingInCommon, // insufficient_security
	112: hintUnrecognizedName,
	120: hintNoALPN,
}

// alertOf is the number of an alert, in a type that crypto/tls does not export; 0 (close_notify) when it is none.
func alertOf(err error) uint8 {
	if value := reflect.ValueOf(err); value.Kind() == reflect.Uint8 {
		return uint8(value.Uint())
	}
	return 0
}

// interrupted is the failure that the time was over, in the light of what had come by then.
func (h *handshake) interrupted(f *failure) *failure {
	if f.reason != TLSHandshake { // the caller went away
		return f
	}
	f.hint = hintHandshakeSlow
	if len(h.wire.received) == 0 {
		f.hint = hintHelloLost
		if n, told := h.wire.unacknowledged(); told && n == 0 {
			f.reason, f.hint = TLSNotSpoken, hintHelloSilence
			f.text = fmt.Sprintf("the peer took the TLS hello, and said nothing for %v", h.took.Round(time.Millisecond))
		}
	}
	return f
}

// startTLS begins TLS on the connection of the session; name is of the step.
func (s *session) startTLS(name string) (fault *failure) {
	_, end := s.begin(s.ctx, Part{Name: "tls", Phase: PhaseTLS, Target: s.request.Target, Address: remoteAddress(s.conn), Step: NoStep})
	defer func() { end(PartEnd{Reason: fault.why(), TLS: s.outcome.TLS}) }()
	left := 0
	for _, piece := range s.pending {
		left += len(piece.data)
	}
	if left > 0 {
		return &failure{phase: PhaseTLS, reason: TLSHandshake, text: fmt.Sprintf(
			"the peer has said more in plain text, %s, which no step has taken: expect the whole line before TLS begins",
			excerpt(s.pending[0].data)), hint: hintPlainLeft}
	}
	h := newHandshake(s.conn.Conn, s.request.TLS, name, s.request.Target)
	h.room = s.conn.receiving.upTo(h.room)
	setReadDeadline(s.ctx, s.conn, time.Time{})
	err := h.run(s.ctx, s.config.HandshakeTimeout)
	setReadDeadline(s.ctx, s.conn, time.Time{})
	s.outcome.TLS = &h.info
	s.outcome.Timings.TLS = h.took
	told := s.emit(h.info)
	switch {
	case err != nil && s.over():
		return h.interrupted(s.interrupted(PhaseTLS))
	case err != nil:
		return h.failure(err)
	case told != nil:
		return s.cancelled(PhaseTLS)
	}
	s.conn.secure(h)
	if len(h.early) > 0 {
		s.conn.receiving.use(len(h.early))
		s.pending = append(s.pending, piece{data: h.early, elapsed: s.elapsed()})
	}
	return nil
}

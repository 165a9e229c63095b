package guard

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// NameSource is the part of a client certificate that says who it is.
type NameSource int

// The sources of a name. Of several names of a kind the first counts.
const (
	// FirstName takes the first kind of alternative name there is, in the order below. The common name is not among them:
	// an authority that checks alternative names may well leave that to who asks for the certificate.
	FirstName NameSource = iota
	// URIName is a URI of the subject's alternative names (RFC 5280, section 4.2.1.6), as SPIFFE has them.
	URIName
	// DNSName is a DNS name of these.
	DNSName
	// EmailName is a mail address of these.
	EmailName
	// CommonName is the common name of the subject, where certificates had names before they had alternative ones.
	CommonName
)

// CertificateConfig says how callers with client certificates are named. Their subject is "mtls:" and the name.
//
// Which authorities are trusted is in the TLS configuration of the listener: [tls.Config.ClientCAs], with ClientAuth
// tls.VerifyClientCertIfGiven or RequireAndVerifyClientCert. A certificate that was not verified there is refused here.
type CertificateConfig struct {
	// SubjectFrom is where the name stands; unset: the first there is.
	SubjectFrom NameSource
}

// mostSubject is how many bytes the name of a caller may have. OpenID Connect has at most 255 characters, Kubernetes
// service accounts may come to a few more.
const mostSubject = 512

// identify returns the subject of the certificate that the peer of a TLS connection showed, and "" when it showed none.
func (c *CertificateConfig) identify(state *tls.ConnectionState, now time.Time) (string, error) {
	if c == nil || state == nil || len(state.PeerCertificates) == 0 {
		return "", nil
	}
	if len(state.VerifiedChains) == 0 {
		return "", unauthenticated(ReasonCertificate)
	}
	// The handshake held the time against the certificates once. A connection may outlive them, so each request does.
	leaf := state.PeerCertificates[0]
	if !slices.ContainsFunc(state.VerifiedChains, func(chain []*x509.Certificate) bool { return current(chain, now) }) {
		if now.Before(leaf.NotBefore) {
			return "", unauthenticated(ReasonNotYetValid)
		}
		return "", unauthenticated(ReasonExpired)
	}
	name := c.SubjectFrom.of(leaf)
	if !usableName(name) {
		return "", unauthenticated(ReasonSubject)
	}
	return MethodCertificate + ":" + name, nil
}

// current tells whether now is within the time of every certificate of the chain.
func current(chain []*x509.Certificate, now time.Time) bool {
	return !slices.ContainsFunc(chain, func(c *x509.Certificate) bool {
		return now.Before(c.NotBefore) || now.After(c.NotAfter)
	})
}

// of returns the name that stands in that part of the certificate, or "".
func (s NameSource) of(c *x509.Certificate) string {
	switch {
	case (s == URIName || s == FirstName) && len(c.URIs) > 0:
		return c.URIs[0].String()
	case (s == DNSName || s == FirstName) && len(c.DNSNames) > 0:
		return c.DNSNames[0]
	case (s == EmailName || s == FirstName) && len(c.EmailAddresses) > 0:
		return c.EmailAddresses[0]
	case s == CommonName:
		return c.Subject.CommonName
	}
	return ""
}

// usableName tells whether a name can be that of a caller: it stands in logs and on terminals, and two names that look
// alike there because something in them cannot be seen would be one too many.
func usableName(name string) bool {
	return name != "" && len(name) <= mostSubject && utf8.ValidString(name) &&
		!strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError })
}

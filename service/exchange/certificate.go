package exchange

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// problems is all that is wrong with a chain, each judged without regard to the others, what the reason is first.
func (h *handshake) problems(chain []*x509.Certificate, now time.Time) []*tlsError {
	if len(chain) == 0 { // which crypto/tls does not let pass
		return []*tlsError{{reason: TLSUntrusted, text: "the peer showed no certificate"}}
	}
	var problems []*tlsError
	leaf := *chain[0] // a copy, which loses its dates below
	switch {
	case now.After(leaf.NotAfter):
		problems = append(problems, &tlsError{reason: TLSExpired, text: "the certificate expired on " + leaf.NotAfter.UTC().Format(time.RFC3339)})
	case now.Before(leaf.NotBefore):
		problems = append(problems, &tlsError{reason: TLSExpired, text: "the certificate is valid from " + leaf.NotBefore.UTC().Format(time.RFC3339)})
	}
	// The dates of the leaf have been judged; those of the others are at this moment too.
	leaf.NotBefore, leaf.NotAfter = now, now
	intermediates := x509.NewCertPool()
	for _, certificate := range chain[1:] {
		intermediates.AddCert(certificate)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: h.options.Roots, Intermediates: intermediates, CurrentTime: now})
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		problems = append(problems, &tlsError{reason: TLSExpired, text: fmt.Sprintf("a certificate of the chain, %s, is out of its dates (%s to %s)",
			invalid.Cert.Subject, invalid.Cert.NotBefore.UTC().Format(time.RFC3339), invalid.Cert.NotAfter.UTC().Format(time.RFC3339))})
	} else if err != nil {
		problems = append(problems, &tlsError{reason: TLSUntrusted, text: untrusted(&leaf, err)})
	}
	h.info.VerifiedUntil = holdsUntil(chain[0], chains)
	if h.name != "" {
		if err := leaf.VerifyHostname(h.name); err != nil {
			problems = append(problems, &tlsError{reason: TLSWrongName, text: wrongName(&leaf, h.name)})
		}
	}
	return problems
}

// holdsUntil is when the last of the chains ends to hold, each of which does when the first of its certificates does. leaf is
// the first of each, with its dates. Zero: there is no chain.
func holdsUntil(leaf *x509.Certificate, chains [][]*x509.Certificate) (last time.Time) {
	for _, chain := range chains {
		until := leaf.NotAfter
		for _, certificate := range chain[1:] {
			if certificate.NotAfter.Before(until) {
				until = certificate.NotAfter
			}
		}
		if until.After(last) {
			last = until
		}
	}
	return last
}

func untrusted(leaf *x509.Certificate, err error) string {
	switch {
	case bytes.Equal(leaf.RawSubject, leaf.RawIssuer) && leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) == nil:
		return "the certificate is signed by itself, and not among those to trust"
	case errors.As(err, new(x509.UnknownAuthorityError)):
		return "the certificate is issued by " + leaf.Issuer.String() + ", who is not known here"
	}
	return strings.TrimPrefix(err.Error(), "x509: ")
}

func wrongName(leaf *x509.Certificate, name string) string {
	names := alternativeNames(leaf)
	switch {
	case len(names) == 0:
		return fmt.Sprintf("the certificate carries no name at all (no subjectAltName), so not %s", name)
	case len(names) > 8:
		names = append(names[:8:8], fmt.Sprintf("and %d more", len(names)-8))
	}
	return fmt.Sprintf("the certificate is for %s, not for %s", strings.Join(names, ", "), name)
}

func alternativeNames(c *x509.Certificate) []string {
	names := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		if address, ok := netip.AddrFromSlice(ip); ok {
			names = append(names, address.Unmap().String())
		}
	}
	for _, uri := range c.URIs {
		names = append(names, uri.String())
	}
	return append(names, c.EmailAddresses...)
}

func describe(c *x509.Certificate) Certificate {
	digest := sha256.Sum256(c.Raw)
	return Certificate{
		Subject: c.Subject.String(), Issuer: c.Issuer.String(),
		Names:     alternativeNames(c),
		DNSNames:  c.DNSNames,
		NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		SerialNumber: hex.EncodeToString(c.SerialNumber.Bytes()),
		SHA256:       hex.EncodeToString(digest[:]),
		KeyType:      keyType(c),
		CA:           c.BasicConstraintsValid && c.IsCA,
	}
}

func keyType(c *x509.Certificate) string {
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return c.PublicKeyAlgorithm.String()
}

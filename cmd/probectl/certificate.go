package main

import (
	"fmt"
	"strings"
	"time"

	probev1 "probed/gen/probe/v1"
)

// tlsLines is what a TLS handshake told: the connection, whether it can be trusted, and each certificate.
func tlsLines(t *probev1.TlsInfo, now time.Time) []string {
	if t.GetVersion() == "" && len(t.GetChain()) == 0 {
		return []string{"the handshake for " + t.GetServerName() + " did not get as far as certificates"}
	}
	var parts []string
	for _, part := range []string{t.GetVersion(), t.GetCipher(), t.GetKeyExchange()} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	if t.GetAlpn() != "" {
		parts = append(parts, "ALPN "+t.GetAlpn())
	}
	var lines []string
	if len(parts) > 0 {
		lines = append(lines, strings.Join(parts, ", "))
	}
	verified := "verified for " + t.GetServerName()
	if !t.GetVerified() {
		verified = fmt.Sprintf("not verified for %s: %s", t.GetServerName(), t.GetVerifyError())
	}
	lines = append(lines, verified)
	if t.GetClientCertificateRequested() {
		lines = append(lines, "the peer asked for a client certificate")
	}
	for _, c := range t.GetChain() {
		lines = append(lines, certificateLines(c, now)...)
	}
	return lines
}

func certificateLines(c *probev1.Certificate, now time.Time) []string {
	kind := c.GetKeyType()
	if c.GetCa() {
		kind += ", authority"
	}
	lines := []string{fmt.Sprintf("certificate %s (%s)", c.GetSubject(), kind)}
	if len(c.GetNames()) > 0 {
		lines = append(lines, wrap("for "+strings.Join(c.GetNames(), ", "), 85)...)
	}
	lines = append(lines, "issued by "+c.GetIssuer(), validity(c, now),
		"serial "+c.GetSerialNumber()+", sha256 "+c.GetSha256())
	for i := range lines[1:] {
		lines[i+1] = "  " + lines[i+1]
	}
	return lines
}

// validity is the dates of a certificate, and what they mean now.
func validity(c *probev1.Certificate, now time.Time) string {
	begin, end := c.GetNotBefore().AsTime(), c.GetNotAfter().AsTime()
	line := fmt.Sprintf("valid from %s to %s, ", begin.Format("2006-01-02 15:04"), end.Format("2006-01-02 15:04 MST"))
	switch {
	case now.Before(begin):
		return line + "begins in " + roughly(begin.Sub(now))
	case now.After(end):
		return line + "expired " + roughly(now.Sub(end)) + " ago"
	}
	return line + roughly(end.Sub(now)) + " left"
}

// roughly is a time in days, of less than two of them in hours, of less than one of these in minutes.
func roughly(d time.Duration) string {
	n, unit := int64(d/time.Minute), "minute"
	switch {
	case d >= 48*time.Hour:
		n, unit = int64(d/(24*time.Hour)), "day"
	case d >= time.Hour:
		n, unit = int64(d/time.Hour), "hour"
	}
	return fmt.Sprintf("%d %s", n, plural(uint64(n), unit))
}

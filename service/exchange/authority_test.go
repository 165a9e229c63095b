package exchange

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"probed/internal/nettest"
)

// authority issues certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// identity is a certificate with its key, in memory and as files that any server can read.
type identity struct {
	authority
	certFile, keyFile string
}

// newAuthority is one that signs itself.
func newAuthority(t testing.TB, name string) authority {
	t.Helper()
	return authority{}.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}).authority
}

// issue makes a certificate out of a template, whose dates are those of today unless it has others. The zero authority
// makes one that signs itself.
func (a authority) issue(t testing.TB, template *x509.Certificate) identity {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = serial
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if a.key == nil {
		a = authority{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := openDir(t)
	return identity{
		authority: authority{certificate, key},
		certFile:  write(t, dir, "cert.pem", pemOf(certificate)),
		keyFile:   write(t, dir, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))),
	}
}

// server is a template of a certificate for a server.
func server(names ...string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: names[0], Organization: []string{"Test, Inc."}}, DNSNames: names,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

// files are the options of s_server.
func (i identity) files() []string { return []string{"-cert", i.certFile, "-key", i.keyFile} }

func (i identity) client() []tls.Certificate {
	return []tls.Certificate{{Certificate: [][]byte{i.certificate.Raw}, PrivateKey: i.key}}
}

// pool trusts authorities.
func pool(authorities ...authority) *x509.CertPool {
	p := x509.NewCertPool()
	for _, a := range authorities {
		p.AddCert(a.certificate)
	}
	return p
}

func pemOf(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// serving issues the certificate of a server of these names and addresses, changed as change says; nil: not at all.
func (a authority) serving(t testing.TB, change func(*x509.Certificate), names ...string) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "peer"}}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	if change != nil {
		change(template)
	}
	return a.issue(t, template).client()[0]
}

// openDir is a directory that servers may read which are not root any more.
func openDir(t testing.TB) string {
	t.Helper()
	dir := nettest.SocketDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// write makes a file in a directory and returns its path.
func write(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

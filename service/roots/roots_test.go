package roots

import (
	"crypto/x509"
	"sync"
	"testing"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// verify holds one of the authorities to those that this host trusts.
func verify(t *testing.T) error {
	t.Helper()
	for root := range bundle.Roots() {
		one, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		if root.Constraint == nil {
			_, err = one.Verify(x509.VerifyOptions{CurrentTime: one.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			return err
		}
	}
	t.Fatal("there is no authority")
	return nil
}

var first sync.Once

// A host without a list trusts nobody until this one is loaded, be it that it has been asked before, and then the public's.
func TestLoad(t *testing.T) {
	none := t.TempDir()
	t.Setenv("SSL_CERT_FILE", none+"/none")
	t.Setenv("SSL_CERT_DIR", none)
	first.Do(func() { // with -count there are more
		if verify(t) == nil {
			t.Fatal("an authority is trusted before the list is there")
		}
	})
	Load()
	if err := verify(t); err != nil {
		t.Error(err)
	}
}

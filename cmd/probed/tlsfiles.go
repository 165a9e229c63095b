package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// tlsFiles is what TLS on a listener is made of.
type tlsFiles struct {
	certificate, key, clientCA string // paths; clientCA may be empty: no caller is asked for a certificate
	minVersion                 uint16 // as crypto/tls has it
}

// load reads the files as they are now. clients is nil when there is no clientCA.
func (f *tlsFiles) load() (certificate tls.Certificate, clients *x509.CertPool, err error) {
	certificate, _, err = readKeyPair(f.certificate, f.key)
	if err != nil || f.clientCA == "" {
		return certificate, nil, err
	}
	clients, err = readPool(f.clientCA)
	return certificate, clients, err
}

// readPool reads a file of authorities, in PEM.
func readPool(file string) (*x509.CertPool, error) {
	certificates, err := readCertificates(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, certificate := range certificates {
		pool.AddCert(certificate)
	}
	return pool, nil
}

// readKeyPair reads a certificate with its chain, and its key. When it fails, atKey tells that it was the key. The error
// tells the path, and nothing of what is in the key.
func readKeyPair(certificateFile, keyFile string) (pair tls.Certificate, atKey bool, err error) {
	certificate, err := readRegular(certificateFile)
	if err != nil {
		return pair, false, fmt.Errorf("%s: %w", certificateFile, err)
	}
	key, err := readRegular(keyFile)
	if err != nil {
		return pair, true, fmt.Errorf("%s: %w", keyFile, err)
	}
	if _, err := parseCertificates(certificate); err != nil {
		return pair, false, fmt.Errorf("%s: %w", certificateFile, err)
	}
	pair, err = tls.X509KeyPair(certificate, key)
	switch {
	case err == nil:
		return pair, false, nil
	case strings.Contains(err.Error(), "does not match"):
		return pair, true, fmt.Errorf("%s: it is not the key of the certificate in %s", keyFile, certificateFile)
	default:
		return pair, true, fmt.Errorf("%s: it is no private key in PEM", keyFile)
	}
}

// readCertificates reads a file of certificates, at least one, in PEM.
func readCertificates(file string) ([]*x509.Certificate, error) {
	data, err := readRegular(file)
	if err == nil {
		var certificates []*x509.Certificate
		if certificates, err = parseCertificates(data); err == nil {
			return certificates, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", file, err)
}

// parseCertificates wants each to be right: [x509.CertPool.AppendCertsFromPEM] passes by those that are not, and who is
// trusted would be less than what the file has.
func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var certificates []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(certificates)+1, err)
		}
		certificates = append(certificates, certificate)
	}
	if len(certificates) == 0 {
		return nil, errors.New("there is no certificate in PEM in it")
	}
	return certificates, nil
}

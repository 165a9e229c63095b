package service

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	probev1 "probed/gen/probe/v1"
	"probed/service/exchange"
)

// tlsOptions reads how TLS is to be spoken; nil: nothing was said. The errors say nothing of what the key is.
func tlsOptions(message *probev1.TlsOptions) (*exchange.TLSOptions, error) {
	if message == nil {
		return nil, nil
	}
	options := &exchange.TLSOptions{
		ServerName: message.GetServerName(),
		ALPN:       message.GetAlpn(),
		MinVersion: uint16(message.GetMinVersion()),
		MaxVersion: uint16(message.GetMaxVersion()),
		SkipVerify: message.GetInsecureSkipVerify(),
	}
	if options.MaxVersion != 0 && options.MaxVersion < cmp.Or(options.MinVersion, tls.VersionTLS12) {
		return nil, &fieldError{field: "tls.max_version", problem: "is below the lowest version to accept, which is TLS 1.2 unless min_version says"}
	}
	if bundle := message.GetCaBundle(); bundle != "" {
		roots, err := certificatePool([]byte(bundle))
		if err != nil {
			return nil, &fieldError{field: "tls.ca_bundle", problem: err.Error()}
		}
		options.Roots = roots
	}
	certificate, key := message.GetCertificate(), message.GetPrivateKey()
	switch {
	case certificate == "" && key == "":
		return options, nil
	case key == "":
		return nil, &fieldError{field: "tls.private_key", problem: "is missing: a client certificate goes with its key"}
	case certificate == "":
		return nil, &fieldError{field: "tls.certificate", problem: "is missing: a key goes with its client certificate"}
	}
	if strings.Contains(key, "ENCRYPTED") { // PKCS #8 says so in the block's type, older forms in a header
		return nil, &fieldError{field: "tls.private_key", problem: "is encrypted, and there is nobody to ask for the passphrase: give it as openssl pkey writes it"}
	}
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		return nil, &fieldError{field: "tls.certificate", problem: "and its key cannot be used: " + strings.TrimPrefix(err.Error(), "tls: ")}
	}
	options.Certificate = []tls.Certificate{pair}
	return options, nil
}

// certificatePool reads certificates in PEM, all of them: one that is left out would later be an authority that nobody
// knows why it is not trusted.
func certificatePool(text []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	n := 0
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, errors.New("holds a block of type " + block.Type + ": only certificates belong there")
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("holds a certificate that cannot be read: " + strings.TrimPrefix(err.Error(), "x509: "))
		}
		pool.AddCert(certificate)
		n++
	}
	if n == 0 {
		return nil, errors.New("holds no certificate in PEM (-----BEGIN CERTIFICATE-----)")
	}
	return pool, nil
}

func tlsMessage(info *exchange.TLSInfo) *probev1.TlsInfo {
	if info == nil {
		return nil
	}
	message := &probev1.TlsInfo{
		Version:                    info.Version,
		Cipher:                     info.Cipher,
		Alpn:                       text(info.ALPN),
		Verified:                   info.Verified,
		VerifyError:                text(info.VerifyError),
		ServerName:                 text(info.ServerName),
		KeyExchange:                info.KeyExchange,
		ClientCertificateRequested: info.ClientCertificateRequested,
	}
	if !info.VerifiedUntil.IsZero() {
		message.VerifiedUntil = timestamppb.New(info.VerifiedUntil)
	}
	for _, c := range info.Chain {
		message.Chain = append(message.Chain, &probev1.Certificate{
			Subject:      text(c.Subject),
			Issuer:       text(c.Issuer),
			Names:        texts(c.Names),
			NotBefore:    timestamppb.New(c.NotBefore),
			NotAfter:     timestamppb.New(c.NotAfter),
			SerialNumber: c.SerialNumber,
			Sha256:       c.SHA256,
			KeyType:      c.KeyType,
			Ca:           c.CA,
			DnsNames:     texts(c.DNSNames),
		})
	}
	return message
}

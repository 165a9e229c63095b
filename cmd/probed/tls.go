package main

import (
	"crypto/tls"
	"crypto/x509"
	"sync/atomic"
	"time"
)

// listenerTLS is the TLS of one listener. What it is made of can be exchanged while connections are open; those keep what
// they have begun with.
type listenerTLS struct {
	current atomic.Pointer[tls.Config]
}

// load reads the files of a listener and returns what puts them in force, so that several can be read before any is.
// protocol is the one of ALPN that the listener speaks; expires is when what it shows will have expired.
func (l *listenerTLS) load(files *tlsFiles, protocol string) (apply func(), expires time.Time, err error) {
	certificate, clients, err := files.load()
	if err == nil {
		expires, err = expiration(certificate)
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{certificate},
		MinVersion:   files.minVersion,
		NextProtos:   []string{protocol},
		// A session that is resumed would bring back a certificate that was judged by the authorities of then.
		SessionTicketsDisabled: true,
	}
	if clients != nil {
		// Who brings none may have a token; which calls then are allowed is for the interceptors to say.
		config.ClientCAs, config.ClientAuth = clients, tls.VerifyClientCertIfGiven
	}
	return func() { l.current.Store(config) }, expires, nil
}

// expiration is when the first of a chain expires: with it goes the rest.
func expiration(chain tls.Certificate) (first time.Time, err error) {
	for _, der := range chain.Certificate {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return first, err
		}
		if first.IsZero() || certificate.NotAfter.Before(first) {
			first = certificate.NotAfter
		}
	}
	return first, nil
}

// config is for the server: each handshake gets what is in force then.
func (l *listenerTLS) config() *tls.Config {
	now := l.current.Load()
	config := now.Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return l.current.Load(), nil }
	return config
}

package main

import (
	"crypto/tls"
	"sync/atomic"
)

// listenerTLS is the TLS of one listener. What it is made of can be exchanged while connections are open; those keep what
// they have begun with.
type listenerTLS struct {
	current atomic.Pointer[tls.Config]
}

// load reads the files of a listener and returns what puts them in force, so that several can be read before any is.
// protocol is the one of ALPN that the listener speaks.
func (l *listenerTLS) load(files *tlsFiles, protocol string) (apply func(), err error) {
	certificate, clients, err := files.load()
	if err != nil {
		return nil, err
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
	return func() { l.current.Store(config) }, nil
}

// config is for the server: each handshake gets what is in force then.
func (l *listenerTLS) config() *tls.Config {
	now := l.current.Load()
	config := now.Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return l.current.Load(), nil }
	return config
}

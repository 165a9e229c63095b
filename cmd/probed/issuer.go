package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"probed/service/dial"
	"probed/service/guard"
	"probed/service/resolve"
	"probed/service/roots"
)

// issuerTimeout is how long an issuer may take to answer, connection and all.
const issuerTimeout = 10 * time.Second

// issuerClients are those that ask issuers, by what each was made of.
type issuerClients map[issuerFiles]*http.Client //nolint:forbidigo // it dials by dialName, below

// issuerFiles is what the client of an issuer is made of. authorities is what its file says: another file by the same name
// makes another client.
type issuerFiles struct{ authorities, bearerTokenFile string }

// authenticator gives next what the configuration says about callers. What is in force already knows the keys of issuers:
// of those that stay as they are, they are taken over, so that a reload does not depend on their being there.
func (s *server) authenticator(next *rules, c *config) error {
	config := guard.Config{
		Certificates: c.certificates, Tokens: c.tokens, Anonymous: !c.asks() || s.options.insecureNoAuth,
		Observe: func(issuer string, err error) {
			s.counts.IssuerAsked(err == nil)
			if err != nil {
				s.log.Warn("the keys of an issuer cannot be had", "issuer", issuer, "error", err.Error())
			}
		},
	}
	before := s.rules.Load()
	if before != nil {
		config.Before = before.authenticator
	}
	next.issuers = make(issuerClients)
	for _, one := range c.issuers {
		files := issuerFiles{bearerTokenFile: one.bearerTokenFile}
		if one.caFile != "" {
			authorities, err := readRegular(one.caFile)
			if err != nil {
				return fmt.Errorf("%s: %w", one.caFile, err)
			}
			files.authorities = string(authorities)
		}
		var client *http.Client //nolint:forbidigo // it dials by dialName, below
		if before != nil {
			client = before.issuers[files]
		}
		if client == nil {
			var err error
			if client, err = issuerClient(one); err != nil {
				return err
			}
		}
		next.issuers[files] = client
		config.Issuers = append(config.Issuers, guard.Issuer{
			Name: one.Name, URL: one.URL, Audience: one.Audience, Algorithms: one.Algorithms, Client: client,
		})
	}
	var err error
	next.authenticator, err = guard.NewAuthenticator(config)
	return err
}

// issuerClient asks an issuer for its keys. It has a dialer of its own, which asks no policy: where an issuer is, the
// operator says, and no caller has a part in it.
func issuerClient(issuer issuerConfig) (*http.Client, error) { //nolint:forbidigo // it dials by dialName, below
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if issuer.caFile != "" {
		pool, err := readPool(issuer.caFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = pool
	} else {
		roots.Load()
	}
	resolver := resolve.New(resolve.Config{})
	dialer := dial.Dialer{Policy: func(context.Context, dial.Destination) error { return nil }}
	transport := &http.Transport{ //nolint:forbidigo // it dials by dialName, below
		TLSClientConfig:   config,
		DisableKeepAlives: true, // keys are asked for every five minutes at most
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialName(ctx, resolver, &dialer, network, address)
		},
	}
	return &http.Client{ //nolint:forbidigo // it dials by dialName, below
		Transport:     &issuerTransport{transport, issuer.bearerTokenFile}, //nolint:forbidigo // it dials by dialName, below
		Timeout:       issuerTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("an issuer does not redirect") },
	}, nil
}

// dialName connects to the first address of a name that answers.
func dialName(ctx context.Context, resolver *resolve.Resolver, dialer *dial.Dialer, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", port, err)
	}
	found, err := resolver.Addresses(ctx, host, resolve.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	var failures []error
	for _, ip := range found.Addresses {
		conn, err := dialer.Dial(ctx, dial.Request{Network: network, Address: netip.AddrPortFrom(ip, uint16(number)), Host: host})
		if err == nil {
			return conn, nil
		}
		failures = append(failures, err)
	}
	return nil, errors.Join(failures...)
}

// issuerTransport shows an issuer who asks, if it wants to know, as the API server of a cluster does.
type issuerTransport struct {
	http.RoundTripper
	tokenFile string // read anew for each request, since it changes; empty: nobody says who asks
}

// RoundTrip sends a request.
func (t *issuerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.tokenFile != "" {
		token, err := readRegular(t.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.tokenFile, err)
		}
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	return t.RoundTripper.RoundTrip(r)
}

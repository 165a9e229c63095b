package guard

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"
)

// Config says by what callers are known. What it names works at the same time, whatever of it.
type Config struct {
	// Certificates: callers with client certificates are known by these; nil: client certificates are passed over.
	Certificates *CertificateConfig
	// Tokens are the static bearer tokens.
	Tokens []Token
	// Issuers are those whose bearer tokens are taken.
	Issuers []Issuer
	// Anonymous lets requests pass that bring no credentials. Together with none of the above nobody is asked, and an
	// Authorization header is passed over: it is for somebody else.
	Anonymous bool

	// Before is the Authenticator that this one takes the place of: what it has of issuers with the same URL and Client, their
	// keys, is taken over. Nil: there was none.
	Before *Authenticator

	// Now is the time; nil: time.Now.
	Now func() time.Time
	// Observe is told what came of each attempt to get an issuer's keys, nil of one that succeeded; it is for the log and
	// for metrics, and may be nil. An attempt is made at most once a second for each issuer.
	Observe func(issuer string, err error)
}

// Authenticator tells who sent a request. It may be used by many goroutines at once, and is closed at the end.
type Authenticator struct {
	certificates *CertificateConfig
	tokens       []Token
	issuers      map[string]*issuer // by URL
	anonymous    bool
	now          func() time.Time
}

// NewAuthenticator returns an Authenticator, or what is wrong with the configuration. It connects to nothing: an issuer is
// asked for its keys when the first of its tokens comes.
func NewAuthenticator(config Config) (*Authenticator, error) {
	a := &Authenticator{
		certificates: config.Certificates,
		tokens:       config.Tokens,
		issuers:      make(map[string]*issuer, len(config.Issuers)),
		anonymous:    config.Anonymous,
		now:          config.Now,
	}
	if a.now == nil {
		a.now = time.Now
	}
	if c := a.certificates; c != nil && (c.SubjectFrom < FirstName || c.SubjectFrom > CommonName) {
		return nil, fmt.Errorf("certificates: no source of names is numbered %d", c.SubjectFrom)
	}
	seen := make(map[[sha256.Size]byte]bool)
	for _, t := range a.tokens {
		switch {
		case !usableName(t.Name):
			return nil, fmt.Errorf("token %q: its name is empty, too long, or has characters that cannot be seen", t.Name)
		case t.Hash == [sha256.Size]byte{}:
			return nil, fmt.Errorf("token %q: it has no hash", t.Name)
		case seen[t.Hash]:
			return nil, fmt.Errorf("token %q: another token has the same hash", t.Name)
		}
		seen[t.Hash] = true
	}
	names := map[string]bool{MethodCertificate: true, MethodToken: true, MethodNone: true, Anonymous: true}
	for _, c := range config.Issuers {
		i, err := newIssuer(c, a.now, config.Observe)
		if err != nil {
			return nil, fmt.Errorf("issuer %q: %w", c.URL, err)
		}
		switch {
		case names[i.name]: // else one could name callers of the other
			return nil, fmt.Errorf("issuer %q: its name %q is taken", c.URL, i.name)
		case a.issuers[c.URL] != nil:
			return nil, fmt.Errorf("issuer %q: it is there twice", c.URL)
		}
		names[i.name] = true
		a.issuers[c.URL] = i
		if config.Before != nil {
			i.takeOver(config.Before.issuers[c.URL])
		}
	}
	if !a.asks() && !a.anonymous {
		return nil, errors.New("nobody could call: name client certificates, tokens or issuers, or let callers be anonymous")
	}
	return a, nil
}

// Close ends what the Authenticator has under way, and waits for it. Afterwards it still knows the tokens whose issuer's
// keys it has, for requests that came before.
func (a *Authenticator) Close() {
	for _, i := range a.issuers {
		i.close()
	}
}

// asks tells whether there is anything that callers could be known by.
func (a *Authenticator) asks() bool {
	return a.certificates != nil || len(a.tokens) > 0 || len(a.issuers) > 0
}

// Authenticate returns who sent a request with these credentials; the error is an *[UnauthenticatedError]. It waits for an
// issuer, ten seconds at most and no longer than the context lasts, only when a token needs keys that are not at hand.
//
// Credentials that are not right refuse the request, even when others beside them are. Of a token beside a certificate the
// token says who it is: it was sent on purpose, a certificate may be that of a proxy or of the machine.
func (a *Authenticator) Authenticate(ctx context.Context, c Credentials) (Caller, error) {
	if !a.asks() {
		return anonymous(c.Remote), nil
	}
	subject, err := a.certificates.identify(c.TLS, a.now())
	if err != nil {
		return Caller{}, err
	}
	switch {
	case c.Authorization != "":
		return a.bearer(ctx, c.Authorization)
	case subject != "":
		return Caller{Subject: subject, Method: MethodCertificate, Key: subject}, nil
	case a.anonymous:
		return anonymous(c.Remote), nil
	}
	return Caller{}, unauthenticated(ReasonNone)
}

// bearer returns whose the bearer token in the header is.
func (a *Authenticator) bearer(ctx context.Context, header string) (Caller, error) {
	token, ok := parseBearer(header)
	if !ok {
		return Caller{}, unauthenticated(ReasonMalformed)
	}
	if n := findToken(a.tokens, token); n >= 0 {
		known := &a.tokens[n]
		if !known.NotAfter.IsZero() && a.now().After(known.NotAfter) {
			return Caller{}, unauthenticated(ReasonExpired)
		}
		subject := MethodToken + ":" + known.Name
		return Caller{Subject: subject, Method: MethodToken, Key: subject}, nil
	}
	// Which issuer a token says it is from chooses whose keys it is held against, and proves nothing.
	i := a.issuers[claimedIssuer(token)]
	if i == nil {
		return Caller{}, unauthenticated(ReasonUnknown)
	}
	subject, err := i.identify(ctx, token)
	if err != nil {
		return Caller{}, err
	}
	return Caller{Subject: subject, Method: MethodOIDC, Key: subject}, nil
}

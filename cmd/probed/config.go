package main

import (
	"net/netip"
	"time"

	configv1 "probed/gen/probe/config/v1"
	"probed/service/blackbox"
	"probed/service/guard"
	"probed/service/policy"
)

// config is what the files of a configuration say, in the values that the rooms take. All of it has been checked: what
// readConfig returns can be put in force. The zero value is that of a probed without files.
type config struct {
	grpc, http, ops listenerConfig
	echo            []string
	allowedHosts    []string

	certificates *guard.CertificateConfig // nil: callers are not asked for certificates
	tokens       []guard.Token            // of the file and of tokens_file
	awaited      string                   // the tokens_file, if it is missing and may be
	issuers      []issuerConfig

	policy *policyConfig // nil: what nothing forbids for good is allowed

	limits *configv1.Limits // for limitsOf
	drain  *configv1.Drain  // for drainOf
	audit  string           // the path; "-": stdout; empty: nowhere

	modules blackbox.Modules // for Prometheus

	// watched are the files that were read. When one changes, readConfig may return something else.
	watched watched
	// warnings are what may not be meant, in the order of the files.
	warnings []fault
}

// listenerConfig is what the file says about one listener.
type listenerConfig struct {
	address *string   // nil: as the flags say
	tls     *tlsFiles // nil: without
}

// issuerConfig is an issuer, and what the client needs that asks it.
type issuerConfig struct {
	guard.Issuer // without its Client

	caFile, bearerTokenFile string // paths; each may be empty
}

// policyConfig is what the file says about who may do what.
type policyConfig struct {
	lift  []netip.Prefix
	roles []policy.Role
}

// asks tells whether callers have to prove who they are.
func (c *config) asks() bool { return c.certificates != nil || c.takesBearer() }

// takesBearer tells whether callers may prove who they are by something that whoever reads it on its way can use too.
func (c *config) takesBearer() bool { return len(c.tokens) > 0 || len(c.issuers) > 0 }

// readConfig reads and checks a configuration, which is what some files say together, with the files that they name; it asks
// no network. The error is a *configError with everything that is wrong.
// getenv tells the variables that they name.
func readConfig(files []string, getenv func(string) string) (*config, error) {
	return readConfigAt(files, getenv, time.Now())
}

// readConfigAt is readConfig at another time, which decides what has expired.
func readConfigAt(files []string, getenv func(string) string, now time.Time) (*config, error) {
	message := new(configv1.Config)
	var read watched
	for _, file := range files {
		read.add(file)
	}
	r := &reader{document: readDocument(files, getenv, message), now: now}
	r.c.watched = read
	if r.isRead() {
		r.config(message)
	}
	if faults := r.all(); len(faults) > 0 {
		return nil, &configError{faults: faults, watched: r.c.watched}
	}
	return &r.c, nil
}

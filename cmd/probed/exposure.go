package main

import (
	"fmt"
	"net/netip"
	"strings"
)

// exposure is what decides whether probed may be reachable from outside of this host.
type exposure struct {
	config *config // what the file says; the zero value without one
	// grpc and http are the addresses of those listeners that are reachable; empty: it is on loopback, or nowhere.
	grpc, http        string
	allowedHosts      []string // of the flags; those of the file count as well
	insecureNoAuth    bool     // --insecure-no-auth
	insecurePlaintext bool     // --insecure-plaintext
}

// isReachable tells whether a listener there can be reached from outside of this host.
func isReachable(address netip.Addr) bool { return !address.Unmap().IsLoopback() }

// checkExposure refuses to be reachable from outside by less than this: it is known who calls and what they may do, tokens
// are not sent in the clear, and REST knows its own name. The error tells what is missing and what to write.
func checkExposure(e exposure) error {
	if e.grpc == "" && e.http == "" {
		return nil
	}
	c := e.config
	var missing []string
	miss := func(format string, args ...any) { missing = append(missing, fmt.Sprintf(format, args...)) }

	noAuth := !c.asks() && !e.insecureNoAuth
	noPolicy := (c.policy == nil || len(c.policy.roles) == 0) && !e.insecureNoAuth
	if c.asks() && e.insecureNoAuth {
		miss("--insecure-no-auth lets anybody in, and auth asks who they are: leave one of them out")
	}
	if noAuth {
		miss("nobody would be asked who they are: auth is needed (or --insecure-no-auth, if all who can reach it may use this probe)")
	}
	if noPolicy {
		miss("it is not said who may do what: a policy with a role is needed")
	}
	// What is proposed for want of auth is a token, and must start as well.
	bearer := (c.takesBearer() || noAuth) && !e.insecurePlaintext
	var listeners strings.Builder
	for _, l := range []struct {
		name, address string
		tls           *tlsFiles
		hosts         bool // whether names of its own are missing
	}{
		{"grpc", e.grpc, c.grpc.tls, false},
		{"http", e.http, c.http.tls, len(e.allowedHosts) == 0 && len(c.allowedHosts) == 0},
	} {
		if l.address == "" {
			continue
		}
		noTLS := l.tls == nil && (bearer || c.certificates != nil)
		noClientCA := c.certificates != nil && (l.tls == nil || l.tls.clientCA == "")
		if l.tls == nil && c.takesBearer() && !e.insecurePlaintext {
			miss("bearer tokens would come over listeners.%s in the clear: its tls is needed (or --insecure-plaintext, if something in front of it speaks TLS)", l.name)
		}
		if noClientCA {
			miss("listeners.%s cannot check certificates of callers, as auth.certificates says: the client_ca_file of its tls is needed", l.name)
		}
		if l.hosts {
			miss("REST would answer under any name: listeners.http.allowed_hosts is needed")
		}
		if !noTLS && !noClientCA && !l.hosts {
			continue
		}
		fmt.Fprintf(&listeners, "  %s:\n", l.name)
		if l.hosts {
			listeners.WriteString("    allowed_hosts: [probed.example.com] # the names it is called by\n")
		}
		if noTLS || noClientCA {
			listeners.WriteString("    tls:\n      certificate_file: tls.crt\n      key_file: tls.key\n")
		}
		if noClientCA {
			listeners.WriteString("      client_ca_file: clients-ca.crt # who signs the certificates of callers\n")
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return usageError{&exposureError{where: e.where(), missing: missing, write: snippet(listeners.String(), noAuth, noPolicy, c.someSubject())}}
}

func (e exposure) where() string {
	var at []string
	if e.grpc != "" {
		at = append(at, "gRPC on "+e.grpc)
	}
	if e.http != "" {
		at = append(at, "REST on "+e.http)
	}
	return strings.Join(at, " and ")
}

// exposureError tells why probed does not start where others can reach it.
type exposureError struct {
	where   string
	missing []string
	write   string // YAML that says what is missing; empty when nothing but a flag is wrong
}

func (e *exposureError) Error() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s would be reachable from outside of this host:\n", e.where)
	for _, m := range e.missing {
		fmt.Fprintf(&text, "  - %s\n", m)
	}
	if e.write == "" {
		return strings.TrimSuffix(text.String(), "\n")
	}
	fmt.Fprintf(&text, "Listen on loopback, or have in the file of --config, with what is yours in place of the examples:\n\n%s", e.write)
	return text.String()
}

// someSubject is one that callers may have; without auth, one that snippet proposes.
func (c *config) someSubject() string {
	switch {
	case len(c.tokens) > 0:
		return "token:" + c.tokens[0].Name
	case c.certificates != nil:
		return "mtls:*"
	case len(c.issuers) > 0:
		return c.issuers[0].Name + ":*"
	}
	return "token:ci"
}

// snippet is a part of a configuration, ready to be adapted.
func snippet(listeners string, auth, policy bool, subject string) string {
	var text strings.Builder
	if listeners != "" {
		text.WriteString("listeners:\n" + listeners)
	}
	if auth {
		text.WriteString(`auth:
  tokens: # probed new-token ci prints a token, and this line for it
    - name: ci
      sha256: "sha256:` + strings.Repeat("0", 64) + `"
`)
	}
	if policy {
		text.WriteString(`policy:
  roles:
    - name: checks
      subjects: ["` + subject + `"]
      rules:
        - name: names
          hosts: ["*.example.com"]
          verbs: [resolve]
        - name: services
          cidrs: [10.0.0.0/8]
          ports: [80, 443]
          verbs: [connect, send]
`)
	}
	return text.String()
}

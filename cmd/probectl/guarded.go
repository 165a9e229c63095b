package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"probed/service/roots"
)

// guarded is how to talk to a probed that asks who calls: the flags about the connection to it, each with a variable of
// the environment. They are the server's in name as well, because TLS to a target has flags of its own.
type guarded struct {
	flags *pflag.FlagSet

	tls                 bool
	ca, cert, key, name string // all but the name are files
	tokenFile           string
	tokenInTheOpen      bool

	tlsVariable, token string // of the environment: a token is no flag, since lists of processes show those

	leftOut []string // variables of the environment that say who asks, and not for this server
}

// leaveOutEnvironment is for a server of the configuration file: who asks it is said by the file or by a flag. What the
// environment says of that is meant for one server, nobody knows which, and a token of one is not shown to another.
func (g *guarded) leaveOutEnvironment() {
	if g.token != "" && !g.flags.Changed("token-file") && !g.flags.Changed("service-account") {
		g.leftOut = append(g.leftOut, "PROBECTL_TOKEN")
	}
	g.token = ""
	for _, given := range []struct {
		value          *string
		flag, variable string
	}{
		{&g.tokenFile, "token-file", "PROBECTL_TOKEN_FILE"}, {&g.cert, "server-cert", "PROBECTL_SERVER_CERT"}, {&g.key, "server-key", "PROBECTL_SERVER_KEY"},
	} {
		if *given.value != "" && !g.flags.Changed(given.flag) {
			g.leftOut = append(g.leftOut, given.variable)
			*given.value = ""
		}
	}
}

// implyingTLS are the flags that make no sense without TLS.
var implyingTLS = [...]string{"server-ca", "server-cert", "server-key", "server-name"}

func bindGuarded(root *cobra.Command, getenv func(string) string) *guarded {
	flags := root.PersistentFlags()
	g := &guarded{flags: flags, tlsVariable: getenv("PROBECTL_SERVER_TLS"), token: getenv("PROBECTL_TOKEN")}
	flags.BoolVar(&g.tls, "server-tls", false,
		"speak TLS to the server, whose certificate is of an authority that this machine trusts\n(default: $PROBECTL_SERVER_TLS)")
	for _, text := range []struct {
		value                 *string
		flag, variable, usage string
	}{
		{&g.ca, "server-ca", "PROBECTL_SERVER_CA", "speak TLS to the server, and trust the authorities in this `FILE`, in PEM, and no others"},
		{&g.cert, "server-cert", "PROBECTL_SERVER_CERT", "speak TLS to the server, and show it this certificate, a `FILE` in PEM; goes with --server-key"},
		{&g.key, "server-key", "PROBECTL_SERVER_KEY", "the key of --server-cert, a `FILE` in PEM"},
		{&g.name, "server-name", "PROBECTL_SERVER_NAME", "speak TLS to the server, the probed, whose certificate must be for this `NAME` (else for the host of\n--server, or the Service of --kube)"},
		{&g.tokenFile, "token-file", "PROBECTL_TOKEN_FILE", "show the server the bearer token in this `FILE`, and not the one in $PROBECTL_TOKEN"},
	} {
		flags.StringVar(text.value, text.flag, getenv(text.variable), text.usage+"\n(default: $"+text.variable+")")
		flags.Lookup(text.flag).DefValue = "" // what the environment says is not for help texts
	}
	flags.BoolVar(&g.tokenInTheOpen, "token-over-plaintext", false,
		"send a token without TLS to another machine too, for everybody on the way to read")
	completeFlag(root, "server-name", hosts)
	return g
}

// unused is an error if a flag was given that only makes sense with a server. What the environment says waits for one.
func (g *guarded) unused() error {
	for _, flag := range append(implyingTLS[:], "server-tls", "token-file", "token-over-plaintext") {
		if g.flags.Changed(flag) {
			return fmt.Errorf("--%s is about the connection to a probed: say which with --server or --kube", flag)
		}
	}
	return nil
}

// options are the transport to the server, and what gRPC has to know to use it. The certificate must be for name unless a
// flag says for whom, and token, if there is one, is shown in place of what the flags say. The errors are for whoever typed.
func (g *guarded) options(name, token string) (*transport, []grpc.DialOption, error) {
	secure, err := g.wantsTLS()
	if err != nil {
		return nil, nil, err
	}
	t := &transport{TransportCredentials: insecure.NewCredentials(), log: &handshakes{}}
	if secure {
		config, err := g.config()
		if err != nil {
			return nil, nil, err
		}
		config.ServerName = cmp.Or(config.ServerName, name)
		t.TransportCredentials, t.tls, t.certificate = credentials.NewTLS(config), true, len(config.Certificates) > 0
	}
	if token == "" {
		if token, err = g.bearerToken(); err != nil {
			return nil, nil, err
		}
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(t)}
	if token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer{token, secure}))
		if !secure && !g.tokenInTheOpen {
			t.loopbackOnly = true
			options = append(options, grpc.WithNoProxy()) // one on loopback would carry the token on
		}
	}
	return t, options, nil
}

// wantsTLS tells whether TLS is spoken. A flag counts more than the environment.
func (g *guarded) wantsTLS() (bool, error) {
	implied := g.ca+g.cert+g.key+g.name != ""
	if g.flags.Changed("server-tls") {
		for _, flag := range implyingTLS {
			if f := g.flags.Lookup(flag); !g.tls && f.Changed && f.Value.String() != "" {
				return false, fmt.Errorf("--server-tls=false does not go with --%s, which is about TLS", flag)
			}
		}
		return g.tls, nil
	}
	if implied || g.tlsVariable == "" {
		return implied, nil
	}
	on, err := strconv.ParseBool(g.tlsVariable)
	if err != nil {
		return false, errors.New("PROBECTL_SERVER_TLS: it is one of true, false")
	}
	return on, nil
}

func (g *guarded) config() (*tls.Config, error) {
	config := &tls.Config{ServerName: g.name, MinVersion: tls.VersionTLS12}
	if g.ca != "" {
		text, err := readPEM(g.ca)
		if err == nil {
			config.RootCAs, err = authorities(g.ca, text)
		}
		if err != nil {
			return nil, aboutFlag("server-ca", err)
		}
	} else {
		roots.Load()
	}
	switch {
	case g.cert == "" && g.key == "":
		return config, nil
	case g.key == "":
		return nil, errors.New("--server-cert goes with --server-key, the key of that certificate")
	case g.cert == "":
		return nil, errors.New("--server-key goes with --server-cert, the certificate that it is the key of")
	}
	certificate, err := readPEM(g.cert)
	if err != nil {
		return nil, aboutFlag("server-cert", err)
	}
	key, err := readPEM(g.key)
	if err != nil {
		return nil, aboutFlag("server-key", err)
	}
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		return nil, &flagError{"server-key", fmt.Errorf("--server-cert %s, --server-key %s: %w", g.cert, g.key, err)}
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}

// authorities reads the certificates in a file. Each has to be right: whoever wrote it there wants it to be trusted.
func authorities(name, text string) (*x509.CertPool, error) {
	pool, n := x509.NewCertPool(), 0
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		pool.AddCert(certificate)
		n++
	}
	if n == 0 {
		return nil, fmt.Errorf("%s has no certificate in PEM", name)
	}
	return pool, nil
}

// transport carries calls to the server, with TLS or without. It keeps what came of the last handshake, since gRPC makes
// text of it.
type transport struct {
	credentials.TransportCredentials
	tls, certificate bool // whether it is spoken, and whether there is a certificate to show
	loopbackOnly     bool // a token would go over it that nobody may read on the way

	log *handshakes
}

// handshakes is what came of the last of them.
type handshakes struct {
	mu    sync.Mutex
	tried bool // there was one, so somebody is there
	err   error
}

func (h *handshakes) end(err error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tried, h.err = true, err
	return err
}

func (h *handshakes) last() (tried bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tried, h.err
}

// ClientHandshake is called by gRPC when there is a connection, and before anything is sent on it: so what is asked here
// is where the connection leads, whatever its name resolved to.
func (t *transport) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if t.loopbackOnly && !isLoopback(conn.RemoteAddr()) {
		return nil, nil, t.log.end(errTokenInTheOpen)
	}
	secured, info, err := t.TransportCredentials.ClientHandshake(ctx, authority, conn)
	return secured, info, t.log.end(err)
}

// Clone shares what is known of handshakes.
func (t *transport) Clone() credentials.TransportCredentials {
	clone := *t
	clone.TransportCredentials = t.TransportCredentials.Clone()
	return &clone
}

func isLoopback(address net.Addr) bool {
	tcp, ok := address.(*net.TCPAddr)
	return ok && tcp.AddrPort().Addr().Unmap().IsLoopback()
}

// errTokenInTheOpen is the failure of a handshake after which a token would be read by others.
var errTokenInTheOpen = errors.New("a token is not sent without TLS to another machine")

// failure is why there is no connection to a probed, and what to do about it. why is gRPC's word for it.
func (t *transport) failure(to door, why error) *exitError {
	tried, err := t.log.last()
	text := why.Error()
	address, noProbed := to.name, "no probed answers at "+to.name+": "
	var (
		untrusted x509.UnknownAuthorityError
		wrongName x509.HostnameError
		invalid   x509.CertificateInvalidError
		noTLS     tls.RecordHeaderError
	)
	switch {
	case errors.Is(err, errTokenInTheOpen):
		return &exitError{exitUsage, "the token is not sent to " + address + " without TLS, since that is not loopback",
			"Speak TLS with --server-tls, and --server-ca FILE for an authority of your own. With --token-over-plaintext it is\n" +
				"sent all the same, and everybody on the way can read it."}
	case errors.As(err, &untrusted):
		return &exitError{exitFailed, "the certificate of " + address + " is signed by an authority that is not trusted here",
			"If it is one of your own, name the file that has it with --server-ca."}
	case errors.As(err, &wrongName):
		return &exitError{exitFailed, "the certificate of " + address + " is for somebody else: " + withoutPrefix(wrongName.Error()),
			"If that is the probed you mean, say which name its certificate is for with --server-name."}
	case errors.As(err, &invalid):
		return &exitError{exitFailed, "the certificate of " + address + " is not valid: " + withoutPrefix(invalid.Error()),
			"The server needs another one, unless the clock of this machine is wrong."}
	case to.via != nil && (err == nil || errors.Is(err, io.EOF)) && to.via.refused():
		return &exitError{exitFailed, noProbed + "nobody listens there",
			"Is it a pod of a probed, and its gRPC listener on that port? A container port of the name grpc says which it is."}
	case to.via != nil && errors.Is(why, errNoConnection): // a kubectl takes every connection, so that one was says nothing
		return t.silence(to)
	case errors.As(err, &noTLS):
		return &exitError{exitFailed, noProbed + "what is there does not speak TLS",
			"If it is a probed without TLS, leave --server-tls and the flags that imply it out, and what the environment says of them."}
	case err != nil && errors.Is(err, io.EOF):
		return &exitError{exitFailed, noProbed + "what is there hung up in the TLS handshake", "Perhaps it does not speak TLS: then leave --server-tls out."}
	case strings.Contains(text, "no application protocol") || strings.Contains(text, "missing selected ALPN"):
		return &exitError{exitFailed, noProbed + "what is there speaks TLS, but not gRPC", "Is that the port of its gRPC listener?"}
	case t.tls && tried && (err == nil || strings.Contains(text, alertPrefix)):
		_, alert, _ := strings.Cut(text, alertPrefix)
		return &exitError{exitFailed, noProbed + alertText(alert), t.alertAdvice(alert)}
	case !t.tls && tried:
		return &exitError{exitFailed, noProbed + "what is there does not speak gRPC, or not without TLS: " + text,
			"If it is a probed that speaks TLS, say --server-tls, and --server-ca FILE for an authority of your own."}
	}
	if to.via != nil {
		return &exitError{exitFailed, noProbed + text, to.via.stderr.words()}
	}
	return &exitError{exitFailed, noProbed + text,
		"Start one there (probed listens for gRPC on port " + defaultPort + ")" + otherProbed}
}

// silence is the failure to hear of what is behind a forward.
func (t *transport) silence(to door) *exitError {
	text := "no probed answers at " + to.name + ": the connection was taken, and nothing said in time"
	if words := to.via.stderr.words(); words != "" {
		text += "; kubectl port-forward: " + words
	}
	advice := "It is busy or hangs, or its node loses packets; --connect-timeout waits longer."
	if !t.tls {
		advice += "\nIf it speaks TLS, say --server-tls."
	}
	return &exitError{exitFailed, text, advice}
}

// alertPrefix is what crypto/tls puts before the alert of a peer.
const alertPrefix = "remote error: tls: "

// alertText says how TLS ended. The alert may be lost on the way, when the connection broke behind it.
func alertText(alert string) string {
	if alert == "" {
		return "what is there hung up after the TLS handshake"
	}
	return "what is there refused the TLS handshake: " + alert
}

// alertAdvice is what to do if it was our certificate, or that there was none.
func (t *transport) alertAdvice(alert string) string {
	switch {
	case alert != "" && !strings.Contains(alert, "certificate") && alert != "access denied":
		return ""
	case t.certificate:
		return "Perhaps it does not trust the authority of --server-cert, or that certificate has expired."
	}
	return "If it asks for a certificate of yours, name it with --server-cert and --server-key."
}

// withoutPrefix is the text of an error of crypto/x509.
func withoutPrefix(text string) string { return strings.TrimPrefix(text, "x509: ") }

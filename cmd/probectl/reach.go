package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
)

// targetHelp tells what a target is, in the help of every command that takes one.
const targetHelp = `TARGET is [SCHEME://]HOST:SERVICE. The scheme is tcp (the default), tcp4, tcp6, tls, udp,
udp4, udp6, icmp, icmp4, icmp6, unix, unixgram or unixpacket. ICMP has no service, as
icmp://example.org; a unix target is a path, as unix:///run/x.sock.`

// reach is how to get to a target: the flags that connect, exchange and converse have in common.
type reach struct {
	flags *pflag.FlagSet // that they are among

	v4, v6               bool
	timeout              time.Duration
	source, device       string
	tls, insecure        bool
	serverName           string
	alpn                 []string
	minVersion           tlsVersion
	caCert, cert, keyPEM string // file names
}

// tlsFlags are those that say how TLS is to be spoken, and not whether.
var tlsFlags = [...]string{"tls-name", "servername", "alpn", "tls-min", "cacert", "cert", "key", "insecure"}

// bindReach makes the flags. The command says what its timeout is for.
func bindReach(t *tool, command *cobra.Command, timeout string) *reach {
	r := &reach{flags: command.Flags()}
	r.flags.BoolVarP(&r.v4, "ipv4", "4", false, "only addresses of IPv4")
	r.flags.BoolVarP(&r.v6, "ipv6", "6", false, "only addresses of IPv6")
	r.flags.DurationVar(&r.timeout, "timeout", 0, timeout)
	r.flags.StringVar(&r.source, "source", "", "connect from this `ADDRESS`, one of the host that asks")
	r.flags.StringVar(&r.device, "interface", "", "connect through the interface of this `NAME`")
	r.flags.BoolVar(&r.tls, "tls", false, "speak TLS: tls:// for a target with tcp:// or without a scheme")
	r.flags.StringVar(&r.serverName, "tls-name", "", "TLS: the `NAME` that the target's certificate must be for, sent as SNI (default: the target's host)")
	r.flags.StringVar(&r.serverName, "servername", "", "the same as --tls-name, a `NAME`")
	_ = r.flags.MarkHidden("servername") // what it was called: too much like --server-name, which is about the probed
	r.flags.StringSliceVar(&r.alpn, "alpn", nil, "TLS: offer these `PROTOCOLS`, the preferred one first, as h2,http/1.1")
	r.flags.Var(&r.minVersion, "tls-min", "TLS: accept no `VERSION` below 1.0, 1.1, 1.2 or 1.3 (default 1.2)")
	r.flags.StringVar(&r.caCert, "cacert", "", "TLS: trust the authorities in this `FILE`, in PEM, and no others")
	r.flags.StringVar(&r.cert, "cert", "", "TLS: the client's certificate, a `FILE` in PEM; goes with --key")
	r.flags.StringVar(&r.keyPEM, "key", "", "TLS: its key, a `FILE` in PEM. A --server gets it, so speak --server-tls to that")
	r.flags.BoolVarP(&r.insecure, "insecure", "k", false, "TLS: go on whatever the certificate says; what is wrong is told all the same")
	command.MarkFlagsMutuallyExclusive("ipv4", "ipv6")
	completeFlag(command, "timeout", durations)
	completeFlag(command, "source", t.sources)
	completeFlag(command, "interface", t.interfaces)
	completeFlag(command, "tls-name", hosts)
	completeFlag(command, "servername", hosts)
	completeFlag(command, "alpn", lists(protocols))
	completeFlag(command, "tls-min", among(tlsVersionNames[:]...))
	return r
}

// open is the request that the flags make for a target.
func (r *reach) open(target string) (*probev1.Open, error) {
	open, err := r.options()
	if err != nil {
		return nil, err
	}
	open.Target, err = r.target(target)
	return open, err
}

// options is open without the target. The three requests that open a connection have these fields in common, and Open has
// few others. Which of them go together is for the server to say.
func (r *reach) options() (*probev1.Open, error) {
	open := &probev1.Open{Source: r.source, Interface: r.device}
	switch {
	case r.v4:
		open.Family = probev1.AddressFamily_AF_INET
	case r.v6:
		open.Family = probev1.AddressFamily_AF_INET6
	}
	if r.flags.Changed("timeout") {
		open.Timeout = durationpb.New(r.timeout)
	}
	if slices.ContainsFunc(tlsFlags[:], r.flags.Changed) {
		open.Tls = &probev1.TlsOptions{
			ServerName: r.serverName, Alpn: r.alpn, MinVersion: probev1.TlsVersion(r.minVersion), InsecureSkipVerify: r.insecure,
		}
		return open, r.readFiles(open.GetTls())
	}
	return open, nil
}

// target is the target that is meant, given --tls.
func (r *reach) target(text string) (string, error) {
	if !r.tls {
		return text, nil
	}
	scheme, rest, found := strings.Cut(text, "://")
	switch {
	case !found:
		return "tls://" + text, nil
	case scheme == "tcp":
		return "tls://" + rest, nil
	case scheme == "tls":
		return text, nil
	}
	return "", fmt.Errorf("--tls goes with tcp:// or without a scheme, and not with %s:// (-4 and -6 choose the family)", scheme)
}

func (r *reach) readFiles(options *probev1.TlsOptions) (err error) {
	for _, file := range []struct {
		flag, name string
		text       *string
	}{
		{"cacert", r.caCert, &options.CaBundle}, {"cert", r.cert, &options.Certificate}, {"key", r.keyPEM, &options.PrivateKey},
	} {
		if !r.flags.Changed(file.flag) {
			continue
		}
		if *file.text, err = readPEM(file.name); err != nil {
			return fmt.Errorf("--%s: %w", file.flag, err)
		}
	}
	return nil
}

// readPEM reads a file that ought to be PEM, which the server will find out. Standard input is not for it: that is what
// is sent.
func readPEM(name string) (string, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	data, err := readAll(file, name)
	if err == nil && (len(data) == 0 || !utf8.Valid(data)) {
		err = fmt.Errorf("%s is not PEM, which is text", name)
	}
	return string(data), err
}

// tlsVersion is the flag for a version of TLS. Its zero value is none.
type tlsVersion probev1.TlsVersion

var tlsVersionNames = [...]string{"1.0", "1.1", "1.2", "1.3"} // from TLS_VERSION_1_0 on, whose numbers follow each other

func (v *tlsVersion) String() string {
	if *v == 0 {
		return ""
	}
	return tlsVersionNames[*v-tlsVersion(probev1.TlsVersion_TLS_VERSION_1_0)]
}

func (v *tlsVersion) Set(text string) error {
	for i, name := range tlsVersionNames {
		if text == name {
			*v = tlsVersion(probev1.TlsVersion_TLS_VERSION_1_0) + tlsVersion(i)
			return nil
		}
	}
	return errors.New("it is one of 1.0, 1.1, 1.2, 1.3")
}

func (v *tlsVersion) Type() string { return "version" }

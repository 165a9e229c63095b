package main

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/pflag"
)

// options are the flags.
type options struct {
	flags                             *pflag.FlagSet
	config                            []string // files
	grpcListen, httpListen, opsListen string
	echo                              []string
	unixPaths                         []string
	insecureNoAuth, insecurePlaintext bool
	allowedHosts                      []string
	drainDelay, drainTimeout          time.Duration
	logLevel                          string
	listenFile                        string

	watchEvery time.Duration // the files of the configuration are looked at; 0: watchInterval; tests have less
}

func (o *options) register(flags *pflag.FlagSet) {
	o.flags = flags
	flags.StringArrayVar(&o.config, "config", nil, "read who may call, what they may reach, certificates and limits from `FILE`, and again when it changes; where a flag says the same, the flag counts (repeatable: the files are one configuration, each value in one of them, and lists are appended)")
	flags.StringVar(&o.grpcListen, "grpc-listen", "127.0.0.1:50051", "where gRPC is served, `HOST:PORT`; port 0 takes a free one; empty: nowhere")
	flags.StringVar(&o.httpListen, "http-listen", "127.0.0.1:8080", "where REST is served, `HOST:PORT`; port 0 takes a free one; empty: nowhere")
	flags.StringVar(&o.opsListen, "ops-listen", "127.0.0.1:9464", "where /metrics, /livez and /readyz are served, `HOST:PORT`; empty: nowhere")
	flags.StringArrayVar(&o.echo, "echo", nil, "answer as RFC 862 does at `URL`: tcp://HOST:PORT, udp://HOST:PORT, unix://PATH (repeatable)")
	flags.StringArrayVar(&o.unixPaths, "unix-path", nil, "let callers reach the unix socket at `PATH`, or with DIR/* every one directly in DIR; without it none is reached (repeatable)")
	flags.BoolVar(&o.insecureNoAuth, "insecure-no-auth", false, "let anybody who reaches the gRPC and REST listeners use them, also from outside of this host")
	flags.BoolVar(&o.insecurePlaintext, "insecure-plaintext", false, "take bearer tokens from outside of this host without TLS, where something in front of probed has it")
	flags.StringArrayVar(&o.allowedHosts, "http-allowed-host", nil, "answer REST requests for the host `NAME`, besides localhost and IP addresses (repeatable)")
	flags.DurationVar(&o.drainDelay, "drain-delay", 0, "how long to go on after the signal to end, already not ready, so that load balancers take notice (5s when reachable from outside of this host)")
	flags.DurationVar(&o.drainTimeout, "drain-timeout", 20*time.Second, "how long calls under way get to end by themselves; exchanges that are left then end as DRAINED")
	flags.StringVar(&o.logLevel, "log-level", "info", "the least level that is logged: debug, info, warn, error")
	flags.StringVar(&o.listenFile, "listen-file", "", "when ready, write the addresses of the listeners to `FILE`, a NAME=ADDRESS a line")
}

// fill takes from the configuration what no flag has said.
func (o *options) fill(c *config) {
	for flag, from := range map[string]struct {
		to   *string
		from *string
	}{
		"grpc-listen": {&o.grpcListen, c.grpc.address},
		"http-listen": {&o.httpListen, c.http.address},
		"ops-listen":  {&o.opsListen, c.ops.address},
	} {
		if from.from != nil && !o.flags.Changed(flag) {
			*from.to = *from.from
		}
	}
	o.echo = append(o.echo, c.echo...)
	o.allowedHosts = append(o.allowedHosts, c.allowedHosts...)
}

// fillDrain takes the times of the end from the configuration, or their defaults, if no flag has said them.
func (o *options) fillDrain(c *config, reachable bool) {
	delay, timeout := drainOf(c.drain, reachable)
	if !o.flags.Changed("drain-delay") {
		o.drainDelay = delay
	}
	if !o.flags.Changed("drain-timeout") {
		o.drainTimeout = timeout
	}
}

// level is the least that is logged.
func (o *options) level() (level slog.Level, err error) {
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return 0, usageError{fmt.Errorf("--log-level %q: it is debug, info, warn or error", o.logLevel)}
	}
	return level, nil
}

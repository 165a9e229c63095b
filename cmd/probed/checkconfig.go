package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// errReported is a failure of which everything has been told: there is nothing to add but the exit code.
var errReported = errors.New("reported")

// checkConfigCommand tests a configuration as the start does, and starts nothing.
func checkConfigCommand(getenv func(string) string) *cobra.Command {
	var noAuth, plaintext bool
	command := &cobra.Command{
		Use:   "check-config FILE...",
		Short: "Test a configuration, and tell what it comes to",
		Long: `check-config reads each FILE and what it names (certificates, keys, tokens) as "probed --config FILE" does with --config
for each of them, asks no network, and starts nothing; so whether an address is free it cannot tell. What is wrong is told
on stderr, all of it, a line each: FILE:LINE:COLUMN: FIELD: MESSAGE.
Exit code 0: it is right, be it with warnings; 1: it is not.`,
		Example: `  probed check-config probed.yaml
  probed check-config --insecure-plaintext probed.yaml && systemctl reload probed`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("check-config takes at least one FILE")}
			}
			return nil
		},
		RunE: func(command *cobra.Command, args []string) error {
			return checkConfig(args, getenv, exposure{insecureNoAuth: noAuth, insecurePlaintext: plaintext},
				command.OutOrStdout(), command.ErrOrStderr())
		},
	}
	command.Flags().BoolVar(&noAuth, "insecure-no-auth", false, "test it for a start with this flag")
	command.Flags().BoolVar(&plaintext, "insecure-plaintext", false, "test it for a start with this flag")
	return command
}

func checkConfig(files []string, getenv func(string) string, e exposure, stdout, stderr io.Writer) error {
	c, err := readConfig(files, getenv)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return errReported
	}
	e.config, e.grpc, e.http = c, c.grpc.exposed(), c.http.exposed()
	for _, warning := range c.warnings {
		fmt.Fprintf(stderr, "warning: %v\n", warning)
	}
	if err := checkExposure(e); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", strings.Join(files, ", "), err)
		return errReported
	}
	fmt.Fprintf(stdout, "%s: ok\n", strings.Join(files, ", "))
	for _, line := range c.summary() {
		fmt.Fprintf(stdout, "  %-8s %s\n", line[0], printable(line[1]))
	}
	return nil
}

// exposed is the address of a listener as the file has it, if it is one that can be reached from outside, as far as that
// can be told without asking what a name stands for.
func (l listenerConfig) exposed() string {
	if l.address == nil || *l.address == "" {
		return ""
	}
	host := *l.address
	if colon := strings.LastIndexByte(host, ':'); colon >= 0 {
		host = strings.Trim(host[:colon], "[]")
	}
	if address, err := netip.ParseAddr(host); err == nil && !isReachable(address) || strings.EqualFold(host, "localhost") {
		return ""
	}
	return *l.address
}

// summary is in a few lines, each a word and what there is to it, what somebody who wrote the file wants to see once more.
func (c *config) summary() [][2]string {
	lines := [][2]string{{"grpc", c.grpc.summary()}, {"http", c.http.summary()}, {"ops", c.ops.summary()}}
	if len(c.echo) > 0 {
		lines = append(lines, [2]string{"echo", strings.Join(c.echo, ", ")})
	}
	lines = append(lines, [2]string{"callers", c.methods()})
	if c.policy == nil {
		lines = append(lines, [2]string{"policy", "none: every caller may do what nothing forbids for good"})
	} else {
		for i := range c.policy.roles {
			role := &c.policy.roles[i]
			grants := slices.Clone(role.Operations)
			if len(role.Rules) > 0 {
				grants = slices.Insert(grants, 0, count(len(role.Rules), "rule"))
			}
			lines = append(lines, [2]string{"role", fmt.Sprintf("%s: %s for %s", role.Name, strings.Join(grants, ", "), strings.Join(role.Subjects, ", "))})
		}
	}
	if len(c.modules) > 0 {
		lines = append(lines, [2]string{"modules", modulesSummary(c.modules)})
	}
	switch c.audit {
	case "":
	case "-":
		lines = append(lines, [2]string{"audit", "stdout"})
	default:
		lines = append(lines, [2]string{"audit", c.audit})
	}
	return lines
}

func (l listenerConfig) summary() string {
	text := "as the flags say"
	switch {
	case l.address == nil:
	case *l.address == "":
		return "not served"
	default:
		text = *l.address
	}
	switch {
	case l.tls == nil:
		return text
	case l.tls.clientCA != "":
		return text + ", TLS, certificates of callers checked"
	default:
		return text + ", TLS"
	}
}

func (c *config) methods() string {
	var methods []string
	if c.certificates != nil {
		methods = append(methods, "certificates (mtls:NAME)")
	}
	if len(c.tokens) > 0 {
		methods = append(methods, count(len(c.tokens), "token")+" (token:NAME)")
	}
	if c.awaited != "" {
		methods = append(methods, "tokens of "+c.awaited+", when it is there (token:NAME)")
	}
	for i := range c.issuers {
		methods = append(methods, fmt.Sprintf("tokens of %s (%s:SUB)", c.issuers[i].URL, c.issuers[i].Name))
	}
	if methods == nil {
		return "nobody is asked who they are (anonymous)"
	}
	return strings.Join(methods, ", ")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

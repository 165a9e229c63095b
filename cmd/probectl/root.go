package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// tool is what all commands share: the streams, and the flags that every command takes.
type tool struct {
	stdin          io.Reader
	stdout, stderr *printer

	plugin      string // as which kubectl runs this; empty: it does not
	getenv      func(string) string
	serversPath string // where the configuration file is

	server         string // of these two one at most
	kube           kube
	chosen         chosen   // how it was settled which
	otherServers   []string // that the configuration file names, when it was asked for one that it does not
	guarded        *guarded
	connectTimeout time.Duration
	retryMaxTime   time.Duration
	format         format
	verbose        bool

	documents int    // of YAML written so far
	requestID string // of the last answer
}

// run carries out one command line, of a program and its arguments, and returns the exit code. It returns when all its
// goroutines have ended.
func run(ctx context.Context, program string, args []string, stdin io.Reader, stdout, stderr io.Writer, getenv func(string) string) int {
	t := &tool{stdin: stdin, stdout: newPrinter(stdout), stderr: newPrinter(stderr), getenv: getenv, serversPath: serversPath(getenv)}
	t.color("auto")
	var completes bool
	if t.plugin, completes = pluginName(program); completes {
		args = append([]string{cobra.ShellCompRequestCmd}, args...)
	}
	root := newRootCommand(t, getenv)
	root.SetArgs(args)
	if len(args) > 0 && args[0] == cobra.ShellCompRequestCmd {
		describeFlags(root)
	}
	command, err := root.ExecuteContextC(inTrace(ctx, getenv))
	if writeErr := t.stdout.close(); err == nil && writeErr != nil {
		err = writeErr
	}
	if usage, ok := errors.AsType[*usageError](err); ok {
		t.stderr.line("probectl: %v", usage.err)
		t.stderr.line("usage: %s; more: %s --help", command.UseLine(), command.CommandPath())
		return exitUsage
	}
	code, text, advice := t.explain(err)
	if text != "" {
		t.stderr.line("probectl: %s", text)
	}
	t.advise(advice)
	if isInternal(err) {
		t.adviseInternal(t.requestID)
	}
	return code
}

const rootHelp = `probectl asks questions of the network: which port is ssh, what does this name
resolve to and by which queries, what happens when I connect there, send these
bytes and read what comes back, or talk for as long as I like.

With --server, or PROBECTL_SERVER, a probed answers, and the answer is what the
network looks like from there. Without, this machine answers. The configuration file gives
servers names, of which one may be the current one, which answers then: see probectl config.

With --kube, or PROBECTL_KUBE, a probed in a Kubernetes cluster answers: one in a pod of
that Service, or with these labels. kubectl finds the pod and forwards a port to it, with
your own configuration and rights; --namespace, --context and --kubeconfig are handed on to
it. With --each every such pod is asked, and the answers stand side by side: what works from
one node and not from another. A pod that cannot be asked is told too, and is a failure
unless it is being deleted and another is ready. A link to this program, called
kubectl-probectl and on the PATH, makes it a plugin of kubectl, which asks the Service
probed of a namespace: kubectl probectl -n shop connect db:5432

A probed that others can reach speaks TLS and asks who calls. --server-tls, or any of
--server-ca, --server-cert and --server-name, speaks TLS to it; --token-file, or a token in
PROBECTL_TOKEN, or --server-cert with --server-key says who you are. (There is no flag for
the token itself: others on this machine can read command lines.) What you may do there,
and by which rule, is told by probectl policy explain.

Exit codes:
  0    yes: it was found, it could be reached, the exchange went well
  1    probectl or the server failed, so there is no answer (with --each: from one at least)
  2    no: the check failed, the name does not exist, or policy explain says no
  64   wrong usage, told here or by the server (INVALID_ARGUMENT)
  130  interrupted by Ctrl-C; what had been received by then is printed`

const rootExample = `  probectl service ssh
  probectl host example.org --trace
  probectl connect tcp://example.org:https
  probectl exchange tcp://example.org:80 --text 'GET / HTTP/1.0\r\n\r\n'
  probectl converse mail.shop:smtp --crlf
  probectl --server probed.shop:50051 vantage

  # a probed in a cluster, and all of them: from which node does it not work?
  probectl --kube shop/probed --service-account probe-user connect db:5432
  probectl --kube net/probed --each host db.shop
  probectl --kube net/probed --each connect db.shop:5432 --json

  # a probed that asks who calls
  export PROBECTL_SERVER=probed.shop PROBECTL_SERVER_CA=ca.pem
  probectl --token-file ~/.probed-token connect db.shop:5432
  probectl --server-cert me.pem --server-key me-key.pem connect db.shop:5432
  probectl --token-file ~/.probed-token policy explain db.shop:5432`

func newRootCommand(t *tool, getenv func(string) string) *cobra.Command {
	root := &cobra.Command{
		Use:           "probectl COMMAND",
		Short:         "Ask questions of the network, from here or from where a probed runs",
		Long:          rootHelp,
		Example:       rootExample,
		Version:       buildVersion(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(root *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			text := fmt.Sprintf("there is no command %q", args[0])
			if similar := root.SuggestionsFor(args[0]); len(similar) > 0 {
				text += "; did you mean " + strings.Join(similar, " or ") + "?"
			}
			return errors.New(text)
		},
		PersistentPreRunE: func(command *cobra.Command, _ []string) error {
			if err := command.ValidateFlagGroups(); err != nil {
				return &usageError{err}
			}
			if asksNobody(command) {
				return nil
			}
			return t.settleServer()
		},
		RunE: func(root *cobra.Command, _ []string) error { return root.Help() },
	}
	root.SetOut(t.stdout)
	root.SetErr(t.stderr)
	root.SuggestionsMinimumDistance = 2

	flags := root.PersistentFlags()
	server, otherwise := getenv("PROBECTL_SERVER"), " (default: $PROBECTL_SERVER)"
	if t.plugin != "" {
		server, otherwise = "", "" // who says kubectl means the cluster
	}
	flags.StringVarP(&t.server, "server", "s", server,
		"the probed to ask: `SERVER` is HOST[:PORT] of its gRPC listener (port 50051 unless given), or a name of the\nconfiguration file; empty: answer from this machine"+otherwise)
	flags.Lookup("server").DefValue = "" // what the environment says is not for help texts
	t.kube.bind(root, getenv, t.plugin != "")
	t.guarded = bindGuarded(root, getenv)
	flags.DurationVar(&t.connectTimeout, "connect-timeout", 5*time.Second, "how long to wait for the connection to the server;\nwith --kube, where it takes several steps, 10s unless given")
	flags.DurationVar(&t.retryMaxTime, "retry-max-time", 10*time.Second,
		"how long to go on asking a server that says when to ask again, as its limits do; 0: ask once.\nA probe (connect, exchange, converse) is never asked again")
	flags.BoolVarP(&t.verbose, "verbose", "v", false, "tell each request and its id and what kubectl is run for, and log to stderr what runs inside probectl")
	bindFormat(root, &t.format)
	flags.Var(&when{tool: t}, "color", "`WHEN` to use colours: auto (on a terminal, unless NO_COLOR is set), always or never")
	completeFlag(root, "color", among("auto\ton a terminal", "always", "never"))
	for flag, of := range map[string]completer{
		"server": t.serverNames, "connect-timeout": durations, "retry-max-time": durations, "kube": t.kubeServices, "namespace": t.kubeNamespaces, "context": t.kubeContexts,
		"service-account": t.kubeServiceAccounts,
	} {
		completeFlag(root, flag, of)
	}

	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	for _, group := range []struct {
		id, title string
		commands  []func(*tool) *cobra.Command
	}{
		{"tables", "Services, protocols, constants:", []func(*tool) *cobra.Command{
			newServiceCommand, newPortCommand, newServicesCommand, newProtocolCommand, newConstantsCommand,
		}},
		{"names", "Names and addresses:", []func(*tool) *cobra.Command{
			newHostnameCommand, newVantageCommand, newHostCommand, newAddressCommand, newAddrinfoCommand,
			newNameinfoCommand, newDNSCommand,
		}},
		{"connections", "Connections:", []func(*tool) *cobra.Command{
			newConnectCommand, newExchangeCommand, newConverseCommand,
		}},
		{"rights", "Rights:", []func(*tool) *cobra.Command{newPolicyCommand}},
	} {
		root.AddGroup(&cobra.Group{ID: group.id, Title: group.title})
		for _, newCommand := range group.commands {
			command := newCommand(t)
			command.GroupID = group.id
			root.AddCommand(command)
		}
	}
	for _, newCommand := range []func(*tool) *cobra.Command{newConfigCommand, newVersionCommand, newCompletionCommand} {
		root.AddCommand(newCommand(t))
	}
	root.InitDefaultHelpCmd()
	if help, _, err := root.Find([]string{"help"}); err == nil {
		help.Example = "  probectl help connect\n  probectl help config set-server"
	}
	blameArguments(root)
	if t.plugin != "" {
		nameAsPlugin(root, t.plugin)
	}
	return root
}

// asksNobody tells whether a command is about this program alone, so that it works whatever is said about servers; version
// is about it first of all.
func asksNobody(command *cobra.Command) bool {
	for ; command.HasParent(); command = command.Parent() {
		switch command.Name() {
		case "help", "completion", "config", "version":
			return true
		}
	}
	return false
}

// local tells whether this machine answers.
func (t *tool) local() bool { return t.server == "" && t.kube.probed == "" }

// settleServer is checkServer, with errors for run: wrong usage, unless it is the configuration file that is wrong.
func (t *tool) settleServer() error {
	err := t.checkServer()
	if _, told := errors.AsType[*exitError](err); err == nil || told {
		return err
	}
	return &usageError{err}
}

// checkServer settles who answers, and is what is wrong with the flags about that. A flag counts more than the
// environment.
func (t *tool) checkServer() error {
	switch {
	case t.connectTimeout <= 0:
		return errors.New("--connect-timeout: it is more than 0")
	case t.retryMaxTime < 0:
		return errors.New("--retry-max-time: it is 0, to ask once, or more")
	}
	server, kube := t.kube.flags.Changed("server"), t.kube.flags.Changed("kube")
	if server && !kube && t.server == "" {
		t.kube.probed = "" // from this machine, then
	}
	switch {
	case t.server == "" || t.kube.probed == "":
	case server && kube:
		return errors.New("--server and --kube are two ways to a probed: give one of them")
	case kube:
		t.server = ""
	case server:
		t.kube.probed = ""
	default:
		return errors.New("PROBECTL_SERVER and PROBECTL_KUBE are both set: unset the one that is not meant")
	}
	if err := t.takeNamed(); err != nil {
		return err
	}
	if t.kube.probed != "" {
		return t.chosen.blame(t.checkKube())
	}
	if err := t.kube.unused(); err != nil {
		return err
	}
	if t.server == "" {
		return t.guarded.unused()
	}
	return nil
}

// blameArguments makes what is wrong with the arguments of a command, or of one below it, a usageError.
func blameArguments(command *cobra.Command) {
	if check := command.Args; check != nil {
		command.Args = func(command *cobra.Command, args []string) error {
			if err := check(command, args); err != nil {
				return &usageError{err}
			}
			return nil
		}
	}
	for _, below := range command.Commands() {
		blameArguments(below)
	}
}

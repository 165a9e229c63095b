package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"probed/service/names"
	"probed/service/resolve"
)

// What may stand at the cursor. A completer is asked at each press of a key, so it answers out of tables within this
// program and files of this machine: it opens no connection. Only kubectl may, and not for long.

// completer is one of those for an argument or the value of a flag, given what is typed of it.
type completer func(command *cobra.Command, typed string) (candidates []cobra.Completion, space bool)

// arguments makes completers those of the arguments of a command, one for each.
func arguments(of ...completer) cobra.CompletionFunc {
	return func(command *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= len(of) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return of[len(args)].complete(command, typed)
	}
}

// eachArgument makes a completer that of all arguments.
func eachArgument(of completer) cobra.CompletionFunc {
	return func(command *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return of.complete(command, typed)
	}
}

// completeFlag makes a completer that of a flag.
func completeFlag(command *cobra.Command, flag string, of completer) {
	// It fails only for a flag that does not exist.
	_ = command.RegisterFlagCompletionFunc(flag, func(command *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return of.complete(command, typed)
	})
}

// complete answers cobra, with those candidates that begin with what is typed.
func (of completer) complete(command *cobra.Command, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	all, space := of(command, typed)
	known := make(map[string]bool)
	all = slices.DeleteFunc(all, func(candidate cobra.Completion) bool {
		word, _, _ := strings.Cut(candidate, "\t")
		drop := !strings.HasPrefix(candidate, typed) || known[word] || strings.ContainsFunc(word, actedOn)
		known[word] = true
		return drop
	})
	directive := cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	if !space {
		directive |= cobra.ShellCompDirectiveNoSpace
	}
	return all, directive
}

// actedOn tells the characters that a shell may do something about, and those that cannot be seen. Nothing that has one is
// offered: where several words may follow, bash puts what they have in common into the line as it is, with what is told of
// two words that are the same, and cobra's script evaluates the line at the next press of the key. So the name of a file
// that somebody else has made would be run.
func actedOn(r rune) bool {
	return !unicode.In(r, unicode.L, unicode.M, unicode.N) && !strings.ContainsRune("-_./:,=+@%[]", r) || r == utf8.RuneError
}

// describeFlags makes what is told of each flag of a command, and of those below it, fit beside a candidate: one line, up to
// where it goes into details.
func describeFlags(command *cobra.Command) {
	describe := func(flag *pflag.Flag) {
		_, usage := pflag.UnquoteUsage(flag) // without backticks
		usage = strings.ReplaceAll(usage, "\n", " ")
		for _, end := range []string{";", " (default", ". "} {
			usage, _, _ = strings.Cut(usage, end)
		}
		flag.Usage = usage
	}
	command.LocalFlags().VisitAll(describe)
	for _, below := range command.Commands() {
		describeFlags(below)
	}
}

// nothing is the completer of what nobody can guess; files are none.
func nothing(*cobra.Command, string) ([]cobra.Completion, bool) { return nil, true }

// among is the completer of these, each with a description behind a tab or without.
func among(candidates ...cobra.Completion) completer {
	return func(*cobra.Command, string) ([]cobra.Completion, bool) { return slices.Clone(candidates), true }
}

var (
	transports = among("tcp", "udp", "sctp", "dccp")
	durations  = among("500ms", "1s", "2s", "5s", "10s", "30s", "1m", "5m")
	protocols  = among(
		"h2\tHTTP/2", "http/1.1", "http/1.0", "grpc-exp", "dot\tDNS over TLS", "doq\tDNS over QUIC", "imap", "pop3", "managesieve", "xmpp-client",
		"xmpp-server", "mqtt", "postgresql", "ntske/1\tNTP security", "acme-tls/1", "stun.turn", "webrtc", "irc", "ftp", "sunrpc", "smb",
	)
)

// lists is the completer of a list with commas, given that of one entry.
func lists(of completer) completer {
	return func(command *cobra.Command, typed string) ([]cobra.Completion, bool) {
		end := strings.LastIndexAny(typed, ",|") + 1
		candidates, _ := of(command, typed[end:])
		for i := range candidates {
			candidates[i] = typed[:end] + candidates[i]
		}
		return candidates, false // a comma may follow
	}
}

// described is a candidate with its description, on one line.
func described(candidate, description string) cobra.Completion {
	if description == "" {
		return candidate
	}
	return candidate + "\t" + strings.Join(strings.Fields(description), " ")
}

// services is the completer of the name of a service, over one transport or, if that is empty, over any.
func services(transport string) completer {
	return func(_ *cobra.Command, typed string) ([]cobra.Completion, bool) {
		type entry struct{ where, what string }
		var order []string
		found := make(map[string]entry)
		for _, s := range allEntries(transport) {
			if typed == "" && s.Source != names.SourceFile && s.Class() != names.PortClassSystem {
				continue // of the thousands that are registered, those with a beginning
			}
			for _, name := range append([]string{s.Name}, s.Aliases...) {
				e, known := found[name]
				switch port := strconv.Itoa(int(s.Port)); {
				case !known:
					order = append(order, name)
					e = entry{port + "/" + s.Protocol, s.Description}
				case strings.HasPrefix(e.where, port+"/") && !strings.Contains(e.where, s.Protocol):
					e.where += "," + s.Protocol
				}
				found[name] = e
			}
		}
		candidates := make([]cobra.Completion, 0, len(order))
		for _, name := range order {
			if strings.HasPrefix(name, typed) {
				candidates = append(candidates, described(name, found[name].where+" "+found[name].what))
			}
		}
		return candidates, true
	}
}

// allEntries is the tables of this machine, and those of probectl.
func allEntries(transport string) []names.Service {
	var all []names.Service
	tables := names.Open(names.Config{})
	for page, next := tables.Services(transport, names.PortClassUnspecified, names.Cursor{}, 1<<12); ; page, next = tables.Services(transport, names.PortClassUnspecified, next, 1<<12) {
		if all = append(all, page...); next == (names.Cursor{}) {
			return all
		}
	}
}

// ports is the completer of a port that has a service.
func ports(_ *cobra.Command, typed string) ([]cobra.Completion, bool) {
	var order []string
	found := make(map[string][]string)
	for _, s := range allEntries("") {
		port := strconv.Itoa(int(s.Port))
		if typed == "" && s.Source != names.SourceFile && s.Class() != names.PortClassSystem {
			continue
		}
		if found[port] == nil {
			order = append(order, port)
		}
		if !slices.Contains(found[port], s.Name) {
			found[port] = append(found[port], s.Name)
		}
	}
	var candidates []cobra.Completion
	for _, port := range order {
		candidates = append(candidates, described(port, strings.Join(found[port], ", ")))
	}
	return candidates, true
}

// ipProtocols is the completer of a protocol of the IP header: by number if that is how it begins.
func ipProtocols(_ *cobra.Command, typed string) ([]cobra.Completion, bool) {
	tables := names.Open(names.Config{})
	byNumber := typed != "" && typed[0] >= '0' && typed[0] <= '9'
	var candidates []cobra.Completion
	for number := range 256 {
		p, ok := tables.Protocol(strconv.Itoa(number))
		switch {
		case !ok:
		case byNumber:
			candidates = append(candidates, described(strconv.Itoa(number), p.Name+" "+p.Description))
		default:
			candidates = append(candidates, described(p.Name, strconv.Itoa(number)+" "+p.Description))
			for _, alias := range p.Aliases {
				if typed != "" && !strings.HasPrefix(p.Name, typed) {
					candidates = append(candidates, described(alias, strconv.Itoa(number)+" "+p.Description))
				}
			}
		}
	}
	return candidates, true
}

var constantFamilies = []cobra.Completion{
	"AF_\taddress families", "SOCK_\tsocket types", "IPPROTO_\tprotocols of the IP header", "AI_\tflags of getaddrinfo",
	"NI_\tflags of getnameinfo", "EAI_\terrors of getaddrinfo",
}

// constants is the completer of the beginning of a constant: of a family first, and then of those in it.
func constants(_ *cobra.Command, typed string) ([]cobra.Completion, bool) {
	if !strings.Contains(typed, "_") {
		return slices.Clone(constantFamilies), false
	}
	var candidates []cobra.Completion
	for _, c := range names.Constants(typed) {
		candidates = append(candidates, described(c.Name, fmt.Sprintf("%d %s", c.Value, c.Description)))
	}
	return candidates, true
}

// enums is the completer of a value of an enum: in small letters and without prefix, or as in C if long is set or that is
// how it begins.
func enums[E enumeration](prefix string, long bool) completer {
	return func(_ *cobra.Command, typed string) ([]cobra.Completion, bool) {
		descriptions := make(map[string]string)
		for _, c := range names.Constants(prefix) {
			descriptions[c.Name] = c.Description
		}
		var candidates []cobra.Completion
		for _, name := range enumNames[E](prefix) {
			if prefix == "AF_" && !strings.HasPrefix(name, "INET") {
				continue // the others are not of names, and no question is about them
			}
			forms := []string{strings.ToLower(name), name, prefix + name}
			if long {
				slices.Reverse(forms)
			}
			for _, form := range forms {
				if strings.HasPrefix(form, typed) {
					candidates = append(candidates, described(form, descriptions[prefix+name]))
					break
				}
			}
		}
		return candidates, true
	}
}

// hostsFile is where this machine keeps names of hosts; a variable for those that have no such file.
const hostsFile = "/etc/hosts"

// hostsEntries calls yield with each address of the hosts file and its names.
func hostsEntries(yield func(address string, names []string) bool) {
	text, err := os.ReadFile(hostsFile)
	if err != nil || len(text) > 1<<20 {
		return
	}
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		if fields := strings.Fields(line); len(fields) > 1 && !yield(fields[0], fields[1:]) {
			return
		}
	}
}

// hosts is the completer of a host.
func hosts(*cobra.Command, string) ([]cobra.Completion, bool) {
	var candidates []cobra.Completion
	known := make(map[string]bool)
	for address, aliases := range hostsEntries {
		for _, name := range aliases {
			if !known[name] {
				candidates = append(candidates, described(name, address))
			}
			known[name] = true
		}
	}
	return candidates, true
}

// addresses is the completer of an address.
func addresses(*cobra.Command, string) ([]cobra.Completion, bool) {
	var candidates []cobra.Completion
	for address, aliases := range hostsEntries {
		candidates = append(candidates, described(address, strings.Join(aliases, " ")))
	}
	return candidates, true
}

var schemes = []cobra.Completion{
	"tcp://\tTCP, as without a scheme", "tls://\tTCP, and TLS over it", "udp://\tUDP", "icmp://\tan echo request",
	"unix://\ta socket in the file system", "tcp4://\tTCP by IPv4", "tcp6://\tTCP by IPv6", "udp4://\tUDP by IPv4", "udp6://\tUDP by IPv6",
	"icmp4://\tan echo request by IPv4", "icmp6://\tan echo request by IPv6", "unixgram://\ta datagram socket in the file system",
	"unixpacket://\ta socket with message borders in the file system",
}

// targets is the completer of a target: the scheme or the host, and behind the last colon the service.
func targets(command *cobra.Command, typed string) ([]cobra.Completion, bool) {
	scheme, rest, hasScheme := strings.Cut(typed, "://")
	switch {
	case !hasScheme:
		scheme, rest = "tcp", typed
	case strings.HasPrefix(scheme, "unix"):
		return files(scheme+"://", rest), false
	}
	before := strings.TrimSuffix(typed, rest)
	transport := strings.TrimRight(strings.Replace(scheme, "tls", "tcp", 1), "46")
	colon := strings.LastIndexByte(rest, ':')
	if transport != "icmp" && colon > strings.IndexByte(rest, ']') && (rest[0] != '[' || rest[colon-1] == ']') {
		candidates, _ := services(transport)(command, rest[colon+1:])
		return prefixedWith(before+rest[:colon+1], candidates), true
	}
	var candidates []cobra.Completion
	if !hasScheme && typed != "" {
		candidates = slices.Clone(schemes)
	}
	known, _ := hosts(command, rest)
	if transport == "icmp" {
		return prefixedWith(before, known), true
	}
	for _, host := range known {
		name, description, _ := strings.Cut(host, "\t")
		candidates = append(candidates, described(before+name+":", description))
	}
	if !hasScheme && typed == "" {
		candidates = append(candidates, schemes...)
	}
	return candidates, false
}

func prefixedWith(prefix string, candidates []cobra.Completion) []cobra.Completion {
	for i := range candidates {
		candidates[i] = prefix + candidates[i]
	}
	return candidates
}

// files are those of a directory, where a shell does not know that it is files: behind a prefix.
func files(prefix, path string) []cobra.Completion {
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Join(dir, "."))
	if err != nil {
		return nil
	}
	var candidates []cobra.Completion
	for _, entry := range entries {
		switch name := entry.Name(); {
		case !strings.HasPrefix(name, base) || name[0] == '.' && base == "":
		case entry.IsDir():
			candidates = append(candidates, prefix+dir+name+"/")
		default:
			candidates = append(candidates, prefix+dir+name)
		}
	}
	return candidates
}

var (
	stepKinds = []cobra.Completion{
		"send:\tsend this text", "expect:\twait until this text has come", "expect-regex:\twait for a match of this regular expression",
		"receive\treceive until the peer closes", "receive:\treceive until a rule holds", "send-file:\tsend the bytes of a file",
		"send-data:\tsend these bytes, in base64", "expect-data:\twait for these bytes, in base64", "start-tls\tgo on with TLS",
		"start-tls:\tgo on with TLS, for this name", "half-close\tclose the sending side",
	}
	endRules = []cobra.Completion{
		"length=\texactly so many bytes", "delimiter=\tthis text has come", "idle=\tnothing has come for so long", "count=\tso many messages",
		"max-bytes=\tat most so many bytes", "eof\tthe peer closes",
	}
)

// steps is the completer of a step of an exchange.
func steps(command *cobra.Command, typed string) ([]cobra.Completion, bool) {
	kind, argument, hasArgument := strings.Cut(typed, ":")
	switch {
	case !hasArgument:
		return slices.Clone(stepKinds), false
	case kind == "receive":
		rules, _ := lists(among(endRules...))(command, argument)
		return prefixedWith("receive:", rules), false
	case kind == "send-file":
		return files("send-file:", argument), false
	}
	return nil, false
}

var recordTypes = []cobra.Completion{
	"A\tan address of IPv4", "AAAA\tan address of IPv6", "CNAME\tthe name it is an alias of", "MX\tmail servers", "TXT\ttext",
	"NS\tname servers", "SOA\tthe begin of the zone", "SRV\thosts and ports of a service", "PTR\tthe name of an address",
	"CAA\tauthorities that may issue certificates", "HTTPS\thow to get to a web server", "SVCB\thow to get to a service",
	"TLSA\tcertificates of a service", "DS\ta signer of the zone below", "DNSKEY\tkeys of the zone", "RRSIG\tsignatures", "NSEC\tthe next name",
	"NSEC3\tthe next hashed name", "NAPTR\trules to rewrite names", "SSHFP\tfingerprints of SSH keys", "LOC\ta place on earth", "HINFO\tabout the host",
	"SPF\tsenders of mail", "ANY\twhatever there is",
}

// question is the completer of what stands behind the name of a question to DNS.
func (t *tool) question(command *cobra.Command, typed string) ([]cobra.Completion, bool) {
	if !strings.HasPrefix(typed, "@") {
		if typed != "" && strings.ToLower(typed) == typed {
			var lower []cobra.Completion
			for _, kind := range recordTypes {
				name, description, _ := strings.Cut(kind, "\t")
				lower = append(lower, described(strings.ToLower(name), description))
			}
			return lower, true
		}
		return append(slices.Clone(recordTypes), "@\ta name server"), true
	}
	var servers []cobra.Completion
	for _, server := range t.here(command).Resolver.Nameservers {
		servers = append(servers, described("@"+server.Addr().String(), "of this machine"))
	}
	return servers, true
}

// here is this machine's interfaces and name servers, as it tells them of itself; nothing where another one answers.
func (t *tool) here(command *cobra.Command) *resolve.Vantage {
	if t.takeNamed() == nil && t.local() {
		if vantage, err := resolve.New(resolve.Config{}).Vantage(command.Context()); err == nil {
			return vantage
		}
	}
	return &resolve.Vantage{}
}

// interfaces is the completer of an interface of this machine, if that is what answers.
func (t *tool) interfaces(command *cobra.Command, _ string) ([]cobra.Completion, bool) {
	var candidates []cobra.Completion
	for _, i := range t.here(command).Interfaces {
		addresses := make([]string, 0, len(i.Addresses))
		for _, address := range i.Addresses {
			addresses = append(addresses, address.Addr().String())
		}
		candidates = append(candidates, described(i.Name, strings.Join(addresses, " ")))
	}
	slices.Sort(candidates)
	return candidates, true
}

// sources is the completer of an address of this machine, if that is what answers.
func (t *tool) sources(command *cobra.Command, _ string) ([]cobra.Completion, bool) {
	var candidates []cobra.Completion
	for _, i := range t.here(command).Interfaces {
		for _, address := range i.Addresses {
			candidates = append(candidates, described(address.Addr().String(), i.Name))
		}
	}
	return candidates, true
}

// serverNames is the completer of a server of the configuration file.
func (t *tool) serverNames(*cobra.Command, string) ([]cobra.Completion, bool) {
	f, err := readServers(t.serversPath)
	if err != nil {
		return nil, true // the command itself will say what is wrong
	}
	var candidates []cobra.Completion
	for _, s := range f.servers {
		candidates = append(candidates, described(s.name, s.where()))
	}
	return candidates, true
}

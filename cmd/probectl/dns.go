package main

import (
	"errors"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	probev1 "probed/gen/probe/v1"
)

func newDNSCommand(t *tool) *cobra.Command {
	request := &probev1.QueryDNSRequest{}
	command := &cobra.Command{
		Use:   "dns NAME [TYPE] [@SERVER]",
		Short: "What does a name server answer?",
		Long: `Ask one DNS question and show the whole answer. The name is asked for as it is, without
search list. TYPE is A unless given. Without @SERVER the name servers of resolv.conf are
asked; SERVER is a host or an address, with a port where it is not 53.

The exit code is 0 if the answer is NOERROR and has a record in its answer section, and
2 for any other answer.`,
		Example: `  probectl dns example.org
  probectl dns example.org MX --transport tcp
  probectl dns kubernetes.default.svc.cluster.local AAAA @10.96.0.10`,
		Args:              cobra.RangeArgs(1, 3),
		ValidArgsFunction: arguments(hosts, t.question, t.question), //nolint:gocritic // TYPE and @SERVER stand in any order
		RunE: func(command *cobra.Command, args []string) error {
			if err := dnsArguments(request, args); err != nil {
				return &usageError{err}
			}
			return askWhether(command.Context(), t, probev1.NewResolverServiceClient, probev1.ResolverServiceClient.QueryDNS, request, dnsTable,
				func(answer *probev1.QueryDNSResponse) bool {
					return answer.GetRcode() == "NOERROR" && len(answer.GetAnswers()) > 0
				})
		},
	}
	bindEnum(command, &request.Transport, "transport", "DNS_TRANSPORT_", "how to ask: udp, tcp or tls; unset: by udp, and by tcp if the answer is truncated")
	return command
}

// dnsArguments reads NAME, TYPE and @SERVER, which may stand in any place.
func dnsArguments(request *probev1.QueryDNSRequest, args []string) error {
	for _, arg := range args {
		server, isServer := strings.CutPrefix(arg, "@")
		switch {
		case isServer && request.Server == "":
			request.Server = server
		case isServer:
			return errors.New("there can be one @SERVER only")
		case request.Name == "":
			request.Name = arg
		case request.Type == "":
			request.Type = arg
		default:
			return errors.New("give NAME, TYPE and @SERVER, each once")
		}
	}
	return nil
}

func dnsTable(p *printer, answer *probev1.QueryDNSResponse) {
	flags := answer.GetFlags()
	var set []string
	for _, flag := range []struct {
		name string
		set  bool
	}{
		{"qr", flags.GetResponse()}, {"aa", flags.GetAuthoritative()}, {"tc", flags.GetTruncated()},
		{"rd", flags.GetRecursionDesired()}, {"ra", flags.GetRecursionAvailable()},
		{"ad", flags.GetAuthenticatedData()}, {"cd", flags.GetCheckingDisabled()},
	} {
		if flag.set {
			set = append(set, flag.name)
		}
	}
	p.table("RCODE FLAGS SERVER BY TIME", [][]string{{
		answer.GetRcode(), strings.Join(set, ","), answer.GetServer(),
		strings.ToLower(short("DNS_TRANSPORT_", answer.GetTransport())), span(answer.GetDuration()),
	}})
	var rows [][]string
	for _, section := range []struct {
		name    string
		records []*probev1.DNSRecord
	}{
		{"answer", answer.GetAnswers()}, {"authority", answer.GetAuthority()}, {"additional", answer.GetAdditional()},
	} {
		for _, r := range section.records {
			rows = append(rows, []string{section.name, r.GetName(), strconv.Itoa(int(r.GetTtl())), r.GetClass(), r.GetType(), r.GetData()})
		}
	}
	if len(rows) > 0 {
		p.line("")
		p.table("SECTION NAME TTL CLASS TYPE DATA", rows)
	}
}

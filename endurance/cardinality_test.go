package endurance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/internal/probetest"
	"probed/internal/promise"
	"probed/service/guard"
)

// mark begins every random word, so that one that has become a label is found.
const mark = "zq0"

// stranger asks for things that nobody has asked for before.
type stranger struct {
	*rand.Rand
	t     *testing.T
	p     *probetest.Probed
	conn  *grpc.ClientConn
	http  *http.Client
	token string // empty: none
}

func (s *stranger) word() string {
	b := []byte(mark)
	for range 1 + s.IntN(20) {
		b = append(b, "abcdefghijklmnopqrstuvwxyz0123456789-_"[s.IntN(38)])
	}
	return string(b) + "x"
}

func (s *stranger) port() string { return fmt.Sprint(1024 + s.IntN(28000)) } // below those that listen here

// The parts of targets, each in all the ways that make a difference; which of them is new each time.
var (
	schemes = []string{"", "tcp://", "tcp4://", "tcp6://", "udp://", "udp4://", "udp6://", "tls://"}
	hosts   = []func(s *stranger) string{
		func(s *stranger) string { return s.word() + ".test" },  // does not exist
		func(s *stranger) string { return s.word() + ".alias" }, // is 127.0.0.1
		func(s *stranger) string { return s.word() + ".empty" }, // exists, without an address
		func(s *stranger) string { return s.word() + ".deaf" },  // SERVFAIL
		func(s *stranger) string { return fmt.Sprintf("127.1.%d.%d", s.IntN(256), s.IntN(256)) },
		func(s *stranger) string { return fmt.Sprintf("10.%d.%d.1", s.IntN(256), s.IntN(256)) },    // no route here
		func(s *stranger) string { return fmt.Sprintf("169.254.%d.%d", s.IntN(256), s.IntN(256)) }, // always denied
		func(s *stranger) string { return fmt.Sprintf("[2001:db8::%x]", s.IntN(1<<16)) },
		func(*stranger) string { return "[::1]" },
		func(s *stranger) string { return "[fe80::1%" + s.word() + "]" },
	}
	odd = []func(s *stranger) string{ // targets that are not made of these
		func(s *stranger) string { return "127.0.0.1:" + s.word() },
		func(s *stranger) string { return "udp://127.0.0.1:" + s.word() },
		func(s *stranger) string { return "unix:///tmp/" + s.word() },
		func(s *stranger) string { return "unixgram:///tmp/" + s.word() },
		func(s *stranger) string { return "unixpacket:///tmp/" + s.word() },
		func(s *stranger) string { return "unix:@" + s.word() },
		func(s *stranger) string { return s.word() + "://" + s.word() },
		func(s *stranger) string { return s.word() },
	}
)

// inquiry is one kind of thing to ask for.
type inquiry = func(ctx context.Context, s *stranger)

// call asks by gRPC, and get by REST.
func call(method string, request func(s *stranger) proto.Message) inquiry {
	return func(ctx context.Context, s *stranger) { s.invoke(ctx, method, request(s)) }
}

func get(path func(s *stranger) string) inquiry {
	return func(ctx context.Context, s *stranger) {
		s.do(ctx, http.MethodGet, "http://"+s.p.HTTPAddress+path(s), http.NoBody)
	}
}

func post(path string, request func(s *stranger) proto.Message) inquiry {
	return func(ctx context.Context, s *stranger) {
		if text, err := protojson.Marshal(request(s)); err == nil {
			s.do(ctx, http.MethodPost, "http://"+s.p.HTTPAddress+path, bytes.NewReader(text))
		}
	}
}

// asks are all kinds.
func asks() (all []inquiry) {
	targets := slices.Clone(odd)
	for _, scheme := range schemes {
		for _, host := range hosts {
			targets = append(targets, func(s *stranger) string { return scheme + host(s) + ":" + s.port() })
		}
	}
	for _, target := range targets {
		connect := func(s *stranger) proto.Message { return &probev1.ConnectRequest{Target: target(s)} }
		all = append(all,
			call(probev1.ExchangeService_Connect_FullMethodName, connect),
			post("/v1/connect", connect),
			post("/v1/exchange", func(s *stranger) proto.Message {
				return &probev1.ExchangeRequest{Target: target(s), Steps: []*probev1.Step{
					{Step: &probev1.Step_Send{Send: &probev1.Send{Content: &probev1.Send_Text{Text: s.word()}}}},
				}}
			}),
		)
	}
	for _, host := range hosts {
		name := func(s *stranger) string { return strings.Trim(host(s), "[]") }
		all = append(all,
			call(probev1.ResolverService_LookupHost_FullMethodName, func(s *stranger) proto.Message { return &probev1.LookupHostRequest{Host: name(s)} }),
			call(probev1.ResolverService_QueryDNS_FullMethodName, func(s *stranger) proto.Message {
				return &probev1.QueryDNSRequest{Name: s.word(), Type: "A", Server: host(s)}
			}),
			get(func(s *stranger) string { return "/v1/hosts/" + url.PathEscape(name(s)) }),
			get(func(s *stranger) string { return "/v1/addresses/" + url.PathEscape(name(s)) }),
			get(func(s *stranger) string { return "/v1/dns/" + url.PathEscape(name(s)) + "?type=A" }),
			get(func(s *stranger) string {
				return "/v1/nameinfo?address=" + url.QueryEscape(name(s)) + "&port=" + s.port()
			}),
			get(func(s *stranger) string {
				return "/v1/addrinfo?" + url.Values{"host": {name(s)}, "service": {s.word()}}.Encode()
			}),
			get(func(s *stranger) string {
				return "/v1/policy?" + url.Values{"target": {host(s) + ":" + s.port()}}.Encode()
			}),
		)
	}
	empty := func(*stranger) proto.Message { return &probev1.ConnectRequest{} }
	return append(all,
		func(ctx context.Context, s *stranger) { call("/"+s.word()+"/"+s.word(), empty)(ctx, s) },
		func(ctx context.Context, s *stranger) { call("/probe.v1.NameService/"+s.word(), empty)(ctx, s) },
		call(grpc_health_v1.Health_Check_FullMethodName, func(s *stranger) proto.Message {
			return &grpc_health_v1.HealthCheckRequest{Service: s.word()}
		}),
		get(func(s *stranger) string { return "/v1/services/" + s.word() }),
		get(func(s *stranger) string { return "/v1/ports/" + s.port() }),
		get(func(s *stranger) string { return "/v1/protocols/" + s.word() }),
		get(func(s *stranger) string { return "/v1/constants?prefix=" + s.word() }),
		get(func(s *stranger) string { return "/" + s.word() + "/" + s.word() + "?" + s.word() + "=" + s.word() }),
		func(ctx context.Context, s *stranger) {
			s.do(ctx, strings.ToUpper(s.word()), "http://"+s.p.HTTPAddress+"/v1/hostname", http.NoBody)
		},
		func(ctx context.Context, s *stranger) {
			s.do(ctx, http.MethodGet, "http://"+s.p.OpsAddress+"/"+s.word(), http.NoBody)
		},
	)
}

// invoke and do ask, and do not care for the answer.
func (s *stranger) invoke(ctx context.Context, method string, request proto.Message) {
	if s.token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+s.token)
	}
	_ = s.conn.Invoke(ctx, method, request, &emptypb.Empty{})
}

func (s *stranger) do(ctx context.Context, verb, address string, body io.Reader) {
	request, err := http.NewRequestWithContext(ctx, verb, address, body)
	if err != nil {
		s.t.Errorf("%s %q: %v", verb, address, err)
		return
	}
	if s.token != "" {
		request.Header.Set("Authorization", "Bearer "+s.token)
	}
	request.Header.Set("X-"+s.word(), s.word())
	response, err := s.http.Do(request)
	if err != nil {
		s.t.Errorf("%s %q: %v", verb, address, err)
		return
	}
	_, _ = io.Copy(io.Discard, response.Body)
	response.Body.Close()
}

// series are those of /metrics, each with its labels.
func series(t *testing.T, p *probetest.Probed) (all []string) {
	t.Helper()
	for _, line := range p.Metrics() {
		if !strings.HasPrefix(line, "#") {
			all = append(all, line[:strings.LastIndexByte(line, ' ')])
		}
		if strings.Contains(strings.ToLower(line), mark) {
			t.Errorf("in the metrics: %s", line)
		}
	}
	slices.Sort(all)
	return all
}

// nameServer knows names by how they end.
func nameServer(x *nettest.DNSExchange) {
	m := x.Answer()
	switch suffix := x.Name[strings.LastIndexByte(strings.TrimSuffix(x.Name, "."), '.')+1:]; {
	case suffix == "alias." && x.Type == dns.TypeA:
		m = x.Answer(x.Name + " A 127.0.0.1")
	case suffix == "alias.", suffix == "empty.":
	case suffix == "deaf.":
		m.Rcode = dns.RcodeServerFailure
	default:
		m.Rcode = dns.RcodeNameError
	}
	x.Send(m)
}

const twoRoles = `
auth:
  tokens:
    - {name: rich, sha256: %q}
    - {name: poor, sha256: %q}
policy:
  roles:
    - name: many
      subjects: ["token:rich"]
      rules:
        - {name: names, hosts: ["*"], verbs: [resolve]}
        - {name: addresses, cidrs: [127.0.0.0/8, "::1/128"], verbs: [resolve, connect, send]}
        - {name: unix, unix_paths: [/tmp/*], verbs: [connect, send]}
    - name: few
      subjects: ["token:poor"]
      rules:
        - {name: one, hosts: ["*.alias"], cidrs: [127.0.0.1/32], verbs: [resolve, connect]}
`

// However much is asked for that nobody has asked for before, the metrics have no more series than after the first of each
// kind.
func TestCardinality(t *testing.T) {
	nettest.DNSAt(t, "127.0.0.1:53", nameServer)
	rich, richHash := guard.NewToken()
	poor, poorHash := guard.NewToken()
	for _, world := range []struct {
		name, config string
		tokens       []func(s *stranger) string
	}{
		{"open", "", []func(s *stranger) string{func(*stranger) string { return "" }}},
		{"with roles", fmt.Sprintf(twoRoles, richHash, poorHash), []func(s *stranger) string{
			func(*stranger) string { return rich },
			func(*stranger) string { return poor },
			func(*stranger) string { return "" },
			func(s *stranger) string { return s.word() },
			func(s *stranger) string { return s.word() + "." + s.word() + "." + s.word() },
		}},
	} {
		t.Run(world.name, func(t *testing.T) {
			p := probetest.Start(t, probetest.Options{Config: world.config})
			all := asks()
			kinds := len(all) * len(world.tokens)
			askFor := func(from, to int) {
				var next atomic.Int64
				next.Store(int64(from))
				var asking sync.WaitGroup
				for k := range uint64(16) {
					s := &stranger{Rand: rand.New(rand.NewPCG(uint64(from), k)), t: t, p: p, conn: p.GRPC().Conn, http: p.REST().Client}
					asking.Go(func() {
						for i := int(next.Add(1)) - 1; i < to; i = int(next.Add(1)) - 1 {
							ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
							s.token = world.tokens[i/len(all)%len(world.tokens)](s)
							all[i%len(all)](ctx, s)
							cancel()
						}
					})
				}
				asking.Wait()
			}
			askFor(0, kinds)
			before := series(t, p)
			n := promise.Times(500, 10_000)
			askFor(kinds, kinds+n)
			after := series(t, p)
			if n := p.Metric(`probed_policy_decisions_total{decision="allow-role"`); (n > 0) != (world.config != "") {
				t.Errorf("%v decisions were those of a role", n)
			}
			for _, s := range after {
				if _, found := slices.BinarySearch(before, s); !found {
					t.Errorf("new: %s", s)
				}
			}
			promise.Cardinality.Reached(t, "%s: %d targets, names, methods, paths and tokens of %d kinds; %d series before, %d after",
				world.name, n, kinds, len(before), len(after))
		})
	}
}

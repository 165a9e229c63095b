package service

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/service/policy"
)

// explain asks about a target; the answer is the same by gRPC and REST.
func explain(t *testing.T, w *world, name, target string) *probev1.ExplainPolicyResponse {
	t.Helper()
	var texts []string
	var response *probev1.ExplainPolicyResponse
	for _, c := range w.by(name) {
		a := c.call(t.Context(), t, &probev1.ExplainPolicyRequest{Target: target})
		if a.err != nil {
			t.Fatalf("%v, %s: %v", c, target, a.err)
		}
		response = a.messages[0].(*probev1.ExplainPolicyResponse)
		texts = append(texts, strings.ReplaceAll(response.String(), "\u00a0", " "))
	}
	if strings.Join(strings.Fields(texts[0]), " ") != strings.Join(strings.Fields(texts[1]), " ") {
		t.Errorf("%s: %s by gRPC, %s by REST", target, texts[0], texts[1])
	}
	return response
}

// What is explained is what then happens: of random policies, callers and targets, an address is connected to if and only
// if it was said to be allowed, and sent to likewise.
func TestExplanationHoldsGood(t *testing.T) {
	t.Parallel()
	const seed = 20261123
	random := rand.New(rand.NewPCG(seed, seed))
	pick := func(of ...string) (some []string) {
		for _, one := range of {
			if random.IntN(3) == 0 {
				some = append(some, one)
			}
		}
		return some
	}
	dir := nettest.SocketDir(t)
	socket := nettest.Unix(t, "unix", nettest.Echo)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Dir(socket), link); err != nil {
		t.Fatal(err)
	}
	port := nettest.Refused(t).Port()
	hosts := "127.0.0.1 one.test\n" +
		"127.0.0.1 some.test\n127.0.0.2 some.test\n::1 some.test\n169.254.1.1 some.test\n" +
		"64:ff9b::7f00:1 nat64.test\n::ffff:127.0.0.2 mapped.test\n0.0.0.0 zero.test\n169.254.169.254 meta.test\n"
	targets := []string{"unix://" + socket, "unix://" + filepath.Join(link, filepath.Base(socket)), "unix://@abstract", "unix:///no/such", "unixgram://" + socket}
	for _, host := range []string{
		"one.test", "some.test", "nat64.test", "mapped.test", "zero.test", "meta.test", "none.test",
		"127.0.0.1", "127.0.0.2", "127.1", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "0.0.0.0", "169.254.1.1", "224.0.0.1",
	} {
		for _, scheme := range []string{"tcp", "udp", "tls", "tcp4"} {
			targets = append(targets, fmt.Sprintf("%s://%s:%d", scheme, host, port))
		}
	}
	allowed, denied := 0, 0
	for range 25 {
		rules := &policy.Policy{Loopback: random.IntN(4) > 0}
		if random.IntN(8) == 0 {
			rules.Open, rules.UnixPaths = true, pick(socket)
		}
		if random.IntN(3) == 0 {
			rules.Lift = prefixes("169.254.1.1/32")
		}
		for i := range 1 + random.IntN(2) {
			role := policy.Role{Name: fmt.Sprint("role", i), Subjects: pick("token:a", "token:*", "mtls:x")}
			for j := range 1 + random.IntN(4) {
				rule := policy.Rule{
					Name: fmt.Sprint("rule", j), Networks: pick("tcp", "udp", "tcp6", "unix"), Hosts: pick("*.test", "one.test", "*"),
					Prefixes: prefixes(pick("127.0.0.0/8", "127.0.0.2/32", "::/0", "::1/128", "64:ff9b::/96", "0.0.0.0/0")...),
					Verbs:    policy.Verbs(random.IntN(16)),
				}
				if random.IntN(3) == 0 {
					rule.Ports = []policy.PortRange{{First: port, Last: port}}
				}
				if random.IntN(3) == 0 {
					rule = policy.Rule{Name: rule.Name, UnixPaths: pick(socket, filepath.Dir(socket)+"/*"), Verbs: rule.Verbs}
				}
				role.Rules = append(role.Rules, rule)
			}
			rules.Roles = append(rules.Roles, role)
		}
		w := newWorld(t, withHosts(hosts), withRoles(rules, "a"))
		for range 12 {
			target := targets[random.IntN(len(targets))]
			explained := explain(t, w, "a", target)
			yes, no := agree(t, w, target, explained)
			allowed, denied = allowed+yes, denied+no
		}
	}
	if t.Logf("%d allowed, %d denied", allowed, denied); allowed < 50 || denied < 50 {
		t.Errorf("of all %d were allowed and %d denied: too few to tell", allowed, denied)
	}
}

// agree holds an explanation against a connect, and returns how many addresses were allowed and denied.
func agree(t *testing.T, w *world, target string, explained *probev1.ExplainPolicyResponse) (yes, no int) {
	t.Helper()
	// Through the loopback interface: what is admitted here may lead anywhere.
	through := "lo"
	if strings.HasPrefix(target, "unix") {
		through = ""
	}
	short := durationpb.New(600 * time.Millisecond) // nothing answers at some, and a busy machine has to get as far as that
	a := w.by("a")[0].call(t.Context(), t, &probev1.ConnectRequest{Target: target, AllAddresses: true, Interface: through, Timeout: short})
	may := map[string]bool{}
	for _, one := range explained.GetAddresses() {
		if len(one.GetDecisions()) < 2 || one.GetDecisions()[0].GetVerb() != probev1.PolicyVerb_POLICY_VERB_CONNECT {
			t.Fatalf("%s: %v", target, one)
		}
		may[one.GetAddress()] = one.GetDecisions()[0].GetAllowed()
		if may[one.GetAddress()] {
			yes++
		} else {
			no++
		}
	}
	anything := slices.Contains(valuesOf(may), true)
	switch {
	case errorInfo(a.err) == "ERROR_REASON_CALL_DENIED": // no rule of any role has connect at all
		if anything {
			t.Errorf("%s: %v, explained as %v", target, a.err, explained)
		}
	case explained.GetResolve() != nil && !explained.GetResolve().GetAllowed():
		if status.Code(a.err) != codes.PermissionDenied || len(may) != 0 {
			t.Errorf("%s: %v, explained as %v", target, a.err, explained)
		}
		no++
	case explained.GetResolutionError() != "":
		if a.err != nil || a.outcome().GetReason() != probev1.Reason_REASON_NAME_NOT_FOUND && a.outcome().GetReason() != probev1.Reason_REASON_NAME_HAS_NO_ADDRESS {
			t.Errorf("%s: %v, %v, explained as %v", target, a.err, a.outcome(), explained)
		}
	case !anything && len(may) > 0:
		if status.Code(a.err) != codes.PermissionDenied {
			t.Errorf("%s: %v, %v, explained as %v", target, a.err, a.outcome(), explained)
		}
	default:
		if a.err != nil {
			t.Errorf("%s: %v, explained as %v", target, a.err, explained)
		}
		for _, attempt := range a.outcome().GetAttempts() {
			address := attempt.GetAddress()
			if at, err := netip.ParseAddrPort(address); err == nil {
				address = netip.AddrPortFrom(at.Addr().Unmap(), at.Port()).String()
			}
			allowed, known := may[address]
			if !known || allowed == (attempt.GetReason() == probev1.Reason_REASON_POLICY_DENIED) {
				t.Errorf("%s: %v, explained as %v", target, attempt, explained)
			}
		}
		if len(a.outcome().GetAttempts()) == 0 {
			t.Errorf("%s: no attempts, explained as %v", target, explained)
		}
	}
	// Each further verb, of one address: what has several is not denied as a whole.
	if a.err != nil || len(explained.GetAddresses()) != 1 {
		return yes, no
	}
	for _, decision := range explained.GetAddresses()[0].GetDecisions()[1:] {
		request := &probev1.ExchangeRequest{Target: target, Interface: through, Timeout: short}
		if decision.GetVerb() == probev1.PolicyVerb_POLICY_VERB_SEND {
			request.Payload = &probev1.ExchangeRequest_Text{Text: "x"}
		} else {
			request.Tls = &probev1.TlsOptions{InsecureSkipVerify: true}
			if !strings.HasPrefix(target, "tls:") {
				request.Steps = []*probev1.Step{{Step: &probev1.Step_StartTls{StartTls: &probev1.StartTls{}}}}
			}
		}
		if strings.HasPrefix(target, "udp") || strings.HasPrefix(target, "unixgram") { // where nothing else than a datagram ends it
			request.Payload, request.Steps = nil, []*probev1.Step{{Step: &probev1.Step_Send{Send: &probev1.Send{Content: &probev1.Send_Text{Text: "x"}}}}}
		}
		b := w.by("a")[0].call(t.Context(), t, request)
		if denied := status.Code(b.err) == codes.PermissionDenied; denied == decision.GetAllowed() || !denied && b.err != nil {
			t.Errorf("%s: %v, explained as %v", target, b.err, decision)
		}
	}
	return yes, no
}

func valuesOf(m map[string]bool) (values []bool) {
	for _, v := range m {
		values = append(values, v)
	}
	return values
}

// Nobody is dialled for an explanation, nobody is asked about a name that may not be looked up, and everybody gets one.
func TestExplainPolicy(t *testing.T) {
	t.Parallel()
	var tally nettest.Tally
	peer := nettest.TCP(t, tally.Count(nettest.Echo))
	socket := nettest.Unix(t, "unix", tally.Count(nettest.Echo))
	dns := knowingServer(t)
	rules := &policy.Policy{Loopback: true, Roles: []policy.Role{
		{Name: "some", Subjects: []string{"token:some"}, Rules: []policy.Rule{
			{Name: "names", Hosts: []string{"name.test", "none.test"}, Verbs: policy.Resolve},
			{Name: "local", Prefixes: prefixes("127.0.0.0/8"), Verbs: policy.Connect},
			{Name: "socket", UnixPaths: []string{socket}, Verbs: policy.Connect | policy.Send},
		}},
	}}
	w := newWorld(t, withRoles(rules, "some", "nobody"), withDNS(dns))
	queries := func() int64 { return dns.UDP.Load() + dns.TCP.Load() }
	decision := func(d *probev1.PolicyDecision) string {
		text := fmt.Sprintf("%v by %s", d.GetAllowed(), d.GetRule())
		for _, m := range d.GetMismatches() {
			text += fmt.Sprintf(" %s/%s:%s", m.GetRole(), m.GetRule(), m.GetPart())
		}
		return text
	}
	for _, test := range []struct {
		name, target string
		resolve      string
		address      string
		decisions    []string
		failure      bool
		asks         bool
	}{
		{name: "nobody", target: peer.String(), address: peer.String(), decisions: []string{"false by deny-default", "false by deny-default", "false by deny-default"}},
		{name: "nobody", target: "name.test:80", resolve: "false by deny-default"},
		{name: "nobody", target: "169.254.169.254:80", address: "169.254.169.254:80", decisions: []string{"false by deny-metadata", "false by deny-metadata", "false by deny-metadata"}},
		{name: "some", target: "other.test:80", resolve: "false by deny-default some/names:hosts some/local:verbs some/socket:verbs"},
		{name: "some", target: "none.test:80", resolve: "true by some/names", failure: true, asks: true},
		{name: "some", target: fmt.Sprintf("name.test:%d", peer.Port()), resolve: "true by some/names", address: peer.String(), asks: true,
			decisions: []string{"true by some/local", "false by deny-default some/names:verbs some/local:verbs some/socket:unix_paths", "false by deny-default some/names:verbs some/local:verbs some/socket:verbs"}},
		{name: "some", target: "udp://127.0.0.1:9", address: "127.0.0.1:9",
			decisions: []string{"true by some/local", "false by deny-default some/names:verbs some/local:verbs some/socket:unix_paths"}},
		{name: "some", target: "unix://" + socket, address: socket, decisions: []string{"true by some/socket", "true by some/socket"}},
		{name: "some", target: "unix://@abstract", address: "@abstract", decisions: []string{"false by deny-unix-path", "false by deny-unix-path"}},
	} {
		before := queries()
		explained := explain(t, w, test.name, test.target)
		if roles := strings.Join(explained.GetRoles(), " "); explained.GetSubject() != "token:"+test.name || roles != map[string]string{"some": "some"}[test.name] {
			t.Errorf("%s, %s: %s in %q", test.name, test.target, explained.GetSubject(), roles)
		}
		resolved := ""
		if explained.GetResolve() != nil {
			resolved = decision(explained.GetResolve())
		}
		var decisions []string
		address := ""
		for _, a := range explained.GetAddresses() {
			address += a.GetAddress()
			for _, d := range a.GetDecisions() {
				decisions = append(decisions, decision(d))
			}
		}
		if resolved != test.resolve || address != test.address || !slices.Equal(decisions, test.decisions) || (explained.GetResolutionError() != "") != test.failure {
			t.Errorf("%s, %s: %v", test.name, test.target, explained)
		}
		if asked := queries() != before; asked != test.asks {
			t.Errorf("%s, %s: asked is %v", test.name, test.target, asked)
		}
	}
	// Where roles do not decide.
	open := newWorld(t, withRoles(&policy.Policy{Loopback: true, Open: true}, "a"))
	explained := explain(t, open, "a", peer.String())
	for _, d := range explained.GetAddresses()[0].GetDecisions() {
		if decision(d) != "true by allow-all" {
			t.Errorf("%v", explained)
		}
	}
	if a := w.by("some")[0].call(t.Context(), t, &probev1.ExplainPolicyRequest{Target: "x"}); status.Code(a.err) != codes.InvalidArgument || errorInfo(a.err) != "ERROR_REASON_INVALID_TARGET" {
		t.Error(a.err)
	}
	// A connection of our own comes after all that might have been.
	if a := w.by("some")[0].call(t.Context(), t, &probev1.ConnectRequest{Target: peer.String()}); a.err != nil {
		t.Error(a.err)
	}
	if a := w.by("some")[0].call(t.Context(), t, &probev1.ConnectRequest{Target: "unix://" + socket}); a.err != nil {
		t.Error(a.err)
	}
	soon(t, "our own connections", func() bool { return tally.Conns.Load() >= 2 })
	if n := tally.Conns.Load(); n != 2 {
		t.Errorf("%d connections", n-2)
	}
}

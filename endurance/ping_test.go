package endurance

import (
	"net/netip"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/internal/probetest"
)

// pingRules let everybody ping, ask for echoes, or neither, by the address.
const pingRules = `policy:
  roles:
    - name: all
      subjects: ["*"]
      rules:
        - {name: ping, networks: [icmp4], cidrs: [198.51.100.1], verbs: [connect]}
        - {name: echo, networks: [icmp], cidrs: [198.51.100.2, "2001:db8:1::1"], verbs: [connect, send]}
        - {name: ports, cidrs: [198.51.100.3], ports: [1-65535], verbs: [connect, send]}
        - {name: tcp, networks: [tcp, udp], cidrs: [198.51.100.4], verbs: [connect, send]}
`

// Who may ping what, by gRPC and by REST, and what is told of it.
func TestPing(t *testing.T) {
	t.Parallel()
	near, far, prefix := nettest.Namespace(t), nettest.Namespace(t), netip.MustParsePrefix
	nettest.Link(near, []netip.Prefix{prefix("198.51.100.9/24"), prefix("2001:db8:1::9/64")}, far, []netip.Prefix{
		prefix("198.51.100.1/24"), prefix("198.51.100.2/24"), prefix("198.51.100.3/24"), prefix("198.51.100.4/24"), prefix("2001:db8:1::1/64"),
	})
	near.Run("sh", "-c", "echo 0 0 > /proc/sys/net/ipv4/ping_group_range")
	p := probetest.Start(t, probetest.Options{In: near, Config: pingRules})
	const (
		yes    = codes.OK
		denied = codes.PermissionDenied
		wrong  = codes.InvalidArgument
	)
	reached, addresses := 0, make(map[string]string)
	for _, tt := range []struct {
		target        string
		connect, echo codes.Code
		address, rule string // of the connect
	}{
		{"icmp://198.51.100.1", yes, denied, "198.51.100.1", "all/ping"},
		{"icmp4://198.51.100.1", yes, denied, "198.51.100.1", "all/ping"},
		{"icmp://198.51.100.2", yes, yes, "198.51.100.2", "all/echo"},
		{"icmp6://[2001:db8:1::1]", yes, yes, "2001:db8:1::1", "all/echo"},
		{"icmp://198.51.100.3", denied, denied, "", "deny-default"},
		{"icmp://198.51.100.4", denied, denied, "", "deny-default"},
		{"icmp://169.254.169.254", denied, denied, "", "deny-metadata"},
		{"icmp://198.51.100.2:80", wrong, wrong, "", ""},
	} {
		for _, caller := range p.Callers() {
			o, err := caller.Connect(t.Context(), &probev1.ConnectRequest{Target: tt.target})
			if status.Code(err) != tt.connect || err == nil && !o.GetOk() {
				t.Errorf("%v, %s: %v, %v; want %v", caller, tt.target, o, err, tt.connect)
			}
			if err == nil {
				reached++
				if o.GetRemote() != tt.address || o.GetType() != probev1.SocketType_SOCK_DGRAM || o.GetTimings().GetConnect().AsDuration() <= 0 {
					t.Errorf("%v, %s: %v", caller, tt.target, o)
				}
			}
			if tt.connect == denied {
				info, ok := status.Convert(err).Details()[0].(*errdetails.ErrorInfo)
				if !ok || info.GetMetadata()["rule"] != tt.rule {
					t.Errorf("%v, %s: %v, want rule %s", caller, tt.target, err, tt.rule)
				}
			}
			addresses[tt.target] = tt.address
			s := caller.Exchange(t.Context(), t, &probev1.ExchangeRequest{Target: tt.target, Payload: &probev1.ExchangeRequest_Text{Text: "hello"}})
			o = s.Rest()
			if status.Code(s.Err) != tt.echo || tt.echo == yes && (!o.GetOk() || s.Received != 5 || o.GetEndedBy() != probev1.EndedBy_ENDED_BY_COUNT) {
				t.Errorf("%v, %s: echo %v, %v; want %v", caller, tt.target, o, s.Err, tt.echo)
			}
		}
	}
	if n := p.Metric(`probed_dials_total{network="icmp",reason="OK"}`); n == 0 || reached != 8 {
		t.Errorf("%d reached; %v by icmp, in metrics", reached, n)
	}
	p.Settle()
	targets := make(map[string]string) // by session
	for _, record := range p.Audit() {
		switch {
		case record.Event == "begin":
			targets[record.ID] = record.Target
		case record.OK && record.Address != addresses[targets[record.ID]]:
			t.Errorf("%s: %+v, want address %q", targets[record.ID], record, addresses[targets[record.ID]])
		}
	}
	explained, err := probev1.NewPolicyServiceClient(p.GRPC().Conn).ExplainPolicy(t.Context(), &probev1.ExplainPolicyRequest{Target: "icmp://198.51.100.1"})
	if err != nil || len(explained.GetAddresses()) != 1 || explained.GetAddresses()[0].GetAddress() != "198.51.100.1" {
		t.Fatalf("%v, %v", explained, err)
	}
	if d := explained.GetAddresses()[0].GetDecisions(); len(d) != 2 || d[0].GetRule() != "all/ping" || !d[0].GetAllowed() || d[1].GetAllowed() {
		t.Errorf("%v", d)
	}
}

// Without the host's permission that is the answer, to those who may ask; it is no business of others.
func TestPingWithoutPermission(t *testing.T) {
	t.Parallel()
	near := nettest.Namespace(t)
	near.Run("ip", "addr", "add", "198.51.100.1/32", "dev", "lo")
	near.Run("sh", "-c", "echo 1 1 > /proc/sys/net/ipv4/ping_group_range || true") // in a user namespace it is closed, and so
	p := probetest.Start(t, probetest.Options{In: near, Config: pingRules})
	for _, caller := range p.Callers() {
		o, err := caller.Connect(t.Context(), &probev1.ConnectRequest{Target: "icmp://198.51.100.1"})
		if err != nil || o.GetReason() != probev1.Reason_REASON_DENIED_LOCALLY || o.GetErrnoName() != "EACCES" {
			t.Errorf("%v: %v, %v", caller, o, err)
		}
		if _, err := caller.Connect(t.Context(), &probev1.ConnectRequest{Target: "icmp://198.51.100.3"}); !isDenied(err) {
			t.Errorf("%v: %v, want a denial", caller, err)
		}
	}
}

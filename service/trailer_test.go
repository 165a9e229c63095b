package service

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/service/policy"
)

// Errors about much reach callers that take 8 KiB of trailers and no more, and read the same by REST.
func TestLongErrors(t *testing.T) {
	t.Parallel()
	label := strings.Repeat("x", 60)
	server := nettest.DNS(t, func(x *nettest.DNSExchange) {
		if x.Name != "alias.test." {
			nettest.DNSRcode(dns.RcodeNameError)(x)
			return
		}
		m, name := x.Answer(), x.Name
		for i := range 12 { // and no address at the end
			next := fmt.Sprintf("%d.%s.%s.%s.test.", i, label, label, label)
			m.Answer = append(m.Answer, &dns.CNAME{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET}, Target: next})
			name = next
		}
		x.Send(m)
	})
	w := newWorld(t, withDNS(server), withRoles(&policy.Policy{Loopback: true, Open: true}, "a"))
	const domains = 60
	var search strings.Builder
	for i := range domains {
		fmt.Fprintf(&search, " %d.%s.%s.%s.test", i, label, label, label)
	}
	w.write(t, "resolv.conf", "nameserver 192.0.2.53\nsearch"+search.String()+"\noptions ndots:2\n")
	conn, err := grpc.NewClient(w.conn.Target(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithMaxHeaderListSize(8<<10))
	if err != nil {
		t.Fatal(err)
	}
	_ = w.conn.Close()
	w.conn = conn

	wrong := &probev1.ExchangeRequest{Target: "127.0.0.1:1"}
	for range 256 {
		wrong.Steps = append(wrong.Steps, &probev1.Step{Step: &probev1.Step_Receive{Receive: &probev1.Receive{Length: -1, MaxBytes: -1}}})
	}
	for _, test := range []struct {
		request proto.Message
		code    codes.Code
		steps   bool // of the search: it tells the first, the last, and how many are left out
	}{
		{&probev1.LookupHostRequest{Host: "a"}, codes.NotFound, true},
		{&probev1.GetAddressInfoRequest{Host: proto.String("a")}, codes.NotFound, true},
		{&probev1.LookupHostRequest{Host: "alias.test."}, codes.NotFound, false},
		{&probev1.LookupHostRequest{Host: strings.Repeat("ä\n", 300)}, codes.NotFound, false},
		{&probev1.ConnectRequest{Target: strings.Repeat("%", 60000)}, codes.InvalidArgument, false},
		{wrong, codes.InvalidArgument, false},
	} {
		var told []string
		for _, c := range w.by("a") {
			err := c.call(t.Context(), t, test.request).err
			if status.Code(err) != test.code {
				t.Errorf("%T by %s: %v", test.request, c.by, err)
			}
			for _, detail := range status.Convert(err).Details() {
				switch detail := detail.(type) {
				case *errdetails.BadRequest:
					told = append(told, fmt.Sprint(len(detail.GetFieldViolations()), status.Convert(err).Message()))
				case *probev1.ResolutionFailure:
					trace := detail.GetTrace()
					told = append(told, fmt.Sprint(len(trace), status.Convert(err).Message()))
					if !test.steps {
						continue
					}
					shown, leftOut := 0, 0
					for _, step := range trace {
						if _, err := fmt.Sscanf(step.GetError(), "%d steps are left out", &leftOut); err != nil {
							shown++
						}
					}
					first, last := trace[0], trace[len(trace)-1]
					if shown < 8 || shown+leftOut < domains || first.GetSource() != "files" || last.GetName() != "a." {
						t.Errorf("%T by %s: %d steps, %d left out: %v", test.request, c.by, shown, leftOut, trace)
					}
				}
			}
		}
		if len(told) != 2 || told[0] != told[1] {
			t.Errorf("%T: %q", test.request, told)
		}
	}
}

package guard

import (
	"errors"
	"strings"
	"testing"

	_ "google.golang.org/grpc/channelz/grpc_channelz_v1"
	_ "google.golang.org/grpc/health/grpc_health_v1"
	_ "google.golang.org/grpc/reflection/grpc_reflection_v1"
	_ "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "probed/gen/probe/v1"
	"probed/service/policy"
)

// Every method of the contract, of health, of channelz and of reflection is in the table, and nothing else is: whoever adds one says
// who may call it.
func TestTableIsTheContract(t *testing.T) {
	t.Parallel()
	methods := make(map[string]bool)
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if p := string(file.Package()); p != "probe.v1" && p != "grpc.health.v1" && p != "grpc.channelz.v1" && !strings.HasPrefix(p, "grpc.reflection.") {
			return true
		}
		for s := range file.Services().Len() {
			service := file.Services().Get(s)
			for m := range service.Methods().Len() {
				methods["/"+string(service.FullName())+"/"+string(service.Methods().Get(m).Name())] = true
			}
		}
		return true
	})
	if len(methods) < 20 {
		t.Errorf("only %d methods are known", len(methods))
	}
	for method := range methods {
		if AccessTo(method) == Denied {
			t.Errorf("%s is not in the table: say there who may call it", method)
		}
	}
	for method := range table {
		if !methods[method] {
			t.Errorf("%s is in the table, and there is no such method", method)
		}
	}
}

// rolePolicy has a role for each thing a role can grant; the subject has the role's name.
func rolePolicy() *policy.Policy {
	role := func(name string, verbs policy.Verbs) policy.Role {
		return policy.Role{Name: name, Subjects: []string{"token:" + name}, Rules: []policy.Rule{{Name: "r", Verbs: verbs}}}
	}
	return &policy.Policy{Roles: []policy.Role{
		role("resolver", policy.Resolve),
		role("connector", policy.Connect),
		role("both", policy.Resolve|policy.Connect),
		role("sender", policy.Send),
		{Name: "member", Subjects: []string{"token:member"}},
		{Name: "operator", Subjects: []string{"token:operator"}, Operations: []string{policy.OperationChannelz}},
	}}
}

func TestAuthorize(t *testing.T) {
	t.Parallel()
	one := map[Access]string{
		Denied:        "/probe.v1.ExchangeService/connect",
		Public:        "/grpc.health.v1.Health/Check",
		Authenticated: "/probe.v1.PolicyService/ExplainPolicy",
		Member:        "/probe.v1.NameService/LookupPort",
		Resolve:       "/probe.v1.ResolverService/LookupHost",
		Connect:       "/probe.v1.ExchangeService/Connect",
		Channelz:      "/grpc.channelz.v1.Channelz/GetServers",
	}
	everything := []Access{Public, Authenticated, Member, Resolve, Connect}
	open := &policy.Policy{Open: true}
	roles := rolePolicy()
	wide := &policy.Policy{Roles: []policy.Role{{
		Name: "all", Subjects: []string{"*"}, Rules: []policy.Rule{{Verbs: policy.Resolve | policy.Connect}},
	}}}
	tests := map[string]struct {
		policy  *policy.Policy
		subject string
		allowed []Access
	}{
		"no policy":               {nil, "token:a", []Access{Public}},
		"open":                    {open, "token:a", everything},
		"open, on loopback":       {&policy.Policy{Open: true, Loopback: true}, Anonymous, append([]Access{Channelz}, everything...)},
		"open, with the role":     {&policy.Policy{Open: true, Roles: roles.Roles}, "token:operator", everything},
		"on loopback, with roles": {&policy.Policy{Loopback: true, Roles: roles.Roles}, "token:a", []Access{Public, Authenticated}},
		"a role that operates":    {roles, "token:operator", []Access{Public, Authenticated, Member, Channelz}},
		"open, anonymous":         {open, Anonymous, everything},
		"no roles at all":         {&policy.Policy{}, "token:a", []Access{Public, Authenticated}},
		"no role of this subject": {roles, "token:a", []Access{Public, Authenticated}},
		"of another method":       {roles, "mtls:both", []Access{Public, Authenticated}},
		"anonymous without role":  {roles, Anonymous, []Access{Public, Authenticated}},
		"a role without rules":    {roles, "token:member", []Access{Public, Authenticated, Member}},
		"a role that sends":       {roles, "token:sender", []Access{Public, Authenticated, Member}},
		"a role that resolves":    {roles, "token:resolver", []Access{Public, Authenticated, Member, Resolve}},
		"a role that connects":    {roles, "token:connector", []Access{Public, Authenticated, Member, Connect}},
		"a role that does both":   {roles, "token:both", everything},
		"a role for all":          {wide, "oidc:a", everything},
		"a role for all, nobody":  {wide, "", []Access{Public}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			allowed := make(map[Access]bool)
			for _, access := range test.allowed {
				allowed[access] = true
			}
			for access, method := range one {
				if got := AccessTo(method); got != access {
					t.Fatalf("%s needs access %d, want %d", method, got, access)
				}
				err := Authorize(test.policy, Caller{Subject: test.subject}, method)
				e, forbidden := errors.AsType[*ForbiddenError](err)
				switch {
				case allowed[access] && err != nil:
					t.Errorf("%s: %v", method, err)
				case !allowed[access] && (!forbidden || *e != ForbiddenError{Method: method, Rule: "deny-default"}):
					t.Errorf("%s: error %v, want it forbidden", method, err)
				}
			}
		})
	}
}

func TestForbiddenErrorTellsWhatIsNeeded(t *testing.T) {
	t.Parallel()
	for method, want := range map[string]string{
		"/probe.v1.ExchangeService/Connect":     "/probe.v1.ExchangeService/Connect is not allowed: it needs a role that grants connect (rule deny-default)",
		"/probe.v1.ResolverService/LookupHost":  "/probe.v1.ResolverService/LookupHost is not allowed: it needs a role that grants resolve (rule deny-default)",
		"/probe.v1.NameService/LookupPort":      "/probe.v1.NameService/LookupPort is not allowed: it needs a role (rule deny-default)",
		"/probe.v1.PolicyService/ExplainPolicy": "/probe.v1.PolicyService/ExplainPolicy is not allowed: it needs credentials (rule deny-default)",
		"/grpc.channelz.v1.Channelz/GetSocket":  "/grpc.channelz.v1.Channelz/GetSocket is not allowed: it needs a role with the operation channelz (rule deny-default)",
		"/probe.v1.NameService/Other":           "/probe.v1.NameService/Other is not allowed: nobody may call it (rule deny-default)",
	} {
		if got := (&ForbiddenError{Method: method, Rule: policy.RuleDenyDefault}).Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

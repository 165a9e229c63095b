package guard

import (
	"fmt"

	"probed/service/policy"
)

// Access is what a caller needs in order to call a method.
type Access int

// The kinds of access.
const (
	// Denied methods are called by nobody. It is that of every method that is not in the table.
	Denied Access = iota
	// Public methods are for everybody, and nobody is asked who they are.
	Public
	// Authenticated methods are for everybody who is somebody, whatever their roles.
	Authenticated
	// Member methods are for who has a role, whatever it grants.
	Member
	// Resolve methods are for who may look up something; what, the policy decides name by name.
	Resolve
	// Connect methods are for who may connect to something; to what, the policy decides at the dial.
	Connect
	// Channelz methods are for who operates this probed: they tell who else is connected, and from where.
	Channelz
)

// table is what each method needs, by its full name. A test holds it against the descriptors.
var table = map[string]Access{
	// Of what the tables of services say, and what this place is, there is nothing to choose; still it tells of the inside
	// of a network, so it is not for everybody.
	"/probe.v1.NameService/LookupService":       Member,
	"/probe.v1.NameService/LookupPort":          Member,
	"/probe.v1.NameService/ListServices":        Member,
	"/probe.v1.NameService/LookupProtocol":      Member,
	"/probe.v1.NameService/ListConstants":       Member,
	"/probe.v1.ResolverService/GetHostname":     Member,
	"/probe.v1.ResolverService/DescribeVantage": Member,

	"/probe.v1.ResolverService/LookupHost":     Resolve,
	"/probe.v1.ResolverService/LookupAddress":  Resolve,
	"/probe.v1.ResolverService/GetAddressInfo": Resolve,
	"/probe.v1.ResolverService/GetNameInfo":    Resolve,
	"/probe.v1.ResolverService/QueryDNS":       Resolve,

	"/probe.v1.ExchangeService/Connect":  Connect,
	"/probe.v1.ExchangeService/Exchange": Connect,
	"/probe.v1.ExchangeService/Converse": Connect,

	// Who has no role is told why.
	"/probe.v1.PolicyService/ExplainPolicy": Authenticated,

	// Load balancers and kubelets have no credentials, and learn whether it serves.
	"/grpc.health.v1.Health/Check": Public,
	"/grpc.health.v1.Health/List":  Public,
	"/grpc.health.v1.Health/Watch": Public,

	// The contract is no secret. Still who asks for it is to be somebody: it is asked for in streams, which their callers end.
	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      Authenticated,
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Authenticated,

	"/grpc.channelz.v1.Channelz/GetTopChannels":   Channelz,
	"/grpc.channelz.v1.Channelz/GetServers":       Channelz,
	"/grpc.channelz.v1.Channelz/GetServer":        Channelz,
	"/grpc.channelz.v1.Channelz/GetServerSockets": Channelz,
	"/grpc.channelz.v1.Channelz/GetChannel":       Channelz,
	"/grpc.channelz.v1.Channelz/GetSubchannel":    Channelz,
	"/grpc.channelz.v1.Channelz/GetSocket":        Channelz,
}

// AccessTo returns what the method of that full name ("/package.Service/Method") needs; Denied when it is not known.
func AccessTo(fullMethod string) Access { return table[fullMethod] }

// Authorize says whether the caller may call the method of that full name: nil, or a *[ForbiddenError]. Under an open
// policy whatever is in the table is allowed, but for channelz where others than those on this host can call; else what the
// caller's roles grant. A nil policy allows what is public.
func Authorize(p *policy.Policy, caller Caller, fullMethod string) error {
	access := AccessTo(fullMethod)
	allowed := false
	switch {
	case access == Denied:
	case access == Public:
		allowed = true
	case p == nil:
	case access == Channelz:
		allowed = p.Operates(caller.Subject, policy.OperationChannelz)
	case p.Open:
		allowed = true
	case caller.Subject == "": // Nobody is in no role, whatever the patterns of the roles.
	case access == Authenticated:
		allowed = true
	case access == Member:
		allowed = len(p.RolesOf(caller.Subject)) > 0
	case access == Resolve:
		allowed = p.Holds(caller.Subject, policy.Resolve)
	case access == Connect:
		allowed = p.Holds(caller.Subject, policy.Connect)
	}
	if !allowed {
		return &ForbiddenError{Method: fullMethod, Rule: policy.RuleDenyDefault}
	}
	return nil
}

// ForbiddenError says that a caller may not call a method.
type ForbiddenError struct {
	// Method is its full name.
	Method string
	// Rule is that of the policy which denies it: today the one that denies whatever nobody allowed.
	Rule string
}

func (e *ForbiddenError) Error() string {
	needs := map[Access]string{
		Authenticated: "it needs credentials",
		Member:        "it needs a role",
		Resolve:       "it needs a role that grants resolve",
		Connect:       "it needs a role that grants connect",
		Channelz:      "it needs a role with the operation channelz",
	}[AccessTo(e.Method)]
	if needs == "" {
		needs = "nobody may call it"
	}
	return fmt.Sprintf("%s is not allowed: %s (rule %s)", e.Method, needs, e.Rule)
}

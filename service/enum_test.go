package service

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	probev1 "probed/gen/probe/v1"
	"probed/service/exchange"
	"probed/service/names"
	"probed/service/resolve"
)

// Enums of the engines convert by a cast, so each constant of an engine has a value of the contract with the same number
// and the name it should have, and the contract has none that the engine lacks.
func TestEnumsAreThoseOfTheEngines(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		engine, prefix string // the directory of the engine, and what the names of its constants begin with
		contract       protoreflect.EnumDescriptor
		values         map[string]int // constants of the engine
		contractName   func(string) string
		only           []string // values the contract alone has
	}{
		{
			engine: "exchange", prefix: "Phase", contract: probev1.Phase(0).Descriptor(),
			values: map[string]int{
				"PhaseNone": int(exchange.PhaseNone), "PhaseResolve": int(exchange.PhaseResolve), "PhasePolicy": int(exchange.PhasePolicy),
				"PhaseConnect": int(exchange.PhaseConnect), "PhaseTLS": int(exchange.PhaseTLS), "PhaseSend": int(exchange.PhaseSend),
				"PhaseReceive": int(exchange.PhaseReceive), "PhaseClose": int(exchange.PhaseClose),
			},
		},
		{
			engine: "exchange", prefix: "Layer", contract: probev1.Layer(0).Descriptor(),
			values: map[string]int{
				"LayerNone": int(exchange.LayerNone), "LayerLink": int(exchange.LayerLink), "LayerInternet": int(exchange.LayerInternet),
				"LayerTransport": int(exchange.LayerTransport), "LayerApplication": int(exchange.LayerApplication),
			},
		},
		{
			engine: "exchange", prefix: "EndedBy", contract: probev1.EndedBy(0).Descriptor(),
			values: map[string]int{
				"EndedByNone": int(exchange.EndedByNone), "EndedByPeerClosed": int(exchange.EndedByPeerClosed), "EndedByLength": int(exchange.EndedByLength),
				"EndedByDelimiter": int(exchange.EndedByDelimiter), "EndedByIdle": int(exchange.EndedByIdle), "EndedByCount": int(exchange.EndedByCount),
				"EndedByMaxBytes": int(exchange.EndedByMaxBytes), "EndedByDeadline": int(exchange.EndedByDeadline), "EndedByLastStep": int(exchange.EndedByLastStep),
			},
		},
		{
			engine: "names", prefix: "PortClass", contract: probev1.PortClass(0).Descriptor(),
			values: map[string]int{
				"PortClassUnspecified": int(names.PortClassUnspecified), "PortClassSystem": int(names.PortClassSystem),
				"PortClassUser": int(names.PortClassUser), "PortClassDynamic": int(names.PortClassDynamic),
			},
		},
		{
			engine: "names", prefix: "Source", contract: probev1.TableSource(0).Descriptor(),
			values: map[string]int{
				"SourceUnspecified": int(names.SourceUnspecified), "SourceFile": int(names.SourceFile), "SourceIANA": int(names.SourceIANA),
			},
			contractName: func(name string) string { return "TABLE_" + upper(name) },
		},
		{
			engine: "resolve", prefix: "AF_", contract: probev1.AddressFamily(0).Descriptor(),
			values: map[string]int{
				"AF_UNSPEC": int(resolve.AF_UNSPEC), "AF_UNIX": int(resolve.AF_UNIX), "AF_INET": int(resolve.AF_INET), "AF_INET6": int(resolve.AF_INET6),
			},
			contractName: same, only: []string{"AF_NETLINK", "AF_PACKET"},
		},
		{
			engine: "resolve", prefix: "SOCK_", contract: probev1.SocketType(0).Descriptor(),
			values: map[string]int{
				"SOCK_STREAM": int(resolve.SOCK_STREAM), "SOCK_DGRAM": int(resolve.SOCK_DGRAM), "SOCK_RAW": int(resolve.SOCK_RAW),
				"SOCK_RDM": int(resolve.SOCK_RDM), "SOCK_SEQPACKET": int(resolve.SOCK_SEQPACKET), "SOCK_DCCP": int(resolve.SOCK_DCCP),
			},
			contractName: same, only: []string{"SOCK_UNSPEC"},
		},
		{
			engine: "resolve", prefix: "IPPROTO_", contract: probev1.IpProtocol(0).Descriptor(),
			values: map[string]int{
				"IPPROTO_ICMP": int(resolve.IPPROTO_ICMP), "IPPROTO_ICMPV6": int(resolve.IPPROTO_ICMPV6),
				"IPPROTO_TCP": int(resolve.IPPROTO_TCP), "IPPROTO_UDP": int(resolve.IPPROTO_UDP), "IPPROTO_DCCP": int(resolve.IPPROTO_DCCP),
				"IPPROTO_SCTP": int(resolve.IPPROTO_SCTP), "IPPROTO_UDPLITE": int(resolve.IPPROTO_UDPLITE),
			},
			contractName: same,
			only: []string{
				"IPPROTO_IP", "IPPROTO_IGMP", "IPPROTO_IPIP", "IPPROTO_EGP", "IPPROTO_PUP", "IPPROTO_IDP", "IPPROTO_TP",
				"IPPROTO_IPV6", "IPPROTO_RSVP", "IPPROTO_GRE", "IPPROTO_ESP", "IPPROTO_AH", "IPPROTO_MTP",
				"IPPROTO_ENCAP", "IPPROTO_PIM", "IPPROTO_COMP", "IPPROTO_MPLS", "IPPROTO_RAW",
			},
		},
		{
			engine: "resolve", prefix: "AI_", contract: probev1.AddressInfoFlag(0).Descriptor(),
			values: map[string]int{
				"AI_PASSIVE": int(resolve.AI_PASSIVE), "AI_CANONNAME": int(resolve.AI_CANONNAME), "AI_NUMERICHOST": int(resolve.AI_NUMERICHOST),
				"AI_V4MAPPED": int(resolve.AI_V4MAPPED), "AI_ALL": int(resolve.AI_ALL), "AI_ADDRCONFIG": int(resolve.AI_ADDRCONFIG),
				"AI_IDN": int(resolve.AI_IDN), "AI_CANONIDN": int(resolve.AI_CANONIDN), "AI_NUMERICSERV": int(resolve.AI_NUMERICSERV),
			},
			contractName: same, only: []string{"AI_NONE"},
		},
		{
			engine: "resolve", prefix: "NI_", contract: probev1.NameInfoFlag(0).Descriptor(),
			values: map[string]int{
				"NI_NUMERICHOST": int(resolve.NI_NUMERICHOST), "NI_NUMERICSERV": int(resolve.NI_NUMERICSERV), "NI_NOFQDN": int(resolve.NI_NOFQDN),
				"NI_NAMEREQD": int(resolve.NI_NAMEREQD), "NI_DGRAM": int(resolve.NI_DGRAM), "NI_IDN": int(resolve.NI_IDN),
			},
			contractName: same, only: []string{"NI_NONE"},
		},
		{
			engine: "resolve", prefix: "EAI_", contract: probev1.AddressInfoError(0).Descriptor(), // the sign taken off
			values: map[string]int{
				"EAI_BADFLAGS": -int(resolve.EAI_BADFLAGS), "EAI_NONAME": -int(resolve.EAI_NONAME), "EAI_AGAIN": -int(resolve.EAI_AGAIN),
				"EAI_FAIL": -int(resolve.EAI_FAIL), "EAI_NODATA": -int(resolve.EAI_NODATA), "EAI_FAMILY": -int(resolve.EAI_FAMILY),
				"EAI_SOCKTYPE": -int(resolve.EAI_SOCKTYPE), "EAI_SERVICE": -int(resolve.EAI_SERVICE), "EAI_ADDRFAMILY": -int(resolve.EAI_ADDRFAMILY),
				"EAI_MEMORY": -int(resolve.EAI_MEMORY), "EAI_SYSTEM": -int(resolve.EAI_SYSTEM), "EAI_OVERFLOW": -int(resolve.EAI_OVERFLOW),
				"EAI_IDN_ENCODE": -int(resolve.EAI_IDN_ENCODE),
			},
			contractName: same, only: []string{"EAI_NONE"},
		},
	} {
		t.Run(tt.engine+" "+tt.prefix, func(t *testing.T) {
			t.Parallel()
			if want := constantsOf(t, tt.engine, tt.prefix); !slices.Equal(slices.Sorted(maps.Keys(tt.values)), want) {
				t.Errorf("the engine has %v, this test %v", want, slices.Sorted(maps.Keys(tt.values)))
			}
			left := map[string]bool{}
			for i := range tt.contract.Values().Len() {
				left[string(tt.contract.Values().Get(i).Name())] = true
			}
			name := tt.contractName
			if name == nil {
				name = upper
			}
			for constant, number := range tt.values {
				value := tt.contract.Values().ByName(protoreflect.Name(name(constant)))
				if value == nil || int(value.Number()) != number {
					t.Errorf("%s = %d; the contract has %v for %s", constant, number, value, name(constant))
				}
				delete(left, name(constant))
			}
			if got := slices.Sorted(maps.Keys(left)); !slices.Equal(got, slices.Sorted(slices.Values(tt.only))) {
				t.Errorf("the contract has beyond the engine: %v, want %v", got, tt.only)
			}
		})
	}
}

func TestReasonsAreThoseOfTheEngine(t *testing.T) {
	t.Parallel()
	contract := probev1.Reason(0).Descriptor().Values()
	for i := range contract.Len() {
		number := contract.Get(i).Number()
		if got, want := "REASON_"+exchange.Reason(number).String(), string(contract.Get(i).Name()); got != want || int(number) != i {
			t.Errorf("reason %d is %s, in the contract %s", number, got, want)
		}
	}
	// The first number that the contract lacks is none of the engine's either.
	if next := exchange.Reason(contract.Len()).String(); !strings.HasPrefix(next, "REASON(") {
		t.Errorf("the contract lacks %s", next)
	}
}

// The numbers that have names in C are those of this platform.
func TestEnumsAreThoseOfC(t *testing.T) {
	t.Parallel()
	for _, contract := range []protoreflect.EnumDescriptor{
		probev1.AddressFamily(0).Descriptor(), probev1.SocketType(0).Descriptor(), probev1.IpProtocol(0).Descriptor(),
		probev1.AddressInfoFlag(0).Descriptor(), probev1.NameInfoFlag(0).Descriptor(), probev1.AddressInfoError(0).Descriptor(),
	} {
		for i := range contract.Values().Len() {
			value := contract.Values().Get(i)
			switch value.Name() {
			case "SOCK_UNSPEC", "AI_NONE", "NI_NONE", "EAI_NONE": // zero has no name in C
				continue
			}
			found := slices.DeleteFunc(names.Constants(string(value.Name())), func(c names.Constant) bool { return c.Name != string(value.Name()) })
			if len(found) != 1 {
				t.Errorf("%s is no constant of this platform", value.Name())
				continue
			}
			if number := found[0].Value; number != int64(value.Number()) && -number != int64(value.Number()) {
				t.Errorf("%s is %d here, %d in the contract", value.Name(), number, value.Number())
			}
		}
	}
}

func same(name string) string { return name }

// upper is a name of Go's, as PhaseTLS, in the spelling of the contract, as PHASE_TLS. None is UNSPECIFIED there.
func upper(name string) string {
	var b strings.Builder
	for i, r := range name {
		lowerBefore := i > 0 && 'a' <= name[i-1] && name[i-1] <= 'z'
		if 'A' <= r && r <= 'Z' && lowerBefore {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToUpper(strings.TrimSuffix(b.String(), "None")) + map[bool]string{true: "UNSPECIFIED"}[strings.HasSuffix(name, "None")]
}

// constantsOf lists the exported constants of an engine whose names begin with a prefix.
func constantsOf(t *testing.T, engine, prefix string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(engine, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, declaration := range file.Decls {
			general, ok := declaration.(*ast.GenDecl)
			if !ok || general.Tok != token.CONST {
				continue
			}
			for _, spec := range general.Specs {
				values, ok := spec.(*ast.ValueSpec)
				if !ok {
					continue
				}
				for _, name := range values.Names {
					if strings.HasPrefix(name.Name, prefix) {
						found = append(found, name.Name)
					}
				}
			}
		}
	}
	slices.Sort(found)
	return found
}

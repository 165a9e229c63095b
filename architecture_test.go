// Package probed_test holds the shape of the house against its code: which room may import what, that each room says
// what it is, and that one room alone opens outgoing sockets. DESIGN.md tells the reasons; here is what is enforced.
package probed_test

import (
	"bufio"
	"cmp"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A room is a package and what it may import, tests aside.
type room struct {
	ours   []string // packages of this module
	others []string // modules or packages of other modules; what lies below them too
	never  []string // of the standard library
}

// Engines take plain Go values and return plain Go values and typed errors; who logs, what a flag is called and which
// protocol is spoken is decided above them.
var aboveEngines = []string{"flag", "log", "log/slog", "expvar", "net/http", "net/rpc", "os/signal", "testing"}

// The house. Arrows point one way: cmd → service → engines. A new room needs a line here and one in DESIGN.md.
var house = map[string]room{
	// The contract, generated.
	"gen/probe/v1": {
		others: []string{
			"buf.build/gen/go/bufbuild/protovalidate", "github.com/grpc-ecosystem/grpc-gateway/v2",
			"google.golang.org/genproto", "google.golang.org/grpc", "google.golang.org/protobuf",
		},
	},

	"gen/probe/config/v1": {
		others: []string{"buf.build/gen/go/bufbuild/protovalidate", "google.golang.org/protobuf"},
	},

	// Engines.
	"service/dial": {others: []string{"golang.org/x/sys"}, never: aboveEngines},
	"service/echo": {never: aboveEngines},
	"service/exchange": {
		ours: []string{"service/dial", "service/resolve"},
		// idna because certificates carry names in their ASCII form.
		others: []string{"golang.org/x/net/idna", "golang.org/x/sys"},
		never:  aboveEngines,
	},
	"service/names":  {others: []string{"golang.org/x/sys"}, never: aboveEngines},
	"service/policy": {never: aboveEngines},
	"service/resolve": {
		ours: []string{"service/dial"},
		// idna because names are asked for in their ASCII form.
		others: []string{"github.com/miekg/dns", "golang.org/x/net/idna", "golang.org/x/sys"},
		never:  aboveEngines,
	},

	// Who calls, what they may call, how much of it.
	"service/guard": {
		ours: []string{"gen/probe/v1", "service/policy"},
		others: []string{
			"github.com/coreos/go-oidc/v3", "github.com/go-jose/go-jose/v4", "golang.org/x/time", "google.golang.org/grpc",
			"google.golang.org/protobuf",
		},
		// net/http is not among them: an issuer of tokens is asked by the client that the operator's side hands in.
		never: []string{"flag", "log", "os"},
	},

	// What each RPC means.
	"service": {
		ours: []string{
			"gen/probe/v1", "service/dial", "service/exchange", "service/guard", "service/names", "service/policy",
			"service/resolve", "service/schema",
		},
		others: []string{
			"github.com/grpc-ecosystem/go-grpc-middleware/v2",
			"google.golang.org/genproto", "google.golang.org/grpc", "google.golang.org/protobuf",
		},
		never: []string{"flag", "log", "os", "net/http"},
	},

	// A probe of blackbox_exporter as calls of the contract, and the series it is told in. The exchange tells what an expression
	// may be like.
	"service/blackbox": {
		ours: []string{"gen/probe/config/v1", "gen/probe/v1", "service/exchange"},
		others: []string{
			"github.com/miekg/dns", "github.com/prometheus/client_golang/prometheus", "github.com/prometheus/common/expfmt",
			"google.golang.org/grpc", "google.golang.org/protobuf",
		},
		never: aboveEngines,
	},

	// What stands on the fields of messages. It knows no schema but the one that rules are written in.
	"service/schema": {
		others: []string{"buf.build/gen/go/bufbuild/protovalidate", "google.golang.org/protobuf"},
		never:  aboveEngines,
	},

	// What a host without a list of authorities trusts.
	"service/roots": {others: []string{"golang.org/x/crypto/x509roots/fallback/bundle"}, never: aboveEngines},

	// Around it.
	"service/gateway": {
		ours: []string{"gen/probe/v1", "service/blackbox"},
		others: []string{
			// swgui because it ships what renders the document.
			"github.com/grpc-ecosystem/grpc-gateway/v2", "github.com/prometheus/client_golang/prometheus/promhttp",
			"github.com/swaggest/swgui", "google.golang.org/genproto", "google.golang.org/grpc", "google.golang.org/protobuf",
		},
		never: []string{"flag", "log", "os"},
	},
	"service/metrics": {
		ours: []string{"service", "service/echo", "service/exchange", "service/guard", "service/policy"},
		others: []string{
			"github.com/prometheus/client_golang",
			"github.com/prometheus/client_model/go",
			"google.golang.org/grpc",
		},
		never: []string{"flag", "log", "os"},
	},

	"service/tracing": {
		ours: []string{"service", "service/exchange", "service/guard", "service/resolve"},
		others: []string{
			"github.com/go-logr/logr", // in which OpenTelemetry wants to be given a log
			"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc", "go.opentelemetry.io/otel", "google.golang.org/grpc",
		},
		// net/http is not among them: a collector may be spoken to by HTTP.
		never: []string{"flag", "log"},
	},

	// The programs: they may use every room, and whatever the rooms may.
	"cmd/probed":   {ours: allRooms, others: program, never: []string{"log", "net/http/pprof"}},
	"cmd/probectl": {ours: allRooms, others: program, never: []string{"log", "net/http/pprof"}},
	"demo/web":     {},

	// The far side of tests, which no room imports but in its tests.
	"internal/nettest": {others: []string{"github.com/miekg/dns", "go.uber.org/goleak", "golang.org/x/sys"}},
	// A real probed and its callers, for tests of the whole; what they promise.
	"internal/probetest": {
		ours:   []string{"gen/probe/v1", "internal/nettest"},
		others: []string{"google.golang.org/genproto", "google.golang.org/grpc", "google.golang.org/protobuf"},
	},
	// The rules of a schema, held to what protovalidate makes of them.
	"internal/ruletest": {
		ours: []string{"service/schema"},
		others: []string{
			"buf.build/gen/go/bufbuild/protovalidate", "buf.build/go/protovalidate", "google.golang.org/protobuf",
		},
	},
	"internal/promise": {},
	// The callers and peers of what it measures.
	"bench":                   {ours: []string{"gen/probe/v1"}, others: []string{"google.golang.org/grpc", "google.golang.org/protobuf"}},
	"internal/promise/report": {ours: []string{"internal/promise"}},
	"endurance":               {},
}

var (
	allRooms = []string{
		"gen/probe/config/v1", "gen/probe/v1", "service", "service/blackbox", "service/dial", "service/echo", "service/exchange", "service/gateway",
		"service/guard", "service/metrics", "service/names", "service/policy", "service/resolve",
		"service/roots", "service/schema", "service/tracing",
	}
	program = []string{
		"go.yaml.in/yaml/v3",
		"github.com/prometheus/client_golang", "github.com/rogpeppe/go-internal/lockedfile", "github.com/spf13/cobra", "github.com/spf13/pflag",
		"golang.org/x/net/http2", "golang.org/x/sync",
		"golang.org/x/sys", "golang.org/x/term", "google.golang.org/genproto", "google.golang.org/grpc", "google.golang.org/protobuf",
		"sigs.k8s.io/yaml",
	}
)

// The ways out of the process that belong to service/dial, as patterns of names, by the package that offers them.
var waysOut = map[string][]string{
	"net": {
		"Dial*", "Lookup*", "ResolveIPAddr", "ResolveTCPAddr", "ResolveUDPAddr", "Resolver", "DefaultResolver",
	},
	"crypto/tls":             {"Dial*"},
	"net/http":               {"Get", "Head", "Post*", "Client", "DefaultClient", "Transport", "DefaultTransport"},
	"github.com/miekg/dns":   {"Client", "Dial*", "Exchange*", "Transfer"},
	"golang.org/x/sys/unix":  {"Connect", "Socket", "Socketpair", "SYS_CONNECT", "SYS_SOCKET"},
	"syscall":                {"Connect", "Socket", "Socketpair", "SYS_CONNECT", "SYS_SOCKET"},
	"google.golang.org/grpc": {"Dial", "DialContext", "NewClient"},
	"probed/gen/probe/v1":    {"Register*FromEndpoint"}, // these dial
}

// Who else may use which way, and why that is no way around the policy.
var exceptions = map[string][]string{
	"cmd/probectl": {"google.golang.org/grpc.NewClient"}, // to the probed that its user names
	"gen/probe/v1": {"google.golang.org/grpc.NewClient"}, // in Register*FromEndpoint, which nobody may call
	// To the issuers of tokens that the operator names, by a transport whose connections service/dial opens.
	"cmd/probed": {"net/http.Client", "net/http.Transport"},
	// To the collector of traces that the operator names, by a transport whose connections service/dial opens.
	"service/tracing": {"net/http.Client", "net/http.Transport"},
	// The kernel's routing table is asked for a source address by connecting a datagram socket; nothing is sent.
	"service/resolve": {
		"golang.org/x/sys/unix.Connect", "golang.org/x/sys/unix.Socket", "golang.org/x/sys/unix.SYS_CONNECT",
	},
	// The client is the operator's, handed in to ask an issuer of tokens with; none is made there.
	"service/guard": {"net/http.Client"},
	// It is asked over netlink for the way to an address: a conversation with the kernel alone.
	"service/exchange": {"golang.org/x/sys/unix.Socket"},
}

func TestImports(t *testing.T) {
	t.Parallel()
	module := modulePath(t)
	packages := readPackages(t)
	for _, dir := range sortedKeys(packages) {
		r, known := house[dir]
		if !known {
			t.Errorf("%s is not in the table of rooms in architecture_test.go: add it, and to DESIGN.md", dir)
			continue
		}
		for name, file := range packages[dir] {
			for _, spec := range file.Imports {
				imported := strings.Trim(spec.Path.Value, `"`)
				if why := r.refuses(module, imported); why != "" {
					t.Errorf("%s imports %s, %s", name, imported, why)
				}
			}
		}
	}
	for _, dir := range sortedKeys(house) {
		if packages[dir] == nil {
			t.Errorf("%s is in the table of rooms, and there is no such package", dir)
		}
	}
}

// refuses says why the room may not import a package, or nothing when it may.
func (r room) refuses(module, imported string) string {
	if ours, found := strings.CutPrefix(imported, module+"/"); found {
		if !slices.Contains(r.ours, ours) {
			return "which is not among the rooms it may know"
		}
		return ""
	}
	if first, _, _ := strings.Cut(imported, "/"); strings.Contains(first, ".") {
		if !slices.ContainsFunc(r.others, func(p string) bool { return within(imported, p) }) {
			return "which is not among the modules it may use"
		}
		return ""
	}
	if slices.ContainsFunc(r.never, func(p string) bool { return imported == p }) {
		return "which is for the rooms above it"
	}
	return ""
}

func within(imported, tree string) bool {
	return imported == tree || strings.HasPrefix(imported, tree+"/")
}

// A package tells its idea: a first sentence in the form that go doc shows in lists, and more than that.
func TestPackagesAreDocumented(t *testing.T) {
	t.Parallel()
	for dir, files := range readPackages(t) {
		var texts []string
		var name string
		for _, file := range files {
			if len(file.Comments) > 0 && file.Comments[0].List[0].Text == "//go:build ignore" {
				continue // a program of its own, for go run
			}
			name = file.Name.Name
			if ast.IsGenerated(file) {
				continue
			}
			if file.Doc != nil {
				texts = append(texts, file.Doc.Text())
			}
		}
		begins := "Package " + name + " "
		switch {
		case strings.HasPrefix(dir, "gen/"):
			continue // documented in the contract
		case name == "main":
			begins = "Command " + path.Base(dir) + " "
		}
		if len(texts) != 1 {
			t.Errorf("%s has %d package comments, want 1", dir, len(texts))
			continue
		}
		if !strings.HasPrefix(texts[0], begins) {
			t.Errorf("the package comment of %s begins %.40q, want %q", dir, texts[0], begins)
		}
		text := strings.Join(strings.Fields(texts[0]), " ")
		if first := new(doc.Package).Synopsis(texts[0]); len(text) <= len(first) {
			t.Errorf("the package comment of %s is one sentence: %q; tell its idea and when to use it", dir, text)
		}
	}
}

// Outgoing sockets are opened by service/dial, because there the policy is asked.
func TestOneWayOut(t *testing.T) {
	t.Parallel()
	for dir, files := range readPackages(t) {
		if dir == "service/dial" || strings.HasPrefix(dir, "internal/") || dir == "bench" { // which are the far side of tests and measurements
			continue
		}
		for name, file := range files {
			for _, used := range uses(file) {
				from, what := used[:strings.LastIndexByte(used, '.')], used[strings.LastIndexByte(used, '.')+1:]
				isWayOut := slices.ContainsFunc(waysOut[from], func(pattern string) bool {
					matched, err := path.Match(pattern, what)
					return matched || err != nil
				})
				if isWayOut && !slices.Contains(exceptions[dir], used) {
					t.Errorf("%s uses %s: outgoing sockets are opened by service/dial", name, used)
				}
			}
		}
	}
}

// uses returns the names of other packages that a file mentions, each as "import/path.Name".
func uses(file *ast.File) []string {
	paths := make(map[string]string) // by the name the file knows the package by
	for _, spec := range file.Imports {
		imported := strings.Trim(spec.Path.Value, `"`)
		name := path.Base(imported)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		paths[name] = imported
	}
	used := make(map[string]bool)
	ast.Inspect(file, func(n ast.Node) bool {
		if selector, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := selector.X.(*ast.Ident); ok && paths[x.Name] != "" {
				used[paths[x.Name]+"."+selector.Sel.Name] = true
			}
		}
		return true
	})
	return sortedKeys(used)
}

// readPackages returns the parsed files of every package of the module by its directory, tests left out. All files are
// read, whatever platform they are for.
func readPackages(t *testing.T) map[string]map[string]*ast.File {
	t.Helper()
	packages := make(map[string]map[string]*ast.File)
	files := token.NewFileSet()
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "." && notOurs(name):
			return fs.SkipDir
		case entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(files, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(name))
		if packages[dir] == nil {
			packages[dir] = make(map[string]*ast.File)
		}
		packages[dir][name] = file
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return packages
}

// notOurs tells whether the go command would pass the directory by: hidden, testdata, or a module of its own.
func notOurs(dir string) bool {
	base := filepath.Base(dir)
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" {
		return true
	}
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

func modulePath(t *testing.T) string {
	t.Helper()
	file, err := os.Open("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if module, found := strings.CutPrefix(lines.Text(), "module "); found {
			return module
		}
	}
	t.Fatal("go.mod names no module")
	return ""
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}

package names

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// open returns tables over the given texts. Without a text there is no file.
func open(t testing.TB, services, protocols string) *Tables {
	t.Helper()
	dir := t.TempDir()
	c := Config{ServicesFile: filepath.Join(dir, "services"), ProtocolsFile: filepath.Join(dir, "protocols")}
	if services != "" {
		write(t, c.ServicesFile, services)
	}
	if protocols != "" {
		write(t, c.ProtocolsFile, protocols)
	}
	return Open(c)
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// brief writes services as "name port/protocol [aliases] source", one a line.
func brief(services []Service) string {
	var b strings.Builder
	for _, s := range services {
		source := map[Source]string{SourceFile: "file", SourceIANA: "iana"}[s.Source]
		fmt.Fprintf(&b, "%s %d/%s %v %s\n", s.Name, s.Port, s.Protocol, s.Aliases, source)
	}
	return b.String()
}

func join(lines ...string) string {
	var b strings.Builder
	for _, line := range lines {
		b.WriteString(line + "\n")
	}
	return b.String()
}

func TestClassOf(t *testing.T) {
	t.Parallel()
	for port, want := range map[uint16]PortClass{
		0: PortClassSystem, 1: PortClassSystem, 1023: PortClassSystem,
		1024: PortClassUser, 49151: PortClassUser,
		49152: PortClassDynamic, 65535: PortClassDynamic,
	} {
		if got := ClassOf(port); got != want {
			t.Errorf("ClassOf(%d) = %d, want %d", port, got, want)
		}
		if got := (Service{Port: port}).Class(); got != want {
			t.Errorf("Service{Port: %d}.Class() = %d, want %d", port, got, want)
		}
	}
}

const crafted = `
domain 53/udp           # names
domain 53/tcp
ssh    22/tcp
web    80/tcp http      # our own
two    700/udp
two    600/udp
two    900/tcp
ssh    22/tcp secsh     # says the same again
early  1000/udp late
late   2000/udp
bare   3000
odd    22/zzz
`

func TestService(t *testing.T) {
	t.Parallel()
	tables := open(t, crafted, "")
	tests := []struct {
		name, protocol string
		want           string
	}{
		{"domain", "", join("domain 53/tcp [] file", "domain 53/udp [] file")},
		{"domain", "udp", join("domain 53/udp [] file")},
		{"domain", "sctp", ""},
		{"domain", "UDP", ""},
		{"Domain", "", ""},
		// What the file lacks the registry answers, after it.
		{"ssh", "", join("ssh 22/tcp [] file", "ssh 22/udp [] iana", "ssh 22/sctp [] iana")},
		{"ssh", "udp", join("ssh 22/udp [] iana")},
		{"secsh", "", join("ssh 22/tcp [secsh] file")},
		// A name that the file gives for a port is the file's; the rest of the entry stays.
		{"http", "tcp", join("web 80/tcp [http] file")},
		{"www", "tcp", join("www 80/tcp [www-http] iana")},
		{"http", "udp", join("http 80/udp [www www-http] iana")},
		// tcp first, and of one protocol the first line first.
		{"two", "", join("two 900/tcp [] file", "two 700/udp [] file", "two 600/udp [] file")},
		{"late", "", join("early 1000/udp [late] file", "late 2000/udp [] file")},
		{"bare", "", join("bare 3000/ [] file")},
		{"bare", "tcp", ""},
		{"odd", "", join("odd 22/zzz [] file")},
		{"", "", ""},
		{"no such service", "", ""},
	}
	for _, tt := range tests {
		if got := brief(tables.Service(tt.name, tt.protocol)); got != tt.want {
			t.Errorf("Service(%q, %q)\n got %swant %s", tt.name, tt.protocol, got, tt.want)
		}
	}
}

func TestPort(t *testing.T) {
	t.Parallel()
	tables := open(t, crafted+"\nzz 49152/tcp\naa 49152/tcp\n", "")
	tests := []struct {
		port     uint16
		protocol string
		want     string
	}{
		{22, "", join("ssh 22/tcp [] file", "ssh 22/udp [] iana", "ssh 22/sctp [] iana", "odd 22/zzz [] file")},
		{22, "zzz", join("odd 22/zzz [] file")},
		{80, "tcp", join("web 80/tcp [http] file", "www 80/tcp [www-http] iana")},
		{2000, "", join("cisco-sccp 2000/tcp [] iana", "late 2000/udp [] file", "cisco-sccp 2000/udp [] iana")},
		// The first line is the answer, not the first name of the alphabet.
		{49152, "tcp", join("zz 49152/tcp [] file", "aa 49152/tcp [] file")},
		{0, "", ""},
		{65535, "", ""},
	}
	for _, tt := range tests {
		if got := brief(tables.Port(tt.port, tt.protocol)); got != tt.want {
			t.Errorf("Port(%d, %q)\n got %swant %s", tt.port, tt.protocol, got, tt.want)
		}
	}
}

func TestGetServ(t *testing.T) {
	t.Parallel()
	withFile, without := open(t, crafted, ""), open(t, "", "")
	empty := open(t, "# nothing\n", "")
	check := func(what string, got Service, ok bool, want string) {
		t.Helper()
		var services []Service
		if ok {
			services = []Service{got}
		}
		if got := brief(services); got != want {
			t.Errorf("%s = %s, want %s", what, got, want)
		}
	}
	for _, tt := range []struct {
		tables         *Tables
		name, protocol string
		want           string
	}{
		{withFile, "domain", "", "domain 53/udp [] file\n"}, // The first line, tcp or not.
		{withFile, "domain", "tcp", "domain 53/tcp [] file\n"},
		{withFile, "two", "", "two 700/udp [] file\n"},
		{withFile, "late", "", "early 1000/udp [late] file\n"},
		{withFile, "bare", "", "bare 3000/ [] file\n"},
		{withFile, "ssh", "udp", ""}, // Registered, but the host does not know it.
		{withFile, "https", "", ""},
		{empty, "https", "", ""},
		{without, "https", "", "https 443/tcp [] iana\n"},
		{without, "ssh", "udp", "ssh 22/udp [] iana\n"},
	} {
		got, ok := tt.tables.GetServByName(tt.name, tt.protocol)
		check(fmt.Sprintf("GetServByName(%q, %q)", tt.name, tt.protocol), got, ok, tt.want)
	}
	for _, tt := range []struct {
		tables   *Tables
		port     uint16
		protocol string
		want     string
	}{
		{withFile, 53, "", "domain 53/udp [] file\n"},
		{withFile, 22, "", "ssh 22/tcp [] file\n"},
		{withFile, 22, "udp", ""},
		{withFile, 443, "", ""},
		{empty, 443, "", ""},
		{without, 443, "", "https 443/tcp [] iana\n"},
		{without, 65535, "", ""},
	} {
		got, ok := tt.tables.GetServByPort(tt.port, tt.protocol)
		check(fmt.Sprintf("GetServByPort(%d, %q)", tt.port, tt.protocol), got, ok, tt.want)
	}
}

func TestDescriptions(t *testing.T) {
	t.Parallel()
	tables := open(t, "domain 53/tcp # names\ndomain 53/udp\nmine 22/udp ssh\nother 25/tcp\n", "tcp 6\nudp 17 # ours\nother 1\n")
	for name, want := range map[string][]string{
		"domain": {"names", "Domain Name System"}, // The file's comment; without one, what the registry says.
		"mine":   {"Secure Shell"},                // One shared name is enough.
		"other":  {""},                            // Not the same service.
	} {
		var got []string
		for _, s := range tables.Service(name, "") {
			got = append(got, s.Description)
		}
		if !slices.Equal(got, want) {
			t.Errorf("descriptions of %s: %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]string{"tcp": "Transmission Control Protocol", "udp": "ours", "other": ""} {
		if p, ok := tables.Protocol(name); !ok || p.Description != want {
			t.Errorf("description of %s: %q, want %q", name, p.Description, want)
		}
	}
}

func TestProtocol(t *testing.T) {
	t.Parallel()
	tables := open(t, "", join("ip 0 IP", "hopopt 0 HOPOPT", "zero 0", "tcp 6", "six 6 tcp", "mptcp 262 MPTCP", "17 200", "neg 4294967295"))
	tests := []struct {
		key    string
		name   string // Empty: not found.
		number int32
		source Source
	}{
		{"ip", "ip", 0, SourceFile},
		{"IP", "ip", 0, SourceFile},
		{"0", "ip", 0, SourceFile},
		{"HOPOPT", "hopopt", 0, SourceFile},
		{"tcp", "tcp", 6, SourceFile},
		{"6", "tcp", 6, SourceFile},
		{"six", "six", 6, SourceFile},
		{"TCP", "TCP", 6, SourceIANA}, // The file does not give this alias.
		{"mptcp", "mptcp", 262, SourceFile},
		{"262", "mptcp", 262, SourceFile},
		{"17", "17", 200, SourceFile}, // A name goes before a number.
		{"udp", "udp", 17, SourceIANA},
		{"007", "cbt", 7, SourceIANA},
		{"143", "ethernet", 143, SourceIANA},
		{"neg", "neg", -1, SourceFile},
		{"-1", "", 0, 0}, {"+6", "", 0, 0}, {" 6", "", 0, 0}, {"0x6", "", 0, 0}, {"", "", 0, 0},
		{"Tcp", "", 0, 0}, {"256", "", 0, 0}, {"4294967302", "", 0, 0}, {"99999999999999999999", "", 0, 0},
	}
	for _, tt := range tests {
		p, ok := tables.Protocol(tt.key)
		if ok != (tt.name != "") || p.Name != tt.name || p.Number != tt.number || p.Source != tt.source {
			t.Errorf("Protocol(%q) = %+v, %v; want %s %d", tt.key, p, ok, tt.name, tt.number)
		}
	}
}

func TestServicesPages(t *testing.T) {
	t.Parallel()
	tables := open(t, crafted, "")
	all, next := tables.Services("", PortClassUnspecified, Cursor{}, 0)
	if next != (Cursor{}) {
		t.Errorf("after everything: %+v", next)
	}
	for i := 1; i < len(all); i++ {
		if compare(cursorOf(&all[i-1]), cursorOf(&all[i])) >= 0 {
			t.Fatalf("%+v is listed before %+v", all[i-1], all[i])
		}
	}
	for _, s := range all {
		if !slices.ContainsFunc(tables.Service(s.Name, s.Protocol), func(o Service) bool { return o.Port == s.Port }) {
			t.Errorf("%+v is listed but not found by name", s)
		}
		if !slices.ContainsFunc(tables.Port(s.Port, s.Protocol), func(o Service) bool { return o.Name == s.Name }) {
			t.Errorf("%+v is listed but not found by port", s)
		}
	}
	for _, limit := range []int{1, 2, 7, 100, 1000, len(all) - 1, len(all), len(all) + 1, 0, -1} {
		if got := walk(t, tables, "", PortClassUnspecified, limit); !reflect.DeepEqual(got, all) {
			t.Errorf("pages of %d bring %d entries, not the %d there are", limit, len(got), len(all))
		}
	}
	for _, protocol := range []string{"", "tcp", "udp", "sctp", "dccp", "zzz", "none"} {
		for class := PortClassUnspecified; class <= PortClassDynamic; class++ {
			want := slices.DeleteFunc(slices.Clone(all), func(s Service) bool {
				return protocol != "" && s.Protocol != protocol || class != PortClassUnspecified && s.Class() != class
			})
			got := walk(t, tables, protocol, class, 50)
			if len(got) != len(want) || len(want) > 0 && !reflect.DeepEqual(got, want) {
				t.Errorf("%q, class %d: %d entries, want %d", protocol, class, len(got), len(want))
			}
		}
	}
}

// walk collects all pages, and checks that each but the last is full.
func walk(t *testing.T, tables *Tables, protocol string, class PortClass, limit int) []Service {
	t.Helper()
	var all []Service
	var after Cursor
	for {
		page, next := tables.Services(protocol, class, after, limit)
		all = append(all, page...)
		if next == (Cursor{}) {
			return all
		}
		if len(page) != limit {
			t.Fatalf("a page of %d, not %d, though more follows", len(page), limit)
		}
		after = next
	}
}

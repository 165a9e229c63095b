package names

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestParseServices holds the parser to what glibc 2.36 was seen to make of
// these lines; the system tests ask it again.
func TestParseServices(t *testing.T) {
	t.Parallel()
	service := func(name string, port uint16, protocol string, aliases ...string) Service {
		return Service{Name: name, Port: port, Protocol: protocol, Aliases: aliases, Source: SourceFile}
	}
	described := func(s Service, description string) Service {
		s.Description = description
		return s
	}
	tests := []struct {
		name string
		text string
		want []Service
	}{
		{"empty file", "", nil},
		{"comments and empty lines", "# a 1/tcp\n\n   \n\t# b 2/tcp\n", nil},
		{"plain", "ssh 22/tcp\n", []Service{service("ssh", 22, "tcp")}},
		{"no newline at the end", "a 1/tcp\nb 2/udp x", []Service{service("a", 1, "tcp"), service("b", 2, "udp", "x")}},
		{"aliases and comment", "http\t80/tcp\t\twww  w3 # World Wide Web ", []Service{described(service("http", 80, "tcp", "www", "w3"), "World Wide Web")}},
		{"comment without space", "a 1/tcp x#y z", []Service{described(service("a", 1, "tcp", "x"), "y z")}},
		{"several comment signs", "a 1/tcp ## y # z #", []Service{described(service("a", 1, "tcp"), "y # z")}},
		{"comment inside the name", "a#b 1/tcp", nil},
		{"leading space", " \t\v\f\ra 1/tcp", []Service{service("a", 1, "tcp")}},
		{"every kind of space", "a\v1/tcp\fx\ry", []Service{service("a", 1, "tcp", "x", "y")}},
		{"CRLF", "a 1/tcp\r\nb 2/tcp x\r\n#c\r\n\r\n", []Service{service("a", 1, "tcp"), service("b", 2, "tcp", "x")}},
		{"a space of Unicode is none", "a\u00a0b 1/tcp x\u2003y", []Service{service("a\u00a0b", 1, "tcp", "x\u2003y")}},
		{"NUL ends the line", "a 1/tcp x\x00y\nb\x00 2/tcp\nc 3/tcp", []Service{service("a", 1, "tcp", "x"), service("c", 3, "tcp")}},
		{"case is kept", "SSH 22/TCP Ssh", []Service{service("SSH", 22, "TCP", "Ssh")}},
		{"repeated line", "a 1/tcp x\na 1/tcp y\n", []Service{service("a", 1, "tcp", "x"), service("a", 1, "tcp", "y")}},

		{"no port", "a\nb /tcp\nc tcp\nd x/tcp\ne # 1/tcp\n", nil},
		{"no slash", "a 1 tcp\nb 2 # x\nc 3\t\n", nil},
		{"port alone", "a 1", []Service{service("a", 1, "")}},
		{"port and slash", "a 1/", []Service{service("a", 1, "")}},
		{"space after the slash", "a 1/ tcp x", []Service{service("a", 1, "", "tcp", "x")}},
		{"space before the slash", "a 1 /tcp", nil},
		{"several slashes", "a 1///tcp\nb 2/tcp/x y", []Service{service("a", 1, "tcp"), service("b", 2, "tcp/x", "y")}},
		{"port range", "a 1-5/tcp", nil},
		{"text after the port", "a 1x/tcp\nb 1.5/tcp", nil},
		{"limits", "a 0/tcp\nb 65535/tcp", []Service{service("a", 0, "tcp"), service("b", 65535, "tcp")}},
		{"beyond 16 bits is cut", "a 65536/tcp\nb 70000/tcp\nc 4294967295/tcp", []Service{service("a", 0, "tcp"), service("b", 4464, "tcp"), service("c", 65535, "tcp")}},
		{"beyond 32 bits is refused", "a 4294967296/tcp\nb 99999999999999999999999/tcp\nc 18446744073709551616/tcp", nil},
		{"negative", "a -1/tcp\nb -22/tcp\nc -/tcp", nil},
		{"negative that wraps", "a -18446744073709551594/tcp\nb -0/tcp", []Service{service("a", 22, "tcp"), service("b", 0, "tcp")}},
		{"plus sign", "a +22/tcp\nb + 22/tcp\nc ++22/tcp\nd +-22/tcp", []Service{service("a", 22, "tcp")}},
		{"octal", "a 026/tcp\nb 00/tcp\nc 08/tcp\nd 029/tcp", []Service{service("a", 22, "tcp"), service("b", 0, "tcp")}},
		{"hexadecimal", "a 0x16/tcp\nb 0X1f/udp\nc +0xFF/tcp\nd 0x/tcp\ne 0xg/tcp\nf 16h/tcp", []Service{service("a", 22, "tcp"), service("b", 31, "udp"), service("c", 255, "tcp")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := parseServices(tt.text, SourceFile)
			if len(got) == 0 && len(tt.want) == 0 {
				return
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("parseServices(%q)\n got %+v\nwant %+v", tt.text, got, tt.want)
			}
		})
	}
}

func TestParseProtocols(t *testing.T) {
	t.Parallel()
	protocol := func(name string, number int32, aliases ...string) Protocol {
		return Protocol{Name: name, Number: number, Aliases: aliases, Source: SourceFile}
	}
	tests := []struct {
		name string
		text string
		want []Protocol
	}{
		{"empty file", "", nil},
		{"plain", "tcp 6 TCP\nudp\t17\tUDP", []Protocol{protocol("tcp", 6, "TCP"), protocol("udp", 17, "UDP")}},
		{"CRLF", "tcp 6 TCP\r\nudp 17\r\n", []Protocol{protocol("tcp", 6, "TCP"), protocol("udp", 17)}},
		{"comment", "tcp 6 TCP# x", []Protocol{{Name: "tcp", Number: 6, Aliases: []string{"TCP"}, Description: "x", Source: SourceFile}}},
		{"comment after the number", "a 6# x", []Protocol{{Name: "a", Number: 6, Description: "x", Source: SourceFile}}},
		{"beyond a byte", "mptcp 262", []Protocol{protocol("mptcp", 262)}},
		{"decimal alone", "a 0x6\nb 010 x", []Protocol{protocol("b", 10, "x")}},
		{"no number", "a\nb # 6\nc x\nd 6x\ne 6/x", nil},
		{"large", "a 2147483647\nb 2147483648\nc 4294967295\nd 4294967296", []Protocol{protocol("a", 2147483647), protocol("b", -2147483648), protocol("c", -1)}},
		{"sign", "a +6\nb -6\nc -0", []Protocol{protocol("a", 6), protocol("c", 0)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := parseProtocols(tt.text, SourceFile); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("parseProtocols(%q)\n got %+v\nwant %+v", tt.text, got, tt.want)
			}
		})
	}
}

// FuzzServicesFile asserts that an entry written out as a line means the same
// entry again, and that every entry can be found in the table it leads to.
func FuzzServicesFile(f *testing.F) {
	f.Add("http 80/tcp www # World Wide Web\n")
	f.Add("a 0x50/tcp\r\nb 010/udp x y\x00z\n a 1/ c#d\n")
	f.Add("a 70000/tcp\nb -1/tcp\nc +18446744073709551615/tcp\nd 1//x/y\n")
	f.Add("a 1/tcp a a\na 1/tcp b\nssh 22/tcp\n\xff\xfe 9/\xff")
	f.Add(strings.Repeat("x", 300) + " 1/tcp " + strings.Repeat("y ", 30))
	f.Fuzz(func(t *testing.T, text string) {
		text = strings.ToValidUTF8(text, "\uFFFD")
		entries := slices.Clip(parseServices(text, SourceFile))
		for _, s := range entries {
			checkWords(t, s.Name, s.Protocol, s.Aliases, s.Description)
			line := fmt.Sprintf("%s %d/%s %s #%s", s.Name, s.Port, s.Protocol, strings.Join(s.Aliases, " "), s.Description)
			if again := parseServices(line, SourceFile); len(again) != 1 || !reflect.DeepEqual(again[0], s) {
				t.Fatalf("%q came back as %+v, not %+v", line, again, s)
			}
		}
		table := &serviceTable{entries: addServices(entries, parseServices("http 80/tcp www www-http\nssh 22/tcp", SourceIANA))}
		table.index()
		for i, s := range entries {
			for _, name := range allNames(s.Name, s.Aliases) {
				if !leadsTo(table, name, s, i) {
					t.Fatalf("%q does not lead to line %d: %+v", name, i, s)
				}
			}
		}
	})
}

// leadsTo tells whether the name finds line i or one before it that says the
// same.
func leadsTo(table *serviceTable, name string, s Service, i int) bool {
	for _, ref := range table.named(name) {
		if cursorOf(&table.entries[ref.entry]) == cursorOf(&s) && int(ref.entry) <= i {
			return true
		}
	}
	return false
}

// FuzzProtocolsFile does for protocols what FuzzServicesFile does for services.
func FuzzProtocolsFile(f *testing.F) {
	f.Add("tcp 6 TCP # transmission control\nudp 17\r\n")
	f.Add("a 0x6\nb -1\nc 4294967295\nd 6x\ne 6#\n\x00f 7")
	f.Add("ip 0 IP\nhopopt 0 HOPOPT\nip 1 x\n")
	f.Fuzz(func(t *testing.T, text string) {
		text = strings.ToValidUTF8(text, "\uFFFD")
		entries := parseProtocols(text, SourceFile)
		table := newProtocolTable(text)
		for _, p := range entries {
			checkWords(t, p.Name, "", p.Aliases, p.Description)
			line := fmt.Sprintf("%s %d %s #%s", p.Name, uint32(p.Number), strings.Join(p.Aliases, " "), p.Description)
			if again := parseProtocols(line, SourceFile); len(again) != 1 || !reflect.DeepEqual(again[0], p) {
				t.Fatalf("%q came back as %+v, not %+v", line, again, p)
			}
			for _, name := range allNames(p.Name, p.Aliases) {
				first := entries[table.byName[name]]
				if found, ok := table.find(name); !ok || found.Number != first.Number || found.Source != SourceFile {
					t.Fatalf("%q leads to %+v, %v", name, found, ok)
				}
			}
		}
	})
}

// checkWords asserts what the parser promises of every entry.
func checkWords(t *testing.T, name, protocol string, aliases []string, description string) {
	t.Helper()
	if name == "" || strings.ContainsFunc(description, func(r rune) bool { return r == '\n' || r == 0 }) || !utf8.ValidString(description) {
		t.Fatalf("name %q, description %q", name, description)
	}
	for _, word := range append([]string{name, protocol}, aliases...) {
		if strings.ContainsAny(word, " \t\n\v\f\r#\x00") || !utf8.ValidString(word) {
			t.Fatalf("%q is no word", word)
		}
	}
	for _, alias := range aliases {
		if alias == "" {
			t.Fatal("empty alias")
		}
	}
}

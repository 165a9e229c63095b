package names

import (
	"cmp"
	_ "embed"
	"slices"
	"sort"
	"strings"
)

//go:generate go -C ../../tools run ./iana -o ../service/names/data/services

// embeddedServices is a services file like any other, made by tools/iana.
//
//go:embed data/services
var embeddedServices string

// serviceTable is the services of one moment: the host's file and the embedded
// table merged, with the three orders in which they are asked for. It never
// changes once built.
type serviceTable struct {
	// entries are in order of precedence: the lines of the host's file from
	// first to last, then what the embedded table adds.
	entries []Service
	// host counts the entries that come from the host's file.
	host int
	// hasFile tells whether the host has a services file, be it empty.
	hasFile bool
	// listed indexes the entries in listing order, each port, protocol and
	// name once.
	listed []int32
	// byPort indexes the same entries by port, then protocol, then precedence.
	byPort []int32
	// byName holds every name and alias, sorted by it, then protocol, then
	// precedence.
	byName []serviceName
}

type serviceName struct {
	name  string
	entry int32
}

// newServiceTable merges the host's file, if it has one, with the embedded
// table.
func newServiceTable(file string, hasFile bool) *serviceTable {
	host := parseServices(file, SourceFile)
	t := &serviceTable{
		entries: addServices(host, parseServices(embeddedServices, SourceIANA)),
		host:    len(host),
		hasFile: hasFile,
	}
	t.index()
	return t
}

// addServices appends to host what the embedded entries add to it. For one
// port and protocol a name that the file gives belongs to the file: the
// embedded entry lends it its description and keeps the names that are left.
func addServices(host, embedded []Service) []Service {
	type key struct {
		port     uint16
		protocol string
	}
	given := make(map[key][]int32, len(host))
	for i, s := range host {
		k := key{s.Port, s.Protocol}
		given[k] = append(given[k], int32(i))
	}
	all := slices.Grow(host, len(embedded))
	for _, s := range embedded {
		var left []string
		for _, i := range given[key{s.Port, s.Protocol}] {
			if left == nil {
				left = allNames(s.Name, s.Aliases)
			}
			var shared bool
			left, shared = without(left, all[i].Name, all[i].Aliases)
			if shared && all[i].Description == "" {
				all[i].Description = s.Description
			}
			if len(left) == 0 {
				break
			}
		}
		switch {
		case left == nil:
			all = append(all, s)
		case len(left) > 0:
			s.Name, s.Aliases = left[0], left[1:]
			all = append(all, s)
		}
	}
	return all
}

// allNames returns the name and its aliases in a new slice.
func allNames(name string, aliases []string) []string {
	return append([]string{name}, aliases...)
}

// without removes from list the name and the aliases, and tells whether one of
// them was in it. The result is not nil.
func without(list []string, name string, aliases []string) (left []string, shared bool) {
	n := len(list)
	list = slices.DeleteFunc(list, func(s string) bool { return s == name || slices.Contains(aliases, s) })
	return list, len(list) < n
}

// index builds the orders. A line that repeats the port, protocol and name of
// an earlier one is not listed again, but the aliases it adds lead to it, as
// they do in the C library.
func (t *serviceTable) index() {
	order := make([]int32, len(t.entries))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int {
		if c := compare(cursorOf(&t.entries[a]), cursorOf(&t.entries[b])); c != 0 {
			return c
		}
		return cmp.Compare(a, b)
	})
	t.listed = make([]int32, 0, len(order))
	t.byName = make([]serviceName, 0, len(order)*5/4)
	for len(order) > 0 {
		n := 1
		for n < len(order) && cursorOf(&t.entries[order[n]]) == cursorOf(&t.entries[order[0]]) {
			n++
		}
		t.listed = append(t.listed, order[0])
		t.addNames(order[:n])
		order = order[n:]
	}
	t.byPort = slices.Clone(t.listed)
	slices.SortFunc(t.byPort, func(a, b int32) int {
		x, y := &t.entries[a], &t.entries[b]
		if x.Port != y.Port {
			return cmp.Compare(x.Port, y.Port)
		}
		return cmp.Or(compareProtocols(x.Protocol, y.Protocol), cmp.Compare(a, b))
	})
	slices.SortFunc(t.byName, func(a, b serviceName) int {
		if c := strings.Compare(a.name, b.name); c != 0 {
			return c
		}
		x, y := &t.entries[a.entry], &t.entries[b.entry]
		return cmp.Or(compareProtocols(x.Protocol, y.Protocol), cmp.Compare(a.entry, b.entry))
	})
	t.byName = slices.Compact(t.byName)
}

// addNames adds the names of entries that share port, protocol and name, in
// order of precedence: each name leads to the first that has it.
func (t *serviceTable) addNames(same []int32) {
	if len(same) == 1 { // Nearly always.
		s := &t.entries[same[0]]
		t.byName = append(t.byName, serviceName{s.Name, same[0]})
		for _, alias := range s.Aliases {
			t.byName = append(t.byName, serviceName{alias, same[0]})
		}
		return
	}
	seen := make(map[string]bool)
	for _, i := range same {
		for _, name := range allNames(t.entries[i].Name, t.entries[i].Aliases) {
			if !seen[name] {
				seen[name] = true
				t.byName = append(t.byName, serviceName{name, i})
			}
		}
	}
}

// named returns the part of byName that has the name.
func (t *serviceTable) named(name string) []serviceName {
	from, _ := slices.BinarySearchFunc(t.byName, name, func(n serviceName, name string) int {
		return strings.Compare(n.name, name)
	})
	to := from
	for to < len(t.byName) && t.byName[to].name == name {
		to++
	}
	return t.byName[from:to]
}

// at returns the part of byPort that has the port.
func (t *serviceTable) at(port uint16) []int32 {
	from, _ := slices.BinarySearchFunc(t.byPort, port, func(i int32, port uint16) int {
		return cmp.Compare(t.entries[i].Port, port)
	})
	to := from
	for to < len(t.byPort) && t.entries[t.byPort[to]].Port == port {
		to++
	}
	return t.byPort[from:to]
}

// page is [Tables.Services] for this moment.
func (t *serviceTable) page(protocol string, class PortClass, after Cursor, limit int) (page []Service, next Cursor) {
	from := 0
	if after != (Cursor{}) {
		from = sort.Search(len(t.listed), func(i int) bool {
			return compare(cursorOf(&t.entries[t.listed[i]]), after) > 0
		})
	}
	for _, i := range t.listed[from:] {
		s := t.entries[i]
		if protocol != "" && s.Protocol != protocol || class != PortClassUnspecified && s.Class() != class {
			continue
		}
		if limit > 0 && len(page) == limit {
			return page, cursorOf(&page[limit-1])
		}
		page = append(page, s)
	}
	return page, Cursor{}
}

func cursorOf(s *Service) Cursor { return Cursor{Port: s.Port, Protocol: s.Protocol, Name: s.Name} }

// compare is the listing order. It depends on nothing but the three fields, so
// that a place in it stays right when the table changes.
func compare(a, b Cursor) int {
	if a.Port != b.Port { // Spares the rest, nearly always.
		return cmp.Compare(a.Port, b.Port)
	}
	return cmp.Or(compareProtocols(a.Protocol, b.Protocol), strings.Compare(a.Name, b.Name))
}

// compareProtocols puts tcp first, then udp, then the others by name.
func compareProtocols(a, b string) int {
	if a == b {
		return 0
	}
	return cmp.Or(cmp.Compare(protocolRank(a), protocolRank(b)), strings.Compare(a, b))
}

func protocolRank(protocol string) int {
	switch protocol {
	case "tcp":
		return 0
	case "udp":
		return 1
	default:
		return 2
	}
}

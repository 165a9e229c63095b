package names

import (
	_ "embed"
	"slices"
	"strconv"
)

// embeddedProtocols is a protocols file like any other, kept by hand.
//
//go:embed data/protocols
var embeddedProtocols string

// protocolTable is the protocols of one moment. It never changes once built.
type protocolTable struct {
	entries  []Protocol // the lines of the host's file, then what the embedded table adds
	byName   map[string]int32
	byNumber map[int32]int32
}

// newProtocolTable merges the host's file with the embedded table, as
// newServiceTable does: for one number, a name that the file gives belongs to
// the file.
func newProtocolTable(file string) *protocolTable {
	host := parseProtocols(file, SourceFile)
	given := make(map[int32][]int32, len(host))
	for i, p := range host {
		given[p.Number] = append(given[p.Number], int32(i))
	}
	entries := host
	for _, p := range parseProtocols(embeddedProtocols, SourceIANA) {
		left := allNames(p.Name, p.Aliases)
		for _, i := range given[p.Number] {
			var shared bool
			left, shared = without(left, entries[i].Name, entries[i].Aliases)
			if shared && entries[i].Description == "" {
				entries[i].Description = p.Description
			}
		}
		if len(left) > 0 {
			p.Name, p.Aliases = left[0], slices.Clip(left[1:])
			entries = append(entries, p)
		}
	}
	t := &protocolTable{
		entries:  entries,
		byName:   make(map[string]int32, 3*len(entries)),
		byNumber: make(map[int32]int32, len(entries)),
	}
	for i, p := range slices.Backward(entries) { // Backward, so that the first line wins.
		t.byNumber[p.Number] = int32(i)
		for _, name := range allNames(p.Name, p.Aliases) {
			t.byName[name] = int32(i)
		}
	}
	return t
}

// find looks for key as a name, then as an alias, then as a decimal number.
func (t *protocolTable) find(key string) (Protocol, bool) {
	i, ok := t.byName[key]
	if !ok {
		number, err := strconv.ParseUint(key, 10, 31)
		if err != nil {
			return Protocol{}, false
		}
		if i, ok = t.byNumber[int32(number)]; !ok {
			return Protocol{}, false
		}
	}
	return t.entries[i], true
}

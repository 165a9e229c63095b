package names

import (
	"cmp"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lookAgain is how long the host's files are trusted before they are
	// looked at again.
	lookAgain = time.Second
	// maxFile bounds what is read of a host file. The largest that systems
	// ship, with the whole registry and its comments, is about 1 MiB.
	maxFile = 4 << 20
)

// Config names the host's files. The zero value is right for every Unix.
type Config struct {
	// ServicesFile is the services(5) file; empty means /etc/services.
	ServicesFile string
	// ProtocolsFile is the protocols(5) file; empty means /etc/protocols.
	ProtocolsFile string
}

// Tables answers lookups. Any number of goroutines may use one at a time. It
// holds no goroutine and no open file, so there is nothing to close.
type Tables struct {
	opened   time.Time
	due      atomic.Int64 // when to look at the files again, in nanoseconds since opened
	snapshot atomic.Pointer[snapshot]

	mu        sync.Mutex // held by the one caller that looks at the files
	services  hostFile
	protocols hostFile
}

// snapshot is both tables of one moment.
type snapshot struct {
	services  *serviceTable
	protocols *protocolTable
}

// Open returns the tables over the files that c names. It reads nothing yet:
// the first lookup does, and takes about 10 ms.
//
// A file that is missing, cannot be read or is not a regular file leaves the
// embedded table alone to answer; so no file at all is no error. Of a file
// larger than 4 MiB the lines that end within its first 4 MiB count. When a
// file changes, appears or goes, lookups follow within about a second.
func Open(c Config) *Tables {
	return &Tables{
		opened:    time.Now(),
		services:  hostFile{path: cmp.Or(c.ServicesFile, "/etc/services")},
		protocols: hostFile{path: cmp.Or(c.ProtocolsFile, "/etc/protocols")},
	}
}

// Service returns every service that has the name, as its official name or as
// an alias, over the protocol; an empty protocol means all. Both are compared
// exactly. tcp comes first, then udp, then the others by name; within one
// protocol the host's file precedes the embedded table, and the first line of
// the file is the one that getservbyname(3) returns. None found is an empty
// slice.
func (t *Tables) Service(name, protocol string) []Service {
	table := t.current().services
	refs := table.named(name)
	var found []Service
	for _, ref := range refs {
		if s := &table.entries[ref.entry]; protocol == "" || s.Protocol == protocol {
			if found == nil {
				found = make([]Service, 0, len(refs))
			}
			found = append(found, *s)
		}
	}
	return found
}

// Port returns every service on the port over the protocol; an empty protocol
// means all. The order is that of [Tables.Service], so the first answer for a
// protocol that the host's file knows is the one that getservbyport(3)
// returns. None found is an empty slice.
func (t *Tables) Port(port uint16, protocol string) []Service {
	table := t.current().services
	refs := table.at(port)
	var found []Service
	for _, i := range refs {
		if s := &table.entries[i]; protocol == "" || s.Protocol == protocol {
			if found == nil {
				found = make([]Service, 0, len(refs))
			}
			found = append(found, *s)
		}
	}
	return found
}

// GetServByName returns what getservbyname(3) returns to the programs on this
// host: the first line of the services file that has the name, and, if a
// protocol is given, that protocol. The embedded table answers only where the
// host has no services file. getaddrinfo(3) resolves service names so: one
// that is merely registered with IANA does not exist for it.
func (t *Tables) GetServByName(name, protocol string) (Service, bool) {
	table := t.current().services
	first := len(table.entries)
	for _, ref := range table.named(name) {
		if protocol == "" || table.entries[ref.entry].Protocol == protocol {
			first = min(first, int(ref.entry))
		}
	}
	return table.known(first)
}

// GetServByPort returns what getservbyport(3) returns to the programs on this
// host, in the same sense as [Tables.GetServByName]. getnameinfo(3) names
// ports so.
func (t *Tables) GetServByPort(port uint16, protocol string) (Service, bool) {
	table := t.current().services
	first := len(table.entries)
	for _, i := range table.at(port) {
		if protocol == "" || table.entries[i].Protocol == protocol {
			first = min(first, int(i))
		}
	}
	return table.known(first)
}

// known returns entry i if the C library would know it.
func (t *serviceTable) known(i int) (Service, bool) {
	if i >= len(t.entries) || t.hasFile && i >= t.host {
		return Service{}, false
	}
	return t.entries[i], true
}

// Services returns the services over the protocol (empty: all) whose port is
// in the class (unspecified: all), at most limit of them (0 or less: all),
// beginning after the given place. They are sorted by port, then tcp, udp and
// the other protocols by name, then by name; each such triple appears once.
//
// next is the place to go on from; zero says that nothing is left. Going on is
// right even when the files have changed in between: an entry that stood there
// all the time comes exactly once.
func (t *Tables) Services(protocol string, class PortClass, after Cursor, limit int) (page []Service, next Cursor) {
	return t.current().services.page(protocol, class, after, limit)
}

// Protocol returns the IP protocol that has key as its name or as an alias,
// compared exactly, or else as its number in decimal: "tcp", "TCP" and "6" are
// the same. The host's file precedes the embedded table, and its first line
// that matches wins, as with getprotobyname(3). ok is false if there is none.
func (t *Tables) Protocol(key string) (p Protocol, ok bool) {
	return t.current().protocols.find(key)
}

// current returns the snapshot to answer from. Once there is one, no caller
// waits: the one who finds it due looks at the files, the others go on with
// what they have.
func (t *Tables) current() *snapshot {
	old := t.snapshot.Load()
	if old != nil && int64(time.Since(t.opened)) < t.due.Load() {
		return old
	}
	if old == nil {
		t.mu.Lock()
	} else if !t.mu.TryLock() {
		return old
	}
	defer t.mu.Unlock()
	old = t.snapshot.Load()
	if old != nil && int64(time.Since(t.opened)) < t.due.Load() {
		return old
	}
	fresh := t.refresh(old)
	t.snapshot.Store(fresh)
	t.due.Store(int64(time.Since(t.opened) + lookAgain))
	return fresh
}

// refresh returns a snapshot of the files as they are now: old itself if
// nothing has changed.
func (t *Tables) refresh(old *snapshot) *snapshot {
	services, servicesChanged := t.services.look()
	protocols, protocolsChanged := t.protocols.look()
	if old != nil && !servicesChanged && !protocolsChanged {
		return old
	}
	fresh := new(snapshot)
	if old != nil {
		*fresh = *old
	}
	if servicesChanged || old == nil {
		fresh.services = newServiceTable(services, t.services.seen != nil)
	}
	if protocolsChanged || old == nil {
		fresh.protocols = newProtocolTable(protocols)
	}
	return fresh
}

// hostFile is one of the host's files as it was last seen.
type hostFile struct {
	path string
	seen os.FileInfo // nil: there was no readable file
}

// look returns the text of the file if it is not as it was when last looked
// at. A file that is not there has no text.
func (f *hostFile) look() (text string, changed bool) {
	was := f.seen
	f.seen = nil
	// Stat before opening: to open a FIFO would be to wait for its writer.
	now, err := os.Stat(f.path)
	if err != nil || !now.Mode().IsRegular() {
		return "", was != nil
	}
	if was != nil && os.SameFile(was, now) && was.Size() == now.Size() && was.ModTime().Equal(now.ModTime()) {
		f.seen = was
		return "", false
	}
	text, err = readText(f.path)
	if err != nil {
		return "", was != nil
	}
	f.seen = now
	return text, true
}

// readText reads the lines that end within the first maxFile bytes.
func readText(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }() // Only read: nothing can be lost.
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return "", err
	}
	text := string(data)
	if len(text) > maxFile {
		text = text[:strings.LastIndexByte(text[:maxFile], '\n')+1]
	}
	return strings.ToValidUTF8(text, "\uFFFD"), nil
}

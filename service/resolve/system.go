package resolve

import (
	"os"
	"sync"
	"time"
)

// system is what the files of this machine say at one moment. It is shared
// and never changed.
type system struct {
	seen     time.Time
	resolv   *resolvConf
	hosts    *hostsFile // nil: there is no such file
	multi    bool       // host.conf: a name may have several lines in the hosts file
	sources  []source
	gai      *gaiTables
	hostname string // empty: unknown
}

// freshness is how long the files are taken to be unchanged after a look at
// them: short for a person who edits one and asks again, long for thousands of
// look-ups a second.
const freshness = 100 * time.Millisecond

// system takes a look at the files. Each is parsed again only when it changed.
func (r *Resolver) system() *system {
	if s := r.current.Load(); s != nil && time.Since(s.seen) < freshness {
		return s
	}
	hostname, _ := r.config.Hostname()
	s := &system{seen: time.Now(), hostname: hostname}
	s.resolv = r.resolvConf.load(r.config.ResolvConf, hostname, func(data []byte, _ bool) *resolvConf {
		return parseResolvConf(data, r.config.Getenv, hostname)
	})
	s.hosts = r.hosts.load(r.config.Hosts, "", func(data []byte, exists bool) *hostsFile {
		if !exists {
			return nil
		}
		return parseHosts(data)
	})
	s.multi = r.hostConf.load(r.config.HostConf, "", func(data []byte, exists bool) bool {
		// Images without the file merge too: that is what their users expect
		// of several lines, and what other C libraries do.
		return !exists || parseHostConf(data)
	})
	s.sources = r.nsswitch.load(r.config.Nsswitch, "", func(data []byte, _ bool) []source { return parseNsswitch(data) })
	s.gai = r.gaiConf.load(r.config.GaiConf, "", func(data []byte, _ bool) *gaiTables { return parseGaiConf(data) })
	r.current.Store(s)
	return s
}

// file is a parsed file that is read again when it changes.
type file[T any] struct {
	mu     sync.Mutex
	loaded bool
	stamp  stamp
	key    string
	value  T
}

// stamp tells one state of a file from the next. The change time is part of
// it, because contents may be replaced within the same second and size.
type stamp struct {
	exists        bool
	device, inode uint64
	size          int64
	mtime, ctime  time.Time
}

// racy is how old a file must be before its stamp is trusted: a change within
// the granularity of the file system's clock would not show.
const racy = 20 * time.Millisecond

// load returns what parse makes of the file. key is an input of parse other
// than the file: when it changes, the file is parsed again.
func (f *file[T]) load(path, key string, parse func(data []byte, exists bool) T) T {
	now := stampOf(path)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.loaded && f.stamp == now && f.key == key {
		return f.value
	}
	data, err := os.ReadFile(path)
	f.value = parse(data, err == nil)
	f.stamp, f.key = now, key
	f.loaded = !now.exists || time.Since(now.ctime) > racy
	return f.value
}

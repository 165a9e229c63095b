package resolve

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"probed/service/dial"
)

// Config says where a Resolver finds its facts. The zero value is the machine
// it runs on.
type Config struct {
	// Paths of the configuration files. Empty: /etc/resolv.conf, /etc/hosts,
	// /etc/nsswitch.conf, /etc/gai.conf and /etc/host.conf.
	ResolvConf, Hosts, Nsswitch, GaiConf, HostConf string

	// ServicePort is getservbyname(3): the port of a service for one protocol
	// ("tcp", "udp", "sctp", "dccp", "udplite"). ServiceName is
	// getservbyport(3), protocol as for ServicePort. Nil: no service has a name.
	ServicePort func(name, protocol string) (port uint16, ok bool)
	ServiceName func(port uint16, protocol string) (name string, ok bool)

	// DialServer opens a connection to a configured name server; network is
	// "udp" or "tcp". Nil: dial.NameServers.
	DialServer func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error)

	// Timeout bounds a whole lookup, however many servers and names it takes.
	// The time left is shared among the tries to come, so that each server gets
	// its turn. Zero: 5 s. Negative: only resolv.conf and the context bound it.
	Timeout time.Duration

	// Getenv reads RES_OPTIONS and LOCALDOMAIN. Nil: os.Getenv.
	Getenv func(string) string
	// Hostname is the machine's own name. Nil: os.Hostname.
	Hostname func() (string, error)

	// Walked is called when a lookup has ended, with the context it was made in and
	// every step that it took, for traces. Nil: nobody is told.
	Walked func(ctx context.Context, steps []Step)
}

const defaultTimeout = 5 * time.Second

func (c *Config) timeout() time.Duration {
	if c.Timeout == 0 {
		return defaultTimeout
	}
	return c.Timeout
}

// Resolver resolves names and addresses. It may be used by many goroutines at
// the same time. It starts no goroutine that outlives a call, and holds no
// sockets, but for a moment those that dial.NameServers uses again.
type Resolver struct {
	config Config
	dial   dialFunc

	resolvConf file[*resolvConf]
	hosts      file[*hostsFile]
	hostConf   file[bool]
	nsswitch   file[[]source]
	gaiConf    file[*gaiTables]
	current    atomic.Pointer[system]

	buffers sync.Pool     // of *[]byte, large enough for any message
	turn    atomic.Uint32 // option rotate: the server to begin with
}

// New returns a Resolver. It reads no file yet.
func New(config Config) *Resolver {
	orElse := func(path *string, otherwise string) {
		if *path == "" {
			*path = otherwise
		}
	}
	orElse(&config.ResolvConf, "/etc/resolv.conf")
	orElse(&config.Hosts, "/etc/hosts")
	orElse(&config.Nsswitch, "/etc/nsswitch.conf")
	orElse(&config.GaiConf, "/etc/gai.conf")
	orElse(&config.HostConf, "/etc/host.conf")
	if config.Getenv == nil {
		config.Getenv = os.Getenv
	}
	if config.Hostname == nil {
		config.Hostname = os.Hostname
	}
	r := &Resolver{config: config, dial: config.DialServer}
	if r.dial == nil {
		r.dial = new(dial.NameServers).Dial
	}
	r.buffers.New = func() any {
		b := make([]byte, 1<<16)
		return &b
	}
	return r
}

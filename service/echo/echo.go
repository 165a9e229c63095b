// Package echo answers as RFC 862 says: on a stream, every byte that comes goes back until the peer closes; a datagram
// goes back as it came. It is the far end for whoever wants to see whether bytes make the way and return.
//
// [Listen] opens one listener; it owns its goroutines, and [Listener.Close] ends them. Streams are bounded in number,
// and a stream on which nothing happens is closed after a while, so that a listener can be left running.
package echo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	// DefaultMaxStreams is how many streams one listener serves at a time; more wait until one ends.
	DefaultMaxStreams = 256
	// DefaultIdle is how long a stream may be silent.
	DefaultIdle = 5 * time.Minute

	bufferSize   = 32 << 10
	largestGram  = 64 << 10
	acceptPause  = 100 * time.Millisecond // after an accept that failed for want of file descriptors
	writeTimeout = 30 * time.Second       // a peer that does not read what it sent itself
)

// Config is what a listener is opened with.
type Config struct {
	// Address is where: tcp://HOST:PORT, udp://HOST:PORT or unix://PATH.
	Address string
	// MaxStreams and Idle bound streams; zero: the defaults.
	MaxStreams int
	Idle       time.Duration
	// Hooks observes; nil: nobody does.
	Hooks *Hooks
}

// Hooks are called as a listener answers, for metrics, with tcp, udp or unix. Each may be nil. They are called from
// several goroutines.
type Hooks struct {
	// Opened is called when a stream begins to be served, and Closed when it has ended. A datagram is no stream.
	Opened, Closed func(network string)
	// Echoed is called with the bytes that have been sent back.
	Echoed func(network string, bytes int)
}

// AddressError says why an address cannot be read.
type AddressError struct {
	Address string // as it was given
	Reason  string // what is wrong, and what would be right
}

func (e *AddressError) Error() string { return fmt.Sprintf("echo address %q: %s", e.Address, e.Reason) }

// Listener answers until it is closed.
type Listener struct {
	config  Config
	network string
	stream  net.Listener   // of tcp and unix
	packet  net.PacketConn // of udp

	mu      sync.Mutex
	closed  bool
	streams map[net.Conn]struct{}
	running sync.WaitGroup
}

// Listen opens a listener. The file of a unix socket that a process which is gone has left behind is replaced. The error
// is an [AddressError] or that of listening.
func Listen(ctx context.Context, config Config) (*Listener, error) {
	network, address, ok := strings.Cut(config.Address, "://")
	if !ok {
		return nil, &AddressError{config.Address, "it is tcp://HOST:PORT, udp://HOST:PORT or unix://PATH"}
	}
	if config.MaxStreams == 0 {
		config.MaxStreams = DefaultMaxStreams
	}
	if config.Idle == 0 {
		config.Idle = DefaultIdle
	}
	if config.Hooks == nil {
		config.Hooks = &Hooks{}
	}
	l := &Listener{config: config, network: network, streams: make(map[net.Conn]struct{})}
	var listen net.ListenConfig
	var err error
	switch network {
	case "tcp":
		l.stream, err = listen.Listen(ctx, network, address)
	case "unix":
		if address == "" { // which the kernel would take for an abstract socket of its own choice
			return nil, &AddressError{config.Address, "no path"}
		}
		if err = removeStale(address); err == nil {
			l.stream, err = listen.Listen(ctx, network, address)
		}
	case "udp":
		l.packet, err = listen.ListenPacket(ctx, network, address)
	default:
		return nil, &AddressError{config.Address, fmt.Sprintf("unknown scheme %q: it is tcp, udp or unix", network)}
	}
	if err != nil {
		return nil, err
	}
	if l.packet != nil {
		l.running.Go(l.servePackets)
	} else {
		l.running.Go(l.accept)
	}
	return l, nil
}

// removeStale removes a socket nobody listens on. Whether somebody does is asked of the kernel, by listing its sockets,
// rather than by connecting: outgoing sockets are not this package's to open.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("%s exists and is no socket", path)
	}
	sockets, err := os.ReadFile("/proc/net/unix")
	if err != nil { // it cannot be known: the bind will tell
		return nil
	}
	for line := range strings.Lines(string(sockets)) {
		bound := boundPath(line)
		if bound == path {
			return nil
		}
		// It may have been bound by another name: a path with a link in it, or one relative to where its process is.
		other, err := os.Lstat(bound)
		if err == nil && os.SameFile(info, other) || !filepath.IsAbs(bound) && filepath.Base(bound) == filepath.Base(path) {
			return nil
		}
	}
	return os.Remove(path)
}

// boundPath is the last field of a line of /proc/net/unix (proc_pid_net(5)), spaces in it included; empty for a socket
// without a name. The seven fields before it are numbers.
func boundPath(line string) string {
	rest := strings.TrimSuffix(line, "\n")
	for range 7 {
		_, rest, _ = strings.Cut(strings.TrimLeft(rest, " "), " ")
	}
	return rest
}

// Addr is the address it listens on, in the form of [Config.Address].
func (l *Listener) Addr() string {
	if l.packet != nil {
		return l.network + "://" + l.packet.LocalAddr().String()
	}
	return l.network + "://" + l.stream.Addr().String()
}

// Close ends the listener and every stream, and waits for its goroutines.
func (l *Listener) Close() error {
	l.mu.Lock()
	l.closed = true
	for conn := range l.streams {
		_ = conn.Close()
	}
	l.mu.Unlock()
	var err error
	if l.packet != nil {
		err = l.packet.Close()
	} else {
		err = l.stream.Close()
	}
	l.running.Wait()
	return err
}

func (l *Listener) accept() {
	free := make(chan struct{}, l.config.MaxStreams)
	for {
		free <- struct{}{}
		conn, err := l.stream.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			<-free
			time.Sleep(acceptPause)
			continue
		}
		if !l.add(conn) {
			_ = conn.Close()
			return
		}
		l.running.Go(func() {
			defer func() { <-free }()
			defer l.remove(conn)
			observe(l.config.Hooks.Opened, l.network)
			defer observe(l.config.Hooks.Closed, l.network)
			l.serveStream(conn)
		})
	}
}

func (l *Listener) add(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.streams[conn] = struct{}{}
	return true
}

func (l *Listener) remove(conn net.Conn) {
	l.mu.Lock()
	delete(l.streams, conn)
	l.mu.Unlock()
	_ = conn.Close()
}

// serveStream sends back what comes until the peer closes, is silent for too long, or does not read.
func (l *Listener) serveStream(conn net.Conn) {
	buffer := make([]byte, bufferSize)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(l.config.Idle))
		n, err := conn.Read(buffer)
		if n > 0 {
			_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout))
			sent, writeErr := conn.Write(buffer[:n])
			l.count(sent)
			if writeErr != nil {
				return
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				closeWrite(conn)
			}
			return
		}
	}
}

// closeWrite lets the peer read the end of file before the socket goes.
func closeWrite(conn net.Conn) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}

func (l *Listener) servePackets() {
	buffer := make([]byte, largestGram)
	for {
		n, from, err := l.packet.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || from == nil {
			continue // an ICMP error about an answer before: the next datagram is not concerned
		}
		if reflected(from) {
			continue
		}
		if sent, err := l.packet.WriteTo(buffer[:n], from); err == nil {
			l.count(sent)
		}
	}
}

// reflected tells whether a datagram claims to come from a port whose service answers everything: two of these would
// keep each other busy for ever (CERT CA-1996-01).
func reflected(from net.Addr) bool {
	udp, ok := from.(*net.UDPAddr)
	if !ok {
		return false
	}
	switch udp.Port {
	case 0, 7, 13, 17, 19, 37, 53, 123:
		return true
	}
	return false
}

func (l *Listener) count(n int) {
	if hook := l.config.Hooks.Echoed; hook != nil && n > 0 {
		hook(l.network, n)
	}
}

func observe(hook func(network string), network string) {
	if hook != nil {
		hook(network)
	}
}

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	configv1 "probed/gen/probe/config/v1"
)

// What is right by the rules, and what no probed starts with all the same, as far as that is known before it listens.

// listenAddress is where a listener of an IP network listens.
type listenAddress struct {
	network string // tcp or udp
	host    string // canonical; empty: every address of this host
	port    uint16 // 0: a free one
}

func parseListenAddress(network, text string) (listenAddress, error) {
	host, portText, err := net.SplitHostPort(text)
	if e, ok := errors.AsType[*net.AddrError](err); ok {
		return listenAddress{}, errors.New(e.Err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return listenAddress{}, fmt.Errorf("a port is a number from 0 to 65535, not %q", portText)
	}
	host = strings.ToLower(host)
	if address, err := netip.ParseAddr(host); err == nil {
		host = address.Unmap().String()
		if address.Unmap().IsUnspecified() { // of either family: package net then listens on both
			host = ""
		}
	}
	return listenAddress{network, host, uint16(port)}, nil
}

// excludes tells whether the kernel lets only one of them listen. Names are told apart by what they are, not by where they
// lead.
func (a listenAddress) excludes(b listenAddress) bool {
	return a.network == b.network && a.port == b.port && a.port != 0 && (a.host == b.host || a.host == "" || b.host == "")
}

// listeners checks the addresses of the listeners, and notes those of echo.
func (r *reader) listeners(m *configv1.Listeners) {
	type listener struct {
		field string
		listenAddress
	}
	var before []listener
	check := func(field, network, text string) error {
		address, err := parseListenAddress(network, text)
		if err != nil {
			return err
		}
		for _, other := range before {
			if address.excludes(other.listenAddress) {
				r.report(field, "%s listens there already", other.field)
				break
			}
		}
		before = append(before, listener{field, address})
		return nil
	}
	for _, l := range []struct{ name, address string }{
		{"grpc", m.GetGrpc().GetAddress()},
		{"http", m.GetHttp().GetAddress()},
		{"ops", m.GetOps().GetAddress()},
	} {
		// One that cannot be read has been reported by the schema.
		_ = check("listeners."+l.name+".address", "tcp", l.address)
	}
	paths := make(map[string]string)
	for i, echo := range m.GetEcho() {
		field := fmt.Sprintf("listeners.echo[%d]", i)
		network, address, _ := strings.Cut(echo, "://")
		var err error
		switch network {
		case "tcp", "udp":
			err = check(field, network, address)
		case "unix":
			address, err = r.echoPath(field, address, paths)
			echo = "unix://" + address
		}
		if err != nil {
			r.report(field, "%q is not tcp://HOST:PORT, udp://HOST:PORT or unix://PATH: %v", echo, err)
		}
		r.c.echo = append(r.c.echo, echo)
	}
}

// echoPath checks the path of an echo listener, and returns it as one of this process. The error is one of its form.
func (r *reader) echoPath(field, path string, paths map[string]string) (string, error) {
	if path == "" {
		return path, errors.New("there is no path")
	}
	if path[0] != '@' { // else it is abstract
		path = r.path(field, path)
		info, err := os.Lstat(path)
		switch {
		case err == nil && info.Mode().Type() != os.ModeSocket:
			r.report(field, "%s: it is there, and is no socket", path)
		case err != nil:
			r.parent(field, path)
		}
	}
	// The field of sockaddr_un (unix(7)), with the NUL at its end.
	if most := len(syscall.RawSockaddrUnix{}.Path) - 1; len(path) > most {
		return path, fmt.Errorf("the path is longer than %d bytes", most)
	}
	r.once(field, filepath.Clean(path), paths)
	return path, nil
}

// auditPath checks a file that is to be appended to.
func (r *reader) auditPath(field, path string) {
	if info, err := os.Stat(path); err != nil {
		r.parent(field, path)
	} else if info.IsDir() {
		r.report(field, "%s: it is a directory", path)
	}
}

// parent reports that a file cannot be made, for want of a directory to be in.
func (r *reader) parent(field, path string) {
	dir := filepath.Dir(path)
	if strings.HasSuffix(path, "/") {
		dir = path
	}
	if info, err := os.Stat(dir); err != nil {
		r.report(field, "%s: %v", dir, withoutPath(err))
	} else if !info.IsDir() {
		r.report(field, "%s: it is no directory", dir)
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"probed/service/echo"
)

// listeners are the sockets probed listens on. The first three may be nil: not wanted.
type listeners struct {
	grpc, http, ops net.Listener
	echo            []*echo.Listener
	reachable       int // how many of grpc and http are reachable from outside
}

// listen opens them all, or none. Nothing is accepted yet.
func listen(ctx context.Context, o options, hooks *echo.Hooks) (l *listeners, err error) {
	l = &listeners{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	for _, want := range []struct {
		flag, address string
		listener      *net.Listener
		guarded       bool
	}{
		{"--grpc-listen", o.grpcListen, &l.grpc, true},
		{"--http-listen", o.httpListen, &l.http, true},
		{"--ops-listen", o.opsListen, &l.ops, false},
	} {
		if want.address == "" {
			continue
		}
		var listen net.ListenConfig
		listener, err := listen.Listen(ctx, "tcp", want.address)
		if err != nil {
			return l, asUsage(fmt.Errorf("%s: %w", want.flag, err))
		}
		*want.listener = listener
		if want.guarded && isReachable(addrPort(listener).Addr()) {
			l.reachable++
		}
	}
	for _, address := range o.echo {
		listener, err := echo.Listen(ctx, echo.Config{Address: address, Hooks: hooks})
		if err != nil {
			return l, asUsage(fmt.Errorf("--echo %s: %w", address, err))
		}
		l.echo = append(l.echo, listener)
	}
	return l, nil
}

// asUsage marks an error as one of the command line when it says that an address is none.
func asUsage(err error) error {
	if _, ok := errors.AsType[*net.AddrError](err); ok {
		return usageError{err}
	}
	if _, ok := errors.AsType[*echo.AddressError](err); ok {
		return usageError{err}
	}
	return err
}

func (l *listeners) close() {
	for _, listener := range []net.Listener{l.grpc, l.http, l.ops} {
		if listener != nil {
			_ = listener.Close() // its server may have closed it
		}
	}
	for _, listener := range l.echo {
		_ = listener.Close()
	}
}

// own are the addresses that no caller may reach through probed: a probe that asks itself could go round any rule
// about where requests come from. The echo listeners are there to be reached.
func (l *listeners) own() []netip.AddrPort {
	var own []netip.AddrPort
	for _, listener := range []net.Listener{l.grpc, l.http, l.ops} {
		if listener != nil {
			own = append(own, addrPort(listener))
		}
	}
	return own
}

// named are the listeners in the order they are announced.
func (l *listeners) named() [][2]string {
	var named [][2]string
	for _, listener := range []struct {
		name string
		net.Listener
	}{{"grpc", l.grpc}, {"http", l.http}, {"ops", l.ops}} {
		if listener.Listener != nil {
			named = append(named, [2]string{listener.name, listener.Addr().String()})
		}
	}
	for _, listener := range l.echo {
		named = append(named, [2]string{"echo", listener.Addr()})
	}
	return named
}

// writeFile writes the addresses to a file, which is whole as soon as it is there.
func (l *listeners) writeFile(path string) error {
	var text strings.Builder
	for _, entry := range l.named() {
		text.WriteString(entry[0] + "=" + entry[1] + "\n")
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".listen-*")
	if err != nil {
		return err
	}
	_, err = file.WriteString(text.String())
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name()) // the first failure is the one to tell
	}
	return err
}

func addrPort(listener net.Listener) netip.AddrPort {
	address, ok := listener.Addr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	canonical := address.AddrPort()
	return netip.AddrPortFrom(canonical.Addr().Unmap(), canonical.Port())
}

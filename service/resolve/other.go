//go:build !linux

package resolve

import (
	"errors"
	"net"
	"net/netip"
	"os"
)

// Off Linux the kernel is not asked for routes: addresses are ordered by the
// rules that need no source address, and default routes are not told.

type sourceSocket struct{ family Family }

func (s *sourceSocket) close() {}

func (s *sourceSocket) sourceFor(netip.Addr, uint32) (netip.Addr, bool) {
	return netip.Addr{}, false
}

func localAddresses() ([]localAddress, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var all []localAddress
	for _, i := range interfaces {
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				ones, _ := n.Mask.Size()
				l := localAddress{addr: addr.Unmap(), prefixLen: ones, index: uint32(i.Index)}
				if i.Flags&net.FlagLoopback != 0 {
					l.scope = scopeHost
				}
				all = append(all, l)
			}
		}
	}
	return all, nil
}

func tunnels() map[uint32]bool { return map[uint32]bool{} }

func defaultRoutes(func(uint32) string) ([]Route, error) {
	return nil, errors.ErrUnsupported
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{exists: true, size: info.Size(), mtime: info.ModTime(), ctime: info.ModTime()}
}

func writeBoth(net.Conn, []byte, []byte) bool { return false }

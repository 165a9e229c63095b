package dial

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"syscall"
)

func (d *Dialer) dialIP(ctx context.Context, r Request) (net.Conn, error) {
	if !r.Address.IsValid() {
		return nil, r.failed(&DeniedError{r.destination(), errUnparsable})
	}
	queue := errorQueue{fd: -1}
	defer queue.close()
	return connectIP(ctx, r, d.asker(r), &queue)
}

// connectIP connects to r.Address if ask admits it. A queue, if not nil, watches the
// socket for what ICMP has to say to that.
func connectIP(ctx context.Context, r Request, ask func(context.Context, Destination) error, queue *errorQueue) (net.Conn, error) {
	addr := netip.AddrPortFrom(r.Address.Addr().Unmap(), r.Address.Port())
	family := "6"
	if addr.Addr().Is4() {
		family = "4"
	}
	transport := r.Network[:3]
	if want := r.Network[3:]; want != "" && want != family {
		return nil, r.failed(errno("socket", syscall.EAFNOSUPPORT))
	}

	source := r.Source.Unmap()
	sourceFits := source.IsValid() && source.Is4() == addr.Addr().Is4()
	d := net.Dialer{
		KeepAlive:     -1, // Nothing is sent but what was asked for.
		FallbackDelay: -1, // No other address is tried.
		ControlContext: func(ctx context.Context, network, address string, c syscall.RawConn) error {
			if err := ask(ctx, about(r, network, address)); err != nil {
				return err
			}
			// From here on the caller may know what there is on this host.
			if source.IsValid() && !sourceFits {
				return errno("bind", syscall.EADDRNOTAVAIL)
			}
			if _, err := zoneIndex(addr.Addr().Zone()); err != nil {
				return err
			}
			return control(c, func(fd int) error {
				if queue != nil {
					queue.watch(fd, transport, family == "6")
				}
				return prepare(fd, transport, sourceFits, r.Interface)
			})
		},
	}
	d.SetMultipathTCP(false)
	if sourceFits {
		from := netip.AddrPortFrom(source, 0)
		if transport == "tcp" {
			d.LocalAddr = net.TCPAddrFromAddrPort(from)
		} else {
			d.LocalAddr = net.UDPAddrFromAddrPort(from)
		}
	}
	// An address of one family, with nothing to resolve: this is a single connect.
	c, err := d.DialContext(ctx, transport+family, addr.String())
	if err != nil {
		failed := r.failed(err)
		if queue != nil {
			failed.Err = queue.explain(failed.Err)
		}
		return nil, failed
	}
	return c, nil
}

// about makes canonical what the kernel is about to be given, as package net reports
// it. What cannot be parsed comes out without an address, for the policy to deny.
func about(r Request, network, address string) Destination {
	to := Destination{Network: network, Host: r.Host, Send: r.Send, SkipVerify: r.SkipVerify}
	if a, err := netip.ParseAddrPort(address); err == nil {
		to.Address = netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
	}
	return to
}

// zoneIndex is the index of a zone, 0 for none. Package net takes one that does not
// exist for no zone at all.
func zoneIndex(zone string) (int, error) {
	if zone == "" {
		return 0, nil
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return i.Index, nil
	}
	if index, err := strconv.Atoi(zone); err == nil {
		if _, err := net.InterfaceByIndex(index); err == nil {
			return index, nil
		}
	}
	return 0, errno("if_nametoindex", syscall.ENODEV)
}

// control runs f on the descriptor of c.
func control(c syscall.RawConn, f func(fd int) error) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return err
}

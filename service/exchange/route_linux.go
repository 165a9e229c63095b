package exchange

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// routeTo asks the kernel which way packets to address take when they come from source and leave by the interface
// (unset and empty: whatever the routes say). It is nil when there is no way, or the kernel does not tell.
//
// The answer is that of this moment, and of an address alone: where rules route by port or several routes weigh the
// same, another connection may take another way.
func routeTo(address netip.AddrPort, source netip.Addr, iface string) *Route {
	//nolint:forbidigo // No packet leaves by this socket: netlink is a conversation with the kernel.
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	to := address.Addr().Unmap()
	if zone := to.Zone(); iface == "" && zone != "" {
		iface = zone
	}
	var index uint32
	if iface != "" {
		if index = indexOfInterface(fd, iface); index == 0 {
			return nil
		}
	}
	request := routeRequest(to, source.Unmap(), index)
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil
	}
	// The kernel has answered before sendto(2) returns.
	var reply [4096]byte
	n, err := ignoringEINTR(func() (int, error) {
		n, _, err := unix.Recvfrom(fd, reply[:], unix.MSG_DONTWAIT)
		return n, err
	})
	if err != nil {
		return nil
	}
	route, index := parseRoute(reply[:n])
	if route == nil {
		return nil
	}
	if !route.Source.IsValid() {
		route.Source = source.Unmap()
	}
	name, mtu := describeInterface(fd, index)
	route.Interface = name
	if route.MTU == 0 {
		route.MTU = mtu
	}
	return route
}

// routeRequest is an RTM_GETROUTE request (rtnetlink(7)).
func routeRequest(to, source netip.Addr, index uint32) []byte {
	family := byte(unix.AF_INET6)
	if to.Is4() {
		family = unix.AF_INET
	}
	var sourceBits byte
	attributes := appendAttribute(nil, unix.RTA_DST, to.AsSlice())
	if source.IsValid() && source.Is4() == to.Is4() {
		sourceBits = byte(source.BitLen())
		attributes = appendAttribute(attributes, unix.RTA_SRC, source.AsSlice())
	}
	if index != 0 {
		attributes = appendAttribute(attributes, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, index))
	}
	// A struct nlmsghdr and a struct rtmsg.
	request := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+unix.SizeofRtMsg+len(attributes)))
	request = binary.NativeEndian.AppendUint16(request, unix.RTM_GETROUTE)
	request = binary.NativeEndian.AppendUint16(request, unix.NLM_F_REQUEST)
	request = append(request, make([]byte, 8)...) // of whichever number, from the only socket there is
	request = append(request, family, byte(to.BitLen()), sourceBits)
	request = append(request, make([]byte, 9)...)
	return append(request, attributes...)
}

// appendAttribute adds a struct rtattr. All values here are of whole words, so there is nothing to pad.
func appendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	return append(b, value...)
}

// parseRoute reads the kernel's answer; it is nil when that is an error, or a route that leads nowhere. index is that of
// the interface.
func parseRoute(reply []byte) (route *Route, index uint32) {
	messages, err := syscall.ParseNetlinkMessage(reply)
	if err != nil || len(messages) == 0 {
		return nil, 0
	}
	m := &messages[0]
	if m.Header.Type != unix.RTM_NEWROUTE || len(m.Data) < unix.SizeofRtMsg {
		return nil, 0
	}
	switch (*unix.RtMsg)(unsafe.Pointer(&m.Data[0])).Type {
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		return nil, 0 // of IPv6: for IPv4 these are errors
	}
	attributes, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return nil, 0
	}
	route = &Route{}
	for _, a := range attributes {
		switch a.Attr.Type {
		case unix.RTA_PREFSRC:
			route.Source, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_GATEWAY:
			route.Gateway, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_VIA: // a gateway of the other family: a struct rtvia, which is that and the address
			if len(a.Value) > 2 {
				route.Gateway, _ = netip.AddrFromSlice(a.Value[2:])
			}
		case unix.RTA_OIF:
			if len(a.Value) >= 4 {
				index = binary.NativeEndian.Uint32(a.Value)
			}
		case unix.RTA_METRICS:
			route.MTU = int(metric(a.Value, unix.RTAX_MTU))
		}
	}
	return route, index
}

// metric finds one of the metrics of a route, which are attributes in an attribute; 0 when it has none.
func metric(metrics []byte, kind uint16) uint32 {
	for len(metrics) >= unix.SizeofRtAttr+4 {
		if binary.NativeEndian.Uint16(metrics[2:]) == kind {
			return binary.NativeEndian.Uint32(metrics[unix.SizeofRtAttr:])
		}
		// Each takes whole words.
		length := (int(binary.NativeEndian.Uint16(metrics)) + 3) &^ 3
		metrics = metrics[min(max(length, unix.SizeofRtAttr), len(metrics)):]
	}
	return 0
}

// indexOfInterface is the index of an interface that is told by its name or, as a zone may be, by its index; 0 when there
// is none of that name. Package net would list them all, and a node with many pods has many.
func indexOfInterface(fd int, name string) uint32 {
	if request, err := unix.NewIfreq(name); err == nil {
		if unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request) == nil {
			return request.Uint32()
		}
	}
	index, _ := strconv.ParseUint(name, 10, 31)
	return uint32(index)
}

// describeInterface is the name and the MTU of the interface with that index; what is not to be known is empty.
func describeInterface(fd int, index uint32) (name string, mtu int) {
	request, err := unix.NewIfreq("")
	if err != nil {
		return "", 0
	}
	request.SetUint32(index)
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFNAME, request); err != nil {
		return "", 0
	}
	name = request.Name()
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFMTU, request); err != nil {
		return name, 0
	}
	return name, int(request.Uint32())
}

package exchange

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"strconv"
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
// the interface. The parsers of package syscall will not do: they panic where a message or an attribute ends within a
// word, which the kernel's never do but a slice that was cut short does.
func parseRoute(reply []byte) (route *Route, index uint32) {
	if len(reply) < unix.SizeofNlMsghdr+unix.SizeofRtMsg {
		return nil, 0
	}
	header, message := reply[:unix.SizeofNlMsghdr], reply[unix.SizeofNlMsghdr:]
	if length := int(binary.NativeEndian.Uint32(header)); length > len(reply) ||
		binary.NativeEndian.Uint16(header[4:]) != unix.RTM_NEWROUTE {
		return nil, 0
	}
	switch (*unix.RtMsg)(unsafe.Pointer(&message[0])).Type {
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		return nil, 0 // of IPv6: for IPv4 these are errors
	}
	route = &Route{}
	for kind, value := range attributes(message[unix.SizeofRtMsg:]) {
		switch kind {
		case unix.RTA_PREFSRC:
			route.Source, _ = netip.AddrFromSlice(value)
		case unix.RTA_GATEWAY:
			route.Gateway, _ = netip.AddrFromSlice(value)
		case unix.RTA_VIA: // a gateway of the other family: a struct rtvia, which is that and the address
			if len(value) > 2 {
				route.Gateway, _ = netip.AddrFromSlice(value[2:])
			}
		case unix.RTA_OIF:
			if len(value) >= 4 {
				index = binary.NativeEndian.Uint32(value)
			}
		case unix.RTA_METRICS: // attributes in an attribute
			for metric, value := range attributes(value) {
				if metric == unix.RTAX_MTU && len(value) >= 4 {
					route.MTU = int(binary.NativeEndian.Uint32(value))
				}
			}
		}
	}
	return route, index
}

// attributes are those in a row of struct rtattr, up to the first that claims to be longer than what is there.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(kind uint16, value []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			length := int(binary.NativeEndian.Uint16(b))
			if length < unix.SizeofRtAttr || length > len(b) ||
				!yield(binary.NativeEndian.Uint16(b[2:]), b[unix.SizeofRtAttr:length]) {
				return
			}
			b = b[min((length+3)&^3, len(b)):] // each takes whole words
		}
	}
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

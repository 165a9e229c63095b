package resolve

import (
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// localAddresses reads the addresses of this machine from the kernel, in its
// order.
func localAddresses() ([]localAddress, error) {
	messages, err := dump(unix.RTM_GETADDR, unix.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	var all []localAddress
	for i := range messages {
		m := &messages[i]
		if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < unix.SizeofIfAddrmsg {
			continue
		}
		info := (*unix.IfAddrmsg)(unsafe.Pointer(&m.Data[0]))
		attrs, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil {
			continue
		}
		var a localAddress
		flags := uint32(info.Flags)
		for _, attr := range attrs {
			switch attr.Attr.Type {
			case unix.IFA_ADDRESS:
				a.addr, _ = netip.AddrFromSlice(attr.Value)
			case unix.IFA_LOCAL:
				if !a.addr.IsValid() {
					a.addr, _ = netip.AddrFromSlice(attr.Value)
				}
			}
		}
		if !a.addr.IsValid() {
			continue
		}
		if flags&(unix.IFA_F_DEPRECATED|unix.IFA_F_OPTIMISTIC) != 0 {
			a.flags |= flagDeprecated
		}
		if flags&unix.IFA_F_HOMEADDRESS != 0 {
			a.flags |= flagHomeAddress
		}
		a.prefixLen, a.index, a.scope = int(info.Prefixlen), info.Index, info.Scope
		all = append(all, a)
	}
	return all, nil
}

// tunnels tells for each interface whether it is a tunnel (IPIP, IP6 in IP6 or
// SIT), by index.
func tunnels() map[uint32]bool {
	found := map[uint32]bool{}
	messages, err := dump(unix.RTM_GETLINK, unix.AF_UNSPEC)
	if err != nil {
		return found
	}
	for i := range messages {
		m := &messages[i]
		if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg {
			continue
		}
		info := (*unix.IfInfomsg)(unsafe.Pointer(&m.Data[0]))
		switch info.Type {
		case unix.ARPHRD_TUNNEL, unix.ARPHRD_TUNNEL6, unix.ARPHRD_SIT:
			found[uint32(info.Index)] = true
		default:
			found[uint32(info.Index)] = false
		}
	}
	return found
}

// defaultRoutes reads the default routes of the main table.
func defaultRoutes(nameOf func(uint32) string) ([]Route, error) {
	messages, err := dump(unix.RTM_GETROUTE, unix.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	var routes []Route
	for i := range messages {
		m := &messages[i]
		if m.Header.Type != unix.RTM_NEWROUTE || len(m.Data) < unix.SizeofRtMsg {
			continue
		}
		info := (*unix.RtMsg)(unsafe.Pointer(&m.Data[0]))
		if info.Dst_len != 0 || info.Table != unix.RT_TABLE_MAIN || info.Type != unix.RTN_UNICAST ||
			info.Flags&unix.RTM_F_CLONED != 0 {
			continue
		}
		r := Route{Destination: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}
		if info.Family == unix.AF_INET6 {
			r.Destination = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		} else if info.Family != unix.AF_INET {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil {
			continue
		}
		for _, attr := range attrs {
			switch attr.Attr.Type {
			case unix.RTA_GATEWAY:
				r.Gateway, _ = netip.AddrFromSlice(attr.Value)
			case unix.RTA_OIF:
				r.Interface = nameOf(nativeUint32(attr.Value))
			case unix.RTA_PRIORITY:
				r.Metric = nativeUint32(attr.Value)
			}
		}
		routes = append(routes, r)
	}
	return routes, nil
}

func nativeUint32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return *(*uint32)(unsafe.Pointer(&b[0]))
}

// dump asks the kernel's routing socket for everything of one kind. It leaves
// the machine alone: netlink is a conversation with the kernel.
func dump(kind, family int) ([]syscall.NetlinkMessage, error) {
	data, err := syscall.NetlinkRIB(kind, family)
	if err != nil {
		return nil, err
	}
	return syscall.ParseNetlinkMessage(data)
}

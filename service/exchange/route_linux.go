package exchange

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mostRouteSockets is how many sockets are kept for the next question. As many are asked at a time as there are threads.
const mostRouteSockets = 4

// router asks the kernel for routes. While exchanges are under way it keeps what it asks by, since to open that takes as
// long as to ask; behind the last of them it holds nothing. The zero value is ready.
type router struct {
	mu       sync.Mutex
	underWay int // exchanges
	idle     []routeSocket
}

// routeSocket is the descriptor of a conversation with the kernel, in which each question has one answer.
type routeSocket int

// begin says that an exchange is under way, until end.
func (r *router) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.underWay++
}

func (r *router) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.underWay--; r.underWay > 0 {
		return
	}
	for _, s := range r.idle {
		unix.Close(int(s))
	}
	r.idle = nil
}

// take returns a socket that is the caller's alone.
func (r *router) take() (routeSocket, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.idle); n > 0 {
		s := r.idle[n-1]
		r.idle = r.idle[:n-1]
		return s, nil
	}
	//nolint:forbidigo // No packet leaves by this socket: netlink is a conversation with the kernel.
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	return routeSocket(fd), err
}

// giveBack keeps a socket, or closes it.
func (r *router) giveBack(s routeSocket) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.underWay > 0 && len(r.idle) < mostRouteSockets {
		r.idle = append(r.idle, s)
		return
	}
	unix.Close(int(s))
}

// to asks the kernel which way packets to address take when they come from source and leave by the interface
// (unset and empty: whatever the routes say). It is nil when there is no way, or the kernel does not tell.
//
// The answer is that of this moment, and of an address alone: where rules route by port or several routes weigh the
// same, another connection may take another way. It is read into the buffer.
func (r *router) to(address netip.AddrPort, source netip.Addr, iface string, buffer []byte) *Route {
	s, err := r.take()
	if err != nil {
		return nil
	}
	route, err := s.to(address.Addr().Unmap(), source.Unmap(), iface, buffer)
	if err != nil { // an answer may come still, which would be taken for that to another question
		unix.Close(int(s))
		return nil
	}
	r.giveBack(s)
	return route
}

// to is router.to. The error is that the kernel could not be asked.
func (s routeSocket) to(to, source netip.Addr, iface string, buffer []byte) (*Route, error) {
	fd := int(s)
	if zone := to.Zone(); iface == "" && zone != "" {
		iface = zone
	}
	var index uint32
	if iface != "" {
		if index = indexOfInterface(fd, iface); index == 0 {
			return nil, nil
		}
	}
	if _, err := unix.Write(fd, routeRequest(to, source, index)); err != nil {
		return nil, err
	}
	// The kernel has answered before write(2) returns.
	n, err := ignoringEINTR(func() (int, error) { return unix.Read(fd, buffer) })
	if err != nil {
		return nil, err
	}
	route, index := parseRoute(buffer[:n])
	if route == nil {
		return nil, nil
	}
	if !route.Source.IsValid() {
		route.Source = source
	}
	name, mtu := describeInterface(fd, index)
	route.Interface = name
	if route.MTU == 0 {
		route.MTU = mtu
	}
	return route, nil
}

// routeRequest is an RTM_GETROUTE request (rtnetlink(7)).
func routeRequest(to, source netip.Addr, index uint32) []byte {
	// A struct nlmsghdr, of whichever number, as there is one question at a time, and a struct rtmsg.
	const head = unix.SizeofNlMsghdr + unix.SizeofRtMsg
	request := make([]byte, head, head+3*(unix.SizeofRtAttr+16)) // with room for the longest attributes
	binary.NativeEndian.PutUint16(request[4:], unix.RTM_GETROUTE)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST)
	message := request[unix.SizeofNlMsghdr:head]
	message[0], message[1] = unix.AF_INET6, byte(to.BitLen())
	if to.Is4() {
		message[0] = unix.AF_INET
	}
	request = appendAttribute(request, unix.RTA_DST, to.AsSlice())
	if source.IsValid() && source.Is4() == to.Is4() {
		message[2] = byte(source.BitLen())
		request = appendAttribute(request, unix.RTA_SRC, source.AsSlice())
	}
	if index != 0 {
		request = appendAttribute(request, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, index))
	}
	binary.NativeEndian.PutUint32(request, uint32(len(request)))
	return request
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

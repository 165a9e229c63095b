// Package names answers what network numbers are called: services and their
// ports, IP protocols, and the constants of the socket API.
//
// The idea: the host's own /etc/services and /etc/protocols speak first and
// mean, line by line, what the GNU C library makes of them; an embedded copy
// of the IANA registries then adds what they lack. So a program in a container
// that has neither file still knows that 22 is ssh, and a host whose
// administrator has changed a name is answered as its own programs would be.
//
// Use [Tables.Service], [Tables.Port] and [Tables.Protocol] to tell a person
// all that is known of a name or number, and [Tables.GetServByName] and
// [Tables.GetServByPort] where the answer must be the one that programs on
// this host get. Nothing here touches the network.
//
// Every string returned is valid UTF-8: a byte of a host file that is not is
// replaced by U+FFFD. Names are compared byte for byte, as the C library does.
package names

// PortClass is one of the three ranges into which RFC 6335, section 6, divides
// the port numbers. The zero value is no class: in a filter it means every one.
type PortClass int8

// The port classes of RFC 6335.
const (
	PortClassUnspecified PortClass = iota
	PortClassSystem                // 0 to 1023: assigned by IANA; binding one takes a privilege on Unix
	PortClassUser                  // 1024 to 49151: registered with IANA on request
	PortClassDynamic               // 49152 to 65535: never assigned, free for ephemeral use
)

// ClassOf returns the class of port. It is never PortClassUnspecified.
func ClassOf(port uint16) PortClass {
	switch {
	case port < 1024:
		return PortClassSystem
	case port < 49152:
		return PortClassUser
	default:
		return PortClassDynamic
	}
}

// Source tells which table an answer comes from. The zero value is never
// returned.
type Source int8

// The tables that answer.
const (
	SourceUnspecified Source = iota
	SourceFile               // the host's services or protocols file
	SourceIANA               // the embedded table: the IANA registry, and the classic Unix names it never took up
)

// Service is one name for one port of one transport, as in services(5).
type Service struct {
	// Name is the official name, never empty.
	Name string
	// Port is the port number. A services file may give 0.
	Port uint16
	// Protocol is the transport as the file writes it: "tcp", "udp", "sctp",
	// "dccp", … It is empty for a line that names none, which the C library
	// accepts and finds only by lookups that ask for no protocol.
	Protocol string
	// Aliases are the other names, in the order of the file. The slice is
	// shared between answers: do not change it.
	Aliases []string
	// Description is the comment that ends the line in the host's file, or
	// else what the embedded table knows. Empty means unknown.
	Description string
	// Source is the table the entry comes from.
	Source Source
}

// Class returns the class of the service's port.
func (s Service) Class() PortClass { return ClassOf(s.Port) }

// Protocol is one IP protocol, as in protocols(5).
type Protocol struct {
	// Name is the official name, never empty.
	Name string
	// Number is what the IP header carries, 0 to 255. A protocols file may
	// hold numbers beyond that range, as Debian's does with mptcp (262, known
	// to the Linux kernel alone), and the C library returns them; a number
	// above 2147483647 comes out negative there and here.
	Number int32
	// Aliases are the other names, in the order of the file. The slice is
	// shared between answers: do not change it.
	Aliases []string
	// Description is the comment that ends the line in the host's file, or
	// else what the embedded table knows. Empty means unknown.
	Description string
	// Source is the table the entry comes from.
	Source Source
}

// Cursor is a place in the order of [Tables.Services]: just after the entry
// with this port, protocol and name, whether or not there is (still) such an
// entry. The zero value is the beginning.
type Cursor struct {
	Port     uint16
	Protocol string
	Name     string
}

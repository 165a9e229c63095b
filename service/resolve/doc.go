// Package resolve answers what a name or an address is on this machine, the
// way a program with a C library on this machine would have found it, and says
// how the answer came about.
//
// There are two readings of "resolve", and callers should know which one they
// ask for:
//
//   - [Resolver.GetAddrInfo] and [Resolver.GetNameInfo] are getaddrinfo(3) and
//     getnameinfo(3) as the GNU C library means them: same order, same
//     entries, same EAI_* reason for each failure. Where glibc and an RFC
//     disagree these two follow glibc.
//   - [Resolver.LookupHost], [Resolver.LookupAddress] and [Resolver.Addresses]
//     walk the same sources but follow the RFCs (localhost never leaves the
//     machine, RFC 6761), tell failures apart and carry a trace with every
//     query sent and what it cost.
//
// [Resolver.QueryDNS] asks one question of one server and returns the message.
//
// Nothing is cached: a probe has to see what is true now. The configuration
// files are re-read when they change. No cgo is involved, so all of this works
// in an image that holds nothing but the binary.
package resolve

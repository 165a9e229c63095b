package resolve

import (
	"net/netip"
	"time"
)

// Step is one thing tried on the way to an answer: a look into a file, or one
// query to one server.
type Step struct {
	Source    string        // "literal", "files", "dns", "myhostname", "localhost", or a name of nsswitch.conf not known here
	Name      string        // the full name looked for, as sent; with a trailing dot for "dns"
	Type      string        // the record type, as "AAAA"; empty for a source that does not know types
	Server    string        // address and port; empty for a source without servers
	Transport string        // "udp", "tcp" or "tls"; empty for a source without servers
	Rcode     string        // as "NXDOMAIN"; empty when no answer came
	Answers   []string      // the records, as "CNAME b.example." or "192.0.2.1"
	Truncated bool          // the answer had TC set; the same question follows over TCP
	Skipped   bool          // nothing was asked: the source is not known here
	Begin     time.Time     // when it was sent; zero for a source without servers
	Duration  time.Duration // from sending to the answer or to giving up
	Reason    Reason        // why this step gave no answer; ReasonNone when it gave one
	Err       error         // the error of the operating system, when there is one
}

// HostResult is what gethostbyname_ex and gethostbyaddr tell, and how it came.
type HostResult struct {
	CanonicalName string        // the name at the end of the CNAME chain, without a trailing dot
	Aliases       []string      // other names of the same host: the CNAME owners, or the aliases of the hosts file
	Addresses     []netip.Addr  // in the order in which the source gave them; from Addresses in the order of RFC 6724
	Source        string        // which source answered: "literal", "files", "dns", "myhostname", "localhost"
	Trace         []Step        // every step, in order
	Notes         []string      // remarks on the walk, as "5 queries; a trailing dot would need 2"
	Duration      time.Duration // of the whole lookup
}

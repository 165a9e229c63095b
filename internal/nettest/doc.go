// Package nettest is the far side of a test: peers that behave, peers that
// misbehave in the ways real networks do, and network namespaces in which
// packets can be dropped, rejected or lost.
//
// A peer is a function that starts listening and returns where. It listens on
// loopback, on a port the kernel picks, and ends with the test: at cleanup its
// sockets are closed and its goroutines waited for, so goleak and CheckFDs find
// nothing of it. What a stream peer does with a connection is a handler, a plain
// func(net.Conn); most of them are here (Echo, Reply, Drip, Reset, Silent, Flood…)
// and a test may pass its own.
//
// Namespaces need root and iproute2; everything else needs nothing. Failures to
// set up are fatal to the test, never skipped.
//
// Used by tests only.
package nettest

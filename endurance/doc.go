// Package endurance holds a running probed to its promises: thousands of sessions, floods, callers that vanish, networks that
// drop and routers that refuse, abuse of the protocols, signals at the worst moment. It has tests alone. docs/endurance.md
// shows what they last measured, and which bugs they have found.
//
// Each test starts a probed of its own (internal/probetest) in a network namespace that belongs to the package, and says what
// it reached (internal/promise). `go test` and `make test` run short forms; `make soak` those of the promised numbers. They do
// not run beside each other: most measure memory or time.
package endurance

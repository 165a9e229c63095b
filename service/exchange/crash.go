package exchange

import (
	"fmt"
	"runtime/debug"
)

// crash carries a panic from a goroutine of a session to the session's own, where it costs that session alone: whoever
// called [Exchanger.Run] may recover from it, and nobody could from the other.
type crash struct {
	value any
	stack []byte
}

// catch, deferred in the goroutine, keeps its panic.
func (c *crash) catch() {
	if value := recover(); value != nil {
		c.value, c.stack = value, debug.Stack()
	}
}

// again goes on with the panic, if there was one. The goroutine must have ended.
func (c *crash) again() {
	if c.value != nil {
		panic(c.Error())
	}
}

// Error is what the panic was about, and where it was.
func (c *crash) Error() string { return fmt.Sprintf("%v\n\n%s", c.value, c.stack) }

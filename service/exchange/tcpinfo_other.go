//go:build !linux

package exchange

// ask tells on Linux alone.
func (c *conn) ask() facts { return facts{} }

// unacknowledged is told on Linux alone.
func (c *conn) unacknowledged() (uint64, bool) { return 0, false }

//go:build !linux

package exchange

// tcpInfo is told on Linux alone.
func (c *conn) tcpInfo() *TCPInfo { return nil }

// unacknowledged is told on Linux alone.
func (c *conn) unacknowledged() (uint64, bool) { return 0, false }

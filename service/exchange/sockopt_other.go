//go:build !linux

package exchange

// socketOptions are told on Linux alone.
func (c *conn) socketOptions() *SocketOptions { return nil }

//go:build !linux

package dial

import (
	"context"
	"errors"
	"net"
)

// prepare has nothing portable to set. The broadcast address of a subnet is not
// refused here.
func prepare(_ int, _ string, _ bool, iface string) error {
	if iface != "" {
		return errors.ErrUnsupported
	}
	return nil
}

// dialUnix refuses: there is no way here to connect to the very file that was
// checked.
func (d *Dialer) dialUnix(_ context.Context, r Request) (net.Conn, error) {
	return nil, r.failed(errors.ErrUnsupported)
}

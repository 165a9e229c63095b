package service

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
)

// localBuffer is what the connection within a process holds in each direction.
const localBuffer = 1 << 20

// LocalConn is a connection to a gRPC server in the same process, over memory. Calls on it pass every interceptor, as
// calls over the network do.
type LocalConn struct {
	*grpc.ClientConn
	listener *bufconn.Listener
	served   chan struct{}
}

// Local makes server serve a connection within the process. The server has to be complete by then.
func Local(server *grpc.Server, options ...grpc.DialOption) (*LocalConn, error) {
	listener := bufconn.Listen(localBuffer)
	conn, err := grpc.NewClient("passthrough:///local", append([]grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	}, options...)...)
	if err != nil {
		return nil, err
	}
	c := &LocalConn{ClientConn: conn, listener: listener, served: make(chan struct{})}
	go func() {
		defer close(c.served)
		// It returns when the listener is closed, by Close or by the server's own stop: neither is a failure.
		_ = server.Serve(listener)
	}()
	return c, nil
}

// Close ends the connection and waits until the server has let go of it. The server itself goes on.
func (c *LocalConn) Close() error {
	err := c.ClientConn.Close()
	if closeErr := c.listener.Close(); err == nil {
		err = closeErr
	}
	<-c.served
	return err
}

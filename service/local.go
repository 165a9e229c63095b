package service

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"probed/service/guard"
)

// LocalConn is a connection to a service in the same process. Calls on it pass every link of the chain, as calls over the
// network do, but no transport: a message is copied, not encoded, and a stream holds one message until it is taken.
//
// Who calls travels in the context: the handler's has what package guard gave to the caller's ([guard.Carry]), and the trace
// that the call is part of ([WithTraceContext]), and nothing else of it. Metadata does not travel, so none can stand for who
// calls.
type LocalConn struct {
	links   Interceptors
	unary   map[string]localMethod[grpc.MethodDesc] // by its full name, as /probe.v1.NameService/LookupPort
	streams map[string]localMethod[grpc.StreamDesc]

	mu     sync.Mutex
	calls  sync.WaitGroup // handlers that run
	open   context.Context
	cancel context.CancelFunc
}

// localMethod is a method that was registered.
type localMethod[Desc any] struct {
	desc           *Desc
	implementation any
}

// Local connects to the services that register adds, with chain around each call.
func Local(chain Links, register func(grpc.ServiceRegistrar)) *LocalConn {
	c := &LocalConn{
		links: chain.all(),
		unary: make(map[string]localMethod[grpc.MethodDesc]), streams: make(map[string]localMethod[grpc.StreamDesc]),
	}
	c.open, c.cancel = context.WithCancel(context.Background())
	register(c)
	return c
}

// RegisterService adds a service; register of Local calls it.
func (c *LocalConn) RegisterService(desc *grpc.ServiceDesc, implementation any) {
	for i := range desc.Methods {
		c.unary["/"+desc.ServiceName+"/"+desc.Methods[i].MethodName] = localMethod[grpc.MethodDesc]{&desc.Methods[i], implementation}
	}
	for i := range desc.Streams {
		c.streams["/"+desc.ServiceName+"/"+desc.Streams[i].StreamName] = localMethod[grpc.StreamDesc]{&desc.Streams[i], implementation}
	}
}

// Close ends the calls under way, and waits for their handlers. They, and calls made later, fail with UNAVAILABLE.
func (c *LocalConn) Close() error {
	c.mu.Lock()
	c.cancel()
	c.mu.Unlock()
	c.calls.Wait()
	return nil
}

// Invoke makes a unary call. Its handler runs in the caller's goroutine.
func (c *LocalConn) Invoke(ctx context.Context, method string, request, response any, options ...grpc.CallOption) error {
	called, ok := c.unary[method]
	if !ok {
		return status.Errorf(codes.Unimplemented, "no method %s", method)
	}
	t := &localTransport{method: method, headerSent: make(chan struct{})}
	ctx, end, err := c.begin(ctx, t)
	if err != nil {
		return err
	}
	defer end()
	// The answer is copied behind the chain, where a panic is recovered from.
	copying := func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		return c.links.Unary(ctx, request, info, func(ctx context.Context, request any) (any, error) {
			answer, err := handler(ctx, request)
			if err == nil {
				proto.Merge(response.(proto.Message), answer.(proto.Message)) //nolint:forcetypeassert // as below
			}
			return answer, err
		})
	}
	_, err = called.desc.Handler(called.implementation, ctx, func(into any) error {
		proto.Merge(into.(proto.Message), request.(proto.Message)) //nolint:forcetypeassert // all are of generated code
		return nil
	}, copying)
	t.tell(options)
	if err != nil {
		return c.statusOf(ctx, err)
	}
	return nil
}

// NewStream begins a call that streams, whose handler runs in a goroutine of its own. As with any connection, ctx has to
// end at last or the stream to be read to its end.
func (c *LocalConn) NewStream(client context.Context, _ *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	called, ok := c.streams[method]
	if !ok {
		return nil, status.Errorf(codes.Unimplemented, "no method %s", method)
	}
	s := &localStream{
		localTransport: localTransport{method: method, headerSent: make(chan struct{})},
		client:         client, options: options,
		requests: make(chan proto.Message, 1), responses: make(chan proto.Message, 1), done: make(chan struct{}),
	}
	server, end, err := c.begin(client, &s.localTransport)
	if err != nil {
		return nil, err
	}
	s.server = server
	info := &grpc.StreamServerInfo{FullMethod: method, IsClientStream: called.desc.ClientStreams, IsServerStream: called.desc.ServerStreams}
	go func() {
		defer end()
		defer close(s.done)
		s.err = c.statusOf(server, c.links.Stream(called.implementation, localServerStream{s}, info, called.desc.Handler))
		s.sendHeader()
	}()
	return localClientStream{s}, nil
}

// errLocalClosed is what calls fail with that Close has ended, and those made after it.
var errLocalClosed = status.Error(codes.Unavailable, "probed is shutting down")

// begin makes the context of a handler, and counts it in.
func (c *LocalConn) begin(client context.Context, t *localTransport) (ctx context.Context, end func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open.Err() != nil {
		return nil, nil, errLocalClosed
	}
	c.calls.Add(1)
	ctx, cancel := context.WithCancel(bareContext{client})
	stop := context.AfterFunc(c.open, cancel)
	ctx = guard.Carry(ctx, client)
	if trace, ok := client.Value(traceKey{}).(metadata.MD); ok {
		ctx = metadata.NewIncomingContext(ctx, trace)
	}
	return grpc.NewContextWithServerTransportStream(ctx, t), func() {
		stop()
		cancel()
		c.calls.Done()
	}, nil
}

type traceKey struct{}

// WithTraceContext returns a context for calls on a LocalConn that are part of a trace: they get the two headers of W3C's Trace
// Context as the metadata that a call over the network would have. Without a traceparent there is none.
func WithTraceContext(ctx context.Context, traceparent, tracestate string) context.Context {
	if traceparent == "" {
		return ctx
	}
	trace := metadata.MD{"traceparent": {traceparent}}
	if tracestate != "" {
		trace["tracestate"] = []string{tracestate}
	}
	return context.WithValue(ctx, traceKey{}, trace)
}

// isLocal tells whether ctx is that of a call on a LocalConn.
func isLocal(ctx context.Context) bool {
	_, ok := grpc.ServerTransportStreamFromContext(ctx).(*localTransport)
	return ok
}

// statusOf is the status that a caller gets. It was not the caller who went away when it is Close that ended the call.
func (c *LocalConn) statusOf(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case c.open.Err() != nil && ctx.Err() != nil:
		return errLocalClosed
	}
	return status.Convert(err).Err()
}

// bareContext ends with another and has none of its values.
type bareContext struct{ context.Context }

// Value finds nothing.
func (bareContext) Value(any) any { return nil }

// localTransport is where the handler of a call leaves its header and trailer.
type localTransport struct {
	method string

	mu              sync.Mutex
	header, trailer metadata.MD
	sent            bool
	headerSent      chan struct{} // closed when the header is whole
}

// Method is the full name of the one that is called.
func (t *localTransport) Method() string { return t.method }

// SetHeader adds to the header, which must not have been sent.
func (t *localTransport) SetHeader(md metadata.MD) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sent {
		return fmt.Errorf("the header of %s has been sent", t.method)
	}
	t.header = joinMetadata(t.header, md)
	return nil
}

// SendHeader adds to the header and sends it.
func (t *localTransport) SendHeader(md metadata.MD) error {
	err := t.SetHeader(md)
	t.sendHeader()
	return err
}

// SetTrailer adds to the trailer.
func (t *localTransport) SetTrailer(md metadata.MD) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.trailer = joinMetadata(t.trailer, md)
	return nil
}

// joinMetadata is metadata.Join without a copy of what is set first, and often alone. Nobody changes it.
func joinMetadata(first, second metadata.MD) metadata.MD {
	if len(first) == 0 {
		return second
	}
	return metadata.Join(first, second)
}

func (t *localTransport) sendHeader() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.sent {
		t.sent = true
		close(t.headerSent)
	}
}

// tell fills in what the caller wants to know when the call has ended.
func (t *localTransport) tell(options []grpc.CallOption) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, option := range options {
		switch option := option.(type) {
		case grpc.HeaderCallOption:
			*option.HeaderAddr = t.header
		case grpc.TrailerCallOption:
			*option.TrailerAddr = t.trailer
		}
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	probev1 "probed/gen/probe/v1"
	"probed/service"
	"probed/service/policy"
	"probed/service/roots"
)

const (
	// streamWindow and connectionWindow are what the server may send before it is read. On loopback 64 KiB are as fast; over
	// a wire, a window and the round trip bound what a stream can carry.
	streamWindow     = 1 << 20
	connectionWindow = 4 << 20
)

// defaultPort is that of probed's gRPC listener.
const defaultPort = "50051"

// ask is what a command of one question does: it calls method, tells where the answer comes from, and prints it, for a
// person with table. The answer to a question that makes no sense or that finds nothing is the error, a gRPC status.
func ask[Client any, Request, Response proto.Message](
	ctx context.Context, t *tool,
	client func(grpc.ClientConnInterface) Client,
	method func(Client, context.Context, Request, ...grpc.CallOption) (Response, error),
	request Request,
	table func(*printer, Response),
) error {
	return askWhether(ctx, t, client, method, request, table, func(Response) bool { return true })
}

// askWhether is ask for a question whose answer may be no, as yes says.
func askWhether[Client any, Request, Response proto.Message](
	ctx context.Context, t *tool,
	client func(grpc.ClientConnInterface) Client,
	method func(Client, context.Context, Request, ...grpc.CallOption) (Response, error),
	request Request,
	table func(*printer, Response),
	yes func(Response) bool,
) error {
	if err := checkText(request); err != nil {
		return err
	}
	if t.kube.each {
		return answerEach(ctx, t, func(ctx context.Context, s *server) (Response, error) {
			return method(client(s.conn), ctx, proto.CloneOf(request)) // which method may change
		}, wantsTrace(request), table, yes)
	}
	return t.withServer(ctx, func(ctx context.Context, s *server) error {
		var header metadata.MD
		response, err := method(client(s.conn), ctx, request, grpc.Header(&header))
		t.tellVantage(s, header, err)
		if err != nil {
			t.printStatus(err)
			return err
		}
		if t.format != formatTable {
			err = t.printMessage(response)
		} else {
			table(t.stdout, response)
		}
		if err == nil && !yes(response) {
			err = errNo
		}
		return err
	})
}

// wantsTrace tells whether a question asks for the steps of its answer.
func wantsTrace(request proto.Message) bool {
	traced, ok := request.(interface{ GetTrace() bool })
	return ok && traced.GetTrace()
}

// checkText finds arguments that cannot travel: text of the contract is UTF-8, and what is typed need not be.
func checkText(request proto.Message) error {
	if _, err := proto.Marshal(request); err != nil {
		return &usageError{errors.New("an argument is not valid UTF-8")}
	}
	return nil
}

// server is the probed that answers: one elsewhere, or the service inside this process.
type server struct {
	conn  grpc.ClientConnInterface
	where string   // how the answer got here, for the line that tells the vantage
	via   *forward // what the connection goes through; nil: nothing of ours
	close func()
}

// why is the error of a call, with what is known of a connection that broke.
func (s *server) why(err error) error {
	broken, ok := status.FromError(err)
	if s.via == nil || err == nil || !ok || broken.Code() != codes.Unavailable || fromProbed(broken) {
		return err
	}
	words := s.via.lastWords()
	if words == "" {
		return err
	}
	return status.Errorf(codes.Unavailable, "%s; kubectl port-forward: %s", connectionText(broken.Message()), words)
}

// withServer calls f with the server to ask. The context of f ends with Ctrl-C; then withServer returns the error of an
// interruption, unless f has one to tell. Before and after that Ctrl-C ends the program, as it does by default: the input
// has been read by then and nothing is lost.
func (t *tool) withServer(ctx context.Context, f func(context.Context, *server) error) error {
	return t.interruptible(ctx, func(ctx context.Context) error {
		s, err := t.open(ctx)
		if err != nil {
			return err
		}
		defer s.close()
		return s.why(f(ctx, s))
	})
}

// interruptible calls f with a context that ends with Ctrl-C, as withServer says.
func (t *tool) interruptible(ctx context.Context, f func(context.Context) error) error {
	ctx, interrupt := context.WithCancel(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt)
	if t.kube.probed != "" && !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(signals, syscall.SIGHUP)
	}
	if t.kube.probed != "" {
		signal.Notify(signals, syscall.SIGTERM) // or a kubectl would be left behind
	}
	var listening sync.WaitGroup
	listening.Go(func() {
		select {
		case <-signals:
			signal.Stop(signals) // a second Ctrl-C does not wait for anything
			if t.stderr.terminal {
				t.stderr.status("")
				t.stderr.line("") // it shows ^C, and what is told next begins a line of its own
			}
			interrupt()
		case <-ctx.Done():
			signal.Stop(signals)
		}
	})
	defer listening.Wait()
	defer interrupt()

	err := f(ctx)
	if _, told := errors.AsType[*exitError](err); err != nil && !told && ctx.Err() != nil {
		return &exitError{code: exitInterrupted, text: "interrupted"}
	}
	return err
}

func (t *tool) open(ctx context.Context) (*server, error) {
	switch {
	case t.kube.probed != "":
		return t.openKube(ctx)
	case t.server != "":
		return t.openRemote(ctx)
	}
	return t.openLocal()
}

// openLocal runs the service inside this process. Who asks is the user at the keyboard, who could open these connections
// without us as well: the policy allows all.
func (t *tool) openLocal() (*server, error) {
	logger := slog.New(slog.DiscardHandler)
	if t.verbose {
		logger = slog.New(slog.NewTextHandler(t.stderr, nil))
	}
	hostname, err := os.Hostname()
	if err != nil {
		hostname = "this machine"
	}
	vantage := service.Vantage{Hostname: hostname, Version: buildVersion()}
	chain, err := service.Chain(service.ChainConfig{Logger: logger, Vantage: vantage})
	if err != nil {
		return nil, err
	}
	all := policy.AllowAll()
	conn := service.Local(chain, service.New(service.Config{Policy: func() *policy.Policy { return all }, Vantage: vantage, HostRoots: roots.Load}).Register)
	return &server{conn: conn, where: "in process", close: func() {
		_ = conn.Close() // it has answered; what its end says changes nothing
	}}, nil
}

// openRemote connects to the probed that --server names.
func (t *tool) openRemote(ctx context.Context) (*server, error) {
	address, err := serverAddress(t.server)
	if err != nil {
		return nil, &usageError{fmt.Errorf("--server %s: %w", t.server, err)}
	}
	ctx, cancel := context.WithTimeout(ctx, t.connectTimeout)
	defer cancel()
	return t.dial(ctx, door{address: address, name: address})
}

// door is where a probed can be connected to.
type door struct {
	address string
	name    string   // what errors call it
	via     *forward // that listens there; nil: something else does

	certificateName string // whom its certificate must be for, unless --server-name says so; empty: for the host of the address
	token           string // to show; empty: what the flags and the environment say
}

// dial connects to a probed, and does not return before there is a connection, or ctx ends: so that what stands in the way
// is told once, and as what it is.
func (t *tool) dial(ctx context.Context, to door) (*server, error) {
	transport, options, err := t.guarded.options(to.certificateName, to.token)
	if err != nil {
		return nil, t.chosen.blame(err)
	}
	if t.verbose {
		options = append(options, grpc.WithStatsHandler(attempts{t.stderr}))
	}
	// The name is left to the dialer, whose errors say more than those of a gRPC resolver.
	conn, err := grpc.NewClient("passthrough:///"+to.address, append(options, grpc.WithUserAgent("probectl/"+buildVersion()),
		grpc.WithDisableRetry(), // a retry would hide that something is wrong; what is asked again is told, see again
		grpc.WithUnaryInterceptor(t.again),
		grpc.WithDisableServiceConfig(),
		// Windows that do not grow: what is received and not yet read stays below this, whatever the network is like.
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connectionWindow),
		// A server that has vanished, cable and all, says nothing; so who waits for it asks whether it is there. (A probed
		// takes pings every 10 s or less often.)
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: t.connectTimeout}),
	)...)
	if err != nil {
		return nil, &usageError{fmt.Errorf("--server %s: %w", to.name, err)}
	}
	if err := awaitConnection(ctx, conn, t.connectTimeout); err != nil {
		_ = conn.Close()
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil, ctx.Err()
		}
		return nil, t.aboutNames(transport.failure(to, err))
	}
	return &server{conn: conn, where: t.chosen.where("probed at " + to.address), via: to.via, close: func() { _ = conn.Close() }}, nil
}

// aboutLeftOut adds to advice on who asks that the environment says it, and was not heard.
func (t *tool) aboutLeftOut() string {
	if t.chosen.name == "" || len(t.guarded.leftOut) == 0 {
		return ""
	}
	return fmt.Sprintf("\n%s is not for %s: who asks a server of the configuration file is said by the file, or by a flag.",
		strings.Join(t.guarded.leftOut, " and "), t.chosen)
}

// aboutNames adds to a failure to connect what the configuration file has to do with it.
func (t *tool) aboutNames(failure *exitError) *exitError {
	switch {
	case t.chosen.name != "":
		if strings.Contains(failure.advice, "--server-cert") {
			failure.advice += t.aboutLeftOut()
		}
		failure.advice += fmt.Sprintf("\nIt is %s of %s.", t.chosen, t.chosen.file)
		if t.chosen.by == "" {
			failure.advice = strings.Replace(failure.advice, otherProbed, ".", 1) +
				" Name another one with --server, or this machine with --server= or, from now on, probectl config use-server --none."
		}
	case len(t.otherServers) > 0:
		failure.advice += "\nThe configuration file has no server of that name: it has " + strings.Join(t.otherServers, ", ") + "."
	}
	failure.advice = strings.TrimPrefix(failure.advice, "\n")
	return failure
}

// otherProbed is advice where none answers.
const otherProbed = ", name another one with --server or PROBECTL_SERVER, or leave both out to ask from this machine."

// serverAddress is the host and port that the flag --server means.
func serverAddress(text string) (string, error) {
	if strings.Contains(text, "://") {
		return "", errors.New("give HOST or HOST:PORT, without a scheme")
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"), defaultPort
	}
	if host == "" || port == "" {
		return "", errors.New("give HOST or HOST:PORT")
	}
	if _, err := netip.ParseAddr(host); err != nil && strings.Contains(host, ":") {
		return "", errors.New("an IPv6 address with a port stands in brackets, as [::1]:50051")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("port %s is out of range: 1 to 65535", port)
	}
	return net.JoinHostPort(host, port), nil
}

// errNoConnection is that the time was up, and nothing else known to be wrong.
var errNoConnection = errors.New("no connection")

// awaitConnection waits until conn is usable, or ctx ends, which takes timeout. The error says why it is not.
func awaitConnection(ctx context.Context, conn *grpc.ClientConn, timeout time.Duration) error {
	conn.Connect()
	for {
		switch state := conn.GetState(); state {
		case connectivity.Ready:
			return nil
		case connectivity.TransientFailure:
			// Only a call is told what the failure was. It goes nowhere, since there is no connection.
			_, err := probev1.NewNameServiceClient(conn).LookupPort(context.WithValue(ctx, nowhereKey{}, true), &probev1.LookupPortRequest{})
			if err != nil && status.Code(err) != codes.DeadlineExceeded {
				return errors.New(connectionText(status.Convert(err).Message()))
			}
		default:
			conn.WaitForStateChange(ctx, state)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w within %v", errNoConnection, timeout)
		}
	}
}

// tellVantage says, to a person, where the answer was given from. It keeps the request's id for a failure that needs it.
func (t *tool) tellVantage(s *server, header metadata.MD, err error) {
	if t.requestID = requestIDOf(header); t.verbose && t.requestID != "" {
		t.stderr.line("request %s", t.requestID)
	}
	vantage := header.Get(service.VantageHeader)
	if t.format != formatTable || len(vantage) == 0 {
		return
	}
	switch status.Code(err) {
	case codes.InvalidArgument, codes.Unauthenticated: // which is no answer about a place
	default:
		t.stderr.aside("as seen from %s (%s)", vantage[0], s.where)
	}
}

// requestIDOf is the id under which the server's log has the request of an answer with this header.
func requestIDOf(header metadata.MD) string {
	if id := header.Get(service.RequestIDHeader); len(id) > 0 {
		return id[0]
	}
	return ""
}

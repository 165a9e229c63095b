package main

import (
	"context"
	"errors"
	"maps"
	"os"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/channelz/grpc_channelz_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
)

// Nobody is asked who they are to watch the health, so there is a most of those who do. A place comes back.
func TestMostWatchers(t *testing.T) {
	t.Parallel()
	p := start(t)
	client := grpc_health_v1.NewHealthClient(p.conn)
	watch := func(ctx context.Context) error {
		stream, err := client.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
		if err != nil {
			return err
		}
		_, err = stream.Recv()
		return err
	}
	const most = 64
	one, leave := context.WithCancel(t.Context())
	if err := watch(one); err != nil {
		t.Fatal(err)
	}
	for range most - 1 {
		if err := watch(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := watch(t.Context()); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one more: %v", err)
	}
	if _, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Errorf("Check: %v", err)
	}
	leave()
	for deadline, cancel := context.WithTimeout(t.Context(), patience); ; {
		if err := watch(t.Context()); err == nil {
			cancel()
			return
		}
		if deadline.Err() != nil {
			cancel()
			t.Fatal("the place did not come back")
		}
	}
}

// health is what the health of all services is, as List tells it; Check and Watch say the same.
func (p *program) health(t *testing.T) map[string]grpc_health_v1.HealthCheckResponse_ServingStatus {
	t.Helper()
	client := grpc_health_v1.NewHealthClient(p.conn)
	list, err := client.List(t.Context(), &grpc_health_v1.HealthListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]grpc_health_v1.HealthCheckResponse_ServingStatus)
	for service, answer := range list.GetStatuses() {
		all[service] = answer.GetStatus()
	}
	return all
}

// Each service of the contract has a health, and there is that of all.
func TestHealthOfServices(t *testing.T) {
	t.Parallel()
	p := start(t)
	want := map[string]grpc_health_v1.HealthCheckResponse_ServingStatus{"": grpc_health_v1.HealthCheckResponse_SERVING}
	protoregistry.GlobalFiles.RangeFilesByPackage("probe.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			want[string(file.Services().Get(i).FullName())] = grpc_health_v1.HealthCheckResponse_SERVING
		}
		return true
	})
	if len(want) < 5 {
		t.Errorf("only %d services are known", len(want))
	}
	if got := p.health(t); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	client := grpc_health_v1.NewHealthClient(p.conn)
	for service := range want {
		answer, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil || answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("%q: %v, %v", service, answer, err)
		}
	}
	if _, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "probe.v1.Nothing"}); status.Code(err) != codes.NotFound {
		t.Errorf("of none: %v", err)
	}
}

// An audit log that cannot be written keeps every session from beginning, and so ExchangeService does not serve, which who
// watches it learns, until the log can be written: nobody sends a session to a service that does not serve, so probed finds out
// by itself. What takes no session goes on.
func TestHealthWithoutAudit(t *testing.T) {
	t.Parallel()
	p := start(t)
	const service = "probe.v1.ExchangeService"
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	watch, err := grpc_health_v1.NewHealthClient(p.conn).Watch(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
	if err != nil {
		t.Fatal(err)
	}
	becomes := func(want grpc_health_v1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if answer, err := watch.Recv(); err != nil || answer.GetStatus() != want {
			t.Fatalf("%v, %v, want %v", answer, err, want)
		}
		for other, status := range p.health(t) {
			if other != service && status != grpc_health_v1.HealthCheckResponse_SERVING {
				t.Errorf("the health of %q: %v", other, status)
			}
		}
	}
	becomes(grpc_health_v1.HealthCheckResponse_SERVING)
	good := p.audit + ".good"
	if err := errors.Join(os.Rename(p.audit, good), os.Symlink("/dev/full", p.audit)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Rename(good, p.audit) }) // what is written is looked at in the end, of /dev/full too
	p.signals <- syscall.SIGHUP
	connect := func() error {
		_, err := probev1.NewExchangeServiceClient(p.conn).Connect(t.Context(), &probev1.ConnectRequest{Target: nettest.Refused(t).String()})
		return err
	}
	for deadline := time.Now().Add(patience); connect() == nil; { // the log is reopened by and by
		if time.Now().After(deadline) {
			t.Fatal("sessions begin that are not written down")
		}
	}
	becomes(grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	if err := os.Rename(good, p.audit); err != nil {
		t.Fatal(err)
	}
	becomes(grpc_health_v1.HealthCheckResponse_SERVING)
	if err := connect(); err != nil {
		t.Error(err)
	}
}

// On loopback, where nobody is asked, channelz tells of the connections; a little at a time, if that is asked for.
func TestChannelz(t *testing.T) {
	t.Parallel()
	p := start(t)
	client := grpc_channelz_v1.NewChannelzClient(p.conn)
	// Other tests have servers in this process.
	var own *grpc_channelz_v1.Server
	for from := int64(0); own == nil; {
		servers, err := client.GetServers(t.Context(), &grpc_channelz_v1.GetServersRequest{StartServerId: from, MaxResults: 1})
		if err != nil || len(servers.GetServer()) != 1 {
			t.Fatalf("%v, %v", servers, err)
		}
		server := servers.GetServer()[0]
		for _, socket := range server.GetListenSocket() {
			if socket.GetName() == p.addresses["grpc"] {
				own = server
			}
		}
		from = server.GetRef().GetServerId() + 1
	}
	if own.GetData().GetCallsStarted() == 0 {
		t.Errorf("no call is counted: %v", own)
	}
	sockets, err := client.GetServerSockets(t.Context(), &grpc_channelz_v1.GetServerSocketsRequest{ServerId: own.GetRef().GetServerId()})
	if err != nil || len(sockets.GetSocketRef()) != 1 {
		t.Fatalf("%v, %v", sockets, err)
	}
	socket, err := client.GetSocket(t.Context(), &grpc_channelz_v1.GetSocketRequest{SocketId: sockets.GetSocketRef()[0].GetSocketId()})
	if err != nil || socket.GetSocket().GetData().GetStreamsStarted() == 0 || socket.GetSocket().GetRemote().GetTcpipAddress() == nil {
		t.Errorf("%v, %v", socket, err)
	}
}

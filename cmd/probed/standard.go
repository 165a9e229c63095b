package main

import (
	"strings"

	"google.golang.org/grpc"
	channelz "google.golang.org/grpc/channelz/service"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	probev1 "probed/gen/probe/v1"
)

// registerStandard registers what every gRPC server is asked for, by tools that know nothing of it: health, reflection and
// channelz. Who may call which stands in the table of package guard. The registrar is that of unary methods whose chain runs
// before the message is read.
func (s *server) registerStandard(registrar grpc.ServiceRegistrar) {
	grpc_health_v1.RegisterHealthServer(s.endless.in(registrar), s.health)
	// To import it is what lets gRPC keep these numbers. It costs some 0.5 ms of the start; of a call, nothing that could be measured.
	channelz.RegisterChannelzServiceToServer(registrar)
	reflection.Register(struct {
		grpc.ServiceRegistrar
		reflection.ServiceInfoProvider
	}{s.endless.in(s.grpc), s.grpc})
	for service := range s.grpc.GetServiceInfo() {
		if strings.HasPrefix(service, "probe.") {
			s.health.SetServingStatus(service, grpc_health_v1.HealthCheckResponse_SERVING)
		}
	}
}

// tellHealth tells those who ask for the health what has become of the services since they were told. It is called every few
// seconds and not at each event, so that what fails now and then does not make clients come and go. At the end of probed
// health says by itself that nothing serves any more.
//
// Without its audit log probed opens no connection for anybody, and goes on to answer all else: so the health of the server as
// a whole stays, and a pod that still answers look-ups is not taken away. What a name server, or an issuer of tokens, does not
// answer is no matter of the health: others would ask the same.
func (s *server) tellHealth() {
	status := grpc_health_v1.HealthCheckResponse_SERVING
	if s.audit != nil && !s.audit.Writable() {
		status = grpc_health_v1.HealthCheckResponse_NOT_SERVING
	}
	s.health.SetServingStatus(probev1.ExchangeService_ServiceDesc.ServiceName, status)
}

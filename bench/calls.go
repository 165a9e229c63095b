package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	probev1 "probed/gen/probe/v1"
)

// askedPort is what the rows about lookups ask for: a port with a few services.
const askedPort = 22

// portAnswer is what p answers, as JSON, in a file from which the bare servers have it.
func (s *stage) portAnswer(p *probed) (string, error) {
	text, err := get(s.ctx, fmt.Sprintf("http://%s/v1/ports/%d", p.http, askedPort), p.authorization)
	if err != nil {
		return "", err
	}
	return s.file("answer.json", text)
}

// bare starts a server that answers as p does, without any of what p does for it.
func (s *stage) bare(kind string, p *probed) (string, error) {
	answer, err := s.portAnswer(p)
	if err != nil {
		return "", err
	}
	address, err := freeAddress()
	if err != nil {
		return "", err
	}
	return address, s.server(address, s.self, "serve", kind, address, answer)
}

func lookupByGRPC(s *stage) (ours, theirs measurement, err error) {
	p, err := s.startProbed()
	if err != nil {
		return nil, nil, err
	}
	address, err := s.bare("grpc", p)
	if err != nil {
		return nil, nil, err
	}
	request := &probev1.LookupPortRequest{Port: askedPort}
	if ours, err = s.h2load(callers, "port", p.grpc, probev1.NameService_LookupPort_FullMethodName, p.authorization, request); err != nil {
		return nil, nil, err
	}
	theirs, err = s.h2load(callers, "port", address, probev1.NameService_LookupPort_FullMethodName, "", request)
	return ours, theirs, err
}

func lookupByREST(s *stage) (ours, theirs measurement, err error) {
	p, err := s.startProbed()
	if err != nil {
		return nil, nil, err
	}
	address, err := s.bare("http", p)
	if err != nil {
		return nil, nil, err
	}
	path := fmt.Sprint("/v1/ports/", askedPort)
	return s.wrk("http://"+p.http+path, p.authorization), s.wrk("http://"+address+path, p.authorization), nil
}

// blackboxModule is what blackbox_exporter is told to do.
const blackboxModule = "modules:\n  tcp_connect:\n    prober: tcp\n    timeout: 5s\n"

func connect(s *stage) (ours, theirs measurement, err error) {
	p, err := s.startProbed()
	if err != nil {
		return nil, nil, err
	}
	exporter, err := freeAddress()
	if err != nil {
		return nil, nil, err
	}
	config, err := s.file("blackbox.yml", blackboxModule)
	if err != nil {
		return nil, nil, err
	}
	if err := s.server(exporter, "prometheus-blackbox-exporter", "--config.file="+config, "--web.listen-address="+exporter); err != nil {
		return nil, nil, err
	}
	target, err := s.serve("door")
	if err != nil {
		return nil, nil, err
	}
	conn, err := s.dial(p)
	if err != nil {
		return nil, nil, err
	}
	request := &probev1.ConnectRequest{Target: target}
	answer, err := probev1.NewExchangeServiceClient(conn).Connect(s.ctx, request)
	if err != nil || !answer.GetOutcome().GetOk() {
		return nil, nil, fmt.Errorf("probed does not connect: %v %w", answer, err)
	}
	probe := "http://" + exporter + "/probe?module=tcp_connect&target=" + target
	text, err := get(s.ctx, probe, "")
	if err != nil {
		return nil, nil, err
	}
	if !strings.Contains(text, "probe_success 1") {
		return nil, nil, fmt.Errorf("blackbox_exporter does not connect: %s", text)
	}
	// One who checks many targets is one program, with one connection to probed.
	ours, err = s.h2load(1, "connect", p.grpc, probev1.ExchangeService_Connect_FullMethodName, p.authorization, request)
	return ours, s.wrk(probe, ""), err
}

// echo is one byte there and back through a conversation, against a question and its answer.
func echo(s *stage) (ours, theirs measurement, err error) {
	p, err := s.startProbed()
	if err != nil {
		return nil, nil, err
	}
	target, err := s.serve("echo")
	if err != nil {
		return nil, nil, err
	}
	conn, err := s.dial(p)
	if err != nil {
		return nil, nil, err
	}
	trip, err := s.converse(conn, target)
	if err != nil {
		return nil, nil, err
	}
	client := probev1.NewNameServiceClient(conn)
	return s.typical(trip), s.typical(func(ctx context.Context) error {
		_, err := client.LookupPort(ctx, &probev1.LookupPortRequest{Port: askedPort})
		return err
	}), nil
}

// converse opens a conversation with an echo and returns what sends a byte and waits for it to come back.
func (s *stage) converse(conn *grpc.ClientConn, target string) (func(context.Context) error, error) {
	stream, err := probev1.NewExchangeServiceClient(conn).Converse(s.ctx)
	if err != nil {
		return nil, err
	}
	open := &probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: target}}}
	if err := stream.Send(open); err != nil {
		return nil, err
	}
	for connected := false; !connected; {
		event, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if event.GetOutcome() != nil {
			return nil, fmt.Errorf("no conversation: %v", event)
		}
		connected = event.GetConnected() != nil
	}
	frame := &probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Data{Data: []byte("x")}}
	return func(context.Context) error {
		if err := stream.Send(frame); err != nil {
			return err
		}
		event, err := stream.Recv()
		if err == nil && len(event.GetChunk().GetData()) != 1 {
			err = errors.New("no byte came back")
		}
		return err
	}, nil
}

// typical returns what measures the median time of a call in microseconds.
func (s *stage) typical(call func(context.Context) error) measurement {
	return func(ctx context.Context) (float64, error) {
		var times []float64
		for begin := time.Now(); len(times) == 0 || time.Since(begin) < s.time; {
			from := time.Now()
			if err := call(ctx); err != nil {
				return 0, err
			}
			times = append(times, float64(time.Since(from))/float64(time.Microsecond))
		}
		slices.Sort(times)
		return times[len(times)/2], nil
	}
}

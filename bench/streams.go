package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	probev1 "probed/gen/probe/v1"
)

// pace is what a stream is taken to run at when its length is chosen, in bytes a second.
const pace = 1_000_000_000

// length is that of a reply which takes about as long as a measurement is to take.
func (s *stage) length() int64 { return int64(s.time.Seconds() * pace) }

// relay starts socat as people start it, between those who connect to its address and target.
func (s *stage) relay(target string) (string, error) {
	address, err := freeAddress()
	if err != nil {
		return "", err
	}
	_, port, _ := net.SplitHostPort(address)
	return address, s.server(address, "socat", "TCP-LISTEN:"+port+",bind=127.0.0.1,reuseaddr,fork", "TCP:"+target)
}

// rate returns what measures how fast a client takes a reply, in MB/s.
func (s *stage) rate(take func(ctx context.Context, bytes int64) (int64, error)) measurement {
	return func(ctx context.Context) (float64, error) {
		begin := time.Now()
		got, err := take(ctx, s.length())
		if err == nil && got < s.length() {
			err = fmt.Errorf("%d of %d bytes came", got, s.length())
		}
		return float64(got) / 1e6 / time.Since(begin).Seconds(), err
	}
}

func replyByGRPC(s *stage) (ours, theirs measurement, err error) {
	_, source, conn, err := s.replies()
	if err != nil {
		return nil, nil, err
	}
	relay, err := s.relay(source)
	if err != nil {
		return nil, nil, err
	}
	ours = s.rate(func(ctx context.Context, bytes int64) (int64, error) { return takeByGRPC(ctx, conn, source, bytes) })
	return ours, s.rate(func(ctx context.Context, bytes int64) (int64, error) { return takeBySocket(ctx, relay, bytes) }), nil
}

func replyByREST(s *stage) (ours, theirs measurement, err error) {
	p, source, _, err := s.replies()
	if err != nil {
		return nil, nil, err
	}
	relay, err := s.relay(source)
	if err != nil {
		return nil, nil, err
	}
	ours = s.rate(func(ctx context.Context, bytes int64) (int64, error) { return takeByREST(ctx, p, source, bytes) })
	return ours, s.rate(func(ctx context.Context, bytes int64) (int64, error) {
		return curl(ctx, fmt.Sprintf("http://%s/%d", relay, bytes))
	}), nil
}

// replies starts probed and a source of replies, and a connection for those who ask for them by gRPC.
func (s *stage) replies() (p *probed, source string, conn *grpc.ClientConn, err error) {
	if p, err = s.startProbed(); err != nil {
		return nil, "", nil, err
	}
	if source, err = s.serve("source"); err != nil {
		return nil, "", nil, err
	}
	conn, err = s.dial(p)
	return p, source, conn, err
}

// asking is what is sent to a source for so many bytes.
func asking(bytes int64) string { return fmt.Sprintf("GET /%d HTTP/1.0\r\n\r\n", bytes) }

// takeByGRPC asks a source through probed, discards what comes, and returns how much it was.
func takeByGRPC(ctx context.Context, conn *grpc.ClientConn, source string, bytes int64) (int64, error) {
	return takeInChunks(ctx, conn, source, bytes, 0)
}

// takeInChunks is the same with chunks of at most so many bytes; 0: as probed likes.
func takeInChunks(ctx context.Context, conn *grpc.ClientConn, source string, bytes int64, size int32) (int64, error) {
	stream, err := probev1.NewExchangeServiceClient(conn).Exchange(ctx, &probev1.ExchangeRequest{
		Target: source, Payload: &probev1.ExchangeRequest_Text{Text: asking(bytes)}, Timeout: durationpb.New(5 * time.Minute),
		BufferSize: size,
	})
	if err != nil {
		return 0, err
	}
	var got int64
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		got += int64(len(event.GetChunk().GetData()))
	}
}

// takeBySocket is the same through a relay.
func takeBySocket(ctx context.Context, relay string, bytes int64) (int64, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", relay)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, asking(bytes)); err != nil {
		return 0, err
	}
	var got int64
	// io.Copy to io.Discard reads 8 KiB at a time, and would be what is measured.
	for block := make([]byte, 256<<10); ; {
		n, err := conn.Read(block)
		got += int64(n)
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
	}
}

// takeByREST is the same by curl through probed.
func takeByREST(ctx context.Context, p *probed, source string, bytes int64) (int64, error) {
	body := fmt.Sprintf(`{"target":%q,"text":%q,"timeout":"300s"}`, source, asking(bytes))
	return curl(ctx, "--header", "Authorization: "+p.authorization, "--header", "Accept: application/octet-stream",
		"--data", body, "http://"+p.http+"/v1/exchange")
}

// curl returns how many bytes curl has taken and thrown away.
func curl(ctx context.Context, args ...string) (int64, error) {
	command := exec.CommandContext(ctx, "curl", append([]string{
		"--silent", "--show-error", "--fail", "--output", os.DevNull, "--write-out", "%{size_download}",
	}, args...)...)
	var problem strings.Builder
	command.Stderr = &problem
	out, err := command.Output()
	if err != nil {
		return 0, fmt.Errorf("curl: %w: %s", err, &problem)
	}
	return strconv.ParseInt(string(out), 10, 64)
}

// longReply is how long the reply is that is to leave the memory of probed flat.
const longReply = 10 << 30

// long measures the most memory that probed ever held, when a long reply has gone through it either way.
func long(s *stage) (ours, theirs measurement, err error) {
	bytes := int64(longReply)
	if s.time < time.Second { // a trial of the row, and no measurement
		bytes = s.length()
	}
	return func(ctx context.Context) (float64, error) {
		s := &stage{ctx: ctx, options: s.options}
		defer s.close()
		p, source, conn, err := s.replies()
		if err != nil {
			return 0, err
		}
		for _, take := range []func() (int64, error){
			func() (int64, error) { return takeByGRPC(ctx, conn, source, bytes) },
			func() (int64, error) { return takeByREST(ctx, p, source, bytes) },
		} {
			if got, err := take(); err != nil || got < bytes {
				return 0, fmt.Errorf("%d of %d bytes came: %w", got, bytes, err)
			}
		}
		most, err := p.memory("VmHWM")
		return most / (1 << 10), err
	}, nil, nil
}

const (
	// idleExchanges are as many as are open when it is measured what one takes.
	idleExchanges = 2000
	// idleStreams of them share a connection: the most streams that probed lets one have.
	idleStreams = 100
)

// idle measures what an exchange takes that waits for its peer.
func idle(s *stage) (ours, theirs measurement, err error) {
	return func(ctx context.Context) (float64, error) {
		s := &stage{ctx: ctx, options: s.options}
		defer s.close()
		p, err := s.startProbed()
		if err != nil {
			return 0, err
		}
		target, err := s.serve("silence")
		if err != nil {
			return 0, err
		}
		return s.footprint(p, target, idleExchanges)
	}, nil, nil
}

// footprint is what each of n idle exchanges takes, in KiB.
func (s *stage) footprint(p *probed, target string, n int) (float64, error) {
	if err := s.open(p, target, 1); err != nil { // what the first one brings about is not of one more
		return 0, err
	}
	before, err := p.memory("VmRSS")
	if err != nil {
		return 0, err
	}
	if err := s.open(p, target, n); err != nil {
		return 0, err
	}
	// What opening them has left to the garbage collector is given back when it has been quiet for 10 to 20 s.
	select {
	case <-time.After(10 * s.time):
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	}
	after, err := p.memory("VmRSS")
	return (after - before) / float64(n), err
}

// open opens n exchanges with a target that says nothing. They end with the stage.
func (s *stage) open(p *probed, target string, n int) error {
	var conn *grpc.ClientConn
	for i := range n {
		if i%idleStreams == 0 {
			var err error
			if conn, err = s.dial(p); err != nil {
				return err
			}
		}
		stream, err := probev1.NewExchangeServiceClient(conn).Exchange(s.ctx, &probev1.ExchangeRequest{
			Target: target, HoldOpen: true, Timeout: durationpb.New(10 * time.Minute),
		})
		if err != nil {
			return err
		}
		for connected := false; !connected; {
			event, err := stream.Recv()
			if err != nil {
				return err
			}
			connected = event.GetConnected() != nil
		}
	}
	return nil
}

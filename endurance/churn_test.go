package endurance

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	probev1 "probed/gen/probe/v1"
	"probed/internal/nettest"
	"probed/internal/probetest"
	"probed/internal/promise"
)

// churner is one who opens one session after the other.
type churner struct {
	p    *probetest.Probed
	grpc *probetest.GRPCCaller
	rest *probetest.RESTCaller
	conn *grpc.ClientConn // with a witness
}

func newChurner(t *testing.T, p *probetest.Probed) *churner {
	return &churner{p, p.GRPC(), p.REST(), p.GRPC(probetest.NewWitness(t).GRPC()...).Conn}
}

// sessions are what a churner can do with a target: each sends words, unless it is a mere connect, returns what came back, and
// an error if it did not end well.
var sessions = []struct {
	name string
	run  func(ctx context.Context, t *testing.T, c *churner, target echoTarget, words string) (heard string, err error)
}{
	{"exchange by gRPC", func(ctx context.Context, t *testing.T, c *churner, target echoTarget, words string) (string, error) {
		return exchanged(c.grpc.Exchange(ctx, t, target.request(words)))
	}},
	{"exchange by REST", func(ctx context.Context, t *testing.T, c *churner, target echoTarget, words string) (string, error) {
		return exchanged(c.rest.Exchange(ctx, t, target.request(words)))
	}},
	{"conversation", func(ctx context.Context, _ *testing.T, c *churner, target echoTarget, words string) (string, error) {
		return conversed(ctx, c, target, words)
	}},
	{"connect by gRPC", func(ctx context.Context, _ *testing.T, c *churner, target echoTarget, words string) (string, error) {
		response, err := probev1.NewExchangeServiceClient(c.conn).Connect(ctx, &probev1.ConnectRequest{Target: target.url, Tls: target.tls})
		return words, failure(response.GetOutcome(), err)
	}},
	{"connect by REST", func(ctx context.Context, _ *testing.T, c *churner, target echoTarget, words string) (string, error) {
		return words, connected(ctx, c, &probev1.ConnectRequest{Target: target.url, Tls: target.tls})
	}},
}

// failure is why an exchange did not end well; nil when it did.
func failure(o *probev1.Outcome, err error) error {
	if err == nil && !o.GetOk() {
		err = fmt.Errorf("%v in %v: %s", o.GetReason(), o.GetPhase(), o.GetError())
	}
	return err
}

func exchanged(s *probetest.Session) (heard string, err error) {
	var b strings.Builder
	for {
		event, err := s.Next()
		if err != nil {
			return b.String(), failure(s.Outcome, s.Err)
		}
		b.Write(event.GetChunk().GetData())
	}
}

func conversed(ctx context.Context, c *churner, target echoTarget, words string) (heard string, err error) {
	stream, err := probev1.NewExchangeServiceClient(c.conn).Converse(ctx)
	if err != nil {
		return "", err
	}
	for _, frame := range []*probev1.ConverseRequest{
		{Frame: &probev1.ConverseRequest_Open{Open: &probev1.Open{Target: target.url, Tls: target.tls}}},
		{Frame: &probev1.ConverseRequest_Data{Data: []byte(words)}},
	} {
		if err := stream.Send(frame); err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
	}
	var outcome *probev1.Outcome
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return heard, failure(outcome, nil)
		}
		if err != nil {
			return heard, err
		}
		outcome = event.GetOutcome()
		if data := event.GetChunk().GetData(); len(data) > 0 {
			if heard += string(data); heard == words {
				if err := stream.Send(&probev1.ConverseRequest{Frame: &probev1.ConverseRequest_Close{Close: &probev1.Close{}}}); err != nil {
					return heard, err
				}
			}
		}
	}
}

func connected(ctx context.Context, c *churner, request *probev1.ConnectRequest) error {
	body, err := protojson.Marshal(request)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.p.HTTPAddress+"/v1/connect", bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := c.rest.Client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	response := &probev1.ConnectResponse{}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", answer.Status, text)
	}
	err = protojson.Unmarshal(text, response)
	return failure(response.GetOutcome(), err)
}

// echoTarget sends back what it gets.
type echoTarget struct {
	url      string
	tls      *probev1.TlsOptions // nil: it does not speak it
	messages bool                // it is a datagram socket
}

func (e echoTarget) request(words string) *probev1.ExchangeRequest {
	if !e.messages {
		return &probev1.ExchangeRequest{Target: e.url, Tls: e.tls, Payload: &probev1.ExchangeRequest_Text{Text: words}}
	}
	return &probev1.ExchangeRequest{Target: e.url, Steps: []*probev1.Step{
		{Step: &probev1.Step_Send{Send: &probev1.Send{Content: &probev1.Send_Text{Text: words}}}},
		{Step: &probev1.Step_Receive{Receive: &probev1.Receive{Count: 1}}},
	}}
}

// echoTargets are of four kinds, of which those of TCP live at many addresses: the port of a connection that is over is not
// free for a minute, and there are 28,000 for each address.
func echoTargets(t *testing.T) (targets []echoTarget, unixPath string) {
	t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
	secured := func(c net.Conn) {
		s := tls.Server(c, config)
		nettest.Echo(s)
		_ = s.Close()
	}
	unixPath = nettest.Unix(t, "unix", nettest.Echo)
	for i := range 8 {
		host := fmt.Sprintf("127.0.1.%d:0", i+1)
		targets = append(targets,
			echoTarget{url: nettest.Listen(t, "tcp4", host, nettest.Echo).String()},
			echoTarget{url: "udp://" + nettest.ListenPacket(t, "udp4", host, nettest.EchoPacket).String(), messages: true},
			echoTarget{url: "tls://" + nettest.Listen(t, "tcp4", host, secured).String(), tls: &probev1.TlsOptions{InsecureSkipVerify: true}},
			echoTarget{url: "unix://" + unixPath},
		)
	}
	return targets, unixPath
}

// selfSigned is a certificate that nobody trusts.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Sessions come and go, and each does what it should; when they have gone nothing is left of them.
func TestChurn(t *testing.T) {
	n, workers := promise.Times(800, 100_000), 32
	// 80 % of the sessions come between the two looks at the memory, so that 100 bytes that each leaves are more than this.
	most := int64(n) * 80 / 100 * 100
	if !promise.Long() {
		most = 16 << 20 // the heap has its size by chance after so few
	}
	targets, path := echoTargets(t)
	p := probetest.Start(t, probetest.Options{Args: []string{"--unix-path=" + path}})
	var failed atomic.Int64
	churn := func(from, to int) {
		var next atomic.Int64
		next.Store(int64(from))
		var working sync.WaitGroup
		for range workers {
			working.Go(func() {
				c := newChurner(t, p)
				for i := int(next.Add(1)); i <= to && failed.Load() < 10; i = int(next.Add(1)) {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					session, target, words := sessions[i%len(sessions)], targets[i%len(targets)], fmt.Sprintf("these are the words of session %d", i)
					if heard, err := session.run(ctx, t, c, target, words); err != nil || heard != words {
						t.Errorf("%s with %s: %q, %v", session.name, target.url, heard, err)
						failed.Add(1)
					}
					cancel()
				}
			})
		}
		working.Wait()
		p.Settle()
	}
	began := time.Now()
	churn(0, n/5)
	before := p.Memory()
	churn(n/5, n)
	after := p.Memory()
	if grown := after - before; grown > most {
		t.Errorf("%d bytes at the end, %d after the first fifth: %d more, want at most %d", after, before, grown, most)
	}
	promise.ChurnLeaksNothing.Reached(t, "%d sessions in %v, %d unexplained outcomes, no goroutine and no descriptor left; RSS %.1f MB after the first fifth, %.1f MB at the end",
		n, time.Since(began).Round(time.Second), failed.Load(), float64(before)/1e6, float64(after)/1e6)
}

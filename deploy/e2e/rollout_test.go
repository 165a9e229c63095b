//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/e2e-framework/klient/k8s/resources"
	"sigs.k8s.io/e2e-framework/pkg/envconf"

	probev1 "probed/gen/probe/v1"
)

// losesNothing has clients of every kind ask the Service of a probed while its pods are replaced. None of them tries again:
// what is lost is lost.
func losesNothing(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
	p := at(ctx, t, "shared")
	l := newLoad(ctx, t, p)
	before := p.pods(ctx, t, probedLabels)
	from := time.Now()
	l.begin(ctx)
	if _, err := p.stage.kubectl(ctx, "", "rollout", "restart", "deployment/probed", "--namespace", p.namespace); err != nil {
		t.Error(err)
	} else if err := p.await(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "probed"}}, rolledOut); err != nil {
		t.Errorf("it does not get ready again: %v", err)
	}
	// The last of the old ones is still draining.
	if err := poll(ctx, time.Minute, func(ctx context.Context) (bool, error) {
		var list corev1.PodList
		err := p.resources.List(ctx, &list, resources.WithLabelSelector(probedLabels))
		return len(list.Items) == len(before), err
	}); err != nil {
		t.Errorf("the old pods do not go: %v", err)
	}
	lasted := time.Since(from)
	l.end()
	for _, pod := range p.pods(ctx, t, probedLabels) {
		for _, old := range before {
			if pod.Name == old.Name {
				t.Errorf("%s was not replaced", pod.Name)
			}
		}
	}
	var all int
	for _, c := range l.clients {
		t.Logf("%6d requests by %s, over %d connections", c.answered, c.name, c.connections)
		all += c.answered
		if c.answered < 100 {
			t.Errorf("only %d requests by %s", c.answered, c.name)
		}
		for i, err := range c.lost {
			if i == 5 {
				t.Errorf("%s lost %d more", c.name, len(c.lost)-i)
				break
			}
			t.Errorf("%s lost a request %.1f s into the rollout: %v", c.name, err.at.Sub(from).Seconds(), err.err)
		}
	}
	t.Logf("%6d requests in all, in %.1f s", all, lasted.Seconds())
	if all < 2000 {
		t.Errorf("%d requests are too few to tell", all)
	}
	return ctx
}

// load is many clients of one Service.
type load struct {
	clients []*client
	// Each client keeps to one of the Service's families, or what is lost in one would be had in the other.
	families []probev1.AddressFamily
	stop     chan struct{}
	running  sync.WaitGroup
}

// client is one kind of them.
type client struct {
	name  string
	many  int        // of them at the same time
	pace  rate.Limit // requests a second of all
	begin func(probev1.AddressFamily) session

	mu          sync.Mutex
	answered    int
	connections int
	lost        []lost
}

type lost struct {
	at  time.Time
	err error
}

// session is one client's: it asks one thing, over the connection it has or over a new one, and says whether it made one.
type session interface {
	ask(ctx context.Context) (connected bool, err error)
	end()
}

func newLoad(ctx context.Context, t *testing.T, p *place) *load {
	t.Helper()
	token := p.good(ctx, t)
	roots, pem := p.authority(t)
	addresses, err := p.stage.forwards.to(p.namespace, "asker")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+addresses[grpcPort], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	through := probev1.NewExchangeServiceClient(conn)
	var service corev1.Service
	if err := p.resources.Get(ctx, "probed", p.namespace, &service); err != nil {
		t.Fatal(err)
	}
	var families []probev1.AddressFamily
	for _, family := range service.Spec.IPFamilies {
		families = append(families, map[corev1.IPFamily]probev1.AddressFamily{
			corev1.IPv4Protocol: probev1.AddressFamily_AF_INET, corev1.IPv6Protocol: probev1.AddressFamily_AF_INET6,
		}[family])
		settled(ctx, t, &grpcCaller{conn, ""}, &probev1.ConnectRequest{Target: join("probed", grpcPort), Family: families[len(families)-1]})
	}
	rest := func(keep bool) func(probev1.AddressFamily) session {
		return func(family probev1.AddressFamily) session {
			return &restSession{through: through, family: family, pem: pem, token: token, keep: keep}
		}
	}
	return &load{stop: make(chan struct{}), families: families, clients: []*client{
		{name: "REST, a connection each", many: 4, pace: 32, begin: rest(false)},
		{name: "REST, a connection kept", many: 8, pace: 96, begin: rest(true)},
		{name: "gRPC, a connection kept", many: 4, pace: 80, begin: func(family probev1.AddressFamily) session {
			return newGRPCSession(through, family, roots, token)
		}},
		{name: "connect checks of the gRPC port", many: 2, pace: 16, begin: func(family probev1.AddressFamily) session {
			return connectSession{through, family, pem}
		}},
	}}
}

// begin has all clients ask until end.
func (l *load) begin(ctx context.Context) {
	for _, c := range l.clients {
		pace := rate.NewLimiter(c.pace, 1) // of all, so that they take turns
		for i := range c.many {
			l.running.Go(func() {
				s := c.begin(l.families[i%len(l.families)])
				defer s.end()
				for pace.Wait(ctx) == nil {
					select {
					case <-l.stop:
						return
					default:
					}
					asking, cancel := context.WithTimeout(ctx, 10*time.Second)
					connected, err := s.ask(asking)
					cancel()
					c.count(connected, err)
				}
			})
		}
	}
}

func (l *load) end() {
	close(l.stop)
	l.running.Wait()
}

func (c *client) count(connected bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if connected {
		c.connections++
	}
	if err != nil {
		c.lost = append(c.lost, lost{time.Now(), err})
		return
	}
	c.answered++
}

// restSession speaks HTTP/1.1 by hand, since a client of the library tries again by itself.
type restSession struct {
	through probev1.ExchangeServiceClient
	family  probev1.AddressFamily
	pem     string
	token   string
	keep    bool

	conn *tunnel
	in   *bufio.Reader
}

func (s *restSession) ask(ctx context.Context) (connected bool, err error) {
	if s.conn != nil && s.conn.closed() {
		s.end()
		return false, errors.New("the connection was closed between two requests, with no word in the answer to the first: a request on its way would have been lost")
	}
	if s.conn == nil {
		connected = true
		s.conn, err = dial(ctx, s.through, &probev1.Open{
			Target: "tls://probed:" + httpPort, Family: s.family, Timeout: durationpb.New(10 * time.Second), Tls: &probev1.TlsOptions{CaBundle: s.pem, Alpn: []string{"http/1.1"}},
		})
		if err != nil {
			s.conn = nil
			return connected, fmt.Errorf("connecting: %w", err)
		}
		s.in = bufio.NewReader(s.conn)
	}
	stop := context.AfterFunc(ctx, func() { s.conn.Close() })
	again, err := s.exchange(ctx)
	stop()
	if err != nil || !again || !s.keep {
		s.end()
	}
	return connected, err
}

// exchange sends one request and reads its answer; again: the connection is good for another.
func (s *restSession) exchange(ctx context.Context) (again bool, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://probed:"+httpPort+"/v1/ports/22", http.NoBody)
	if err != nil {
		return false, err
	}
	request.Header.Set("Authorization", "Bearer "+s.token)
	request.Close = !s.keep
	var out bytes.Buffer
	if err := request.Write(&out); err != nil {
		return false, err
	}
	if _, err := s.conn.Write(out.Bytes()); err != nil {
		return false, fmt.Errorf("sending: %w", err)
	}
	response, err := http.ReadResponse(s.in, request)
	if err != nil {
		return false, fmt.Errorf("reading the answer: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return false, fmt.Errorf("reading the body: %w", err)
	}
	if response.StatusCode != http.StatusOK || !isSSH(string(body)) {
		return false, fmt.Errorf("%s: %s", response.Status, body)
	}
	return !response.Close, nil
}

// isSSH is whether an answer tells what is on port 22.
func isSSH(text string) bool {
	return strings.Contains(text, `"name":"ssh"`) && strings.Contains(text, `"portClass":"PORT_CLASS_SYSTEM"`) && strings.HasSuffix(text, "}")
}

func (s *restSession) end() {
	if s.conn != nil {
		s.conn.Close()
	}
	s.conn = nil
}

// grpcSession is grpc-go, with its connections through the tunnel. It goes elsewhere when the server says so (GOAWAY), as every
// client of gRPC does.
type grpcSession struct {
	conn  *grpc.ClientConn
	token string

	mu    sync.Mutex
	dials int
	told  int
}

func newGRPCSession(through probev1.ExchangeServiceClient, family probev1.AddressFamily, roots *x509.CertPool, token string) *grpcSession {
	s := &grpcSession{token: token}
	conn, err := grpc.NewClient("passthrough:///probed:"+grpcPort,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "probed", MinVersion: tls.VersionTLS12})),
		grpc.WithDisableRetry(),
		grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
			s.mu.Lock()
			s.dials++
			s.mu.Unlock()
			return dial(ctx, through, &probev1.Open{Target: "tcp://" + target, Family: family, Timeout: durationpb.New(10 * time.Second)})
		}),
	)
	if err != nil {
		panic(err) // of options that stand here
	}
	s.conn = conn
	return s
}

func (s *grpcSession) ask(ctx context.Context) (connected bool, err error) {
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+s.token)
	response, err := probev1.NewNameServiceClient(s.conn).LookupPort(ctx, &probev1.LookupPortRequest{Port: 22})
	if err == nil && (len(response.GetServices()) == 0 || response.GetServices()[0].GetName() != "ssh") {
		err = errors.New("the answer is not about ssh")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	connected, s.told = s.dials > s.told, s.dials
	return connected, err
}

func (s *grpcSession) end() { s.conn.Close() }

// connectSession connects, speaks TLS and goes.
type connectSession struct {
	through probev1.ExchangeServiceClient
	family  probev1.AddressFamily
	pem     string
}

func (s connectSession) ask(ctx context.Context) (bool, error) {
	response, err := s.through.Connect(ctx, &probev1.ConnectRequest{
		Target: "tls://probed:" + grpcPort, Family: s.family, Timeout: durationpb.New(10 * time.Second), Tls: &probev1.TlsOptions{CaBundle: s.pem, Alpn: []string{"h2"}},
	})
	if err == nil && !response.GetOutcome().GetOk() {
		err = failed(response.GetOutcome())
	}
	return true, err
}

func (connectSession) end() {}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"probed/internal/nettest"
	"probed/internal/probetest"
	"probed/service"
	"probed/service/names"
	"probed/service/policy"
	"probed/service/resolve"
)

// TestMain makes probectl a command of the scripts, and of the tests that need it as a process.
func TestMain(m *testing.M) {
	testscript.Main(nettest.CheckLeaks(m), map[string]func(){"probectl": probectl, "kubectl-probectl": probectl, "kubectl_complete-probectl": probectl, "kubectl": kubectlStandIn})
}

// probectl is main, and fails if run leaves a goroutine behind. If a variable names a file, what the kernel knows of the
// process goes there at its end.
func probectl() {
	code := run(context.Background(), os.Args[0], os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv)
	if file := os.Getenv("STATUS_FILE"); file != "" {
		status, err := os.ReadFile("/proc/self/status")
		if err == nil {
			err = os.WriteFile(file, status, 0o600)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	// One read of what is typed is the exception.
	if err := goleak.Find(goleak.IgnoreAnyFunction("probed/cmd/probectl.(*sender).read")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 99
	}
	os.Exit(code)
}

// kubectlStandIn is what the tests have for kubectl.
func kubectlStandIn() {
	if err := (standIn{os.Getenv("CLUSTER")}).run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// TestScripts runs testdata/script: each command as its users run it, in process and against a probed, which the
// variables of world lead to.
func TestScripts(t *testing.T) {
	t.Parallel()
	secure := secureServer(t)
	variables := world(t)
	guarded := newGuardedWorld(t, netip.MustParseAddrPort(variables["ECHO"]))
	maps.Copy(variables, guarded.variables)
	variables["TLS"] = secure.Listener.Addr().String()
	variables["STARTTLS"] = nettest.TCP(t, startTLS(secure.TLS)).String()
	program, err := exec.LookPath("probectl")
	if err != nil {
		t.Fatal(err)
	}
	variables["PROBECTL"] = program
	cluster := clusterFiles(variables)
	cluster["token-ci"] = variables["TOKEN"] + "\n"
	certificate, key := pemFiles(t, secure.TLS.Certificates[0])
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			for name, value := range variables {
				env.Setenv(name, value)
			}
			// A program under the race detector waits a second before it exits, and here are many.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			files := map[string][]byte{"hostile": []byte(hostile), "ca.pem": certificate, "key.pem": key}
			maps.Copy(files, guarded.files)
			if err := os.Mkdir(filepath.Join(env.WorkDir, "cluster"), 0o700); err != nil {
				return err
			}
			env.Setenv("CLUSTER", filepath.Join(env.WorkDir, "cluster"))
			for name, content := range cluster {
				files["cluster/"+name] = []byte(content)
			}
			for name, content := range files {
				if err := os.WriteFile(filepath.Join(env.WorkDir, name), content, 0o600); err != nil {
					return err
				}
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
			"holds": holds,
			"gone":  gone,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// exits CODE PROGRAM ARGUMENT... runs a program that has to exit with that code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGUMENT...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// holds FILE N fails unless FILE, or stdout, is the first N bytes of nettest.Data.
func holds(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: holds FILE N")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	if got := ts.ReadFile(args[0]); got != string(nettest.Data(n)) {
		ts.Fatalf("%s has %d bytes, and not the %d bytes it should have", args[0], len(got), n)
	}
}

// hostile is what a peer might send to drive the terminal of who looks at it: clear the screen, set the title, change
// colours by 7 bit, 8 bit and UTF-8 controls, turn the direction of text, hide a character, and go back in the line.
const hostile = "\x1b[2J\x1b]0;owned\a\x9b31m\u009b31m\u202eevil\u2066\u200b\rback\x7f\x00 end"

// longReply is the length of a reply that no buffer is a divisor of.
const longReply = 3_000_001

// world starts a probed and the peers to probe, and returns the variables that tell where they are.
func world(t *testing.T) map[string]string {
	t.Helper()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "hello\n")
	}))
	t.Cleanup(web.Close)
	nameServer := nettest.UDP(t, answerDNS)
	echoPath := nettest.Unix(t, "unix", nettest.Echo)
	echo := nettest.TCP(t, nettest.Echo)
	return map[string]string{
		"SERVER":     serve(t, nameServer),
		"NAMELESS":   serve(t, nettest.UDP(t, answerNothing)),
		"WEB":        web.Listener.Addr().String(),
		"ECHO":       echo.String(),
		"ECHO_PORT":  strconv.Itoa(int(echo.Port())),
		"UDP_ECHO":   nettest.UDP(t, nettest.EchoPacket).String(),
		"UNIX_ECHO":  echoPath,
		"LONG":       nettest.TCP(t, nettest.Reply(nettest.Data(longReply))).String(),
		"GREETING":   nettest.TCP(t, nettest.ReplyAfter(0, []byte("220 ready\r\n"))).String(),
		"HOSTILE":    nettest.TCP(t, nettest.Reply([]byte(hostile))).String(),
		"RESET":      nettest.TCP(t, nettest.Reset(1)).String(),
		"SILENT":     nettest.TCP(t, nettest.Silent).String(),
		"REFUSED":    nettest.Refused(t).String(),
		"PINGING":    nettest.TCP(t, pinging).String(),
		"DNS":        nameServer.String(),
		"OTHER_GRPC": serveOn(t, grpc.NewServer()),
		"LONG_REPLY": strconv.Itoa(longReply),
	}
}

// serve starts a probed in a pod, with files and a name server of its own, and returns its address.
func serve(t *testing.T, nameServer netip.AddrPort) string {
	t.Helper()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	vantage := service.Vantage{Hostname: "web-7d9f", Pod: "web-7d9f", Namespace: "shop", Node: "node-2", Version: "v1.2.3"}
	open := &policy.Policy{Loopback: true, Open: true}
	return listen(t, service.Config{
		Policy: func() *policy.Policy { return open },
		Names: names.Config{
			ServicesFile:  file("services", "ssh 22/tcp # Secure Shell\nhttp 80/tcp www\necho 7/udp\n"),
			ProtocolsFile: file("protocols", "tcp 6 TCP # transmission control protocol\n"),
		},
		Resolve: resolve.Config{
			Hosts:      file("hosts", "192.0.2.1 web-7d9f.shop web-7d9f\n2001:db8::7 six.shop\n"),
			ResolvConf: file("resolv.conf", "nameserver 192.0.2.53\nsearch shop.test test\noptions ndots:2\n"),
			Nsswitch:   file("nsswitch.conf", "hosts: files dns\n"),
			GaiConf:    file("gai.conf", ""),
			HostConf:   file("host.conf", ""),
			Getenv:     func(string) string { return "" },
			Hostname:   func() (string, error) { return "web-7d9f", nil },
			// Name servers of resolv.conf are on port 53, which a test cannot have.
			DialServer: func(ctx context.Context, network string, _ netip.AddrPort) (net.Conn, error) {
				var dialer net.Dialer
				return dialer.DialContext(ctx, network, nameServer.String())
			},
		},
		Vantage: vantage,
	}, vantage)
}

// listen serves by gRPC on loopback until the test ends, and returns the address.
func listen(t *testing.T, config service.Config, vantage service.Vantage) string {
	t.Helper()
	chain, err := service.Chain(service.ChainConfig{Logger: slog.New(slog.DiscardHandler), Vantage: vantage})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(chain.ServerOptions(probetest.NewWitness(t).Server(), grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}))...) // as probed has it
	service.New(config).Register(server)
	return serveOn(t, server)
}

func serveOn(t *testing.T, server *grpc.Server) string {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveAt(t, listener, server)
}

// serveAt serves a listener.
func serveAt(t *testing.T, listener net.Listener, server *grpc.Server) string {
	t.Helper()
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return listener.Addr().String()
}

// answerDNS is a name server for web.shop.test, two.shop.test and for text that is hostile; it knows no other name.
func answerDNS(pc net.PacketConn, from net.Addr, data []byte) {
	question := new(dns.Msg)
	if question.Unpack(data) != nil || len(question.Question) != 1 {
		return
	}
	answer := new(dns.Msg)
	answer.SetReply(question)
	answer.RecursionAvailable = true
	q := question.Question[0]
	header := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 30}
	switch strings.ToLower(q.Name) {
	case "web.shop.test.":
		if q.Qtype == dns.TypeA {
			answer.Answer = []dns.RR{&dns.A{Hdr: header, A: net.IPv4(192, 0, 2, 10)}}
		}
	case "two.shop.test.":
		if q.Qtype == dns.TypeA {
			answer.Answer = []dns.RR{&dns.A{Hdr: header, A: net.IPv4(127, 0, 0, 1)}, &dns.A{Hdr: header, A: net.IPv4(127, 0, 0, 2)}}
		}
	case "hostile.test.":
		answer.Answer = []dns.RR{&dns.TXT{Hdr: header, Txt: []string{"\x1b[2J"}}}
	case "10.2.0.192.in-addr.arpa.":
		answer.Answer = []dns.RR{&dns.PTR{Hdr: header, Ptr: "web.shop.test."}}
	case "broken.test.":
		answer.Rcode = dns.RcodeServerFailure
	default:
		answer.Rcode = dns.RcodeNameError
	}
	if packed, err := answer.Pack(); err == nil {
		_, _ = pc.WriteTo(packed, from)
	}
}

// answerNothing is a name server that knows no name.
func answerNothing(pc net.PacketConn, from net.Addr, data []byte) {
	question := new(dns.Msg)
	if question.Unpack(data) != nil {
		return
	}
	answer := new(dns.Msg)
	answer.SetRcode(question, dns.RcodeNameError)
	if packed, err := answer.Pack(); err == nil {
		_, _ = pc.WriteTo(packed, from)
	}
}

package grpcurl

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"probed/ecosystem/transcript"
	"probed/internal/probetest"
)

// go test -update writes what is printed into the page, for a person to look at.
var update = flag.Bool("update", false, "write what is printed into docs/grpcurl.md")

const page = "../../docs/grpcurl.md"

// What docs/grpcurl.md shows is what happens. Its sections are each about a probed that is started as it stands there, on ports
// that are free.
func TestPage(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	tool := grpcurl(t)
	shown, ran := string(text), 0
	var (
		config  string
		session *session
	)
	for _, b := range transcript.Blocks(string(text)) {
		switch b.Kind {
		case "yaml":
			config = b.Text
		case "sh":
			session = start(t, tool, strings.Fields(b.Text), config)
		case "console":
			for _, c := range b.Commands() {
				ran++
				printed := session.run(t, c.Text)
				if transcript.Matches(c.Printed, printed) {
					continue
				}
				t.Errorf("%s:%d: %sprinted\n%s\nand on the page stands\n%s", page, c.Line, c.Text, printed, c.Printed)
				if *update && !strings.Contains(c.Printed, transcript.LeftOut) {
					prompt := "$ " + strings.ReplaceAll(strings.TrimSuffix(c.Text, "\n"), "\n", "\n> ") + "\n"
					shown = strings.Replace(shown, prompt+c.Printed, prompt+printed, 1)
				}
			}
		}
	}
	if ran < 15 {
		t.Errorf("only %d commands are on the page", ran)
	}
	if *update {
		if err := os.WriteFile(page, []byte(shown), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// session is where commands are run: beside a probed, with the files that the page speaks of.
type session struct {
	dir, path      string
	toReal, toPage *strings.Replacer // of addresses
}

// start starts a probed by the command of the page.
func start(t *testing.T, tool string, words []string, config string) *session {
	t.Helper()
	s := &session{dir: t.TempDir(), path: filepath.Dir(tool) + ":" + os.Getenv("PATH")}
	options := probetest.Options{}
	if words[0] != "probed" {
		t.Fatalf("%q starts no probed", words)
	}
	for i := 1; i < len(words); i++ {
		switch words[i] {
		case "--config": // it takes its file from here
			i++
			certificate(t, s.dir)
			options.Config = strings.NewReplacer("tls.crt", filepath.Join(s.dir, "tls.crt"), "tls.key", filepath.Join(s.dir, "tls.key")).Replace(config)
		default:
			options.Args = append(options.Args, strings.NewReplacer(":7007", ":0", ":50051", ":0").Replace(words[i]))
		}
	}
	p := probetest.Start(t, options)
	_, port, err := net.SplitHostPort(p.GRPCAddress)
	if err != nil {
		t.Fatal(err)
	}
	pairs := []string{"localhost:50051", "127.0.0.1:" + port, "probed.example.com:50051", "127.0.0.1:" + port}
	back := []string{"127.0.0.1:" + port, "127.0.0.1:50051", "[::]:" + port, "[::]:50051"}
	if p.EchoAddress != "" {
		pairs, back = append(pairs, "127.0.0.1:7007", p.EchoAddress), append(back, p.EchoAddress, "127.0.0.1:7007")
	}
	s.toReal, s.toPage = strings.NewReplacer(pairs...), strings.NewReplacer(back...)
	return s
}

// run runs a command, and returns what it prints, with the addresses that the page has.
func (s *session) run(t *testing.T, text string) string {
	t.Helper()
	shell := exec.CommandContext(t.Context(), "bash", "-c", s.toReal.Replace(text))
	shell.Dir = s.dir
	shell.Env = []string{"PATH=" + s.path, "CI_TOKEN=probed_ci-of-this-page", "ADA_TOKEN=probed_ada-of-this-page"}
	out, err := shell.CombinedOutput() // that a command fails is said by what it prints
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		t.Fatal(err)
	}
	printed := s.toPage.Replace(string(out))
	if printed != "" && !strings.HasSuffix(printed, "\n") {
		printed += "\n"
	}
	return printed
}

// grpcurl is the program, of the version in go.mod.
func grpcurl(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "tool", "-n", "grpcurl").Output()
	if err != nil {
		t.Fatalf("go tool -n grpcurl: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// certificate makes what the page says is there: tls.crt and tls.key of the server, ca.crt of its authority, which is itself.
func certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "probed"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour),
		DNSNames: []string{"probed.example.com"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"tls.crt": {Type: "CERTIFICATE", Bytes: der}, "ca.crt": {Type: "CERTIFICATE", Bytes: der}, "tls.key": {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

package blackbox

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"probed/internal/nettest"
	"probed/internal/probetest"
)

// patience is for what should take a moment, on a machine that is busy.
const patience = 30 * time.Second

// The namespace is the test's own, so every port of it is free.
const (
	redisPort = 6379
	// Those of openssl s_server, and what is wrong with each.
	goodPort, expiredPort, namePort, strangerPort, oldPort, mutualPort = 4430, 4431, 4432, 4433, 4434, 4435
	exporterPort                                                       = 9115
)

// world are probed and blackbox_exporter, side by side.
type world struct {
	probed *probetest.Probed
	dir    string
}

// newWorld starts both, and the servers that they probe. text are the modules; DIR in it is where the certificates are.
func newWorld(t *testing.T, text string) *world {
	t.Helper()
	w := &world{dir: nettest.SocketDir(t)}
	if err := os.Chmod(w.dir, 0o755); err != nil { // some servers change who they are
		t.Fatal(err)
	}
	w.certificates(t)
	w.named(t)
	w.openssl(t)
	w.run(t, fmt.Sprintf("127.0.0.1:%d", redisPort), "redis-server", "--port", fmt.Sprint(redisPort), "--bind", "127.0.0.1", "--save", "", "--dir", w.dir)
	file := w.write(t, "blackbox.yml", strings.ReplaceAll(text, "DIR", w.dir))
	w.run(t, fmt.Sprintf("127.0.0.1:%d", exporterPort), "prometheus-blackbox-exporter", "--config.file="+file, fmt.Sprintf("--web.listen-address=127.0.0.1:%d", exporterPort))
	w.probed = probetest.Start(t, probetest.Options{Args: []string{"--config=" + file}})
	return w
}

func (w *world) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// run starts a program that ends with the test, and waits until something listens at address.
func (w *world) run(t *testing.T, address, program string, args ...string) {
	t.Helper()
	var log bytes.Buffer
	command := exec.Command(program, args...)
	command.Stdout, command.Stderr = &log, &log
	command.Dir = w.dir
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	input, err := command.StdinPipe() // openssl s_server ends with its input
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatalf("%v: make check-ecosystem installs it", err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = command.Wait()
	}()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		<-exited
		_ = input.Close()
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		var d net.Dialer
		if c, err := d.DialContext(ctx, "tcp", address); err == nil {
			c.Close()
			return
		}
		select {
		case <-exited:
			t.Fatalf("%s has ended: %s", program, &log)
		case <-ctx.Done():
			t.Fatalf("%s does not listen at %s", program, address)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// named is a real name server: the one of this host, and a target.
func (w *world) named(t *testing.T) {
	t.Helper()
	w.write(t, "zone", `$TTL 300
@ IN SOA ns admin 2026112301 3600 600 86400 60
@ IN NS ns
ns IN A 127.0.0.1
v4 IN A 127.0.0.1
v6 IN AAAA ::1
both IN A 127.0.0.1
both IN AAAA ::1
two IN A 127.0.0.1
two IN A 127.0.0.1
ok IN A 127.0.0.1
txt IN TXT "one" "two words"
alias IN CNAME v4
`)
	conf := w.write(t, "named.conf", fmt.Sprintf(`
tls served { cert-file "%[1]s/good.pem"; key-file "%[1]s/good.key"; };
options {
	directory "%[1]s"; pid-file "%[1]s/named.pid"; session-keyfile "%[1]s/session.key"; lock-file none;
	listen-on { 127.0.0.1; }; listen-on-v6 { ::1; };
	listen-on port 853 tls served { 127.0.0.1; };
	recursion no; dnssec-validation no; minimal-responses no; version "of a test";
};
controls { };
zone "probe.test" { type primary; file "%[1]s/zone"; };
`, w.dir))
	w.run(t, "127.0.0.1:853", "named", "-g", "-n", "1", "-c", conf)
}

// openssl are servers with a certificate each.
func (w *world) openssl(t *testing.T) {
	t.Helper()
	for port, args := range map[int][]string{
		goodPort:     {"-cert", "good.pem", "-cert_chain", "good.pem", "-key", "good.key"},
		expiredPort:  {"-cert", "expired.pem", "-cert_chain", "expired.pem", "-key", "expired.key"},
		namePort:     {"-cert", "name.pem", "-cert_chain", "name.pem", "-key", "name.key"},
		strangerPort: {"-cert", "stranger.pem", "-key", "stranger.key"},
		oldPort:      {"-cert", "good.pem", "-cert_chain", "good.pem", "-key", "good.key", "-tls1_2"},
		mutualPort:   {"-cert", "good.pem", "-cert_chain", "good.pem", "-key", "good.key", "-Verify", "2", "-verify_return_error", "-CAfile", "root.pem", "-tls1_2"},
	} {
		address := fmt.Sprintf("127.0.0.1:%d", port)
		w.run(t, address, "openssl", append([]string{"s_server", "-quiet", "-accept", address}, args...)...)
	}
}

type signer struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         string // its own, and of those above it but the root
}

// certificates writes those of the servers. The root ends first, so that until when a chain holds is not what the
// certificates say that a server sends.
func (w *world) certificates(t *testing.T) {
	t.Helper()
	serial := int64(0)
	now := time.Now()
	issue := func(by *signer, name, common string, until time.Duration, names ...string) *signer {
		serial++
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(serial<<32 + 0x0abcdef), Subject: pkix.Name{CommonName: common, Organization: []string{"Probe, Inc."}},
			NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(until), DNSNames: names, BasicConstraintsValid: true,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		if len(names) == 0 {
			template.IsCA, template.KeyUsage, template.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
		} else {
			template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
			if names[0] == "other.test" {
				template.IPAddresses = nil
			}
		}
		parent, parentKey := template, key
		if by != nil {
			parent, parentKey = by.certificate, by.key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
		if err != nil {
			t.Fatal(err)
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		own := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		chain := own
		if by != nil && by.certificate.Subject.CommonName != "root" {
			chain += by.pem
		}
		w.write(t, name+".pem", chain)
		w.write(t, name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
		return &signer{certificate, key, chain}
	}
	root := issue(nil, "root", "root", 100*time.Hour)
	middle := issue(root, "middle", "middle", 300*time.Hour)
	issue(middle, "good", "ok.probe.test", 200*time.Hour, "ok.probe.test", "www.ok.probe.test")
	issue(middle, "expired", "ok.probe.test", -time.Hour, "ok.probe.test")
	issue(middle, "name", "other.test", 200*time.Hour, "other.test")
	issue(nil, "stranger", "ok.probe.test", 200*time.Hour, "ok.probe.test")
}

// smtp is a mail server that offers STARTTLS.
func (w *world) smtp(t *testing.T) string {
	t.Helper()
	certificate, err := tls.LoadX509KeyPair(filepath.Join(w.dir, "good.pem"), filepath.Join(w.dir, "good.key"))
	if err != nil {
		t.Fatal(err)
	}
	return nettest.TCP(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "220 mail.test ESMTP of a test\r\n")
		lines := bufio.NewReader(c)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			switch {
			case strings.HasPrefix(line, "EHLO"):
				_, _ = io.WriteString(c, "250-mail.test\r\n250-STARTTLS\r\n250 HELP\r\n")
			case strings.HasPrefix(line, "STARTTLS"):
				_, _ = io.WriteString(c, "220 go\r\n")
				secured := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{certificate}})
				if secured.Handshake() != nil {
					return
				}
				c, lines = secured, bufio.NewReader(secured)
			case strings.HasPrefix(line, "QUIT"):
				_, _ = io.WriteString(c, "221 bye\r\n")
				return
			default:
				_, _ = io.WriteString(c, "500 what?\r\n")
			}
		}
	}).String()
}

// get asks one of the two.
func get(t *testing.T, address, query string, header http.Header) (code int, got http.Header, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/probe?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(r.Header, header)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header, string(text)
}

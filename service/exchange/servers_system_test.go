//go:build system

package exchange

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// startPatience is how long a server may take to begin, and to end.
const startPatience = 30 * time.Second

// process is a server in the foreground, as long as the test runs.
type process struct {
	log    string // the file that its output goes to
	exited chan struct{}
}

// spawn starts one. What the programs are called by Debian's packages stands in tools/test-system.
func spawn(t testing.TB, name string, args ...string) *process {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: make test-system installs it", err)
	}
	p := &process{log: filepath.Join(t.TempDir(), "log"), exited: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	command := exec.Command(path, args...) //nolint:noctx // it is told to end, with all its children, at cleanup
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // to end its children with it
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		_ = command.Wait() // how a server ends that was told to is no matter
	}()
	t.Cleanup(func() {
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			_ = syscall.Kill(-command.Process.Pid, signal) // it may be gone
			select {
			case <-p.exited:
				_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL) // who stayed behind
				return
			case <-time.After(startPatience):
			}
		}
		t.Errorf("%s does not end", name)
	})
	return p
}

// await asks until the answer is yes; false: the server has exited.
func (p *process) await(t testing.TB, ready func() bool) bool {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(startPatience); time.Now().Before(deadline); {
		if ready() {
			return true
		}
		select {
		case <-p.exited:
			return false
		case <-tick.C:
		}
	}
	t.Fatalf("it does not begin:\n%s", p.output())
	return false
}

func (p *process) output() []byte {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return []byte(err.Error())
	}
	return text
}

// serve starts a server that is told its port, and returns where it listens as soon as it does. Between the choice of
// the port and its use another may take it, so there are several tries.
func serve(t testing.TB, start func(port string) *process) netip.AddrPort {
	t.Helper()
	for range 5 {
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := free.Addr().(*net.TCPAddr).AddrPort()
		free.Close()
		p := start(strconv.Itoa(int(address.Port())))
		listens := func() bool {
			c, err := net.DialTimeout("tcp", address.String(), startPatience)
			if err == nil {
				c.Close()
			}
			return err == nil
		}
		if p.await(t, listens) {
			return address
		}
		t.Logf("it exited:\n%s", p.output())
	}
	t.Fatal("it did not begin in five tries")
	return netip.AddrPort{}
}

var accepting = regexp.MustCompile(`(?m)^ACCEPT (\S+)$`)

// opensslServer starts `openssl s_server`, which sends back each line reversed, with more options; it takes one
// connection at a time.
func opensslServer(t testing.TB, args ...string) netip.AddrPort {
	t.Helper()
	p := spawn(t, "openssl", append([]string{"s_server", "-accept", "127.0.0.1:0", "-rev"}, args...)...)
	var address netip.AddrPort
	ok := p.await(t, func() bool {
		found := accepting.FindSubmatch(p.output())
		if found == nil {
			return false
		}
		var err error
		address, err = netip.ParseAddrPort(string(found[1]))
		return err == nil
	})
	if !ok {
		t.Fatalf("it exited:\n%s", p.output())
	}
	return address
}

// nginx serves these blocks of `server { … }`, in which PORT stands for the port.
func nginx(t testing.TB, blocks string) netip.AddrPort {
	t.Helper()
	dir := openDir(t)
	write(t, dir, "index.html", "hello from nginx\n")
	return serve(t, func(port string) *process {
		config := write(t, dir, "nginx.conf", `
			daemon off; pid `+dir+`/pid; error_log stderr; worker_processes 1;
			events {}
			http { access_log off; root `+dir+`;
				`+string(bytes.ReplaceAll([]byte(blocks), []byte("PORT"), []byte("127.0.0.1:"+port)))+`
			}`)
		return spawn(t, "nginx", "-p", dir, "-e", "stderr", "-c", config)
	})
}

func sshd(t testing.TB) netip.AddrPort {
	t.Helper()
	dir := openDir(t)
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir+"/key").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // which it wants, and its service makes
		t.Fatal(err)
	}
	return serve(t, func(port string) *process {
		return spawn(t, "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null",
			"-o", "ListenAddress=127.0.0.1", "-o", "Port="+port, "-o", "HostKey="+dir+"/key", "-o", "PidFile=none")
	})
}

func redis(t testing.TB) netip.AddrPort {
	t.Helper()
	dir := t.TempDir()
	return serve(t, func(port string) *process {
		return spawn(t, "redis-server", "--bind", "127.0.0.1", "--port", port, "--dir", dir, "--save", "", "--appendonly", "no")
	})
}

// exim is a mail server, with STARTTLS or with TLS from the beginning, which offers authentication under TLS alone.
func exim(t testing.TB, i identity, tlsOnConnect bool) netip.AddrPort {
	t.Helper()
	dir := openDir(t)
	if err := os.Chmod(dir, 0o777); err != nil { // it is not root any more
		t.Fatal(err)
	}
	config := `
primary_hostname = probe.test
spool_directory = ` + dir + `
log_file_path = ` + dir + `/%s.log
pid_file_path = ` + dir + `/pid
tls_certificate = ` + i.certFile + `
tls_privatekey = ` + i.keyFile + `
tls_advertise_hosts = *
host_lookup =
keep_environment =
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_condition = no
  server_advertise_condition = ${if def:tls_in_cipher}
`
	return serve(t, func(port string) *process {
		text := config
		if tlsOnConnect {
			text = "tls_on_connect_ports = " + port + text
		}
		return spawn(t, "/usr/sbin/exim4", "-bdf", "-C", write(t, dir, "exim.conf", text), "-oX", "127.0.0.1."+port)
	})
}

// dovecot is an IMAP server with STARTTLS.
func dovecot(t testing.TB, i identity) netip.AddrPort {
	t.Helper()
	dir := openDir(t)
	return serve(t, func(port string) *process {
		config := write(t, dir, "dovecot.conf", `
base_dir = `+dir+`/run
state_dir = `+dir+`/run
log_path = /dev/stderr
protocols = imap
listen = 127.0.0.1
ssl = yes
ssl_cert = <`+i.certFile+`
ssl_key = <`+i.keyFile+`
service imap-login {
  inet_listener imap {
    port = `+port+`
  }
  inet_listener imaps {
    port = 0
  }
}
passdb {
  driver = static
  args = password=x
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=/nonexistent
}
`)
		return spawn(t, "dovecot", "-F", "-c", config)
	})
}

// ngircd is an IRC server that lets nobody in who does not answer its PING.
func ngircd(t testing.TB) netip.AddrPort {
	t.Helper()
	dir := openDir(t)
	return serve(t, func(port string) *process {
		config := write(t, dir, "ngircd.conf", `
[Global]
Name = irc.probe.test
Info = a test
AdminInfo1 = nobody
Listen = 127.0.0.1
Ports = `+port+`
ServerUID = nobody
ServerGID = nogroup
[Limits]
MaxConnectionsIP = 0
[Options]
DNS = no
Ident = no
PAM = no
RequireAuthPing = yes
`)
		return spawn(t, "ngircd", "-n", "-f", config)
	})
}

//go:build system

package resolve

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// inWorld runs a test in a process with mount, network and host name spaces of
// its own, so that the C library and this package can be shown the same /etc
// and the same servers.
func inWorld(t *testing.T, test func(t *testing.T, w *world)) {
	const marker = "RESOLVE_TEST_WORLD"
	if os.Getenv(marker) == t.Name() {
		test(t, newWorld(t))
		return
	}
	if os.Geteuid() != 0 {
		t.Fatal("needs root (or: unshare -Ur) for namespaces")
	}
	pattern := "^" + t.Name() + "$"
	if _, rest, ok := strings.Cut(flag.Lookup("test.run").Value.String(), "/"); ok {
		pattern += "/" + rest
	}
	args := []string{"-test.run=" + pattern, "-test.timeout=10m"}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), marker+"="+t.Name(), "LC_ALL=C.UTF-8")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("in the namespaces: %v", err)
	}
}

// world is a machine of the test's own.
type world struct {
	t   *testing.T
	dir string
}

const worldName = "probe-host"

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir()}
	if found, _ := filepath.Glob("/usr/lib/*/libnss_myhostname.so.2"); len(found) == 0 {
		t.Fatal("needs nss-myhostname: apt-get install libnss-myhostname")
	}
	must(t, syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
	for _, name := range []string{"resolv.conf", "hosts", "nsswitch.conf", "gai.conf", "host.conf"} {
		path := filepath.Join(w.dir, name)
		must(t, os.WriteFile(path, nil, 0o644))
		if err := syscall.Mount(path, "/etc/"+name, "", syscall.MS_BIND, ""); err != nil {
			t.Fatalf("/etc/%s: %v (the file has to exist, from Debian's base-files, netbase and libc-bin)", name, err)
		}
	}
	must(t, syscall.Sethostname([]byte(worldName)))
	w.ip("link", "set", "lo", "up")
	w.ip("link", "add", "net0", "type", "veth", "peer", "name", "far0")
	for _, link := range []string{"net0", "far0"} {
		// No waiting for duplicate address detection.
		must(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+link+"/accept_dad", []byte("0"), 0))
		w.ip("link", "set", link, "up")
	}
	w.reset()
	return w
}

// reset gives every file its usual contents and net0 its usual addresses.
func (w *world) reset() {
	w.write("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
	w.write("hosts", usualHosts)
	w.write("nsswitch.conf", "hosts: files dns\n")
	w.write("gai.conf", "# nothing\n")
	w.write("host.conf", "multi on\n")
	w.addresses("192.0.2.2/24", "fd00::2/64", "2001:db8:1::2/64")
}

const usualHosts = `127.0.0.1	localhost
127.0.1.1	probe-host.example.test	probe-host
192.0.2.77 seventy seventy.example.test # a comment
192.0.2.78	Seventy  other-seventy
::1     localhost ip6-localhost ip6-loopback
ff02::1 ip6-allnodes
2001:db8::77 seventy six
::ffff:198.51.100.9 mapped
  198.51.100.10   indented
198.51.100.11
198.51.100.300 badaddress
fe80::1%lo zoned
198.51.100.12 crlf crlf-alias` + "\r\n" + `fe80::99 linklocal
10.9.8.7 dotted. und_er -dash
`

func (w *world) write(name, contents string) {
	w.t.Helper()
	must(w.t, os.WriteFile(filepath.Join(w.dir, name), []byte(contents), 0o644))
}

// addresses replaces the addresses of net0; default routes lead through it for
// the families it has.
func (w *world) addresses(prefixes ...string) {
	w.t.Helper()
	w.ip("addr", "flush", "dev", "net0")
	w.ip("-6", "addr", "flush", "dev", "far0")
	for _, p := range prefixes {
		p, options, _ := strings.Cut(p, " ")
		args := append([]string{"addr", "add", p, "dev", "net0"}, strings.Fields(options)...)
		if strings.Contains(p, ":") {
			args = append(args, "nodad")
		}
		w.ip(args...)
		if strings.Contains(p, ":") {
			_ = exec.Command("ip", "-6", "route", "replace", "default", "dev", "net0").Run()
		} else {
			_ = exec.Command("ip", "route", "replace", "default", "dev", "net0").Run()
		}
	}
}

func (w *world) ip(args ...string) {
	w.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		w.t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// named starts bind9 on 127.0.0.1 and ::1 with the zones of this test.
func (w *world) named() {
	w.t.Helper()
	path, err := exec.LookPath("named")
	if err != nil {
		w.t.Fatal("needs named: apt-get install bind9")
	}
	dir := filepath.Join(w.dir, "named")
	must(w.t, os.MkdirAll(dir, 0o755))
	var conf strings.Builder
	fmt.Fprintf(&conf, `options {
	directory %q; pid-file none; session-keyfile none;
	listen-on { 127.0.0.1; 127.0.0.2; }; listen-on-v6 { ::1; };
	recursion no; empty-zones-enable no; dnssec-validation no; minimal-responses yes;
	rrset-order { order none; }; check-names primary ignore;
};
controls {};
`, dir)
	for zone, records := range zones() {
		file := zone + ".zone"
		must(w.t, os.WriteFile(filepath.Join(dir, file), []byte("$TTL 60\n@ SOA ns hostmaster 1 60 60 60 60\n@ NS ns.example.test.\n"+records), 0o644))
		fmt.Fprintf(&conf, "zone %q { type primary; file %q; };\n", zone, file)
	}
	must(w.t, os.WriteFile(filepath.Join(dir, "signed.zone"), []byte("$TTL 60\n@ SOA ns.example.test. hostmaster 1 60 60 60 60\n@ NS ns.example.test.\n@ TXT \"caf\\195\\169\"\nwww A 192.0.2.60\n"), 0o644))
	fmt.Fprintf(&conf, "zone \"signed.test\" { type primary; file \"signed.zone\"; dnssec-policy default; inline-signing yes; key-directory %q; };\n", dir)
	fmt.Fprintln(&conf, `zone "servfail.test" { type primary; file "missing"; };`)
	config := filepath.Join(dir, "named.conf")
	must(w.t, os.WriteFile(config, []byte(conf.String()), 0o644))
	cmd := exec.Command(path, "-g", "-c", config, "-n", "1", "-U", "1")
	log, err := os.Create(filepath.Join(dir, "log"))
	must(w.t, err)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(w.t, cmd.Start())
	w.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait(); log.Close() })
	deadline := time.Now().Add(10 * time.Second)
	for {
		c, err := net.Dial("tcp", "127.0.0.1:53")
		if err == nil {
			c.Close()
			text, _ := os.ReadFile(log.Name())
			if strings.Contains(string(text), "not loaded due to errors") && !strings.Contains(string(text), "servfail") {
				w.t.Fatalf("named does not load a zone:\n%s", text)
			}
			return
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			w.t.Fatalf("named does not start:\n%s", text)
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // asks again until the deadline above
	}
}

func zones() map[string]string {
	var many, many6 strings.Builder
	for i := range 100 {
		fmt.Fprintf(&many, "many A 192.0.2.%d\n", i+100)
		fmt.Fprintf(&many6, "many6 AAAA 2001:db8:2::%x\n", i+1)
	}
	long := strings.Repeat("a", 63)
	return map[string]string{
		"example.test": `
ns A 127.0.0.1
www A 192.0.2.10
www AAAA 2001:db8::10
v4only A 192.0.2.11
v6only AAAA 2001:db8::11
alias CNAME www
chain1 CNAME chain2
chain2 CNAME chain3
chain3 CNAME www
chain4 CNAME v4only
chain6 CNAME v6only
dangling CNAME nothing
nodata TXT "no address"
cname-nodata CNAME nodata
outside CNAME host.elsewhere.invalid.
under_score A 192.0.2.12
-dash A 192.0.2.13
dash- A 192.0.2.13
to-bad CNAME b*d.example.test.
b*d A 192.0.2.14
sp\032ace A 192.0.2.15
UPPER A 192.0.2.16
seventy A 192.0.2.99
*.wild A 192.0.2.17
two A 192.0.2.20
two A 198.51.100.20
a.b.c A 192.0.2.18
sub.search A 192.0.2.19
mapped6 AAAA ::ffff:192.0.2.1
mixed A 192.0.2.200
mixed A 10.1.2.3
mixed A 127.0.0.1
mixed A 169.254.3.4
mixed A 198.51.100.1
mixed AAAA ::1
mixed AAAA fe80::5
mixed AAAA fec0::5
mixed AAAA fd00::77
mixed AAAA 2001:db8:1::99
mixed AAAA 2001:db8:2::1
mixed AAAA 2002:c000:201::1
mixed AAAA 2001::7
mixed AAAA ::ffff:192.0.2.1
mixed AAAA ff02::5
` + many.String() + many6.String() + long + " A 192.0.2.21\n",
		"a.test":    "www A 192.0.2.30\nonly-a A 192.0.2.31\nnodata TXT x\n",
		"b.test":    "www A 192.0.2.40\nonly-b A 192.0.2.41\nonly-b AAAA 2001:db8::41\nx.y A 192.0.2.42\n",
		"wild.test": "* A 192.0.2.50\n",
		"2.0.192.in-addr.arpa": `
10 PTR www.example.test.
11 PTR v4only.example.test.
11 PTR second.example.test.
12 PTR under_score.example.test.
13 CNAME 13.sub
13.sub PTR delegated.example.test.
14 PTR b*d.example.test.
15 TXT "no pointer"
16 CNAME nowhere
`,
		"100.51.198.in-addr.arpa":  "20 PTR two.example.test.\n",
		"8.b.d.0.1.0.0.2.ip6.arpa": "0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0 PTR www.example.test.\n",
	}
}

// oracle is the C library of this machine, behind Python.
type oracle struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

type oracleAnswer struct {
	OK    json.RawMessage `json:"ok"`
	Error string          `json:"error"`
	Skip  string          `json:"skip"`
}

// oracle starts a fresh process: the C library reads some of its files once.
func (w *world) oracle() *oracle {
	w.t.Helper()
	path, err := exec.LookPath("python3")
	if err != nil {
		w.t.Fatal("needs python3: apt-get install python3")
	}
	o := &oracle{t: w.t, cmd: exec.Command(path, "testdata/oracle.py")}
	o.cmd.Stderr = os.Stderr
	o.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	o.in, err = o.cmd.StdinPipe()
	must(w.t, err)
	out, err := o.cmd.StdoutPipe()
	must(w.t, err)
	o.out = bufio.NewScanner(out)
	o.out.Buffer(nil, 1<<24)
	must(w.t, o.cmd.Start())
	return o
}

func (o *oracle) close() {
	o.in.Close()
	o.cmd.Wait()
}

func (o *oracle) ask(request map[string]any) oracleAnswer {
	o.t.Helper()
	line, err := json.Marshal(request)
	must(o.t, err)
	_, err = o.in.Write(append(line, '\n'))
	must(o.t, err)
	if !o.out.Scan() {
		o.t.Fatalf("the oracle is gone: %v", o.out.Err())
	}
	var a oracleAnswer
	must(o.t, json.Unmarshal(o.out.Bytes(), &a))
	return a
}

// latin1 makes a string of bytes fit for JSON.
func latin1(s string) string {
	r := make([]rune, len(s))
	for i := range len(s) {
		r[i] = rune(s[i])
	}
	return string(r)
}

// worldResolver is a resolver with the services database of this machine.
func worldResolver(t *testing.T, config Config) *Resolver {
	t.Helper()
	ports, names := map[string]uint16{}, map[string]string{}
	data, err := os.ReadFile("/etc/services")
	if err != nil {
		t.Fatal("needs /etc/services: apt-get install netbase")
	}
	for line := range strings.Lines(string(data)) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		var port uint16
		var protocol string
		if _, err := fmt.Sscanf(words[1], "%d/%s", &port, &protocol); err != nil {
			continue
		}
		for _, name := range append(words[:1:1], words[2:]...) {
			if _, have := ports[name+"/"+protocol]; !have {
				ports[name+"/"+protocol] = port
			}
		}
		if key := fmt.Sprint(port, "/", protocol); names[key] == "" {
			names[key] = words[0]
		}
	}
	config.ServicePort = func(name, protocol string) (uint16, bool) {
		p, ok := ports[name+"/"+protocol]
		return p, ok
	}
	config.ServiceName = func(port uint16, protocol string) (string, bool) {
		name, ok := names[fmt.Sprint(port, "/", protocol)]
		return name, ok
	}
	return New(config)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

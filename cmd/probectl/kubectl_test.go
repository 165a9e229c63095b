package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// standIn stands in for kubectl, for the faults that no cluster has at will. A directory, which CLUSTER names, is
// its cluster: what it is asked to get is a file there, and how it forwards to a pod is said in one. How it speaks is
// taken from kubectl itself.
//
//	log                 each command line it was given, one a line
//	service-NAME        the JSON of a Service
//	pods-SELECTOR       the JSON of the pods with these labels; none if there is no such file
//	token-NAME          a token of a service account
//	list-KIND           the names of all Services, namespaces, service accounts, or contexts
//	forward-POD         how it forwards to the pod, see forwards
//	pid-POD             the process that does
//	fault               what goes wrong with everything, see fail; pid-service and pid-pods are then the processes
type standIn struct{ dir string }

func (c standIn) run(args []string) error {
	log, err := os.OpenFile(c.path("log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(log, strings.Join(args, " "))
		log.Close()
	}
	if err != nil {
		return err
	}
	values, selector := []string{}, ""
	for _, arg := range args {
		if value, found := strings.CutPrefix(arg, "--selector="); found {
			selector = value
		}
		if !strings.HasPrefix(arg, "--") {
			values = append(values, arg)
		}
	}
	if fault, err := os.ReadFile(c.path("fault")); err == nil {
		if err := c.here(values[min(1, len(values)-1)]); err != nil {
			return err
		}
		return c.fail(strings.TrimSpace(string(fault)))
	}
	switch strings.Join(values[:min(2, len(values))], " ") {
	case "get service":
		return c.print("service-"+values[2], fmt.Sprintf("Error from server (NotFound): services %q not found", values[2]))
	case "get pods":
		if c.print("pods-"+strings.ReplaceAll(selector, "/", "_"), "none") != nil {
			fmt.Println(`{"apiVersion": "v1", "items": [], "kind": "List"}`)
		}
		return nil
	case "get services", "get namespaces", "get serviceaccounts", "config get-contexts":
		return c.print("list-"+values[1], "Error from server (Forbidden): "+values[1]+" is forbidden")
	case "create token":
		return c.print("token-"+values[2], fmt.Sprintf("error: failed to create token: serviceaccounts %q not found", values[2]))
	}
	if values[0] == "port-forward" {
		return c.forward(strings.TrimPrefix(values[1], "pod/"), strings.TrimPrefix(values[2], ":"))
	}
	return fmt.Errorf("error: unknown command %q", values)
}

// here says in a file which process this is.
func (c standIn) here(name string) error {
	return os.WriteFile(c.path("pid-"+name), []byte(strconv.Itoa(os.Getpid())), 0o600)
}

func (c standIn) path(name string) string { return filepath.Join(c.dir, name) }

// print writes a file, or fails with these words if there is none.
func (c standIn) print(name, without string) error {
	text, err := os.ReadFile(c.path(name))
	if err != nil {
		return errors.New(without)
	}
	_, err = os.Stdout.Write(text)
	return err
}

// fail is what goes wrong with every command.
func (c standIn) fail(fault string) error {
	switch fault {
	case "hang":
		fmt.Fprintln(os.Stderr, "\x1b]0;owned\aTo sign in, open https://login.test")
		select {}
	case "garbage":
		fmt.Println("\x1b[2Jnot JSON")
		return nil
	case "refused":
		for range 3 {
			fmt.Fprintln(os.Stderr, `E1123 13:55:08.891388   12223 memcache.go:381] "Couldn't get current server API group list" err="Get \"https://127.0.0.1:1/api?timeout=32s\": dial tcp 127.0.0.1:1: connect: connection refused"`)
		}
		return errors.New("The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?")
	}
	return errors.New(fault)
}

// forward does what the file of the pod says:
//
//	to ADDRESS          forwards there
//	dies ADDRESS N      forwards there, and loses the pod behind N bytes of what it says
//	refused             finds nobody listening in the pod
//	hang                does not get through to the pod
//	forbidden           the user may not
//	gone                the pod has been deleted meanwhile
//	garbage             says much, and not where it listens
//	ends                ends at once, and does not say why
func (c standIn) forward(pod, port string) error {
	said, err := os.ReadFile(c.path("forward-" + pod))
	if err != nil {
		return err
	}
	if err := c.here(pod); err != nil {
		return err
	}
	words := strings.Fields(string(said))
	switch words[0] {
	case "hang":
		select {}
	case "forbidden":
		return fmt.Errorf("error: error upgrading connection: unable to upgrade connection: pods %q is forbidden: User \"dev\" cannot create resource \"pods/portforward\" in API group \"\" in the namespace \"shop\"", pod)
	case "gone":
		return fmt.Errorf("Error from server (NotFound): pods %q not found", pod)
	case "garbage":
		for {
			if _, err := fmt.Println("\x1b[2JForwarding from nowhere -> " + port); err != nil {
				return err
			}
		}
	case "ends":
		return nil
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	local := listener.Addr().(*net.TCPAddr).Port
	fmt.Printf("Forwarding from 127.0.0.1:%d -> %s\n", local, port)
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		fmt.Printf("Handling connection for %d\n", local)
		if words[0] == "refused" {
			conn.Close()
			fmt.Fprintf(os.Stderr, "E1123 13:55:10.641431   12346 portforward.go:549] \"An error occurred forwarding\" err=\"error forwarding port %s to pod 95b40de4, uid : failed to connect to localhost:%s inside namespace \\\"95b40de4\\\", IPv4: dial tcp4 127.0.0.1:%s: connect: connection refused \" localPort=%d remotePort=%s\n", port, port, port, local, port)
			return errors.New("error: lost connection to pod")
		}
		target, err := net.Dial("tcp", words[1])
		if err != nil {
			return err
		}
		if words[0] == "dies" {
			n, err := strconv.ParseInt(words[2], 10, 64)
			if err != nil {
				return err
			}
			go func() { _, _ = io.Copy(target, conn) }()
			_, _ = io.CopyN(conn, target, n)
			return errors.New("error: lost connection to pod")
		}
		go relay(conn, target)
	}
}

// relay carries bytes both ways until both have an end.
func relay(a, b net.Conn) {
	defer a.Close()
	defer b.Close()
	var carrying sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		carrying.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_ = way[0].(*net.TCPConn).CloseWrite()
		})
	}
	carrying.Wait()
}

// ended waits for the end of the kubectl that forwards to a pod in a cluster.
func ended(dir, pod string) error {
	text, err := os.ReadFile(filepath.Join(dir, "pid-"+pod))
	if err != nil {
		return err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for runs(string(text)) {
		select {
		case <-tick.C:
		case <-deadline:
			return fmt.Errorf("kubectl %s is still there", text)
		}
	}
	return nil
}

// runs tells whether there is a process of this number that has not ended. (One that nobody has waited for has.)
func runs(pid string) bool {
	status, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(status), ") ")
	return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

// gone POD... fails unless the kubectl that forwarded to each pod has ended. It makes sure that there was one.
func gone(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: gone POD...")
	}
	for _, pod := range args {
		dir := ts.Getenv("CLUSTER")
		ts.Check(ended(dir, pod))
		ts.Check(os.Remove(filepath.Join(dir, "pid-"+pod)))
	}
}

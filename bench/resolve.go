package main

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	probev1 "probed/gen/probe/v1"
)

// nameWith is the name that the DNS server here has n addresses for.
func nameWith(n int) string { return fmt.Sprintf("n%d.bench.test", n) }

// nameServer starts unbound with a zone of its own, that has names with so many addresses each.
func (s *stage) nameServer(counts ...int) error {
	var zone strings.Builder
	for _, n := range counts {
		for i := range n {
			fmt.Fprintf(&zone, "  local-data: \"%s. 3600 IN A 10.0.0.%d\"\n", nameWith(n), i+1)
		}
	}
	config, err := s.file("unbound.conf", `server:
  interface: 127.0.0.1
  do-daemonize: no
  use-syslog: no
  username: ""
  chroot: ""
  pidfile: ""
  module-config: "iterator"
  so-reuseport: no
  incoming-num-tcp: 1000
  local-zone: "bench.test." static
`+zone.String()+"remote-control:\n  control-enable: no\n")
	if err != nil {
		return err
	}
	return s.server("127.0.0.1:53", "unbound", "-d", "-c", config)
}

// lookupHost asks through h2load and Python, each time for a name with one address. Both ask for A and for AAAA.
func lookupHost(s *stage) (ours, theirs measurement, err error) {
	if err := s.nameServer(1); err != nil {
		return nil, nil, err
	}
	p, err := s.startProbed()
	if err != nil {
		return nil, nil, err
	}
	request := &probev1.LookupHostRequest{Host: nameWith(1)}
	conn, err := s.dial(p)
	if err != nil {
		return nil, nil, err
	}
	answer, err := probev1.NewResolverServiceClient(conn).LookupHost(s.ctx, request)
	if err != nil || len(answer.GetAddresses()) != 1 {
		return nil, nil, fmt.Errorf("probed does not find %s: %v %w", request.GetHost(), answer, err)
	}
	// The threads are those of one program, and so are the callers.
	ours, err = s.h2load(1, "host", p.grpc, probev1.ResolverService_LookupHost_FullMethodName, p.authorization, request)
	return ours, s.getaddrinfo(request.GetHost()), err
}

// loop is what a script would do: the C library's resolver, from as many threads as there are callers.
const loop = `
import socket, sys, threading, time
name, threads, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
done, counts = time.monotonic() + seconds, []
def ask():
    n = 0
    while time.monotonic() < done:
        socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        n += 1
    counts.append(n)
begin = time.monotonic()
all = [threading.Thread(target=ask) for _ in range(threads)]
for t in all: t.start()
for t in all: t.join()
if len(counts) != threads: sys.exit("a thread has failed")
print(sum(counts) / (time.monotonic() - begin))
`

func (s *stage) getaddrinfo(name string) measurement {
	return func(ctx context.Context) (float64, error) {
		out, err := exec.CommandContext(ctx, "python3", "-c", loop, name, strconv.Itoa(callers), fmt.Sprint(s.time.Seconds())).Output()
		if err != nil {
			return 0, fmt.Errorf("python3: %w: %s", err, out)
		}
		return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	}
}

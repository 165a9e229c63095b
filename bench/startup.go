package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// startup measures the time from the start of a process until it says that it is ready, to who asks every 0.1 ms.
func startup(s *stage) (ours, theirs measurement, err error) {
	config, _, err := s.configure()
	if err != nil {
		return nil, nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, nil, err
	}
	exporter, err := s.file("blackbox.yml", blackboxModule)
	if err != nil {
		return nil, nil, err
	}
	ours = s.readyAfter(address, "/readyz", s.probed, "--config="+config,
		"--grpc-listen=127.0.0.1:0", "--http-listen=127.0.0.1:0", "--ops-listen="+address)
	theirs = s.readyAfter(address, "/-/healthy", "prometheus-blackbox-exporter", "--config.file="+exporter, "--web.listen-address="+address)
	return ours, theirs, nil
}

// readyAfter starts a program and returns how many milliseconds it took until a GET of path at address is answered with 200.
func (s *stage) readyAfter(address, path, name string, args ...string) measurement {
	return func(ctx context.Context) (float64, error) {
		s := &stage{ctx: ctx, options: s.options}
		defer s.close()
		begin := time.Now()
		if _, err := s.process(name, args...); err != nil {
			return 0, err
		}
		for !ready(address, path) {
			if time.Since(begin) > patience {
				return 0, fmt.Errorf("%s is not ready%s", name, s.logs())
			}
			time.Sleep(100 * time.Microsecond) // what is measured is no finer than that
		}
		return float64(time.Since(begin)) / float64(time.Millisecond), nil
	}
}

func ready(address, path string) bool {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return false
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.0\r\n\r\n", path); err != nil {
		return false
	}
	text, _ := io.ReadAll(conn)
	first, _, _ := strings.Cut(string(text), "\r\n")
	return strings.Contains(first, " 200 ")
}

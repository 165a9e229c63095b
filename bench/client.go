package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
)

// callers is how many ask at a time.
const callers = 64

// token is what a client of probed shows with every call. The listener is on loopback, so it may go in plain text.
type token string

func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": string(t)}, nil
}

func (token) RequireTransportSecurity() bool { return false }

// dial returns a connection to the gRPC of p.
func (s *stage) dial(p *probed) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(p.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithPerRPCCredentials(token(p.authorization)))
	if err == nil {
		s.ends = append(s.ends, func() { _ = conn.Close() })
	}
	return conn, err
}

// get returns the body of an answer of 200.
func get(ctx context.Context, url, authorization string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, response.Status, text)
	}
	return string(text), err
}

var (
	wrkRate    = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	h2loadRate = regexp.MustCompile(`finished in .*, ([0-9.]+) req/s`)
	h2loadDone = regexp.MustCompile(`requests: .* 0 failed, 0 errored, 0 timeout`)
)

// wrk returns what measures the answers per second to callers that have a connection each and GET again and again.
func (s *stage) wrk(url, authorization string) measurement {
	return func(ctx context.Context) (float64, error) {
		out, err := output(ctx, "wrk", "--threads=1", fmt.Sprint("--connections=", callers), "--header=Authorization: "+authorization,
			fmt.Sprintf("--duration=%ds", max(1, int(s.time/time.Second))), url) // wrk knows whole seconds alone
		if err != nil {
			return 0, err
		}
		if strings.Contains(out, "Non-2xx") || strings.Contains(out, "Socket errors") {
			return 0, fmt.Errorf("some requests failed: %s", out)
		}
		return found(wrkRate, out)
	}
}

// h2load returns the same for a unary method of gRPC, the callers sharing so many connections.
func (s *stage) h2load(connections int, name, address, fullMethod, authorization string, request proto.Message) (measurement, error) {
	body, err := framed(request)
	if err != nil {
		return nil, err
	}
	path, err := s.file(name+".body", body)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (float64, error) {
		args := []string{
			fmt.Sprint("--clients=", connections), fmt.Sprint("--max-concurrent-streams=", callers/connections), "--threads=1", "--data=" + path,
			fmt.Sprintf("--duration=%dms", s.time.Milliseconds()), "--warm-up-time=200ms",
			"--header=content-type: application/grpc", "--header=te: trailers",
		}
		if authorization != "" {
			args = append(args, "--header=authorization: "+authorization)
		}
		out, err := output(ctx, "h2load", append(args, "http://"+address+fullMethod)...)
		if err != nil {
			return 0, err
		}
		if !h2loadDone.MatchString(out) {
			return 0, fmt.Errorf("some calls failed: %s", out)
		}
		return found(h2loadRate, out)
	}, nil
}

// found is the number that a pattern finds.
func found(pattern *regexp.Regexp, text string) (float64, error) {
	match := pattern.FindStringSubmatch(text)
	if match == nil {
		return 0, fmt.Errorf("no %v in: %s", pattern, text)
	}
	return strconv.ParseFloat(match[1], 64)
}

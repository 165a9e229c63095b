package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	probev1 "probed/gen/probe/v1"
)

// serve is what the others and probed are measured with, each in a process of its own, so that no side shares one with its
// peer: serve KIND ADDRESS [FILE].
func serve(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return errors.New("serve KIND ADDRESS [FILE]")
	}
	listener, err := net.Listen("tcp", args[1])
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	switch kind := args[0]; kind {
	case "source":
		return accept(listener, pour)
	case "door":
		return knock(listener)
	case "silence":
		return accept(listener, func(c net.Conn) error { _, err := c.Read(make([]byte, 1)); return err })
	case "echo":
		return accept(listener, func(c net.Conn) error { _, err := io.Copy(c, c); return err })
	case "grpc", "http":
		if len(args) < 3 {
			return fmt.Errorf("serve %s ADDRESS FILE", kind)
		}
		text, err := os.ReadFile(args[2])
		if err != nil {
			return err
		}
		answer := &probev1.LookupPortResponse{}
		if err := protojson.Unmarshal(text, answer); err != nil {
			return err
		}
		if kind == "grpc" {
			server := grpc.NewServer()
			probev1.RegisterNameServiceServer(server, &bareNames{answer: answer})
			return server.Serve(listener)
		}
		return serveBareHTTP(listener, answer)
	default:
		return fmt.Errorf("there is no server %q", kind)
	}
}

// accept serves each connection with a goroutine of its own, which ends with it.
func accept(listener net.Listener, handle func(net.Conn) error) error {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_ = handle(conn) // it is the client that finds fault
		}()
	}
}

// knock accepts connections and closes them at once.
func knock(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		_ = conn.Close()
	}
}

// pour answers GET /N as HTTP/1.0 does, with so many bytes, so that any client takes them.
func pour(conn net.Conn) error {
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(line, "/")
	path, _, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseInt(path, 10, 64)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(conn, "HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n", n); err != nil {
		return err
	}
	for block := make([]byte, 256<<10); n > 0; {
		sent, err := conn.Write(block[:min(n, int64(len(block)))])
		if err != nil {
			return err
		}
		n -= int64(sent)
	}
	return nil
}

// bareNames answers every question alike, and does nothing for it.
type bareNames struct {
	probev1.UnimplementedNameServiceServer
	answer *probev1.LookupPortResponse
}

func (b *bareNames) LookupPort(context.Context, *probev1.LookupPortRequest) (*probev1.LookupPortResponse, error) {
	return b.answer, nil
}

// serveBareHTTP answers as REST does, from plain structs by encoding/json.
func serveBareHTTP(listener net.Listener, from *probev1.LookupPortResponse) error {
	type service struct {
		Name        string   `json:"name"`
		Port        uint32   `json:"port"`
		Protocol    string   `json:"protocol"`
		Aliases     []string `json:"aliases"`
		Description string   `json:"description"`
		PortClass   string   `json:"portClass"`
		Source      string   `json:"source"`
	}
	type port struct {
		Port      uint32    `json:"port"`
		PortClass string    `json:"portClass"`
		Services  []service `json:"services"`
	}
	answer := port{Port: from.GetPort(), PortClass: from.GetPortClass().String()}
	for _, s := range from.GetServices() {
		answer.Services = append(answer.Services, service{
			s.GetName(), s.GetPort(), s.GetProtocol(), append([]string{}, s.GetAliases()...), s.GetDescription(),
			s.GetPortClass().String(), s.GetSource().String(),
		})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/ports/{port}", func(w http.ResponseWriter, r *http.Request) {
		if _, err := strconv.ParseUint(r.PathValue("port"), 10, 16); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer) // the client finds fault
	})
	return (&http.Server{Handler: mux, ReadHeaderTimeout: time.Second}).Serve(listener)
}

// framed is a message as gRPC has it in the body of a request, for clients that know nothing of gRPC.
func framed(message proto.Message) (string, error) {
	body, err := proto.Marshal(message)
	if err != nil {
		return "", err
	}
	return string(append([]byte{0, 0, 0, 0, byte(len(body))}, body...)), nil
}

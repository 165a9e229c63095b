package service

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	probev1 "probed/gen/probe/v1"
)

// Page after page, every service comes once and in order, with any page size.
func TestPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(t, "services", "zero 0/tcp\nodd 70/\nü 71/tcp\n\"<&> 72/tcp\n") // which go into tokens
	client := probev1.NewNameServiceClient(w.conn)
	walk := func(request *probev1.ListServicesRequest) (all []*probev1.Service, pages int) {
		request = proto.CloneOf(request)
		for {
			page, err := client.ListServices(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			pages++
			all = append(all, page.GetServices()...)
			size := int(request.GetPageSize())
			if size == 0 {
				size = defaultPageSize
			}
			switch last := page.GetNextPageToken() == ""; {
			case len(page.GetServices()) > size, !last && len(page.GetServices()) != size:
				t.Fatalf("a page of %d, asked for %d", len(page.GetServices()), size)
			case last:
				return all, pages
			}
			request.PageToken = page.GetNextPageToken()
		}
	}

	all, pages := walk(&probev1.ListServicesRequest{PageSize: 1000})
	if len(all) < 6000 || pages != (len(all)+999)/1000 {
		t.Errorf("%d services on %d pages", len(all), pages)
	}
	key := func(s *probev1.Service) string {
		return fmt.Sprint(s.GetPort(), " ", s.GetProtocol(), " ", s.GetName())
	}
	seen := map[string]bool{}
	for i, s := range all {
		if seen[key(s)] {
			t.Errorf("%s came twice", key(s))
		}
		seen[key(s)] = true
		if i > 0 && s.GetPort() < all[i-1].GetPort() {
			t.Errorf("%s comes after %s", key(s), key(all[i-1]))
		}
	}
	for _, want := range []string{"0 tcp zero", "70  odd", "71 tcp ü", `72 tcp "<&>`, "22 tcp ssh", "53 udp domain"} {
		if !seen[want] {
			t.Errorf("%s did not come", want)
		}
	}

	equal := func(a, b *probev1.Service) bool { return proto.Equal(a, b) }
	for _, size := range []int32{0, 777} {
		if again, _ := walk(&probev1.ListServicesRequest{PageSize: size}); !slices.EqualFunc(again, all, equal) {
			t.Errorf("pages of %d give another list: %d entries, want %d", size, len(again), len(all))
		}
	}
	// Filtered, it is the same list with the others left out; pages of one entry too.
	filter := &probev1.ListServicesRequest{Protocol: "sctp", PortClass: probev1.PortClass_PORT_CLASS_SYSTEM, PageSize: 1}
	want := slices.DeleteFunc(slices.Clone(all), func(s *probev1.Service) bool {
		return s.GetProtocol() != "sctp" || s.GetPort() >= 1024
	})
	if got, _ := walk(filter); len(want) < 5 || !slices.EqualFunc(got, want, equal) {
		t.Errorf("%d entries, want %d", len(got), len(want))
	}
}

func TestPageTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client := probev1.NewNameServiceClient(w.conn)
	first, err := client.ListServices(t.Context(), &probev1.ListServicesRequest{PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	token := first.GetNextPageToken()
	for _, bad := range []string{token + "=", token[:len(token)-1], " " + token, token + token, "null", "bnVsbA", "e30", "W10", "eyJQb3J0IjoxLCJ4IjoxfQ"} {
		_, err := client.ListServices(t.Context(), &probev1.ListServicesRequest{PageToken: bad})
		if status.Code(err) != codes.InvalidArgument || violations(err) != "page_token" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// Whatever a token is, it is refused, or it is the very one that an answer gives for the place it names.
func FuzzPageToken(f *testing.F) {
	for _, seed := range []string{"", "e30", "bnVsbA", "eyJQb3J0IjoyMiwiUHJvdG9jb2wiOiJ0Y3AiLCJOYW1lIjoic3NoIn0", "****"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		place, err := parsePageToken(token)
		if err == nil && pageToken(place) != token {
			t.Fatalf("%q is taken for %+v, whose token is %q", token, place, pageToken(place))
		}
	})
}

// The tables of the lecture, S1 to S3 and S7, by both ways.
func TestNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(t, "services", "ssh 22/tcp # SSH Remote Login Protocol\nhttp 80/tcp www # WorldWideWeb HTTP\n")
	w.write(t, "protocols", "tcp 6 TCP\n")
	client := probev1.NewNameServiceClient(w.conn)
	ctx := t.Context()
	ssh, err := client.LookupService(ctx, &probev1.LookupServiceRequest{Name: "ssh"})
	if err != nil || len(ssh.GetServices()) < 2 {
		t.Fatalf("%v, %v", ssh, err)
	}
	want := &probev1.Service{
		Name: "ssh", Port: 22, Protocol: "tcp", Description: "SSH Remote Login Protocol",
		PortClass: probev1.PortClass_PORT_CLASS_SYSTEM, Source: probev1.TableSource_TABLE_SOURCE_FILE,
	}
	if !proto.Equal(ssh.GetServices()[0], want) {
		t.Errorf("%v, want %v", ssh.GetServices()[0], want)
	}
	if s := ssh.GetServices()[1]; s.GetProtocol() != "udp" || s.GetSource() != probev1.TableSource_TABLE_SOURCE_IANA {
		t.Errorf("%v", s)
	}
	for port, class := range map[uint32]probev1.PortClass{
		0: probev1.PortClass_PORT_CLASS_SYSTEM, 1023: probev1.PortClass_PORT_CLASS_SYSTEM, 1024: probev1.PortClass_PORT_CLASS_USER,
		49151: probev1.PortClass_PORT_CLASS_USER, 49152: probev1.PortClass_PORT_CLASS_DYNAMIC, 65535: probev1.PortClass_PORT_CLASS_DYNAMIC,
	} {
		got, err := client.LookupPort(ctx, &probev1.LookupPortRequest{Port: port})
		if err != nil || got.GetPort() != port || got.GetPortClass() != class {
			t.Errorf("port %d: %v, %v", port, got, err)
		}
	}
	www, err := client.LookupPort(ctx, &probev1.LookupPortRequest{Port: 80, Protocol: "tcp"})
	if err != nil || www.GetServices()[0].GetName() != "http" || !slices.Equal(www.GetServices()[0].GetAliases(), []string{"www"}) {
		t.Errorf("%v, %v", www, err)
	}
	for _, key := range []string{"tcp", "TCP", "6"} {
		got, err := client.LookupProtocol(ctx, &probev1.LookupProtocolRequest{Protocol: key})
		if err != nil || got.GetName() != "tcp" || got.GetNumber() != 6 || got.GetSource() != probev1.TableSource_TABLE_SOURCE_FILE {
			t.Errorf("%s: %v, %v", key, got, err)
		}
	}
	families, err := client.ListConstants(ctx, &probev1.ListConstantsRequest{Prefix: "AF_INET"})
	if err != nil || len(families.GetConstants()) != 2 || families.GetConstants()[1].GetValue() != 10 || families.GetPlatform() == "" {
		t.Errorf("%v, %v", families, err)
	}
}

// A host file may hold any bytes, and what it says is told all the same.
func TestFilesThatAreNotUTF8(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(t, "services", "n\xffme 4711/tcp \xfe # \xfd\n")
	w.write(t, "protocols", "p\xff 200 \xfe # \xfd\n")
	w.write(t, "hosts", "192.0.2.7 canonical\xff w\xfe b.test\n192.0.2.8 \xff\n")
	w.write(t, "resolv.conf", "nameserver 192.0.2.53\nsearch s\xff.test\noptions x\xff\n")
	w.write(t, "nsswitch.conf", "hosts: \xff files\n")
	resolver, names := probev1.NewResolverServiceClient(w.conn), probev1.NewNameServiceClient(w.conn)
	for name, ask := range map[string]func(context.Context) (proto.Message, error){
		"port": func(ctx context.Context) (proto.Message, error) {
			return names.LookupPort(ctx, &probev1.LookupPortRequest{Port: 4711})
		},
		"protocol": func(ctx context.Context) (proto.Message, error) {
			return names.LookupProtocol(ctx, &probev1.LookupProtocolRequest{Protocol: "200"})
		},
		"host": func(ctx context.Context) (proto.Message, error) {
			return resolver.LookupHost(ctx, &probev1.LookupHostRequest{Host: "b.test", Trace: true})
		},
		"address": func(ctx context.Context) (proto.Message, error) {
			return resolver.LookupAddress(ctx, &probev1.LookupAddressRequest{Address: "192.0.2.8", Trace: true})
		},
		"addrinfo": func(ctx context.Context) (proto.Message, error) {
			return resolver.GetAddressInfo(ctx, &probev1.GetAddressInfoRequest{
				Host: proto.String("b.test"), Flags: []probev1.AddressInfoFlag{probev1.AddressInfoFlag_AI_CANONNAME},
			})
		},
		"nameinfo": func(ctx context.Context) (proto.Message, error) {
			return resolver.GetNameInfo(ctx, &probev1.GetNameInfoRequest{Address: "192.0.2.8"})
		},
		"vantage": func(ctx context.Context) (proto.Message, error) {
			return resolver.DescribeVantage(ctx, &probev1.DescribeVantageRequest{})
		},
	} {
		answer, err := ask(t.Context())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text, err := proto.Marshal(answer)
		if err != nil || !bytes.Contains(text, []byte("\uFFFD")) {
			t.Errorf("%s: %v, %v", name, answer, err)
		}
	}
	// Flags of interfaces are in the spelling that the contract promises.
	vantage, err := resolver.DescribeVantage(t.Context(), &probev1.DescribeVantageRequest{})
	if err != nil || !slices.ContainsFunc(vantage.GetInterfaces(), func(i *probev1.Interface) bool {
		return slices.Contains(i.GetFlags(), "up") && slices.Contains(i.GetFlags(), "loopback") && slices.Contains(i.GetAddresses(), "127.0.0.1/8")
	}) {
		t.Errorf("%v, %v", vantage.GetInterfaces(), err)
	}
	// So does a failure: the trace says what was passed over.
	_, err = resolver.LookupHost(t.Context(), &probev1.LookupHostRequest{Host: "nosuch.test"})
	if status.Code(err) != codes.NotFound || errorInfo(err) != "ERROR_REASON_NAME_NOT_FOUND" || len(status.Convert(err).Details()) != 4 {
		t.Errorf("%v, %v", err, status.Convert(err).Details())
	}
}

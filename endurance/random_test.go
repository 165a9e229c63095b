package endurance

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// random makes requests, each anew out of its seed and its number.
type random struct {
	*rand.Rand
	methods []protoreflect.MethodDescriptor
	peers   []netip.AddrPort // that answer
}

// kind is what is wrong with a request, if anything is.
type kind string

const (
	message  kind = "a message, or JSON, of any values"
	damaged  kind = "one that was cut or changed"
	noise    kind = "noise"
	mistaken kind = "that of another RPC"
	huge     kind = "one too large, too deep, or of huge counts"
	unknown  kind = "to what does not exist"
	headers  kind = "with headers of any values"
	framing  kind = "in frames that are none"
)

// kinds are as frequent as they stand here.
var kinds = []kind{message, message, message, message, message, message, message, damaged, damaged, damaged, noise, mistaken, unknown, headers}

func (r *random) kind() kind {
	if r.IntN(200) == 0 {
		return huge
	}
	return pick(r, kinds...)
}

func pick[T any](r *random, values ...T) T { return values[r.IntN(len(values))] }

// grpc is a request by gRPC.
func (r *random) grpc(address string) (kind, protoreflect.MethodDescriptor, *http.Request) {
	return r.grpcOf(r.kind(), address)
}

// unframed is one that is no gRPC: what it holds does not even come as messages.
func (r *random) unframed(address string) (kind, protoreflect.MethodDescriptor, *http.Request) {
	return r.grpcOf(framing, address)
}

func (r *random) grpcOf(k kind, address string) (kind, protoreflect.MethodDescriptor, *http.Request) {
	method := pick(r, r.methods...)
	path := fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
	input := method.Input()
	if k == mistaken {
		input = pick(r, r.methods...).Input()
	}
	data := r.encoded(input)
	switch k {
	case damaged:
		data = r.damage(data)
	case noise:
		data = r.bytes(r.IntN(200))
	case huge:
		data = r.huge(input)
	case unknown:
		path = pick(r, path+"x", "/", "/x", path+"/x", path+"//", "/"+string(method.FullName()), "/probe.v1.NoService/"+string(method.Name()), path+"%00", "/"+url.PathEscape(r.text()))
	}
	body := frame(0, data)
	if method.IsStreamingClient() {
		for range r.IntN(4) {
			body = append(body, frame(0, r.encoded(input))...)
		}
	}
	if k == framing {
		body = pick(r, nil, body[:r.IntN(len(body))], append(body, body...), append(body, 0, 0), frame(1, data), frame(byte(1+r.IntN(255)), data),
			binary.BigEndian.AppendUint32([]byte{0}, math.MaxUint32), r.bytes(1+r.IntN(20)))
	}
	request, err := http.NewRequest(http.MethodPost, "http://"+address+"/", bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	request.URL.Opaque = path
	request.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	if k == headers {
		r.headers(request, "Content-Type", "Te", "Grpc-Timeout", "Grpc-Encoding", "Grpc-Accept-Encoding", "X-Bin", "Grpc-Previous-Rpc-Attempts", "User-Agent")
	}
	return k, method, request
}

// frame is a message as it stands on the wire.
func frame(flag byte, data []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(data))), data...)
}

// rest is a request by REST; the method is nil when it is for none.
func (r *random) rest(address string) (kind, protoreflect.MethodDescriptor, *http.Request) {
	k := r.kind()
	method := pick(r, r.methods...)
	rule, ok := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
	for !ok || rule.GetPattern() == nil { // Converse, and those that are not of the contract
		method = pick(r, r.methods...)
		rule, ok = proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
	}
	verb, path := http.MethodGet, rule.GetGet()
	if rule.GetPost() != "" {
		verb, path = http.MethodPost, rule.GetPost()
	}
	if more := rule.GetAdditionalBindings(); len(more) > 0 && r.IntN(2) == 0 {
		verb, path = http.MethodPost, more[0].GetPost()
		if path == "" {
			verb, path = http.MethodGet, more[0].GetGet()
		}
	}
	input := method.Input()
	if k == mistaken {
		input = pick(r, r.methods...).Input()
	}
	asked := r.message(input, 3)
	text, err := protojson.MarshalOptions{UseEnumNumbers: r.IntN(2) == 0}.Marshal(asked)
	if err != nil { // a Duration out of its range has no JSON, and others are no text
		text = []byte(`{"target":1e999,"timeout":"-1s","steps":[{"receive":{"idle":"99999999999999s"}}]}`)
	}
	switch k {
	case damaged:
		text = r.damage(text)
	case noise:
		text = r.bytes(r.IntN(200))
	case huge:
		text = pick(r, []byte(strings.Repeat("[", 100_000)), []byte(`{"steps":`+strings.Repeat(`[{"steps":`, 20_000)),
			[]byte(`{"target":"`+strings.Repeat("x", 3<<20)+`"}`), []byte(`{"steps":[`+strings.Repeat(`{},`, 100_000)+`{}]}`))
	}
	path = variable.ReplaceAllStringFunc(path, func(name string) string {
		return url.PathEscape(r.valueOf(asked, strings.Trim(name, "{}")))
	})
	query := url.Values{}
	if verb == http.MethodGet {
		for range min(r.IntN(4), input.Fields().Len()) {
			field := input.Fields().Get(r.IntN(input.Fields().Len()))
			query.Add(pick(r, string(field.Name()), field.JSONName()), r.valueOf(asked, string(field.Name())))
		}
		text = pick(r, nil, nil, nil, text)
	}
	raw := query.Encode()
	if k == unknown {
		path = pick(r, path+"x", "/", "/v1", "/v1/", "/v2/exchange", "/openapi.json", path+"/..", "/"+url.PathEscape(r.text()), "/v1/"+url.PathEscape(r.text()))
		verb = pick(r, verb, "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "X")
	}
	if k == damaged && r.IntN(2) == 0 {
		raw = strings.Map(func(c rune) rune {
			if c <= ' ' || c > '~' {
				return '%'
			}
			return c
		}, string(r.damage([]byte(raw))))
	}
	request, err := http.NewRequest(verb, "http://"+address+"/", bytes.NewReader(text))
	if err != nil {
		panic(err)
	}
	request.URL.Opaque = "//" + address + path
	request.URL.RawQuery = raw
	request.Header.Set("Accept", pick(r, "", "*/*", "application/json", "application/x-ndjson", "application/octet-stream", "text/event-stream", "text/html;q=0.x", r.text()))
	request.Header.Set("Content-Type", "application/json")
	if k == headers {
		r.headers(request, "Content-Type", "Accept", "Origin", "Sec-Fetch-Site", "X-Http-Method-Override", "Grpc-Timeout", "Authorization", "X-Forwarded-For", "Content-Encoding", "Range", "Upgrade", "Expect")
		request.Host = pick(r, address, address, r.text())
	}
	request.Header = printable(request.Header)
	request.Host = strings.Join(strings.FieldsFunc(request.Host, func(c rune) bool { return c <= ' ' || c > '~' || c == '/' }), "")
	return k, method, request
}

var variable = regexp.MustCompile(`\{\w+\}`)

// headers sets some of the named ones.
func (r *random) headers(request *http.Request, names ...string) {
	for range 1 + r.IntN(4) {
		request.Header.Set(pick(r, names...), pick(r, r.text(), "1S", "-1n", "99999999999H", "gzip", "identity", "application/grpc+json", "application/json", "%%%", "100-continue", strings.Repeat("x", 20<<10),
			base64.StdEncoding.EncodeToString(r.bytes(9)), "cross-site", "http://evil.test", "DELETE", "bytes=0-1"))
	}
	request.Header = printable(request.Header)
}

// printable leaves out what no client sends.
func printable(h http.Header) http.Header {
	for name, values := range h {
		for i := range values {
			values[i] = strings.Map(func(c rune) rune {
				if c < ' ' || c == 0x7f {
					return -1
				}
				return c
			}, values[i])
		}
		h[name] = values
	}
	return h
}

func (r *random) encoded(d protoreflect.MessageDescriptor) []byte {
	data, err := proto.Marshal(r.message(d, 3))
	if err != nil {
		return []byte{0xff}
	}
	return data
}

// message has any values in its fields, those of its rules more often than not.
func (r *random) message(d protoreflect.MessageDescriptor, depth int) *dynamicpb.Message {
	m := dynamicpb.NewMessage(d)
	for i := range d.Fields().Len() {
		field := d.Fields().Get(i)
		if r.IntN(2) == 0 && field.Name() != "target" && field.Name() != "timeout" || depth == 0 && field.Message() != nil {
			continue
		}
		if field.IsMap() {
			continue
		}
		if !field.IsList() {
			m.Set(field, r.value(field, depth))
			continue
		}
		list := m.Mutable(field).List()
		for range pick(r, 0, 1, 1, 2, 3, 70) {
			list.Append(r.value(field, depth))
		}
	}
	return m
}

func (r *random) value(field protoreflect.FieldDescriptor, depth int) protoreflect.Value {
	switch field.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(r.IntN(2) == 0)
	case protoreflect.EnumKind:
		values := field.Enum().Values()
		return protoreflect.ValueOfEnum(pick(r, values.Get(r.IntN(values.Len())).Number(), values.Get(0).Number(), protoreflect.EnumNumber(r.number())))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(r.number()))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(r.number()))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(r.number())
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(r.number()))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(r.NormFloat64()))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(pick(r, r.NormFloat64(), math.NaN(), math.Inf(1)))
	case protoreflect.StringKind:
		if field.Name() == "target" {
			return protoreflect.ValueOfString(r.target())
		}
		return protoreflect.ValueOfString(r.text())
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(r.bytes(pick(r, 0, 1, 20, 20, 20, 70<<10)))
	default:
		if field.Message().FullName() == "google.protobuf.Duration" && r.IntN(10) > 0 {
			d := dynamicpb.NewMessage(field.Message())
			d.Set(field.Message().Fields().ByName("nanos"), protoreflect.ValueOfInt32(r.Int32N(50_000_000)))
			return protoreflect.ValueOfMessage(d)
		}
		return protoreflect.ValueOfMessage(r.message(field.Message(), depth-1))
	}
}

// valueOf is a field as text; any, when it is not set.
func (r *random) valueOf(m *dynamicpb.Message, name string) string {
	if field := m.Descriptor().Fields().ByName(protoreflect.Name(name)); field != nil && m.Has(field) && r.IntN(4) > 0 {
		return m.Get(field).String()
	}
	return r.text()
}

func (r *random) number() int64 {
	return pick(r, 0, 1, 2, -1, 10, 53, 80, 1024, 65535, 65536, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64, math.MaxUint32, r.Int64(), -r.Int64())
}

func (r *random) text() string {
	return pick(r, "", "", "ssh", "http", "tcp", "localhost", "127.0.0.1", "::1", "fe80::1%lo", "10.1.2.3", "www.example.com", "A", "AAAA", "PTR", "ANY", "TYPE65535", "25", "-1", "0x7f.1", "1.1", ".", "..", "*", "%", "%00",
		"\x00", "\n", "ż\u202e", "xn--", strings.Repeat("a", 64)+".test", strings.Repeat("a.", 127), strings.Repeat("x", 300), "AF_", "AF_INET", "[^", "(a*)*b", `(?P<x>.{1000}){1000}`, "/etc/passwd",
		strings.ToValidUTF8(string(r.bytes(r.IntN(30))), "?"), r.target())
}

func (r *random) target() string {
	peer := pick(r, r.peers...).String()
	return pick(r, peer, peer, "tcp://"+peer, "udp://"+peer, "tls://"+peer, "127.0.0.1:1", "localhost:1", "[::1]:1", "10.1.2.3:80", "nosuch.test:80", "unix:///run/none.sock", "unix://@x", "0.0.0.0:0", ":", "://", "tcp://", "ftp://a:1", "[::1",
		"a:b:c", "127.0.0.1:99999", "[fe80::1%25lo]:80", "tcp6://"+peer, strings.Repeat("a", 5000)+":1", string(rune(r.IntN(0x3000)))+":1")
}

func (r *random) bytes(n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	return data
}

// damage cuts, changes, doubles or adds.
func (r *random) damage(data []byte) []byte {
	data = bytes.Clone(data)
	for range 1 + r.IntN(3) {
		at := r.IntN(len(data) + 1)
		switch how := r.IntN(6); {
		case how == 0:
			data = data[:at]
		case how == 1:
			data = append(data[:at:at], append(r.bytes(1+r.IntN(8)), data[at:]...)...)
		case how == 2:
			data = append(data, data[at:]...)
		case at < len(data):
			data[at] ^= 1 << r.IntN(8)
		}
	}
	return data
}

// huge is what claims to be a lot, or is.
func (r *random) huge(d protoreflect.MessageDescriptor) []byte {
	number := protowire.Number(1 + r.IntN(max(1, d.Fields().Len())))
	return pick(r,
		protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.BytesType), math.MaxUint64),
		protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.BytesType), 1<<31),
		protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), make([]byte, 1<<20)),
		make([]byte, 2<<20),
		bytes.Repeat(protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), nil), 300_000),
		bytes.Repeat(protowire.AppendTag(nil, number, protowire.StartGroupType), 11_000)) // deeper than protobuf goes
}

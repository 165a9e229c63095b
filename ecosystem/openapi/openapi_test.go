package openapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	_ "github.com/oapi-codegen/runtime" // what is generated imports it

	"probed/internal/nettest"
	"probed/internal/probetest"
)

const token = "a-token-of-32-characters-or-more"

// world is a probed whose callers say who they are, and what the examples of the document ask it about.
type world struct {
	*probetest.Probed

	url      string
	echo     netip.AddrPort // sends back what comes
	names    netip.AddrPort // a name server
	text     []byte         // of the document
	document *openapi3.T
	router   routers.Router
	client   *http.Client
}

// One probed is enough, and one look at everything.
func TestOpenAPI(t *testing.T) {
	server := nettest.DNS(t, func(x *nettest.DNSExchange) { x.Send(x.Answer("example.org. 300 IN A 192.0.2.80")) })
	w := &world{echo: nettest.TCP(t, nettest.Echo), names: server.Addr}
	config := fmt.Sprintf(`
auth:
  tokens:
    - {name: reader, sha256: "sha256:%x"}
modules:
  tcp_connect: {prober: tcp}
policy:
  roles:
    - name: all
      subjects: ["token:reader"]
      rules:
        - {name: here, cidrs: [127.0.0.0/8], verbs: [resolve, connect, send]}
        - {name: names, hosts: ["*"], verbs: [resolve]}
`, sha256.Sum256([]byte(token)))
	w.Probed = probetest.Start(t, probetest.Options{Config: config})
	w.url = "http://" + w.HTTPAddress
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	w.client = &http.Client{Transport: transport, Timeout: time.Minute}

	_, w.text = w.ask(t, http.MethodGet, "/openapi.json", "")
	var err error
	if w.document, err = openapi3.NewLoader().LoadFromData(w.text); err != nil {
		t.Fatal(err)
	}
	if servers := w.document.Servers; len(servers) == 1 && servers[0].URL == "./" {
		servers[0].URL = "/" // which is what it comes to where the document is from
	}
	if w.router, err = gorillamux.NewRouter(w.document); err != nil {
		t.Fatal(err)
	}
	t.Run("each", func(t *testing.T) {
		t.Run("valid", w.valid)
		t.Run("complete", w.complete)
		t.Run("examples", w.examples)
		t.Run("errors", w.errors)
		t.Run("unavailable", func(t *testing.T) { w.unavailable(t, config) })
		t.Run("formats", w.formats)
		t.Run("generated client", w.generated)
		t.Run("page", w.page)
	})
}

// answer is a response whose body has been read.
type answer struct{ *http.Response }

// ask makes a request, with the token unless the headers say who asks.
func (w *world) ask(t *testing.T, method, path, body string, header ...string) (answer, []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
		if header[i+1] == "" {
			request.Header.Del(header[i])
		}
	}
	response, err := w.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{response}, text
}

func validate(text []byte) error {
	document, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		return err
	}
	return document.Validate(context.Background(), openapi3.EnableExamplesValidation())
}

// The document is valid, its examples too, and one that is not is told.
func (w *world) valid(t *testing.T) {
	t.Parallel()
	if err := validate(w.text); err != nil {
		t.Fatal(err)
	}
	for what, edit := range map[string][2]string{
		"no title":                               {`"title": "probed",`, ``},
		"a schema that is not there":             {`"$ref": "#/components/schemas/Service"`, `"$ref": "#/components/schemas/Servant"`},
		"an example that lacks a field":          {`"port": 22,`, ``},
		"a path parameter that is not declared":  {`"/v1/ports/{port}"`, `"/v1/ports/{number}"`},
		"a scheme of security that is not there": {`"bearer": []`, `"basic": []`},
	} {
		broken := bytes.Replace(w.text, []byte(edit[0]), []byte(edit[1]), 1)
		if bytes.Equal(broken, w.text) {
			t.Errorf("%s: the document has no %s", what, edit[0])
		} else if validate(broken) == nil {
			t.Errorf("%s is found valid", what)
		}
	}
}

// operations are those of the document, by method and path.
func (w *world) operations() map[[2]string]*openapi3.Operation {
	found := map[[2]string]*openapi3.Operation{}
	for path, item := range w.document.Paths.Map() {
		for method, operation := range item.Operations() {
			found[[2]string{method, path}] = operation
		}
	}
	return found
}

// Nothing is without description, and no operation without errors and examples.
func (w *world) complete(t *testing.T) {
	t.Parallel()
	info := w.document.Info
	if info.Description == "" || info.License == nil || info.Version == "" || len(w.document.Tags) == 0 || len(w.document.Servers) != 1 {
		t.Errorf("%+v", info)
	}
	for _, tag := range w.document.Tags {
		if tag.Description == "" {
			t.Errorf("tag %s is not described", tag.Name)
		}
	}
	for at, operation := range w.operations() {
		if operation.Summary == "" || len(operation.Summary) > 200 || strings.Contains(operation.Summary, "\n") || len(operation.Tags) != 1 {
			t.Errorf("%v: summary %q, tags %v", at, operation.Summary, operation.Tags)
		}
		for _, parameter := range operation.Parameters {
			if parameter.Value.Description == "" {
				t.Errorf("%v: %s is not described", at, parameter.Value.Name)
			}
		}
		for _, status := range []string{"200", "400", "401", "403", "413", "429", "500", "503", "default"} {
			if status == "413" && at[1] == "/probe" {
				continue // which reads no body
			}
			response := operation.Responses.Value(status)
			if response == nil {
				t.Errorf("%v: nothing is said of %s", at, status)
				continue
			}
			for kind, content := range response.Value.Content {
				if status == "200" && len(content.Examples) == 0 {
					t.Errorf("%v: no example of %s", at, kind)
				}
			}
		}
		if body := operation.RequestBody; body != nil && len(body.Value.Content.Get("application/json").Examples) == 0 {
			t.Errorf("%v: no example of a request", at)
		}
	}
	for name, schema := range w.document.Components.Schemas {
		if schema.Value.Description == "" {
			t.Errorf("schema %s is not described", name)
		}
		for field, property := range schema.Value.Properties {
			if property.Value.Description == "" && property.Value.Const == nil && property.Ref == "" {
				t.Errorf("schema %s: %s is not described", name, field)
			}
		}
	}
}

// here is an example with what is there for this test.
func (w *world) here(text string) string {
	return strings.NewReplacer("127.0.0.1:7007", w.echo.String(), "127.0.0.1:53", w.names.String()).Replace(text)
}

// What the document gives as an example can be sent, and what comes is what the document says.
func (w *world) examples(t *testing.T) {
	t.Parallel()
	for at, operation := range w.operations() {
		t.Run(operation.OperationID, func(t *testing.T) {
			t.Parallel()
			path, query := at[1], url.Values{}
			for _, parameter := range operation.Parameters {
				p := parameter.Value
				switch {
				case p.Example == nil:
				case p.In == "path":
					path = strings.ReplaceAll(path, "{"+p.Name+"}", url.PathEscape(fmt.Sprint(p.Example)))
				default:
					query.Set(p.Name, w.here(fmt.Sprint(p.Example)))
				}
			}
			if len(query) > 0 {
				path += "?" + query.Encode()
			}
			bodies := map[string]string{"": ""}
			if operation.RequestBody != nil {
				bodies = map[string]string{}
				for name, example := range operation.RequestBody.Value.Content.Get("application/json").Examples {
					text, err := json.Marshal(example.Value.Value)
					if err != nil {
						t.Fatal(err)
					}
					bodies[name] = w.here(string(text))
				}
			}
			for name, body := range bodies {
				response, text := w.ask(t, at[0], path, body)
				// Whether this machine's own name servers answer is not for this test.
				unknown := operation.OperationID == "ResolverService_QueryDNS" && response.StatusCode == http.StatusServiceUnavailable
				if response.StatusCode != http.StatusOK && !unknown {
					t.Errorf("%s: %s %s", name, response.Status, text)
				}
				w.hold(t, response, body, text)
			}
		})
	}
}

// hold holds an answer to the document.
func (w *world) hold(t *testing.T, response answer, body string, text []byte) {
	t.Helper()
	request := response.Request
	route, parameters, err := w.router.FindRoute(request)
	if err != nil {
		t.Errorf("%s %s: %v", request.Method, request.URL, err)
		return
	}
	options := &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true}
	asked := &openapi3filter.RequestValidationInput{Request: request, PathParams: parameters, Route: route, Options: options}
	if response.StatusCode == http.StatusOK {
		request.Body = io.NopCloser(strings.NewReader(body))
		if err := openapi3filter.ValidateRequest(t.Context(), asked); err != nil {
			t.Errorf("%s %s: a request that is answered, and the document refuses: %v", request.Method, request.URL, err)
		}
	}
	documented := route.Operation.Responses.Status(response.StatusCode)
	if documented == nil {
		t.Errorf("%s %s: %s is not documented: %s", request.Method, request.URL, response.Status, text)
		return
	}
	for _, name := range []string{"Retry-After", "WWW-Authenticate"} {
		if response.Header.Get(name) != "" && documented.Value.Headers[name] == nil {
			t.Errorf("%s %s: %s has the header %s, which is not documented", request.Method, request.URL, response.Status, name)
		}
	}
	kind, _, err := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	if kind != "application/json" && kind != "text/plain" {
		w.holdStream(t, route.Operation, kind, text)
		return
	}
	answered := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: asked, Status: response.StatusCode, Header: response.Header, Options: options,
	}
	if err := openapi3filter.ValidateResponse(t.Context(), answered.SetBodyBytes(text)); err != nil {
		t.Errorf("%s %s: %s is not what the document says: %v", request.Method, request.URL, response.Status, err)
	}
}

// holdStream holds each event of an exchange to its schema.
func (w *world) holdStream(t *testing.T, operation *openapi3.Operation, kind string, text []byte) {
	t.Helper()
	if operation.Responses.Status(http.StatusOK).Value.Content[kind] == nil {
		t.Errorf("%s is not documented", kind)
	}
	schema, prefix := "ExchangeLine", ""
	switch kind {
	case "application/octet-stream":
		return
	case "text/event-stream":
		schema, prefix = "ExchangeResponse", "data: "
	}
	events := 0
	for line := range strings.Lines(string(text)) {
		data, ok := strings.CutPrefix(line, prefix)
		if !ok || strings.TrimSpace(line) == "" {
			continue
		}
		events++
		w.holdValue(t, schema, []byte(data))
	}
	if events < 2 {
		t.Errorf("%s: %d events: %s", kind, events, text)
	}
}

func (w *world) holdValue(t *testing.T, schema string, text []byte) {
	t.Helper()
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if err := w.document.Components.Schemas[schema].Value.VisitJSON(value, openapi3.EnableJSONSchema2020()); err != nil {
		t.Errorf("no %s: %v: %s", schema, err, text)
	}
}

// Errors are of the statuses that stand in the document, and of one shape.
func (w *world) errors(t *testing.T) {
	t.Parallel()
	met := 0
	for _, tt := range []struct {
		method, path, body string
		header             []string
		status             int
		reason             string
	}{
		{"GET", "/v1/ports/65536", "", nil, 400, "ERROR_REASON_INVALID_FIELD"},
		{"GET", "/v1/ports/22?porotcol=tcp", "", nil, 400, "ERROR_REASON_INVALID_FIELD"},
		{"GET", "/v1/services?pageSize=1001", "", nil, 400, "ERROR_REASON_INVALID_FIELD"},
		{"POST", "/v1/connect", `{"target": "tcp://x"}`, nil, 400, "ERROR_REASON_INVALID_TARGET"},
		{"POST", "/v1/connect", `{"taget": "127.0.0.1:9"}`, nil, 400, "ERROR_REASON_INVALID_FIELD"},
		{"POST", "/v1/exchange", `{`, nil, 400, "ERROR_REASON_INVALID_FIELD"},
		{"GET", "/v1/addrinfo?host=127.0.0.1&family=AF_PACKET", "", nil, 400, "EAI_FAMILY"},
		{"GET", "/v1/ports/22", "", []string{"Authorization", ""}, 401, "ERROR_REASON_UNAUTHENTICATED"},
		{"POST", "/v1/exchange", `{"target": "127.0.0.1:9"}`, []string{"Authorization", "Bearer stranger"}, 401, "ERROR_REASON_UNAUTHENTICATED"},
		{"POST", "/v1/connect", `{"target": "tcp://169.254.169.254:80"}`, nil, 403, "ERROR_REASON_POLICY_DENIED"},
		{"GET", "/v1/hostname", "", []string{"Sec-Fetch-Site", "cross-site"}, 403, "ERROR_REASON_HTTP_REQUEST"},
		{"GET", "/v1/services/nosuch", "", nil, 404, "ERROR_REASON_SERVICE_NOT_FOUND"},
		{"GET", "/v1/protocols/nosuch", "", nil, 404, "ERROR_REASON_PROTOCOL_NOT_FOUND"},
		{"POST", "/v1/exchange", `{"target": "127.0.0.1:9"}`, []string{"Accept", "text/html"}, 406, "ERROR_REASON_HTTP_REQUEST"},
		{"POST", "/v1/connect", `{"target": "` + strings.Repeat("x", 3<<20) + `"}`, nil, 413, "ERROR_REASON_HTTP_REQUEST"},
		{"GET", "/probe?module=nosuch&target=127.0.0.1:9", "", nil, 400, ""},
		{"GET", "/probe?module=tcp_connect&target=169.254.169.254:80", "", nil, 403, ""},
		{"GET", "/probe?module=tcp_connect&target=127.0.0.1:9", "", []string{"Authorization", ""}, 401, ""},
		{"POST", "/v1/dns", `{"name": "example.org", "server": "127.0.0.1:9"}`, nil, 503, "ERROR_REASON_DNS_UNREACHABLE"},
	} {
		response, text := w.ask(t, tt.method, tt.path, tt.body, tt.header...)
		var said struct{ Details [1]struct{ Reason string } }
		if err := json.Unmarshal(text, &said); err != nil && tt.reason != "" { // those of Prometheus are text
			t.Errorf("%s: %v: %s", tt.path, err, text)
		}
		if response.StatusCode != tt.status || said.Details[0].Reason != tt.reason {
			t.Errorf("%s %s: %s %s, want %d %s", tt.method, tt.path, response.Status, text, tt.status, tt.reason)
		}
		w.hold(t, response, tt.body, text)
		if w.alike(t, response, text) {
			met++
		}
	}
	if met != 7 {
		t.Errorf("%d of these are examples of the document, want 7", met)
	}
}

// unavailable asks a probed whose audit log cannot be written.
func (w *world) unavailable(t *testing.T, config string) {
	t.Parallel()
	full := *w
	full.Probed = probetest.Start(t, probetest.Options{Config: config, DiskFull: true})
	full.url = "http://" + full.HTTPAddress
	full.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	for _, tt := range []struct{ method, path, body string }{
		{"POST", "/v1/connect", `{"target": "127.0.0.1:9"}`},
		{"POST", "/v1/exchange", `{"target": "127.0.0.1:9"}`},
		{"GET", "/probe?module=tcp_connect&target=127.0.0.1:9", ""},
	} {
		response, text := full.ask(t, tt.method, tt.path, tt.body)
		if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %s %v %s", tt.path, response.Status, response.Header, text)
		}
		full.hold(t, response, tt.body, text)
		if !full.alike(t, response, text) && tt.method == "POST" { // that of Prometheus is text
			t.Errorf("%s: no example of the document is %s", tt.path, text)
		}
	}
}

// alike holds an error to the example that says the same, if there is one: it has details of the same types.
func (w *world) alike(t *testing.T, response answer, text []byte) (met bool) {
	t.Helper()
	parse := func(text []byte) (message string, types []string) {
		var said struct {
			Message string
			Details []struct {
				Type string `json:"@type"`
			}
		}
		_ = json.Unmarshal(text, &said) // that of Prometheus is text
		for _, detail := range said.Details {
			types = append(types, detail.Type)
		}
		return said.Message, types
	}
	route, _, err := w.router.FindRoute(response.Request)
	if err != nil {
		t.Fatal(err)
	}
	documented := route.Operation.Responses.Status(response.StatusCode)
	if documented == nil || documented.Value.Content.Get("application/json") == nil {
		return false
	}
	message, types := parse(text)
	for name, example := range documented.Value.Content.Get("application/json").Examples {
		told, err := json.Marshal(example.Value.Value)
		if err != nil {
			t.Fatal(err)
		}
		same, want := parse(told)
		if same != message {
			continue
		}
		met = true
		if !slices.Equal(types, want) {
			t.Errorf("%s has details %v, and the example %s %v", response.Request.URL, types, name, want)
		}
	}
	return met
}

// Each format of an exchange is as it is told, and the trailers are there.
func (w *world) formats(t *testing.T) {
	t.Parallel()
	body := fmt.Sprintf(`{"target": "tcp://%s", "text": "hello"}`, w.echo)
	documented := w.document.Paths.Find("/v1/exchange").Post.Responses.Status(http.StatusOK).Value
	kinds := slices.Sorted(maps.Keys(documented.Content))
	if want := []string{"application/octet-stream", "application/x-ndjson", "text/event-stream"}; !slices.Equal(kinds, want) {
		t.Errorf("documented are %v, want %v", kinds, want)
	}
	for _, kind := range kinds {
		response, text := w.ask(t, http.MethodPost, "/v1/exchange", body, "Accept", kind)
		if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != kind {
			t.Errorf("%s: %s, %s", kind, response.Status, response.Header.Get("Content-Type"))
		}
		w.hold(t, response, body, text)
		if kind == "application/octet-stream" {
			if string(text) != "hello" || response.Trailer.Get("Probe-Ok") != "true" || documented.Headers["Probe-Ok"] == nil {
				t.Errorf("%q, %v", text, response.Trailer)
			}
			w.holdValue(t, "Reason", fmt.Appendf(nil, "%q", response.Trailer.Get("Probe-Reason")))
		}
	}
}

// A client that oapi-codegen makes of the document does a lookup and a connect.
func (w *world) generated(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("testdata", "generated-") // where the module that it imports from is found
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	document := filepath.Join(t.TempDir(), "openapi.json")
	program, err := os.ReadFile("testdata/client/main.go")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{document: w.text, filepath.Join(dir, "main.go"): program} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	binary := filepath.Join(t.TempDir(), "client")
	for _, command := range [][]string{
		{"go", "tool", "oapi-codegen", "-generate=types,client", "-package=main", "-o=" + filepath.Join(dir, "api.go"), document},
		{"go", "build", "-o", binary, "./" + dir},
	} {
		if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", command, err, out)
		}
	}
	out, err := exec.CommandContext(t.Context(), binary, w.url, token, "tcp://"+w.echo.String(), "169.254.169.254:80").CombinedOutput()
	want := "port 22 is ssh PORT_CLASS_SYSTEM\nconnect true PHASE_CLOSE AF_INET true true\ndenied ERROR_REASON_POLICY_DENIED deny-metadata\n"
	if err != nil || string(out) != want {
		t.Errorf("%v\n%s\nwant %s", err, out, want)
	}
}

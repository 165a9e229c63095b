package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A panic of the gateway's own costs its request alone: who made it is told INTERNAL, and no more; the log has the rest.
func TestCrash(t *testing.T) {
	t.Parallel()
	g, err := New(Config{Conn: nowhere{}, Enter: func(r *http.Request) (context.Context, func(), bool) {
		if r.URL.Path == "/v1/hostname" {
			panic("a bug of the gateway")
		}
		return r.Context(), func() {}, true
	}})
	if err != nil {
		t.Fatal(err)
	}
	var written bytes.Buffer
	server := httptest.NewUnstartedServer(g)
	server.Config.ErrorLog = log.New(&written, "", 0)
	server.Start()
	for path, code := range map[string]int{"/v1/hostname": http.StatusInternalServerError, "/openapi.json": http.StatusOK} {
		response, err := server.Client().Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != code {
			t.Errorf("%s: %s, %v: %s", path, response.Status, err, text)
		}
		if code == http.StatusOK {
			continue
		}
		var said struct {
			Code    int
			Message string
			Details []struct{ Reason string }
		}
		if err := json.Unmarshal(text, &said); err != nil || said.Code != 13 || said.Message != "probed failed; its log has the cause" ||
			len(said.Details) != 1 || said.Details[0].Reason != "ERROR_REASON_INTERNAL" {
			t.Errorf("%v: %s", err, text)
		}
	}
	server.Close()
	if text := written.String(); !strings.Contains(text, "a bug of the gateway") || !strings.Contains(text, "crash_test.go") {
		t.Errorf("the log: %s", text)
	}
}

package service

import (
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	probev1 "probed/gen/probe/v1"
)

// A call of what is not here has the details that all errors have.
func TestUnknownMethods(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ids []string
	for _, test := range []struct {
		method, message string
	}{
		{"/probe.v1.NameService/Nothing", "there is no method /probe.v1.NameService/Nothing here"},
		{"/nothing.v1.Service/Method", "there is no method /nothing.v1.Service/Method here"},
		{"/" + long(4000) + "/Method", "…"},
	} {
		var header metadata.MD
		err := w.conn.Invoke(t.Context(), test.method, &probev1.LookupServiceRequest{}, &probev1.LookupServiceResponse{}, grpc.Header(&header))
		if status.Code(err) != codes.Unimplemented || errorInfo(err) != "ERROR_REASON_UNIMPLEMENTED" || !strings.Contains(status.Convert(err).Message(), test.message) {
			t.Errorf("%.80s: %.200v, %s; want %q", test.method, err, errorInfo(err), test.message)
		}
		if id := requestIDIn(err); len(id) != 16 || header.Get(RequestIDHeader)[0] != id {
			t.Errorf("%.80s: the id %q, the header %v", test.method, id, header)
		}
		ids = append(ids, requestIDIn(err))
	}
	// Such calls are not counted by what they call: that could be anything. The log has the beginning of it.
	lines := w.log.lines(t, "call")
	if len(lines) != len(ids) {
		t.Errorf("%d lines", len(lines))
	}
	for i, line := range lines {
		method, _ := line["method"].(string)
		if line["request_id"] != ids[i] || line["reason"] != "UNIMPLEMENTED" || method == "" || len(method) > mostMethod {
			t.Errorf("%v", line)
		}
	}
}

package main

import (
	"fmt"
	"strings"
	"testing"

	"buf.build/go/protoyaml"
	"google.golang.org/protobuf/proto"

	configv1 "probed/gen/probe/config/v1"
)

// Values are read as protoyaml reads them, and what it does not take is told at its place.
func TestValuesOfConfig(t *testing.T) {
	t.Parallel()
	values := []string{
		"0", "1", "01", "-1", "-0", "+1", "4294967295", "4294967296", "18446744073709551615", "18446744073709551616", "9007199254740993",
		"1e3", "1e400", "1.5e1", "1.5", "1.0", ".5", "5.", "9007199254740992.0", "1_000", "0x10", "0X1f", "0o17", "0b11", "0x", "0x1p4", "0b1Ki", ".inf", "inf", "nan",
		"64k", "64Ki", "1.5Mi", "1.5k", "0.0001k", ".5Gi", "5.Ki", "15Ei", "16Ei", "1.9999999999999999k", "1 Ki", "1KiB", "1K", "Ki", ".Ki", "1Ki1Ki", "-1Ki", "1.2.3Ki",
		"0s", "5s", "250ms", "1m30s", "1h", "1.5h", "+5s", "-5s", "-1.5s", "--5s", "5", "s", "5 s", "5S", "1d", "1s5", "s5", "1.s", ".5s", ".s", "1ns", "1.5ns", "0.5us", "1µs", "1μs",
		"0.0000000001s", "9223372036854775807s", "9223372036854775808s", "-9223372036854775808s", "1000000h", "-", "+", "+0", "-0s", "1e3s",
		"2027-01-31T00:00:00Z", "2027-01-31t00:00:00z", "2027-01-31T00:00:00.123456789Z", "2027-01-31T00:00:00.1234567890Z", "2027-01-31T00:00:00,5Z", "2027-01-31T00:00:00+02:00",
		"2027-01-31T00:00:00.5-02:00", "2027-01-31", "2027-02-30T00:00:00Z", "0001-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59Z",
		"9999-12-31T23:59:59-01:00", "tomorrow",
		"~", "null", "''", "'5'", "'5s'", "!!str 5", "!!int 5s", "!!binary aGk=", "!!null x", "true", "false", "True", "yes", "'true'", "[]", "[5]", "{}", "{a: b}", "{seconds: 1}", "{seconds: 1, nanos: 5}",
		"{seconds: x}", "{seconds: 1Ki}", "{seconds: -9223372036854775808}", "{nanos: -1}", "{nanos: 2147483648}", "|\n    5s\n", "a b",
	}
	places := []string{
		"limits:\n  sessions: %s\n", "limits:\n  session_bytes: %s\n", "limits:\n  dialTimeout: %s\n", "auth:\n  tokens: [{expires: %s}]\n", "auth:\n  tokens_file: %s\n", "auth:\n  tokens_file_optional: %s\n",
		"audit: %s\n", "listeners:\n  echo: %s\n", "listeners:\n  echo: [a, %s, b]\n", "policy:\n  roles: %s\n", "policy:\n  roles: [%s, {name: a}]\n", "listeners:\n  grpc: {address: %s}\n", "%s\n",
	}
	for _, place := range places {
		for _, value := range values {
			if strings.Contains(value, "\n") && strings.ContainsAny(place, "[{") {
				continue
			}
			text := fmt.Sprintf(place, value)
			var want, got configv1.Config
			wantErr := protoyaml.UnmarshalOptions{DiscardUnknown: true}.Unmarshal([]byte(text), &want)
			d := newDocument(noEnv)
			d.begin("f.yaml")
			root := d.yaml([]byte(text))
			if root == nil {
				if wantErr == nil && strings.TrimSpace(text) != "~" && strings.TrimSpace(text) != "null" && !strings.HasPrefix(text, "!!null") {
					t.Errorf("%q is not read: %v", text, d.faults)
				}
				continue
			}
			(&decoder{d, nil}).message(root, got.ProtoReflect())
			switch {
			case (wantErr == nil) != (len(d.faults) == 0):
				t.Errorf("%q: %v, want %v", text, d.faults, wantErr)
			case wantErr == nil && !proto.Equal(&got, &want):
				t.Errorf("%q: %v, want %v", text, &got, &want)
			case wantErr != nil && !strings.HasPrefix(wantErr.Error(), fmt.Sprintf(":%d:%d ", d.faults[0].line, d.faults[0].column)):
				t.Errorf("%q: %v, want %v", text, d.faults, wantErr)
			}
		}
	}
}

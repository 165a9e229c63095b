package transcript

import (
	"slices"
	"testing"
)

// A page that says something else is not taken for the same.
func TestMatches(t *testing.T) {
	t.Parallel()
	const printed = `{
  "outcome": {
    "ok": true,
    "local": "127.0.0.1:40312",
    "duration": "0.000172990s",
    "requestId": "ba68b50c6f3084ef",
    "bytesSent": "5",
    "lastCallStartedTimestamp": "2026-11-23T17:53:22.358153855Z",
    "callsStarted": "15"
  }
}
`
	const page = `{
  "outcome": {
    "ok": true,
    "local": "127.0.0.1:1",
    "duration": "2s",
    "requestId": "0123456789abcdef",
    "bytesSent": "5",
    "lastCallStartedTimestamp": "2027-01-02T03:04:05Z",
    "callsStarted": "3"
  }
}
`
	for _, same := range []string{printed, page, "{\n  …\n}\n", "…\n", "{\n  \"outcome\": {\n…\n    \"bytesSent\": \"5\",\n    …\n  }\n}\n"} {
		if !Matches(same, printed) {
			t.Errorf("it is not taken for the same:\n%s", same)
		}
	}
	for _, other := range []string{
		"", "{\n}\n", "[\n…\n", "…\n}\n}\n", "{\n  …\n    \"bytesSent\": \"6\",\n  …\n}\n", page + "\n", " " + page,
		"{\n  \"outcome\": {\n    \"ok\": …\n  }\n}\n", "{\n  …\n    \"local\": \"127.0.0.2:1\",\n  …\n}\n", "{\n  …\n    \"duration\": \"2\",\n  …\n}\n",
		"{\n  …\n    \"requestId\": \"0123\",\n  …\n}\n", "{\n  …\n    \"callsStarted\": \"\"\n  …\n}\n",
	} {
		if Matches(other, printed) {
			t.Errorf("it is taken for the same:\n%s", other)
		}
	}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	all := Blocks("a\n```sh\nprobed\n```\n\n```console\n$ one \\\n>   more\n{\n}\n$ two\n$ three <<EOF\n> x\n> EOF\n> printed\n```\n")
	if len(all) != 2 || all[0] != (Block{3, "sh", "probed\n"}) || all[1].Kind != "console" {
		t.Fatalf("%+v", all)
	}
	want := []Command{{7, "one \\\n  more\n", "{\n}\n"}, {11, "two\n", ""}, {12, "three <<EOF\nx\nEOF\nprinted\n", ""}}
	if got := all[1].Commands(); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

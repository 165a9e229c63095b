package main

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

const before = `{"info": {"title": "x", "version": "1"}, "tags": [{"name": "A"}, {"name": "B"}], "paths": {
	"/a": {"get": {"responses": {"200": {}}, "parameters": [{"name": "p"}, {"name": "q"}]}}, "/b": {"post": {"responses": {"200": {}}}}}}`

func TestApply(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, patch, want, problem string }{
		{
			"members are merged, replaced and taken away",
			`{"info": {"title": "y", "version": null, "license": {"name": "z"}}, "paths": {"/a": null, "/b": null}, "tags": {"A": {"description": "a"}, "B": null, "C": {"name": "C"}}}`,
			`{"info": {"title": "y", "license": {"name": "z"}}, "paths": {}, "tags": [{"name": "A", "description": "a"}, {"name": "C"}]}`, "",
		},
		{
			"each operation has what all have, and then its own",
			`{"x-every-operation": {"responses": {"400": {"$ref": "no"}, "503": {"$ref": "drain"}}}, "tags": [], "info": "i",
				"paths": {"/a": {"get": {"parameters": {"p": {"example": 1}, "q": null}, "responses": {"503": {"$ref": "dns"}}}}}}`,
			`{"info": "i", "tags": [], "paths": {
				"/a": {"get": {"responses": {"200": {}, "400": {"$ref": "no"}, "503": {"$ref": "dns"}}, "parameters": [{"name": "p", "example": 1}]}},
				"/b": {"post": {"responses": {"200": {}, "400": {"$ref": "no"}, "503": {"$ref": "drain"}}}}}}`, "",
		},
		{
			"null in an example is null",
			`{"info": {"example": {"value": {"a": null}}}, "tags": [], "paths": {"/a": null, "/b": null}}`,
			`{"info": {"title": "x", "version": "1", "example": {"value": {"a": null}}}, "tags": [], "paths": {}}`, "",
		},
		{"a parameter that has another name by now", `{"paths": {"/a": {"get": {"parameters": {"r": {"example": 1}}}}}}`, "", "no element named r"},
		{"a parameter that is gone already", `{"paths": {"/a": {"get": {"parameters": {"r": null}}}}}`, "", "no element named r"},
		{"a member that is gone already", `{"info": {"summary": null}}`, "", ".info.summary is not there"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			document := parse(t, before)
			err := apply(parse(t, tt.patch), document)
			if tt.problem != "" {
				if err == nil || !strings.Contains(err.Error(), tt.problem) {
					t.Errorf("%v, want %q", err, tt.problem)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := parse(t, tt.want); !reflect.DeepEqual(document, want) {
				t.Errorf("\n got %v\nwant %v", document, want)
			}
		})
	}
}

func parse(t *testing.T, text string) (o object) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"probed/tools/sbom"
)

// TestBills: each container has a document that says of each module what the program says of itself.
func TestBills(t *testing.T) {
	t.Parallel()
	index, _ := unpack(t, built)
	containers, documents := described(t, index)
	if len(documents) != len(containers) {
		t.Fatalf("there are %d documents for %d containers", len(documents), len(containers))
	}
	for i, d := range containers {
		arch := d.Platform.Architecture
		bill := image(t, index, documents[i])
		manifest, err := bill.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		if manifest.Subject == nil || manifest.Subject.Digest != d.Digest || manifest.ArtifactType != "application/spdx+json" ||
			documents[i].ArtifactType != manifest.ArtifactType || len(manifest.Layers) != 1 {
			t.Errorf("%s: it is not about this container: %+v", arch, manifest)
		}
		layer, err := bill.LayerByDigest(manifest.Layers[0].Digest)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := layer.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		var document sbom.Document
		decoder := json.NewDecoder(stream)
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&document); err != nil {
			t.Fatal(err)
		}
		text := files(t, image(t, index, d))["probed"].content
		for _, finding := range checkBill(t, &document, text) {
			t.Errorf("%s: %s", arch, finding)
		}
	}
}

// checkBill holds a document to the specification and to the program.
func checkBill(t *testing.T, d *sbom.Document, text []byte) []string {
	t.Helper()
	var findings []string
	expect := func(ok bool, format string, args ...any) {
		if !ok {
			findings = append(findings, fmt.Sprintf(format, args...))
		}
	}
	expect(d.Version == "SPDX-2.3" && d.DataLicense == "CC0-1.0" && d.ID == "SPDXRef-DOCUMENT" && d.Name != "", "the head is %+v", d)
	expect(regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(d.Namespace), "the namespace is %s", d.Namespace)
	expect(d.Creation.Created == created && len(d.Creation.Creators) == 1, "it was made %+v", d.Creation)

	file := filepath.Join(t.TempDir(), "probed")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := readProgram(file)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"stdlib " + strings.TrimPrefix(program.Info.GoVersion, "go"): ""}
	for _, m := range program.Modules() {
		sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:"))
		if err != nil || len(sum) != sha256.Size {
			t.Fatalf("%s has the sum %q", m.Path, m.Sum)
		}
		want[m.Path+" "+m.Version] = hex.EncodeToString(sum)
	}
	embedded := program.Embedded()
	if len(embedded) != 1 || embedded[0].Path != "swagger-ui-dist" {
		t.Fatalf("embedded are %v", embedded)
	}
	want["swagger-ui-dist "+embedded[0].Version] = ""
	digest := sha256.Sum256(text)
	want["probed "+version] = hex.EncodeToString(digest[:])

	have := make(map[string]string)
	identifiers := map[string]bool{d.ID: true}
	for _, p := range d.Packages {
		expect(!identifiers[p.ID], "%s is there twice", p.ID)
		identifiers[p.ID] = true
		expect(p.DownloadLocation != "" && p.LicenseConcluded != "" && p.LicenseDeclared != "" && p.Copyright != "", "%s does not say all that it has to", p.Name)
		kind := "golang"
		if p.Name == embedded[0].Path {
			kind = "npm"
		}
		expect(len(p.References) == 1 && p.References[0].Locator == "pkg:"+kind+"/"+p.Name+"@"+strings.ReplaceAll(p.Version, "+", "%2B"), "%s is found under %v", p.Name, p.References)
		have[p.Name+" "+p.Version] = ""
		if len(p.Checksums) == 1 && p.Checksums[0].Algorithm == "SHA256" {
			have[p.Name+" "+p.Version] = p.Checksums[0].Value
		}
	}
	expect(len(want) > 10 && maps.Equal(have, want), "it has %v and not %v", have, want)
	linked, contained := 0, 0
	for _, r := range d.Relationships {
		expect(identifiers[r.From] && identifiers[r.To], "%v is about what is not there", r)
		switch r.Type {
		case "STATIC_LINK":
			linked++
		case "CONTAINS":
			contained++
		}
	}
	expect(linked == len(want)-1-len(embedded) && contained == len(embedded) && len(d.Relationships) == len(want), "the relationships are %v", d.Relationships)
	return findings
}

// TestBillsFail: each of these is a document that is not right.
func TestBillsFail(t *testing.T) {
	t.Parallel()
	index, _ := unpack(t, built)
	containers, _ := described(t, index)
	text := files(t, image(t, index, containers[0]))["probed"].content
	file := filepath.Join(t.TempDir(), "probed")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := readProgram(file)
	if err != nil {
		t.Fatal(err)
	}
	content, err := sbom.JSON(program.Program, version, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*sbom.Document){
		"a module less":          func(d *sbom.Document) { d.Packages = d.Packages[:len(d.Packages)-1] },
		"another version":        func(d *sbom.Document) { d.Packages[3].Version = "v0.0.1" },
		"another sum":            func(d *sbom.Document) { d.Packages[3].Checksums = nil },
		"another program":        func(d *sbom.Document) { d.Packages[0].Checksums[0].Value = "00" },
		"no licence":             func(d *sbom.Document) { d.Packages[2].LicenseDeclared = "" },
		"no purl":                func(d *sbom.Document) { d.Packages[2].References = nil },
		"one of two names":       func(d *sbom.Document) { d.Packages[2].ID = d.Packages[3].ID },
		"a link to nothing":      func(d *sbom.Document) { d.Relationships[3].To = "SPDXRef-none" },
		"no link":                func(d *sbom.Document) { d.Relationships = d.Relationships[:1] },
		"another specification":  func(d *sbom.Document) { d.Version = "SPDX-2.2" },
		"a name that others get": func(d *sbom.Document) { d.Namespace = "urn:uuid:" },
		"another time":           func(d *sbom.Document) { d.Creation.Created = "" },
	} {
		var d sbom.Document
		if err := json.Unmarshal(content, &d); err != nil {
			t.Fatal(err)
		}
		d.Creation.Created = created
		if findings := checkBill(t, &d, text); len(findings) != 0 {
			t.Fatalf("%s: before that it is wrong: %q", name, findings)
		}
		spoil(&d)
		if len(checkBill(t, &d, text)) == 0 {
			t.Errorf("%s: nobody notices", name)
		}
	}
}

package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"
)

// program is one that the image is made for, and what it says of itself.
type program struct {
	name, arch string
	text       []byte
	info       *debug.BuildInfo
}

// readProgram reads one, which has to run where there is nothing else: for Linux, and without C.
func readProgram(file string) (*program, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	info, err := buildinfo.Read(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	settings := make(map[string]string)
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	switch {
	case settings["GOOS"] != "linux":
		return nil, fmt.Errorf("it is for %s, not for linux", settings["GOOS"])
	case settings["CGO_ENABLED"] != "0":
		return nil, errors.New("it may need libraries: build it with CGO_ENABLED=0")
	}
	return &program{name: filepath.Base(file), arch: settings["GOARCH"], text: text, info: info}, nil
}

// modules are those that are in the program besides its own, as they were built: what stands in place of another, if one does.
func (p *program) modules() []*debug.Module {
	modules := make([]*debug.Module, 0, len(p.info.Deps))
	for _, m := range p.info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		modules = append(modules, m)
	}
	return modules
}

// What a document in SPDX 2.3 has of what there is to say here (section numbers are those of the specification).
type (
	spdxDocument struct { // 6
		Version       string             `json:"spdxVersion"`
		DataLicense   string             `json:"dataLicense"`
		ID            string             `json:"SPDXID"`
		Name          string             `json:"name"`
		Namespace     string             `json:"documentNamespace"`
		Creation      spdxCreation       `json:"creationInfo"`
		Packages      []spdxPackage      `json:"packages"`
		Relationships []spdxRelationship `json:"relationships"`
	}
	spdxCreation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	spdxPackage struct { // 7
		Name             string          `json:"name"`
		ID               string          `json:"SPDXID"`
		Version          string          `json:"versionInfo"`
		DownloadLocation string          `json:"downloadLocation"`
		FilesAnalyzed    bool            `json:"filesAnalyzed"`
		Checksums        []spdxChecksum  `json:"checksums,omitempty"`
		LicenseConcluded string          `json:"licenseConcluded"`
		LicenseDeclared  string          `json:"licenseDeclared"`
		Copyright        string          `json:"copyrightText"`
		References       []spdxReference `json:"externalRefs"`
		Purpose          string          `json:"primaryPackagePurpose"`
	}
	spdxChecksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	spdxReference struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	spdxRelationship struct { // 11
		From string `json:"spdxElementId"`
		Type string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	}
)

const unsaid = "NOASSERTION"

// document returns the bill of materials of a program: itself, each module in it, and Go's own library, as the linker wrote them
// into it.
func document(o options, p *program) ([]byte, error) {
	digest := sha256.Sum256(p.text)
	const itself, whole = "SPDXRef-program", "SPDXRef-DOCUMENT"
	own := spdxPackage{
		Name: p.name, ID: itself, Version: o.version, DownloadLocation: unsaid,
		Checksums:        []spdxChecksum{{"SHA256", hex.EncodeToString(digest[:])}},
		LicenseConcluded: license, LicenseDeclared: license, Copyright: unsaid,
		References: []spdxReference{purl(p.info.Main.Path, o.version)}, Purpose: "APPLICATION",
	}
	d := spdxDocument{
		Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: whole,
		Name: fmt.Sprintf("%s %s for linux/%s", p.name, o.version, p.arch),
		// A name that no other document has, and this one always.
		Namespace:     "urn:uuid:" + uuid(digest),
		Creation:      spdxCreation{Created: o.created.Format(time.RFC3339), Creators: []string{"Tool: probed/tools/image"}},
		Packages:      []spdxPackage{own},
		Relationships: []spdxRelationship{{whole, "DESCRIBES", itself}},
	}
	library := &debug.Module{Path: "stdlib", Version: strings.TrimPrefix(p.info.GoVersion, "go")}
	for i, m := range append([]*debug.Module{library}, p.modules()...) {
		part := spdxPackage{
			Name: m.Path, ID: fmt.Sprintf("SPDXRef-module-%d", i), Version: m.Version, DownloadLocation: unsaid,
			// What the licences of others are is theirs to say, and not in the program.
			LicenseConcluded: unsaid, LicenseDeclared: unsaid, Copyright: unsaid,
			References: []spdxReference{purl(m.Path, m.Version)}, Purpose: "LIBRARY",
		}
		if m.Sum != "" {
			// go.sum has it in base64 behind "h1:": SHA-256 of the list of the module's files with their SHA-256.
			sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:"))
			if err != nil {
				return nil, fmt.Errorf("the sum of %s: %w", m.Path, err)
			}
			part.Checksums = []spdxChecksum{{"SHA256", hex.EncodeToString(sum)}}
		}
		d.Packages = append(d.Packages, part)
		d.Relationships = append(d.Relationships, spdxRelationship{itself, "STATIC_LINK", part.ID})
	}
	text, err := json.MarshalIndent(d, "", " ")
	return append(text, '\n'), err
}

// uuid makes one of a digest (RFC 9562, version 8).
func uuid(digest [sha256.Size]byte) string {
	u := digest[:16]
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// purl is the name by which the databases of known vulnerabilities have a module.
func purl(path, version string) spdxReference {
	return spdxReference{"PACKAGE-MANAGER", "purl", "pkg:golang/" + path + "@" + url.QueryEscape(version)}
}

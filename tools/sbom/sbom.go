// Package sbom writes what a program of Go is made of, as its bill of materials in SPDX: the modules that the linker has written
// into it, with their sums. So it is true of the very file, whoever built it and whatever go.mod says by now.
package sbom

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"time"
)

// Program is one, and what it says of itself.
type Program struct {
	Name string // of its file
	Text []byte // all of the file
	Info *debug.BuildInfo
}

// Read reads one.
func Read(file string) (*Program, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	info, err := buildinfo.Read(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	return &Program{Name: filepath.Base(file), Text: text, Info: info}, nil
}

// Setting is one of those that it was built with, as GOOS; empty: it had none.
func (p *Program) Setting(key string) string {
	for _, s := range p.Info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

// Platform is the one that it is for, as linux/amd64.
func (p *Program) Platform() string { return p.Setting("GOOS") + "/" + p.Setting("GOARCH") }

// Modules are those that are in the program besides its own, as they were built: what stands in place of another, if one does.
func (p *Program) Modules() []*debug.Module {
	modules := make([]*debug.Module, 0, len(p.Info.Deps))
	for _, m := range p.Info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		modules = append(modules, m)
	}
	return modules
}

// page is how the library that renders the API document says its version in what it is compressed into.
var page = regexp.MustCompile(`PACKAGE_VERSION:"([0-9][0-9A-Za-z.+-]*)"`)

// Embedded are the packages in the program that are no modules of Go, which the linker knows nothing of: today Swagger UI, which a
// module brings along as a compressed file. Found in the file itself, its version is that which people get.
func (p *Program) Embedded() []*debug.Module {
	for rest := p.Text; ; {
		_, after, found := bytes.Cut(rest, []byte("\x1f\x8b\x08"))
		if !found {
			return nil
		}
		begin := rest[len(rest)-len(after)-3:]
		rest = after
		unpacked, err := gzip.NewReader(bytes.NewReader(begin))
		if err != nil {
			continue // other bytes that look like one
		}
		unpacked.Multistream(false)
		content, err := io.ReadAll(io.LimitReader(unpacked, 16<<20))
		if err != nil {
			continue
		}
		if version := page.FindSubmatch(content); version != nil {
			return []*debug.Module{{Path: "swagger-ui-dist", Version: string(version[1])}}
		}
	}
}

// What a document in SPDX 2.3 has of what there is to say here (section numbers are those of the specification).
type (
	// Document is all of it.
	Document struct { // 6
		Version       string         `json:"spdxVersion"`
		DataLicense   string         `json:"dataLicense"`
		ID            string         `json:"SPDXID"`
		Name          string         `json:"name"`
		Namespace     string         `json:"documentNamespace"`
		Creation      Creation       `json:"creationInfo"`
		Packages      []Package      `json:"packages"`
		Relationships []Relationship `json:"relationships"`
	}
	// Creation tells when and by what it was made.
	Creation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	// Package is one that there is in it.
	Package struct { // 7
		Name             string      `json:"name"`
		ID               string      `json:"SPDXID"`
		Version          string      `json:"versionInfo"`
		DownloadLocation string      `json:"downloadLocation"`
		FilesAnalyzed    bool        `json:"filesAnalyzed"`
		Checksums        []Checksum  `json:"checksums,omitempty"`
		LicenseConcluded string      `json:"licenseConcluded"`
		LicenseDeclared  string      `json:"licenseDeclared"`
		Copyright        string      `json:"copyrightText"`
		References       []Reference `json:"externalRefs"`
		Purpose          string      `json:"primaryPackagePurpose"`
	}
	// Checksum is that of a file, or of a module.
	Checksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	// Reference is the name of a package somewhere else.
	Reference struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	// Relationship is that of two of them.
	Relationship struct { // 11
		From string `json:"spdxElementId"`
		Type string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	}
)

const (
	unsaid  = "NOASSERTION"
	license = "Apache-2.0" // of the program itself
)

// JSON returns the bill of materials of a program: itself, each module in it, and Go's own library. The version is what the program
// says of its own, and created when that was; from the same it makes the same bytes.
func JSON(p *Program, version string, created time.Time) ([]byte, error) {
	digest := sha256.Sum256(p.Text)
	const itself, whole = "SPDXRef-program", "SPDXRef-DOCUMENT"
	own := Package{
		Name: p.Name, ID: itself, Version: version, DownloadLocation: unsaid,
		Checksums:        []Checksum{{"SHA256", hex.EncodeToString(digest[:])}},
		LicenseConcluded: license, LicenseDeclared: license, Copyright: unsaid,
		References: []Reference{purl(p.Info.Main.Path, version)}, Purpose: "APPLICATION",
	}
	d := Document{
		Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: whole,
		Name: fmt.Sprintf("%s %s for %s", p.Name, version, p.Platform()),
		// A name that no other document has, and this one always.
		Namespace:     "urn:uuid:" + uuid(digest),
		Creation:      Creation{Created: created.UTC().Format(time.RFC3339), Creators: []string{"Tool: probed/tools/sbom"}},
		Packages:      []Package{own},
		Relationships: []Relationship{{whole, "DESCRIBES", itself}},
	}
	library := &debug.Module{Path: "stdlib", Version: strings.TrimPrefix(p.Info.GoVersion, "go")}
	for i, m := range append([]*debug.Module{library}, p.Modules()...) {
		part := Package{
			Name: m.Path, ID: fmt.Sprintf("SPDXRef-module-%d", i), Version: m.Version, DownloadLocation: unsaid,
			// What the licences of others are is theirs to say, and not in the program.
			LicenseConcluded: unsaid, LicenseDeclared: unsaid, Copyright: unsaid,
			References: []Reference{purl(m.Path, m.Version)}, Purpose: "LIBRARY",
		}
		if m.Sum != "" {
			// go.sum has it in base64 behind "h1:": SHA-256 of the list of the module's files with their SHA-256.
			sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:"))
			if err != nil {
				return nil, fmt.Errorf("the sum of %s: %w", m.Path, err)
			}
			part.Checksums = []Checksum{{"SHA256", hex.EncodeToString(sum)}}
		}
		d.Packages = append(d.Packages, part)
		d.Relationships = append(d.Relationships, Relationship{itself, "STATIC_LINK", part.ID})
	}
	for i, m := range p.Embedded() {
		part := Package{
			Name: m.Path, ID: fmt.Sprintf("SPDXRef-embedded-%d", i), Version: m.Version, DownloadLocation: unsaid,
			LicenseConcluded: unsaid, LicenseDeclared: unsaid, Copyright: unsaid,
			References: []Reference{{"PACKAGE-MANAGER", "purl", "pkg:npm/" + m.Path + "@" + url.QueryEscape(m.Version)}}, Purpose: "LIBRARY",
		}
		d.Packages = append(d.Packages, part)
		d.Relationships = append(d.Relationships, Relationship{itself, "CONTAINS", part.ID})
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
func purl(path, version string) Reference {
	return Reference{"PACKAGE-MANAGER", "purl", "pkg:golang/" + path + "@" + url.QueryEscape(version)}
}

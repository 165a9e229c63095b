// Package release_test holds a release that goreleaser has made, and not published, to what docs/releasing.md promises. The script
// check makes one, and says where it is.
package release_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	clone = flag.String("clone", "", "the clone in which it was made")
	tag   = flag.String("tag", "", "the tag that it is of")
)

var (
	platforms = []string{"linux_amd64", "linux_arm64", "darwin_amd64", "darwin_arm64", "windows_amd64", "windows_arm64"}
	image     = "bin/release/probed.oci.tar"
)

// programsOf are the files of the programs there are for a platform, by their names.
func programsOf(platform string) map[string]string {
	if strings.HasPrefix(platform, "windows") {
		return map[string]string{"probectl": "probectl.exe"} // probed is for where a kernel tells more
	}
	return map[string]string{"probed": "probed", "probectl": "probectl"}
}

// entry is a file of an archive.
type entry struct {
	header  *tar.Header
	content []byte
}

// unpack reads an archive.
func unpack(t *testing.T, name string) map[string]entry {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if !strings.HasSuffix(name, ".gz") {
		return untar(t, file)
	}
	stream, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	return untar(t, stream)
}

func unzip(t *testing.T, name string) map[string]entry {
	t.Helper()
	archive, err := zip.OpenReader(name)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	entries := make(map[string]entry)
	for _, file := range archive.File {
		if file.FileInfo().IsDir() {
			continue
		}
		content, err := fs.ReadFile(archive, file.Name)
		if err != nil {
			t.Fatal(err)
		}
		// A zip does not tell whose a file is.
		entries[file.Name] = entry{&tar.Header{Mode: int64(file.Mode().Perm()), Uname: "root", Gname: "root", ModTime: file.Modified}, content}
	}
	return entries
}

func untar(t *testing.T, stream io.Reader) map[string]entry {
	t.Helper()
	entries := make(map[string]entry)
	archive := tar.NewReader(stream)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag == tar.TypeReg {
			entries[header.Name] = entry{header, content}
		}
	}
}

// inDist is the path of what was made.
func inDist(name string) string { return filepath.Join(*clone, "dist", name) }

// archiveOf is the name of a platform's archive.
func archiveOf(platform string) string {
	extension := ".tar.gz"
	if strings.HasPrefix(platform, "windows") {
		extension = ".zip"
	}
	return fmt.Sprintf("probed_%s_%s%s", *tag, platform, extension)
}

func archived(t *testing.T, platform string) map[string]entry {
	t.Helper()
	name := inDist(archiveOf(platform))
	if strings.HasSuffix(name, ".zip") {
		return unzip(t, name)
	}
	return unpack(t, name)
}

// released are the files of one platform's archive, without the directory that they are in.
func released(t *testing.T, platform string) map[string]entry {
	t.Helper()
	directory := fmt.Sprintf("probed_%s_%s", *tag, platform)
	found := make(map[string]entry)
	for name, e := range archived(t, platform) {
		inside, ok := strings.CutPrefix(name, directory+"/")
		if !ok {
			t.Errorf("%s is not in %s", name, directory)
		}
		found[inside] = e
	}
	return found
}

func committed(t *testing.T) time.Time {
	t.Helper()
	text, err := exec.CommandContext(t.Context(), "git", "-C", *clone, "log", "-1", "--format=%cI").Output()
	if err != nil {
		t.Fatal(err)
	}
	when, err := time.Parse(time.RFC3339, strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return when
}

// TestArchives: each has both programs, for its platform, and nothing of who built it.
func TestArchives(t *testing.T) {
	t.Parallel()
	when := committed(t)
	for _, platform := range platforms {
		modes := map[string]int64{
			"LICENSE": 0o644, "THIRD_PARTY": 0o644, "README.md": 0o644, "CHANGELOG.md": 0o644,
			"completions/probectl.bash": 0o644, "completions/probectl.zsh": 0o644, "completions/probectl.fish": 0o644,
			"completions/probectl.ps1": 0o644,
		}
		for _, file := range programsOf(platform) {
			modes[file] = 0o755
		}
		files := released(t, platform)
		if have, want := slices.Sorted(maps.Keys(files)), slices.Sorted(maps.Keys(modes)); !slices.Equal(have, want) {
			t.Errorf("%s has %v, not %v", platform, have, want)
		}
		for name, e := range files {
			h := e.header
			if h.Mode != modes[name] || h.Uname != "root" || h.Gname != "root" || !h.ModTime.Equal(when) || len(e.content) == 0 {
				t.Errorf("%s: %s has mode %o, is of %s:%s and of %s, %d bytes", platform, name, h.Mode, h.Uname, h.Gname, h.ModTime, len(e.content))
			}
		}
		for _, name := range programsOf(platform) {
			info, err := buildinfo.Read(bytes.NewReader(files[name].content))
			if err != nil {
				t.Fatalf("%s: %s: %v", platform, name, err)
			}
			for _, m := range info.Deps {
				if !bytes.Contains(files["THIRD_PARTY"].content, []byte("\n"+m.Path+" "+m.Version+"\n")) {
					t.Errorf("%s: THIRD_PARTY says nothing of %s %s, which is in %s", platform, m.Path, m.Version, name)
				}
			}
			settings := make(map[string]string)
			for _, s := range info.Settings {
				settings[s.Key] = s.Value
			}
			if target := settings["GOOS"] + "_" + settings["GOARCH"]; target != platform || settings["CGO_ENABLED"] != "0" || settings["-trimpath"] != "true" {
				t.Errorf("%s: %s is built for %s, with %v", platform, name, target, settings)
			}
			if bytes.Contains(files[name].content, []byte(*clone)) {
				t.Errorf("%s: %s has the path in which it was built", platform, name)
			}
		}
	}
}

// TestVersion: the programs are of the tag.
func TestVersion(t *testing.T) {
	t.Parallel()
	files := released(t, runtime.GOOS+"_"+runtime.GOARCH)
	for name := range programsOf(runtime.GOOS) {
		program := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(program, files[name].content, 0o700); err != nil {
			t.Fatal(err)
		}
		text, err := exec.CommandContext(t.Context(), program, "--version").Output()
		if err != nil {
			t.Fatal(err)
		}
		if fields := strings.Fields(string(text)); !slices.Contains(fields, *tag) {
			t.Errorf("%s says %q, and not that it is %s", name, text, *tag)
		}
	}
}

// sum is the SHA-256 digest of content.
func sum(content []byte) string {
	digest := sha256.Sum256(content)
	return hex.EncodeToString(digest[:])
}

// TestBills: each program has a document about the very file that is in the archive.
func TestBills(t *testing.T) {
	t.Parallel()
	for _, platform := range platforms {
		files := released(t, platform)
		for name, file := range programsOf(platform) {
			var document struct {
				Version  string `json:"spdxVersion"`
				Packages []struct {
					Name      string
					Version   string `json:"versionInfo"`
					Checksums []struct {
						Value string `json:"checksumValue"`
					}
				}
			}
			text, err := os.ReadFile(inDist(fmt.Sprintf("%s_%s_%s.spdx.json", name, *tag, platform)))
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(text, &document); err != nil {
				t.Fatal(err)
			}
			info, err := buildinfo.Read(bytes.NewReader(files[file].content))
			if err != nil {
				t.Fatal(err)
			}
			want := len(info.Deps) + 2 // itself, and Go's library
			if name == "probed" {
				want++ // Swagger UI
			}
			if document.Version != "SPDX-2.3" || len(document.Packages) != want {
				t.Fatalf("%s: %s is of %d modules, and its document, of %s, has %d packages", platform, name, len(info.Deps), document.Version, len(document.Packages))
			}
			itself := document.Packages[0]
			if itself.Name != file || itself.Version != *tag || itself.Checksums[0].Value != sum(files[file].content) {
				t.Errorf("%s: the document of %s is about another: %+v", platform, name, itself)
			}
		}
	}
}

// TestChecksums: all that there is to download is listed, with its sum.
func TestChecksums(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(inDist("checksums.txt"))
	if err != nil {
		t.Fatal(err)
	}
	have := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		digest, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		have[name] = digest
	}
	want := make(map[string]string)
	add := func(path string) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want[filepath.Base(path)] = sum(content)
	}
	add(filepath.Join(*clone, image))
	for _, platform := range platforms {
		add(inDist(archiveOf(platform)))
		for name := range programsOf(platform) {
			add(inDist(fmt.Sprintf("%s_%s_%s.spdx.json", name, *tag, platform)))
		}
	}
	if !maps.Equal(have, want) {
		t.Errorf("checksums.txt has %v, not %v", have, want)
	}
}

// TestImage: it is of the tag, and the programs in it are those of the archives.
func TestImage(t *testing.T) {
	t.Parallel()
	layout := unpack(t, filepath.Join(*clone, image))
	type descriptor struct {
		Digest      string
		Annotations map[string]string
		Platform    struct{ OS, Architecture string }
	}
	var manifest struct {
		Manifests, Layers []descriptor
		Annotations       map[string]string
	}
	read := func(name string) {
		t.Helper()
		manifest.Manifests, manifest.Layers, manifest.Annotations = nil, nil, nil
		if err := json.Unmarshal(layout[name].content, &manifest); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	blob := func(d descriptor) string { return "blobs/" + strings.Replace(d.Digest, ":", "/", 1) }

	read("index.json")
	if name := manifest.Manifests[0].Annotations["org.opencontainers.image.ref.name"]; !strings.HasSuffix(name, ":"+*tag) {
		t.Errorf("it is named %s", name)
	}
	read(blob(manifest.Manifests[0]))
	if version := manifest.Annotations["org.opencontainers.image.version"]; version != *tag {
		t.Errorf("it says that it is %s", version)
	}
	containers := 0
	for _, d := range manifest.Manifests {
		if d.Platform.OS != "linux" {
			continue
		}
		containers++
		platform := d.Platform.OS + "_" + d.Platform.Architecture
		read(blob(d))
		stream, err := gzip.NewReader(bytes.NewReader(layout[blob(manifest.Layers[len(manifest.Layers)-1])].content))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(untar(t, stream)["probed"].content, released(t, platform)["probed"].content) {
			t.Errorf("%s: the program in the image is another than that in the archive", platform)
		}
	}
	if containers != 2 {
		t.Errorf("it is for %d platforms", containers)
	}
}

// TestNotes: what is released has been written down.
func TestNotes(t *testing.T) {
	t.Parallel()
	notes := func(version string) (string, error) {
		text, err := exec.CommandContext(t.Context(), filepath.Join(*clone, "tools/release/notes"), version).Output()
		return string(text), err
	}
	if text, err := notes("Unreleased"); err != nil || !strings.Contains(text, "### Added") || strings.Contains(text, "## Unreleased") {
		t.Errorf("it has %v and %q", err, text)
	}
	if text, err := notes("v987.0.0"); err == nil {
		t.Errorf("of a version that is not there it says %q", text)
	}
}

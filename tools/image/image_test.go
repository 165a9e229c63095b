package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	names "github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

const (
	version  = "v1.2.3"
	revision = "0123456789abcdef0123456789abcdef01234567"
	name     = "localhost/probed:" + version
	seconds  = "1800000000"
	created  = "2027-01-15T08:00:00Z"
)

var architectures = []string{"amd64", "arm64"}

// built is the image as `make image` gives it, of probed itself.
var built string

// makeImage runs it, with nothing of what is in the tree already.
func makeImage(directory string) (string, error) {
	file := filepath.Join(directory, "probed.oci.tar")
	command := exec.Command("make", "-C", "../..", "image", "IMAGE="+name, "VERSION="+version, "REVISION="+revision, "CREATED="+seconds,
		"IMAGE_FILE="+file, "IMAGE_BUILD="+filepath.Join(directory, "build"))
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make image: %w\n%s", err, out)
	}
	return file, nil
}

// unpack reads an archive, and the one image that is in it.
func unpack(t *testing.T, file string) (v1.ImageIndex, v1.Descriptor) {
	t.Helper()
	directory := t.TempDir()
	archive, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	for reader := tar.NewReader(archive); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		to := filepath.Join(directory, header.Name)
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	outer, err := layout.ImageIndexFromPath(directory)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := outer.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 {
		t.Fatalf("there are %d images; who is not told which one does not know", len(manifest.Manifests))
	}
	index, err := outer.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return index, manifest.Manifests[0]
}

// described are the entries of the index: the containers and the documents.
func described(t *testing.T, index v1.ImageIndex) (containers, documents []v1.Descriptor) {
	t.Helper()
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range manifest.Manifests {
		if d.Platform.OS == "linux" {
			containers = append(containers, d)
		} else {
			documents = append(documents, d)
		}
	}
	return containers, documents
}

type file struct {
	tar.Header
	content []byte
}

// files are what a container finds in its root.
func files(t *testing.T, image v1.Image) map[string]file {
	t.Helper()
	found := make(map[string]file)
	stream := mutate.Extract(image)
	defer stream.Close()
	for reader := tar.NewReader(stream); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		found[strings.TrimSuffix(header.Name, "/")] = file{*header, content}
	}
}

func image(t *testing.T, index v1.ImageIndex, d v1.Descriptor) v1.Image {
	t.Helper()
	image, err := index.Image(d.Digest)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// TestReproducible builds it a second time, elsewhere.
func TestReproducible(t *testing.T) {
	t.Parallel()
	again, err := makeImage(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	one, err := os.ReadFile(built)
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(again)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("from the same source comes another image")
	}
}

// TestIndex: what is said of the image, wherever one looks for it.
func TestIndex(t *testing.T) {
	t.Parallel()
	index, entry := unpack(t, built)
	if err := validate.Index(index, validate.Fast); err != nil {
		t.Error(err)
	}
	if entry.Annotations["org.opencontainers.image.ref.name"] != name || entry.Annotations["io.containerd.image.name"] != name {
		t.Errorf("it is named %q", entry.Annotations)
	}
	want := map[string]string{
		"org.opencontainers.image.title": "probed", "org.opencontainers.image.description": "A network probe as a service",
		"org.opencontainers.image.licenses": "Apache-2.0", "org.opencontainers.image.version": version,
		"org.opencontainers.image.revision": revision, "org.opencontainers.image.created": created,
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(manifest.Annotations, want) {
		t.Errorf("the index says %q", manifest.Annotations)
	}
	containers, _ := described(t, index)
	var found []string
	for _, d := range containers {
		found = append(found, d.Platform.Architecture)
		image := image(t, index, d)
		manifest, err := image.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(manifest.Annotations, want) || !maps.Equal(config.Config.Labels, want) {
			t.Errorf("%s: the manifest says %q, the labels %q", d.Platform.Architecture, manifest.Annotations, config.Config.Labels)
		}
	}
	if !slices.Equal(found, architectures) {
		t.Errorf("it is for %q", found)
	}
}

// TestDocker reads the archive as Docker does that knows no OCI layout.
func TestDocker(t *testing.T) {
	t.Parallel()
	tag, err := names.NewTag(name)
	if err != nil {
		t.Fatal(err)
	}
	docker, err := tarball.ImageFromPath(built, &tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(docker); err != nil {
		t.Error(err)
	}
	index, _ := unpack(t, built)
	containers, _ := described(t, index)
	want, err := image(t, index, containers[0]).ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	if have, err := docker.ConfigName(); err != nil || have != want {
		t.Errorf("it is %s and not %s: %v", have, want, err)
	}
}

// TestContainers: what is in them, and as whom it runs.
func TestContainers(t *testing.T) {
	t.Parallel()
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	modes := map[string]int64{
		"etc": 0o755, "etc/ssl": 0o755, "etc/ssl/certs": 0o755, "etc/ssl/certs/ca-certificates.crt": 0o644, "probed": 0o755,
	}
	index, _ := unpack(t, built)
	containers, _ := described(t, index)
	for _, d := range containers {
		arch := d.Platform.Architecture
		image := image(t, index, d)
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.OS != "linux" || config.Architecture != arch || config.Config.User != "65532:65532" ||
			!slices.Equal(config.Config.Entrypoint, []string{"/probed"}) || config.Config.Cmd != nil || config.Config.Env != nil {
			t.Errorf("%s: the configuration is %+v", arch, config)
		}
		found := files(t, image)
		have := make(map[string]int64)
		for name, f := range found {
			have[name] = f.Mode
			if f.Uid != 0 || f.Gid != 0 || f.ModTime.Unix() != 0 {
				t.Errorf("%s: %s is of %d:%d, of %s", arch, name, f.Uid, f.Gid, f.ModTime)
			}
		}
		if !maps.Equal(have, modes) {
			t.Errorf("%s: there is %v and not %v", arch, have, modes)
		}

		binary, err := elf.NewFile(bytes.NewReader(found["probed"].content))
		if err != nil {
			t.Fatal(err)
		}
		if binary.Machine != machines[arch] {
			t.Errorf("%s: the program is for %s", arch, binary.Machine)
		}
		if slices.ContainsFunc(binary.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
			t.Errorf("%s: the program needs a loader, which is not there", arch)
		}
		if arch == runtime.GOARCH {
			program := filepath.Join(t.TempDir(), "probed")
			if err := os.WriteFile(program, found["probed"].content, 0o700); err != nil {
				t.Fatal(err)
			}
			command := exec.Command(program, "--version")
			command.Env = []string{"HOME=/none"}
			if out, err := command.CombinedOutput(); err != nil || !strings.Contains(string(out), version) {
				t.Errorf("probed --version: %v\n%s", err, out)
			}
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(found["etc/ssl/certs/ca-certificates.crt"].content) || strings.Count(string(found["etc/ssl/certs/ca-certificates.crt"].content), "BEGIN CERTIFICATE") < 100 {
			t.Errorf("%s: there are no authorities", arch)
		}
	}
	// The authorities are stored once.
	one, err := image(t, index, containers[0]).Manifest()
	if err != nil {
		t.Fatal(err)
	}
	two, err := image(t, index, containers[1]).Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(one.Layers) != 2 || one.Layers[0].Digest != two.Layers[0].Digest {
		t.Errorf("the layers are %v and %v", one.Layers, two.Layers)
	}
}

// TestRefused: what would not run, or is nothing, is no image, and nothing is left of the attempt.
func TestRefused(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	source := filepath.Join(directory, "main.go")
	text := filepath.Join(directory, "text")
	if err := errors.Join(os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600), os.WriteFile(text, []byte("text"), 0o600)); err != nil {
		t.Fatal(err)
	}
	compile := func(environment string) string {
		file := filepath.Join(directory, strings.ToLower(environment))
		command := exec.Command("go", "build", "-o", file, source)
		command.Env = append(os.Environ(), environment)
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return file
	}
	good := compile("CGO_ENABLED=0")
	for name, c := range map[string]struct {
		program, roots, want string
	}{
		"another system":    {compile("GOOS=darwin"), text, "not for linux"},
		"with libraries":    {compile("CGO_ENABLED=1"), text, "libraries"},
		"no program":        {text, text, "unrecognized file format"},
		"no such program":   {filepath.Join(directory, "none"), text, "no such file"},
		"no such roots":     {good, filepath.Join(directory, "none"), "no such file"},
		"a place not there": {good, text, "no such file"},
	} {
		o := options{name: name, programs: []string{c.program}, roots: c.roots, output: filepath.Join(t.TempDir(), "image.tar")}
		if name == "a place not there" {
			o.output = filepath.Join(directory, "none", "image.tar")
		}
		if err := run(io.Discard, o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, not %q", name, err, c.want)
		}
		if left, _ := filepath.Glob(o.output + "*"); len(left) != 0 {
			t.Errorf("%s: %q is left", name, left)
		}
	}
}

// TestDockerfile: who builds with a daemon gets the same.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../../deploy/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	_, last, ok := strings.Cut(string(content), "\nFROM scratch\n")
	if !ok {
		t.Fatal("it does not begin with nothing")
	}
	index, _ := unpack(t, built)
	containers, _ := described(t, index)
	image := image(t, index, containers[0])
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	var want, have []string
	for name, f := range files(t, image) {
		if f.Typeflag == tar.TypeReg {
			want = append(want, "/"+name)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^COPY .* (\S+)$`).FindAllStringSubmatch(last, -1) {
		have = append(have, m[1])
	}
	slices.Sort(want)
	slices.Sort(have)
	if !slices.Equal(have, want) {
		t.Errorf("it copies %q and not %q", have, want)
	}
	labels := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(\S+)="([^"]*)"`).FindAllStringSubmatch(last, -1) {
		labels[m[1]] = true
		if is := config.Config.Labels[m[1]]; is != m[2] && !strings.HasPrefix(m[2], "$") {
			t.Errorf("the label %s is %q and not %q", m[1], m[2], is)
		}
	}
	if len(labels) != len(config.Config.Labels) {
		t.Errorf("the labels are %v", labels)
	}
	for _, line := range []string{"USER " + config.Config.User, fmt.Sprintf("ENTRYPOINT [%q]", config.Config.Entrypoint[0])} {
		if !strings.Contains(last, "\n"+line+"\n") {
			t.Errorf("there is no %s", line)
		}
	}

	// What is done to build it, but for where it goes and how either says the version.
	commands, err := exec.Command("make", "-n", "-C", "../..", "image", "VERSION=$$VERSION").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{`go build .* -o`, `go run service/roots/pem\.go`} {
		command := regexp.MustCompile(command)
		ours := strings.ReplaceAll(string(command.Find(commands)), "'", `"`)
		if theirs := string(command.Find(content)); ours == "" || ours != theirs {
			t.Errorf("it runs %q and not %q", theirs, ours)
		}
	}
}

// Command image packs static programs, one for each platform, into an OCI image, and writes it as an archive: of every platform the
// program and the authorities that the public trusts, on no base, and beside them what the program is made of. It needs no
// daemon, no registry and no root, and from the same files and arguments it makes the same bytes.
//
// Who has the archive loads it by `podman load`, `ctr -n k8s.io images import` or `docker load`, or pushes all of it by
// the command push beside this one.
package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"probed/tools/sbom"
)

type options struct {
	programs                               []string
	name, version, revision, roots, output string
	created                                time.Time
}

// annotations are what is said of the image, by the keys of the OCI. The image, its index and each container have them.
func (o *options) annotations() map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":       "probed",
		"org.opencontainers.image.description": "A network probe as a service",
		"org.opencontainers.image.licenses":    license,
		"org.opencontainers.image.version":     o.version,
		"org.opencontainers.image.revision":    o.revision,
		"org.opencontainers.image.created":     o.created.Format(time.RFC3339),
	}
}

func main() {
	var o options
	flag.StringVar(&o.name, "name", "", "the image's `NAME:TAG`")
	flag.StringVar(&o.version, "version", "", "the `version` of the programs")
	flag.StringVar(&o.revision, "revision", "", "the `commit` they were built from")
	flag.StringVar(&o.roots, "roots", "", "the authorities that the public trusts, a `file` in PEM")
	flag.StringVar(&o.output, "o", "", "the archive `file` to write")
	created := flag.Int64("created", 0, "when the image was made, in `seconds` since 1970; for the same bytes take the commit's time")
	flag.Parse()
	if flag.NArg() == 0 || o.name == "" || o.roots == "" || o.output == "" {
		fmt.Fprintln(os.Stderr, "usage: image -name NAME:TAG -roots FILE -o FILE [FLAGS] PROGRAM...")
		os.Exit(2)
	}
	o.programs, o.created = flag.Args(), time.Unix(*created, 0).UTC()
	if err := run(os.Stdout, o); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, o options) error {
	programs := make([]*program, 0, len(o.programs))
	for _, file := range o.programs {
		p, err := readProgram(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		programs = append(programs, p)
	}
	index, packed, err := build(o, programs)
	if err != nil {
		return err
	}
	size, err := write(index, o.name, o.output)
	if err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: %s, %s, %s\n", o.output, o.name, megabytes(size), digest)
	for i, p := range programs {
		fmt.Fprintf(out, "  linux/%-6s %s to pull, the program %s, of %d modules\n",
			p.arch, megabytes(packed[i]), megabytes(int64(len(p.Text))), len(p.Modules()))
	}
	return nil
}

// program is one that the image is made for.
type program struct {
	*sbom.Program
	arch string
}

// readProgram reads one, which has to run where there is nothing else: for Linux, and without C.
func readProgram(file string) (*program, error) {
	p, err := sbom.Read(file)
	if err != nil {
		return nil, err
	}
	switch {
	case p.Setting("GOOS") != "linux":
		return nil, fmt.Errorf("it is for %s, not for linux", p.Setting("GOOS"))
	case p.Setting("CGO_ENABLED") != "0":
		return nil, errors.New("it may need libraries: build it with CGO_ENABLED=0")
	}
	return &program{p, p.Setting("GOARCH")}, nil
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// write writes the image as an archive of an OCI layout, and returns the archive's size. The output is there when it is
// whole, or not at all.
func write(index v1.ImageIndex, name, output string) (size int64, err error) {
	directory, err := os.MkdirTemp("", "image-*")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(directory)) }()
	// One entry, or those who are not told which one to take would not know.
	path, err := layout.Write(directory, empty.Index)
	if err != nil {
		return 0, err
	}
	// The first is what the specification has, for podman and skopeo; the second is where containerd looks.
	names := map[string]string{"org.opencontainers.image.ref.name": name, "io.containerd.image.name": name}
	if err := path.AppendIndex(index, layout.WithAnnotations(names)); err != nil {
		return 0, err
	}
	if err := writeDocker(index, name, directory); err != nil {
		return 0, err
	}

	temporary := output + ".new"
	file, err := os.Create(temporary)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temporary))
		}
	}()
	size, err = pack(file, directory)
	if err := errors.Join(err, file.Close()); err != nil {
		return 0, err
	}
	return size, os.Rename(temporary, output)
}

// writeDocker adds what Docker reads that keeps its images itself, and not in containerd: of the same files those of one
// platform, the first. Who reads an OCI layout passes it over.
func writeDocker(index v1.ImageIndex, name, directory string) error {
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	image, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		return err
	}
	first, err := image.Manifest()
	if err != nil {
		return err
	}
	blob := func(d v1.Descriptor) string { return "blobs/" + d.Digest.Algorithm + "/" + d.Digest.Hex }
	docker := tarball.Descriptor{Config: blob(first.Config), RepoTags: []string{name}}
	for _, l := range first.Layers {
		docker.Layers = append(docker.Layers, blob(l))
	}
	text, err := json.Marshal(tarball.Manifest{docker})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(directory, "manifest.json"), append(text, '\n'), 0o600)
}

// pack writes the files of a directory, in the order of their names, and nothing of where they came from.
func pack(file *os.File, directory string) (int64, error) {
	archive := tar.NewWriter(file)
	root := os.DirFS(directory)
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		return add(archive, filepath.ToSlash(name), 0o644, content)
	})
	if err := errors.Join(err, archive.Close()); err != nil {
		return 0, err
	}
	return file.Seek(0, io.SeekCurrent)
}

// add adds a file to an archive. Who made it and when says nothing about what is in it.
func add(archive *tar.Writer, name string, mode int64, content []byte) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), ModTime: time.Unix(0, 0)}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := archive.Write(content)
	return err
}

// Command image packs one static program into an OCI image, and writes it as an archive: one layer that holds the
// program and nothing else, on no base. It needs no daemon, no registry and no root, and from the same program and
// arguments it makes the same bytes.
//
// Who has the archive loads it by `docker load`, `podman load`, `ctr -n k8s.io images import`, or pushes it by
// `skopeo copy oci-archive:FILE docker://NAME`.
package main

import (
	"archive/tar"
	"bytes"
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
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// user is nobody that a host knows: the "nonroot" of images without a user database. Kubernetes can see that it is not
// root only if it is a number.
const user = "65532:65532"

type options struct {
	program, name, arch, output string
	labels                      map[string]string
	created                     time.Time
}

func main() {
	var o options
	name := flag.String("name", "", "the image's `NAME:TAG`")
	arch := flag.String("arch", "", "the program's `GOARCH`")
	output := flag.String("o", "", "the archive `file` to write")
	version := flag.String("version", "", "the label org.opencontainers.image.version")
	revision := flag.String("revision", "", "the label org.opencontainers.image.revision, a `commit`")
	created := flag.Int64("created", 0, "when the image was made, in `seconds` since 1970; for the same bytes take the commit's time")
	flag.Parse()
	if flag.NArg() != 1 || *name == "" || *arch == "" || *output == "" {
		fmt.Fprintln(os.Stderr, "usage: image -name NAME:TAG -arch GOARCH -o FILE [FLAGS] PROGRAM")
		os.Exit(2)
	}
	o = options{program: flag.Arg(0), name: *name, arch: *arch, output: *output, created: time.Unix(*created, 0).UTC()}
	o.labels = map[string]string{
		"org.opencontainers.image.title":       filepath.Base(o.program),
		"org.opencontainers.image.description": "A network probe as a service",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.version":     *version,
		"org.opencontainers.image.revision":    *revision,
		"org.opencontainers.image.created":     o.created.Format(time.RFC3339),
	}
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	image, err := build(o)
	if err != nil {
		return err
	}
	size, err := write(image, o)
	if err != nil {
		return err
	}
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	fmt.Printf("%s: %s for linux/%s, %.1f MB, %s\n", o.output, o.name, o.arch, float64(size)/1e6, digest)
	return nil
}

func build(o options) (v1.Image, error) {
	content, err := layer(o.program)
	if err != nil {
		return nil, err
	}
	packed, err := tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.Append(image, mutate.Addendum{
		Layer:   packed,
		History: v1.History{CreatedBy: "make image", Created: v1.Time{Time: o.created}},
	})
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", o.arch, v1.Time{Time: o.created}
	config.Config = v1.Config{
		User: user, WorkingDir: "/", Entrypoint: []string{"/" + filepath.Base(o.program)}, Labels: o.labels,
	}
	return mutate.ConfigFile(image, config)
}

// layer returns a tar archive with the program in its root. Who made the file and when says nothing about the program.
func layer(program string) ([]byte, error) {
	text, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	archive := tar.NewWriter(&out)
	header := &tar.Header{Typeflag: tar.TypeReg, Name: filepath.Base(program), Mode: 0o755, Size: int64(len(text)), ModTime: time.Unix(0, 0)}
	if err := archive.WriteHeader(header); err != nil {
		return nil, err
	}
	if _, err := archive.Write(text); err != nil {
		return nil, err
	}
	return out.Bytes(), archive.Close()
}

// write writes the image as an archive of an OCI layout, and returns the archive's size. The output is there when it is
// whole, or not at all.
func write(image v1.Image, o options) (size int64, err error) {
	directory, err := os.MkdirTemp("", "image-*")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(directory)) }()
	index, err := layout.Write(directory, empty.Index)
	if err != nil {
		return 0, err
	}
	// The first is what the specification has, for podman and skopeo; the second is where containerd looks.
	names := map[string]string{"org.opencontainers.image.ref.name": o.name, "io.containerd.image.name": o.name}
	err = index.AppendImage(image, layout.WithAnnotations(names), layout.WithPlatform(v1.Platform{OS: "linux", Architecture: o.arch}))
	if err != nil {
		return 0, err
	}

	temporary := o.output + ".new"
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
	return size, os.Rename(temporary, o.output)
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
		header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(0, 0)}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		_, err = archive.Write(content)
		return err
	})
	if err := errors.Join(err, archive.Close()); err != nil {
		return 0, err
	}
	return file.Seek(0, io.SeekCurrent)
}

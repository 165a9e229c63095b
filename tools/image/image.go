package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"probed/tools/sbom"
)

const (
	// user is nobody that a host knows: the "nonroot" of images without a user database. Kubernetes can see that it is not
	// root only if it is a number.
	user = "65532:65532"
	// rootsFile is where most programs look for the authorities, Go's among them. One's own list is mounted over it.
	rootsFile = "etc/ssl/certs/ca-certificates.crt"
	license   = "Apache-2.0"
)

// build returns the index of the image, and how much there is to pull for each program.
func build(o options, programs []*program) (index v1.ImageIndex, packed []int64, err error) {
	roots, err := os.ReadFile(o.roots)
	if err != nil {
		return nil, nil, err
	}
	// A layer of its own: it is the same for every platform, and for many versions.
	shared, err := layer(rootsFile, 0o644, roots)
	if err != nil {
		return nil, nil, err
	}
	var images, documents []mutate.IndexAddendum
	for _, p := range programs {
		image, err := container(o, p, shared)
		if err != nil {
			return nil, nil, err
		}
		document, err := attach(o, p, image)
		if err != nil {
			return nil, nil, err
		}
		manifest, err := image.Manifest()
		if err != nil {
			return nil, nil, err
		}
		var size int64
		for _, l := range manifest.Layers {
			size += l.Size
		}
		packed = append(packed, size)
		images = append(images, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: p.arch}},
		})
		// A platform that nobody has, so that nobody takes the document for what is to be run.
		documents = append(documents, mutate.IndexAddendum{
			Add: document, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}, ArtifactType: documentType},
		})
	}
	index = mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), append(images, documents...)...)
	return mutate.Annotations(index, o.annotations()).(v1.ImageIndex), packed, nil
}

// container returns the image of one platform.
func container(o options, p *program, shared v1.Layer) (v1.Image, error) {
	own, err := layer(p.Name, 0o755, p.Text)
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	history := v1.History{CreatedBy: "make image", Created: v1.Time{Time: o.created}}
	image, err = mutate.Append(image, mutate.Addendum{Layer: shared, History: history}, mutate.Addendum{Layer: own, History: history})
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", p.arch, v1.Time{Time: o.created}
	config.Config = v1.Config{User: user, WorkingDir: "/", Entrypoint: []string{"/" + p.Name}, Labels: o.annotations()}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return nil, err
	}
	return mutate.Annotations(image, o.annotations()).(v1.Image), nil
}

// layer returns one with a file, and the directories that it is in.
func layer(name string, mode int64, content []byte) (v1.Layer, error) {
	var out bytes.Buffer
	archive := tar.NewWriter(&out)
	for i, c := range name {
		if c == '/' {
			header := &tar.Header{Typeflag: tar.TypeDir, Name: name[:i+1], Mode: 0o755, ModTime: time.Unix(0, 0)}
			if err := archive.WriteHeader(header); err != nil {
				return nil, err
			}
		}
	}
	if err := add(archive, name, mode, content); err != nil {
		return nil, err
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(out.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer))
}

// documentType is that of a software bill of materials in SPDX, as JSON.
const documentType = "application/spdx+json"

// artifact is a manifest of the OCI that holds no container but a document about one, which is its subject: a registry tells
// who asks about the image that there is this too.
type artifact struct {
	document v1.Layer
	manifest []byte
}

// nothing is the configuration of what has none, and is said by its content.
var nothing = []byte("{}")

func attach(o options, p *program, image v1.Image) (v1.Image, error) {
	content, err := sbom.JSON(p.Program, o.version, o.created)
	if err != nil {
		return nil, err
	}
	subject, err := partial.Descriptor(image)
	if err != nil {
		return nil, err
	}
	a := &artifact{document: static.NewLayer(content, documentType)}
	described, err := partial.Descriptor(a.document)
	if err != nil {
		return nil, err
	}
	described.Annotations = map[string]string{"org.opencontainers.image.title": fmt.Sprintf("%s-%s.spdx.json", p.Name, p.arch)}
	digest, size, err := v1.SHA256(bytes.NewReader(nothing))
	if err != nil {
		return nil, err
	}
	a.manifest, err = json.Marshal(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: documentType,
		Config:      v1.Descriptor{MediaType: "application/vnd.oci.empty.v1+json", Size: size, Digest: digest, Data: nothing},
		Layers:      []v1.Descriptor{*described},
		Subject:     &v1.Descriptor{MediaType: subject.MediaType, Size: subject.Size, Digest: subject.Digest},
		Annotations: map[string]string{"org.opencontainers.image.created": o.created.Format(time.RFC3339)},
	})
	if err != nil {
		return nil, err
	}
	return partial.CompressedToImage(a)
}

func (a *artifact) RawConfigFile() ([]byte, error)      { return nothing, nil }
func (a *artifact) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }
func (a *artifact) RawManifest() ([]byte, error)        { return a.manifest, nil }
func (a *artifact) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	if strings.Contains(string(a.manifest), h.String()) {
		return a.document, nil
	}
	return nil, fmt.Errorf("there is no %s", h)
}

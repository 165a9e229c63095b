package main

import (
	"archive/tar"
	"bytes"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// archived writes an archive of a layout with these images, and returns its path.
func archived(t *testing.T, images ...v1.ImageIndex) string {
	t.Helper()
	directory := t.TempDir()
	path, err := layout.Write(directory, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range images {
		if err := path.AppendIndex(index); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	archive := tar.NewWriter(&out)
	if err := archive.AddFS(os.DirFS(directory)); err != nil {
		t.Fatal(err)
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func images(t *testing.T) v1.ImageIndex {
	t.Helper()
	index, err := random.Index(1000, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// TestPush: what a registry has behind it is what the archive has, all of it.
func TestPush(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	to := strings.TrimPrefix(server.URL, "http://") + "/net/probed:v1.2.3"
	index := images(t)
	digest, err := push(t.Context(), archived(t, index), to)
	if err != nil {
		t.Fatal(err)
	}
	reference, err := name.ParseReference(to)
	if err != nil {
		t.Fatal(err)
	}
	there, err := remote.Index(reference)
	if err != nil {
		t.Fatal(err)
	}
	if have, err := there.Digest(); err != nil || have != digest {
		t.Errorf("it is %s, and there is %s: %v", digest, have, err)
	}
	want, err := index.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	if have, err := there.RawManifest(); err != nil || !bytes.Equal(have, want) {
		t.Errorf("there is %s, and not %s: %v", have, want, err)
	}
	manifest, err := there.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range manifest.Manifests {
		image, err := there.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		layers, err := image.Layers()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range layers {
			content, err := l.Compressed()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, content); err != nil {
				t.Errorf("%s: a layer: %v", d.Digest, err)
			}
			_ = content.Close()
		}
	}
}

func TestPushFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ archive, to, want string }{
		"no tag":      {archived(t, images(t)), "127.0.0.1:1/probed", "tag"},
		"no image":    {archived(t), "127.0.0.1:1/probed:v1", "it has 0 images"},
		"two images":  {archived(t, images(t), images(t)), "127.0.0.1:1/probed:v1", "it has 2 images"},
		"no archive":  {os.DevNull, "127.0.0.1:1/probed:v1", "index.json"},
		"no registry": {archived(t, images(t)), "127.0.0.1:1/probed:v1", "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := push(t.Context(), test.archive, test.to); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("it says %v, and nothing of %q", err, test.want)
			}
		})
	}
}

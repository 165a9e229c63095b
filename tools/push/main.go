// Command push copies an image from an archive of the OCI, as make image writes it, to a registry, byte for byte: under the name in
// the registry there is the digest that the archive has. Whom the registry knows is in Docker's configuration, as docker login,
// podman login and skopeo login write it.
package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: push ARCHIVE REGISTRY/NAME:TAG")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	digest, err := push(ctx, os.Args[1], os.Args[2])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "push:", err)
		os.Exit(1)
	}
	fmt.Printf("%s@%s\n", os.Args[2], digest)
}

// push copies the image of an archive, and returns its digest.
func push(ctx context.Context, archive, to string) (digest v1.Hash, err error) {
	// A tag that is left out would be "latest", which a release never means.
	tag, err := name.NewTag(to, name.StrictValidation)
	if err != nil {
		return v1.Hash{}, err
	}
	directory, err := os.MkdirTemp("", "push-*")
	if err != nil {
		return v1.Hash{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(directory)) }()
	if err := unpack(archive, directory); err != nil {
		return v1.Hash{}, fmt.Errorf("%s: %w", archive, err)
	}
	index, err := indexOf(directory)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("%s: %w", archive, err)
	}
	if digest, err = index.Digest(); err != nil {
		return v1.Hash{}, err
	}
	return digest, remote.WriteIndex(tag, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain))
}

// indexOf is the one image of a layout.
func indexOf(directory string) (v1.ImageIndex, error) {
	all, err := layout.ImageIndexFromPath(directory)
	if err != nil {
		return nil, err
	}
	manifest, err := all.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(manifest.Manifests) != 1 {
		return nil, fmt.Errorf("it has %d images, and not one", len(manifest.Manifests))
	}
	return all.ImageIndex(manifest.Manifests[0].Digest)
}

// unpack writes the files of an archive into a directory, and nothing outside of it.
func unpack(archive, directory string) error {
	file, err := os.Open(archive) //nolint:gosec // it is the one that the user names
	if err != nil {
		return err
	}
	defer file.Close()
	root, err := os.OpenRoot(directory)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	entries := tar.NewReader(file)
	for {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if err := root.MkdirAll(filepath.Dir(header.Name), 0o755); err != nil {
			return err
		}
		to, err := root.Create(header.Name)
		if err != nil {
			return err
		}
		_, err = io.Copy(to, entries) //nolint:gosec // it is the user's own, and not compressed
		if err := errors.Join(err, to.Close()); err != nil {
			return err
		}
	}
}

// Package manifests holds deploy/k8s to what it promises, without a cluster: it renders what `kubectl apply -k` would send,
// with the library that kubectl embeds, reads it by the API's own types, and knows the rules that hold for it.
package manifests

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// Tree is a copy of a directory of manifests, in memory: kustomizations can be added to it, and its files changed.
type Tree struct {
	files filesys.FileSystem
}

// Copy returns the tree of a directory, at a path of its own.
func Copy(directory, at string) (*Tree, error) {
	t := &Tree{files: filesys.MakeFsInMemory()}
	source := os.DirFS(directory)
	return t, fs.WalkDir(source, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(source, name)
		if err != nil {
			return err
		}
		return t.Write(path.Join(at, filepath.ToSlash(name)), content)
	})
}

// Write adds a file, or replaces it.
func (t *Tree) Write(file string, content []byte) error { return t.files.WriteFile(file, content) }

// Read returns what a file has in it.
func (t *Tree) Read(file string) ([]byte, error) { return t.files.ReadFile(file) }

// Render returns what the kustomization in a directory amounts to, as `kubectl kustomize` prints it.
func (t *Tree) Render(directory string) ([]byte, error) {
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(t.files, directory)
	if err != nil {
		return nil, err
	}
	return resources.AsYaml()
}

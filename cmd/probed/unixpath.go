package main

import (
	"fmt"
	"path"
	"path/filepath"

	"probed/service/policy"
)

// checkUnixPaths refuses what --unix-path could not match any socket with: the policy compares names, and whoever wrote a
// path that never matches would look for the fault elsewhere.
func checkUnixPaths(paths []string) error {
	for _, listed := range paths {
		if err := checkUnixPath(listed); err != nil {
			return usageError{fmt.Errorf("--unix-path %q: %w", listed, err)}
		}
	}
	return nil
}

// checkUnixPath is policy.CheckUnixPath, with a look at the file system.
func checkUnixPath(listed string) error {
	if err := policy.CheckUnixPath(listed); err != nil {
		return err
	}
	// A target's directories are followed to where they are before the policy sees them. One that is not there yet may come
	// to be anything.
	dir, name := path.Split(listed)
	if followed, err := filepath.EvalSymlinks(dir); err == nil && followed != path.Clean(dir) {
		return fmt.Errorf("a symbolic link is in it: the path is %s", path.Join(followed, name))
	}
	return nil
}

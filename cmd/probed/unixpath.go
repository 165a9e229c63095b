package main

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"
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

func checkUnixPath(listed string) error {
	switch {
	case strings.HasPrefix(listed, "@"):
		return errors.New("abstract sockets have no permissions, and are never reached")
	case !path.IsAbs(listed):
		return errors.New("it is an absolute path, or DIR/* for every socket directly in DIR")
	case strings.ContainsRune(listed, 0):
		return errors.New("no path has a NUL in it")
	case path.Clean(listed) != listed:
		return fmt.Errorf("the path is %s", path.Clean(listed))
	}
	dir, name := path.Split(listed)
	switch {
	case name == "":
		return errors.New("it is no socket; /* are those directly in /")
	case strings.Contains(dir, "*") || strings.Contains(name, "*") && name != "*":
		return errors.New("a * is all of the name behind the last slash")
	}
	// A target's directories are followed to where they are before the policy sees them. One that is not there yet may come
	// to be anything.
	if followed, err := filepath.EvalSymlinks(dir); err == nil && followed != path.Clean(dir) {
		return fmt.Errorf("a symbolic link is in it: the path is %s", path.Join(followed, name))
	}
	return nil
}

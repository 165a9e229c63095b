package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"probed/internal/nettest"
)

func TestCheckUnixPath(t *testing.T) {
	t.Parallel()
	dir := nettest.SocketDir(t)
	link := filepath.Join(nettest.SocketDir(t), "link")
	if err := errors.Join(os.Symlink(dir, link), os.Mkdir(dir+"/sub", 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ path, want string }{
		{dir + "/x.sock", ""},
		{dir + "/*", ""},
		{dir + "/with a space", ""},
		{dir + "/..x", ""},
		{dir + "/not/there/yet", ""},
		{dir + "/not/there/yet/*", ""},
		{"/x.sock", ""},
		{"/*", ""},

		{"", "it is an absolute path, or DIR/* for every socket directly in DIR"},
		{"x.sock", "it is an absolute path, or DIR/* for every socket directly in DIR"},
		{"./x.sock", "it is an absolute path, or DIR/* for every socket directly in DIR"},
		{"*", "it is an absolute path, or DIR/* for every socket directly in DIR"},
		{"unix:///run/x.sock", "it is an absolute path, or DIR/* for every socket directly in DIR"},
		{"@", "abstract sockets have no permissions, and are never reached"},
		{"@/run/x.sock", "abstract sockets have no permissions, and are never reached"},
		{"/run/\x00", "no path has a NUL in it"},
		{"/run/", "the path is /run"},
		{"/run//x.sock", "the path is /run/x.sock"},
		{"/run/../x.sock", "the path is /x.sock"},
		{"/run/./*", "the path is /run/*"},
		{"/", "it is no socket; /* are those directly in /"},
		{"/run/*/x.sock", "a * is all of the name behind the last slash"},
		{"/run/*/*", "a * is all of the name behind the last slash"},
		{"/run/*.sock", "a * is all of the name behind the last slash"},
		{"/run/**", "a * is all of the name behind the last slash"},
		{link + "/x.sock", "a symbolic link is in it: the path is " + dir + "/x.sock"},
		{link + "/*", "a symbolic link is in it: the path is " + dir + "/*"},
		{link + "/sub/*", "a symbolic link is in it: the path is " + dir + "/sub/*"},
	} {
		got := ""
		if err := checkUnixPath(tt.path); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%q: %q, want %q", tt.path, got, tt.want)
		}
	}
}

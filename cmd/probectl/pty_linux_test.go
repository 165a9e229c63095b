package main

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// terminal is a pseudo-terminal: what is written to its far end can be read as a screen would get it.
type terminal struct {
	end    *os.File // what a program has for its terminal
	master *os.File
	reader chan struct{} // closed when all has been read

	seen    lockedBuffer
	changed chan struct{} // has one when something was read
}

// openTerminal opens a pseudo-terminal. It passes on what it gets as it is (no newline becomes two characters), and still
// makes a signal of Ctrl-C.
func openTerminal(t *testing.T) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatalf("this needs a pseudo-terminal: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	// Opened by way of the master, so that no mount of devpts has to show it.
	end, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		t.Fatalf("pseudo-terminal %d: %v", number, errno)
	}
	p := &terminal{end: os.NewFile(end, "terminal"), master: master, reader: make(chan struct{}), changed: make(chan struct{}, 1)}
	if !term.IsTerminal(int(p.end.Fd())) {
		t.Fatal("it is no terminal")
	}
	modes, err := unix.IoctlGetTermios(int(end), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	modes.Oflag &^= unix.OPOST
	modes.Lflag = modes.Lflag&^unix.ECHO | unix.ISIG
	if err := unix.IoctlSetTermios(int(end), unix.TCSETS, modes); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.reader)
		buffer := make([]byte, 1<<16)
		for {
			n, err := master.Read(buffer)
			_, _ = p.seen.Write(buffer[:n])
			select {
			case p.changed <- struct{}{}:
			default:
			}
			if err != nil { // EIO: nobody has the other end any more
				return
			}
		}
	}()
	t.Cleanup(func() { p.closed(t) })
	return p
}

// closed closes the far end and returns all that came.
func (p *terminal) closed(t *testing.T) string {
	t.Helper()
	p.end.Close()
	<-p.reader
	return p.seen.String()
}

// await waits until what came matches.
func (p *terminal) await(t *testing.T, pattern string) {
	t.Helper()
	matches := regexp.MustCompile(pattern)
	deadline := time.After(20 * time.Second)
	for {
		text := p.seen.String()
		if matches.MatchString(text) {
			return
		}
		select {
		case <-p.changed:
		case <-deadline:
			t.Fatalf("waited for %s and got\n%s", pattern, text)
		}
	}
}

// command is a probectl with a terminal of its own, to be started, which has no colours.
func (p *terminal) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	command := exec.CommandContext(t.Context(), "probectl", args...)
	command.Env = append(os.Environ(), "NO_COLOR=1")
	command.Stdin, command.Stdout, command.Stderr = p.end, p.end, p.end
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	return command
}

// start starts probectl with a terminal of its own.
func (p *terminal) start(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	command := p.command(t, args...)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	return command
}

func (p *terminal) typeText(t *testing.T, text string) {
	t.Helper()
	if _, err := p.master.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// errDetached is how a terminal is left whose program goes on.
var errDetached = errors.New("detached")

// leave says how to come back.
func leave(name string) {
	fmt.Fprintf(os.Stderr, "\r\nctrfs: %s goes on: ctrfs attach %s\r\n", name, name)
}

// ownSize is the size of the terminal that this command is on, as the tty file has it; "1" without.
func ownSize() string {
	if columns, rows, err := term.GetSize(int(os.Stdin.Fd())); err == nil && columns > 0 && rows > 0 {
		return fmt.Sprintf("%dx%d", columns, rows)
	}
	return "1"
}

// attend feeds a program and shows what it says, until it has ended. On a terminal it may be left, too: errDetached.
func attend(at string, tty bool, signals <-chan os.Signal) (int, error) {
	if !tty {
		go feed(at)
		return follow(at, signals, nil)
	}
	console, err := openConsole(at)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EIO) { // it has ended already, or just now
		return follow(at, signals, nil)
	}
	if err != nil {
		return 0, err
	}
	defer console.Close()
	// What it says is in the log, from the first byte; here it is taken from the console only so that nobody waits for a reader.
	go io.Copy(io.Discard, console)
	if in := int(os.Stdin.Fd()); term.IsTerminal(in) {
		before, err := term.MakeRaw(in)
		if err != nil {
			return 0, fmt.Errorf("make the terminal raw: %w", err)
		}
		defer term.Restore(in, before)
		defer followSize(at)()
	}
	left := make(chan error, 1)
	go func() {
		if err := sendKeys(console, os.Stdin); err != errHungUp {
			left <- errDetached
		}
	}()
	return follow(at, signals, left)
}

// feed copies stdin into the container's, and its end. A program that has ended, or has closed it, takes no more of it.
func feed(at string) {
	name := filepath.Join(at, "stdin")
	fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // it has ended
	}
	fifo := os.NewFile(uintptr(fd), name)
	io.Copy(fifo, os.Stdin)
	fifo.Close()
	for range 3 { // a server that is just being replaced
		if writeControl(at, "stdin.open", "0", 0) == nil {
			return
		}
		time.Sleep(time.Second)
	}
}

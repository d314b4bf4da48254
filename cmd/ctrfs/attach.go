package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// detachKey is Ctrl-], as telnet(1) has it.
const detachKey = 0x1d

func attachCommand() *cobra.Command {
	dir := ""
	c := &cobra.Command{
		Use:   "attach [flags] NAME",
		Short: "Sit down at the terminal of a container, until it ends or Ctrl-] is typed",
		Long: `Sit down at the terminal of a container, until it ends or Ctrl-] is typed.

It does with files what screen(1) would: it opens DIR/NAME/console, copies both ways, and writes the size of its own terminal into
DIR/NAME/tty. The container needs a terminal (echo 1 > tty before its start), and notices neither the coming nor the going. When the
program ends meanwhile, the exit status is the program's.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return attach(filepath.Join(dir, args[0]))
		},
	}
	c.Flags().StringVar(&dir, "dir", defaultDir, "where the tree is mounted")
	return c
}

// openConsole opens the terminal of this machine that stands for a container's.
func openConsole(at string) (*os.File, error) {
	name := filepath.Join(at, "console")
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("%w: it does not run, or has no terminal: write 1 into tty, and start it", err)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func attach(at string) error {
	console, err := openConsole(at)
	if err != nil {
		return err
	}
	defer console.Close()
	in := int(os.Stdin.Fd())
	if term.IsTerminal(in) {
		before, err := term.MakeRaw(in)
		if err != nil {
			return fmt.Errorf("make the terminal raw: %w", err)
		}
		defer term.Restore(in, before)
		defer followSize(at)()
	}
	left := make(chan error, 1)
	go func() {
		if err := sendKeys(console, os.Stdin); err != errHungUp { // which the other direction tells
			left <- err
		}
	}()
	shown := make(chan error, 1)
	go func() {
		_, err := io.Copy(os.Stdout, console)
		shown <- err
	}()
	select {
	case err := <-left:
		return err
	case <-shown: // EIO: it was hung up
	}
	code, err := awaitExit(at)
	if err == nil && code != 0 {
		return exitStatus(code)
	}
	return err
}

// errHungUp is the end of a terminal whose program has ended.
var errHungUp = errors.New("hung up")

// sendKeys passes on what is typed, until the key that detaches. The end of input is the end of typing only: what the program
// answers is still shown.
func sendKeys(console io.Writer, keys io.Reader) error {
	chunk := make([]byte, 256)
	for {
		n, err := keys.Read(chunk)
		for i, key := range chunk[:n] {
			if key == detachKey {
				_, err := console.Write(chunk[:i])
				return err
			}
		}
		if _, err := console.Write(chunk[:n]); err != nil {
			return errHungUp
		}
		if err != nil {
			select {}
		}
	}
}

// followSize gives the container's terminal the size of this one, now and whenever that changes, until the result is called.
func followSize(at string) (stop func()) {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGWINCH)
	done := make(chan struct{})
	set := func() {
		if columns, rows, err := term.GetSize(int(os.Stdin.Fd())); err == nil && columns > 0 && rows > 0 {
			writeControl(at, "tty", fmt.Sprintf("%dx%d", columns, rows), 0) // whoever may not, sees it in the old size
		}
	}
	set()
	go func() {
		for {
			select {
			case <-changes:
				set()
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(changes)
		close(done)
	}
}

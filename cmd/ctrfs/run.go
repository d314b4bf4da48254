package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// running is what `ctrfs run` was asked for.
type running struct {
	settings
	dir, name, rootfs string
	files             []string // FILE=VALUE
	tty, keep, init   bool
}

func runCommand() *cobra.Command {
	var x running
	c := &cobra.Command{
		Use:   "run [flags] [--] CMD [ARG...]",
		Short: "Run a program in a container that is made for it, and removed afterwards",
		Long: `Run a program in a container that is made for it, and removed afterwards.

It does with files what a shell would: mkdir DIR/NAME, write rootfs, cmd and the like, start, show log until wait tells the exit,
rmdir. Its own exit status is the program's; signals that it gets go to the program. What it reads from stdin comes to the program,
whose stdout and stderr come to stdout. With --tty the program has a terminal, of the size of this one; Ctrl-] leaves it running.

The container is called run-SOMETHING, or as --name says. It stays with --keep, when it is left by Ctrl-], and when this command is
killed. A reaper is PID 1, unless it is told otherwise: without it, many programs do not notice signals.`,
		RunE: func(_ *cobra.Command, args []string) error {
			argv, err := programOf(args, "run")
			if err != nil {
				return err
			}
			return x.run(argv)
		},
	}
	f := c.Flags()
	f.SetInterspersed(false) // the program's own flags are not this one's
	f.StringVar(&x.dir, "dir", defaultDir, "where the tree is mounted")
	f.StringVar(&x.name, "name", "", "what the container is called; it must not exist")
	f.StringVar(&x.rootfs, "rootfs", "", "its root, a directory; without, this machine's /usr with everything else fresh")
	f.StringArrayVar(&x.files, "set", nil, "FILE=VALUE to write into a file of the container, such as memory.max=256M; may be repeated")
	f.BoolVarP(&x.tty, "tty", "t", false, "give the program a terminal")
	f.BoolVar(&x.keep, "keep", false, "leave the container and its log when the program has ended")
	f.BoolVar(&x.init, "init", true, "put a reaper at PID 1, with the program as its child")
	x.settings.flags(f, "the default")
	return c
}

// errDetached is how a terminal is left whose program goes on.
var errDetached = errors.New("detached")

// run does it all. Whatever happens, nothing is left in the tree but what still runs.
func (x *running) run(argv []string) error {
	signals := listen()
	at, err := x.make()
	if err != nil {
		return err
	}
	err = x.configure(at, argv)
	if err == nil {
		err = writeControl(at, "start", "1", 0)
	}
	if err != nil {
		return errors.Join(err, os.Remove(at))
	}
	code, err := x.attend(at, signals)
	if errors.Is(err, errDetached) {
		name := filepath.Base(at)
		fmt.Fprintf(os.Stderr, "\r\nctrfs: %s goes on: ctrfs attach %s\r\n", name, name)
		return nil
	}
	if !x.keep && err == nil {
		err = os.Remove(at)
	}
	if err == nil && code != 0 {
		err = exitStatus(code)
	}
	return err
}

// make makes the container.
func (x *running) make() (at string, err error) {
	const missing = "nothing is mounted there; see --dir"
	if x.name == "" {
		return newDir(x.dir, "run-", missing)
	}
	at = filepath.Join(x.dir, x.name)
	if err = os.Mkdir(at, 0o755); errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w: %s", err, missing)
	}
	return at, err
}

// configure writes the settings: what has a flag first, so that --set has the last word.
func (x *running) configure(at string, argv []string) error {
	var files []string
	if x.rootfs != "" {
		root, err := filepath.Abs(x.rootfs)
		if err != nil {
			return err
		}
		files = append(files, "rootfs="+root)
	}
	if x.init {
		files = append(files, "init=1")
	}
	if x.tty {
		files = append(files, "tty="+ownSize())
	} else {
		files = append(files, "stdin.open=1")
	}
	if err := x.settings.configure(at, argv); err != nil {
		return err
	}
	for _, f := range append(files, x.files...) {
		file, value, ok := strings.Cut(f, "=")
		if !ok || strings.Contains(file, "/") {
			return fmt.Errorf("--set %q: say FILE=VALUE, such as memory.max=256M: %w", f, syscall.EINVAL)
		}
		if err := writeControl(at, file, value, 0); err != nil {
			return err
		}
	}
	return nil
}

// ownSize is the size of the terminal that this command is on, as the tty file has it; "1" without.
func ownSize() string {
	if columns, rows, err := term.GetSize(int(os.Stdin.Fd())); err == nil && columns > 0 && rows > 0 {
		return fmt.Sprintf("%dx%d", columns, rows)
	}
	return "1"
}

// attend feeds the program and shows what it says, until it has ended.
func (x *running) attend(at string, signals <-chan os.Signal) (int, error) {
	if !x.tty {
		go feed(at)
		return follow(at, signals, nil)
	}
	console, err := openConsole(at)
	if errors.Is(err, os.ErrNotExist) { // it has ended already
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

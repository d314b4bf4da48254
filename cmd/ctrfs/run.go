package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// running is what `ctrfs run` was asked for.
type running struct {
	settings
	dir, name, rootfs string
	files             []string // FILE=VALUE
	keep, init        bool
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
	f.BoolVar(&x.keep, "keep", false, "leave the container and its log when the program has ended")
	f.BoolVar(&x.init, "init", true, "put a reaper at PID 1, with the program as its child")
	x.settings.flags(f, "the default")
	return c
}

// run does it all. Whatever happens, nothing is left in the tree but what still runs.
func (x *running) run(argv []string) error {
	signals := listen()
	at, err := x.make()
	if err != nil {
		return err
	}
	if err := begin(at, argv, x.configure); err != nil {
		return err
	}
	code, err := attend(at, x.tty, signals)
	if errors.Is(err, errDetached) {
		leave(filepath.Base(at))
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

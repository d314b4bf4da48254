package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kballard/go-shellquote"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// exitStatus is the error of a verb that ends as another program has ended.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// settings are what the command line says about a program: of an exec, and of a container.
type settings struct {
	user, cwd string
	env       []string
	tty       bool
}

// flags are the command line's words for it; instead says what counts without them.
func (x *settings) flags(f *pflag.FlagSet, instead string) {
	f.StringVar(&x.user, "user", "", "whom the program runs as, instead of "+instead)
	f.StringVar(&x.cwd, "cwd", "", "its working directory, instead of "+instead)
	f.StringArrayVar(&x.env, "env", nil, "KEY=VALUE to add to the environment; may be repeated")
	f.BoolVarP(&x.tty, "tty", "t", false, "give the program a terminal")
}

// execution is what `ctrfs exec` was asked for.
type execution struct {
	settings
	dir string
}

func execCommand() *cobra.Command {
	var x execution
	c := &cobra.Command{
		Use:   "exec [flags] NAME [--] CMD [ARG...]",
		Short: "Run one more program in a container, with the container's rights",
		Long: `Run one more program in a container, with the container's rights.

It does with files what a shell would: mkdir DIR/NAME/exec/X, write cmd and start, show log until wait tells the exit, rmdir. Its own
exit status is the program's; signals that it gets go to the program. What it reads from stdin comes to the program, whose stdout and
stderr come to stdout. With --tty the program has a terminal, of the size of this one; Ctrl-] leaves it running. If this command is
killed, the program goes on, and its directory stays.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			argv, err := programOf(args[1:], "exec NAME")
			if err != nil {
				return err
			}
			return x.run(args[0], argv)
		},
	}
	f := c.Flags()
	f.SetInterspersed(false) // the program's own flags are not this one's
	f.StringVar(&x.dir, "dir", defaultDir, "where the tree is mounted")
	x.settings.flags(f, "the container's")
	return c
}

// programOf returns the program that a command line ends with, and its arguments.
func programOf(args []string, verb string) ([]string, error) {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return nil, fmt.Errorf("no program is named; say: ctrfs %s -- CMD ARG", verb)
	}
	return args, nil
}

// forwarded are the signals that a program is asked to end or to do something with.
var forwarded = []os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGCONT}

// listen takes those signals from now on. SIGPIPE comes of two writes, here and into a program's standard input, so it is
// ignored: the errors tell them apart.
func listen() <-chan os.Signal {
	signal.Ignore(unix.SIGPIPE)
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	return signals
}

// run does it all. Whatever happens, nothing is left in the tree but what still runs.
func (x *execution) run(name string, argv []string) error {
	signals := listen()
	at, err := newDir(filepath.Join(x.dir, name, "exec"), "ctrfs-", "no such container, or nothing is mounted there; see --dir")
	if err != nil {
		return err
	}
	if err := begin(at, argv, x.configure); err != nil {
		return err
	}
	code, err := attend(at, x.tty, signals)
	if errors.Is(err, errDetached) {
		leave(filepath.Join(name, "exec", filepath.Base(at)))
		return nil
	}
	if err := errors.Join(err, os.Remove(at)); err != nil {
		return err
	}
	if code != 0 {
		return exitStatus(code)
	}
	return nil
}

// begin starts what configure has set up, and leaves nothing of what does not start.
func begin(at string, argv []string, configure func(at string, argv []string) error) error {
	err := configure(at, argv)
	if err == nil {
		err = writeControl(at, "start", "1", 0)
	}
	if err != nil {
		return errors.Join(err, os.Remove(at))
	}
	return nil
}

// newDir makes an exec or a container with a name that is free and begins with prefix. missing says what it means that there is no place for it.
func newDir(in, prefix, missing string) (at string, err error) {
	for range 10 {
		at = filepath.Join(in, prefix+strings.ToLower(rand.Text()[:8]))
		if err = os.Mkdir(at, 0o700); !errors.Is(err, os.ErrExist) {
			break
		}
	}
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w: %s", err, missing)
	}
	return at, err
}

// configure writes the settings.
func (x *settings) configure(at string, argv []string) error {
	if err := writeControl(at, "cmd", shellquote.Join(argv...), 0); err != nil {
		return err
	}
	if x.user != "" {
		if err := writeControl(at, "user", x.user, 0); err != nil {
			return err
		}
	}
	if x.cwd != "" {
		if err := writeControl(at, "cwd", x.cwd, 0); err != nil {
			return err
		}
	}
	input, value := "stdin.open", "1"
	if x.tty {
		input, value = "tty", ownSize()
	}
	if err := writeControl(at, input, value, 0); err != nil {
		return err
	}
	for _, e := range x.env {
		if strings.Contains(e, "\n") {
			return fmt.Errorf("--env %q: a line break cannot be passed on: %w", e, syscall.EINVAL)
		}
		if err := writeControl(at, "env", e, os.O_APPEND); err != nil {
			return err
		}
	}
	return nil
}

// writeControl writes a control file, by one write(2). The sentence of a refusal is the tree's own.
func writeControl(at, file, value string, flags int) error {
	name := filepath.Join(at, file)
	fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	for err = unix.EINTR; err == unix.EINTR; {
		_, err = unix.Write(fd, []byte(value+"\n"))
	}
	if err == nil {
		return nil
	}
	if text, _ := os.ReadFile(filepath.Join(at, "error")); len(text) > 0 {
		return fmt.Errorf("%s", strings.TrimSuffix(string(text), "\n"))
	}
	return err
}

// Times of following: how often the log is looked at, and how long a server that is being restarted may be away.
const (
	logPause  = 20 * time.Millisecond
	awayLimit = 10 * time.Second
)

// follow shows the log and passes signals on, until the program has ended or something comes from left.
func follow(at string, signals <-chan os.Signal, left <-chan error) (code int, err error) {
	type end struct {
		code int
		err  error
	}
	ended := make(chan end, 1)
	go func() {
		code, err := awaitExit(at)
		ended <- end{code, err}
	}()
	look := time.NewTicker(logPause)
	defer look.Stop()
	shown := int64(0)
	for {
		select {
		case s := <-signals:
			if number, ok := s.(syscall.Signal); ok {
				writeControl(at, "kill", engine.SignalName(number), 0) // it may have ended just now
			}
		case <-look.C:
			shown += show(at, shown)
		case e := <-ended:
			for n := show(at, shown); n > 0; n = show(at, shown) {
				shown += n
			}
			return e.code, e.err
		case err := <-left:
			return 0, err
		}
	}
}

// show copies what is new in the log. When whoever read that has gone, the program gets its SIGPIPE.
func show(at string, from int64) int64 {
	f, err := os.Open(filepath.Join(at, "log"))
	if err != nil {
		return 0
	}
	defer f.Close()
	buffer := make([]byte, 64<<10)
	n, err := f.ReadAt(buffer, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0
	}
	if _, err := os.Stdout.Write(buffer[:n]); errors.Is(err, unix.EPIPE) {
		writeControl(at, "kill", "PIPE", 0)
	}
	return int64(n)
}

// awaitExit reads wait, also from the server that follows one that has died.
func awaitExit(at string) (code int, err error) {
	var text []byte
	for seen := time.Now(); ; time.Sleep(logPause) {
		if text, err = os.ReadFile(filepath.Join(at, "wait")); err == nil {
			break
		}
		if _, away := os.Stat(at); away == nil { // it answers: the count begins anew
			seen = time.Now()
		}
		if time.Since(seen) > awayLimit {
			return 0, err
		}
	}
	if code, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
		return 0, fmt.Errorf("nobody knows how the program ended: %s reads as %q", filepath.Join(at, "wait"), text)
	}
	return code, nil
}

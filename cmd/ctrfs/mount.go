package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/cgroup"
	"github.com/ctrfs/ctrfs/engine/keeper"
)

// Descriptors that the keeper inherits, from 3 on.
const (
	keeperRunLock = 3 + iota
	keeperStateLock
	keeperListener
)

// Files of the run directory.
const (
	lockName = "lock"      // held by the keeper
	liveName = "server"    // held by the server
	logName  = "ctrfs.log" // what keeper and server have to say
)

// retryLimit is how long mount waits for a keeper or a server that is on its way out.
const retryLimit = 5 * time.Second

func mountCommand() *cobra.Command {
	r := keeper.Request{}
	foreground := false
	c := &cobra.Command{
		Use:   "mount [DIR]",
		Short: "Mount the tree, by default on " + defaultDir + "; returns when it answers",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			r.Dir = defaultDir
			if len(args) > 0 {
				r.Dir = args[0]
			}
			return mount(r, foreground)
		},
	}
	f := c.Flags()
	f.StringVar(&r.State, "state", defaultState, "directory for what lasts")
	f.StringVar(&r.Run, "run", defaultRun, "directory for what lasts until the machine stops")
	f.StringVar(&r.LogLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&r.CgroupRoot, "cgroup-root", "", "make all groups below this one, such as the unit of a service manager with Delegate=yes")
	f.StringVar(&r.CgroupV1, "cgroup-v1", "", "mount these controllers of cgroup v1 for the containers: "+strings.Join(cgroup.Mountable(), ","))
	f.BoolVar(&foreground, "foreground", false, "stay in the foreground and log to stderr")
	return c
}

// mount asks the keeper of the run directory for a mount, after starting one if there is none.
func mount(r keeper.Request, foreground bool) error {
	if os.Geteuid() != 0 {
		return errors.New("mounting needs root: run it with sudo, or as root")
	}
	if _, err := parseLevel(r.LogLevel); err != nil {
		return err
	}
	if err := places(&r); err != nil {
		return err
	}
	r.Service = service()
	if err := delegated(&r); err != nil {
		return err
	}
	deadline := time.Now().Add(retryLimit)
	for {
		err := mountOnce(r, foreground)
		if !errors.Is(err, errLeaving) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// service is what the service manager that has started this command says about itself, sd_notify(3). The keeper, whose
// environment is empty, is told with the request.
func service() keeper.Service {
	s := keeper.Service{Notify: os.Getenv("NOTIFY_SOCKET")}
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if pid := os.Getenv("WATCHDOG_PID"); err == nil && usec > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		s.Watchdog = time.Duration(usec) * time.Microsecond
	}
	return s
}

// delegated checks the group that all others are to be made below, and leaves it: there must be nobody in it.
func delegated(r *keeper.Request) error {
	root, err := cgroup.CleanRoot(r.CgroupRoot)
	r.CgroupRoot = root
	if err != nil || root == "" {
		return err
	}
	host, err := cgroup.Options{Root: root, Owner: source(r.Run)}.Detect(nil)
	if err != nil {
		return err
	}
	return host.StepAside()
}

// errLeaving means that the run directory is held by a keeper or a server that is just ending.
var errLeaving = errors.New("the ctrfs of before does not end")

// leaving reports whether a refused request is worth another try: the keeper does not listen any more, or it has a server
// whose tree was unmounted a moment ago.
func leaving(r keeper.Request, err error) bool {
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, keeper.ErrNoAnswer) {
		return true
	}
	mounts, err := mountsOn(r.Dir)
	return err == nil && !slices.ContainsFunc(mounts, func(m *mountinfo.Info) bool { return m.Source == source(r.Run) })
}

func mountOnce(r keeper.Request, foreground bool) error {
	runLock, err := lock(filepath.Join(r.Run, lockName))
	if errors.Is(err, unix.EWOULDBLOCK) {
		if foreground {
			return fmt.Errorf("--run %s belongs to a ctrfs in the background: unmount that first, or use another --run", r.Run)
		}
		if err = keeper.Ask(r); err != nil && leaving(r, err) {
			return fmt.Errorf("%w: %w", errLeaving, err)
		}
		return err
	}
	if err != nil {
		return err
	}
	defer runLock.Close()
	stateLock, err := lock(filepath.Join(r.State, lockName))
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("--state %s is in use by a ctrfs with another --run: use that, or another --state", r.State)
	}
	if err != nil {
		return err
	}
	defer stateLock.Close()
	listener, err := keeper.Listen(r.Run)
	if err != nil {
		return err
	}
	defer listener.Close()
	return startKeeper(r, foreground, runLock, stateLock, listener)
}

// startKeeper starts a keeper with what was locked for it. In the foreground this process waits for its end.
func startKeeper(r keeper.Request, foreground bool, runLock, stateLock *os.File, listener *net.UnixListener) error {
	socket, err := listener.File()
	if err != nil {
		return err
	}
	defer socket.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	log := os.Stderr
	if !foreground {
		log, err = os.OpenFile(filepath.Join(r.Run, logName), os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return err
		}
		defer log.Close()
	}
	self, err := program()
	if err != nil {
		return err
	}
	defer self.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := neutral(); err != nil {
		return err
	}
	p, err := os.StartProcess(self.Name(), []string{"ctrfs", "keeper", "--state", r.State, "--log-level", r.LogLevel}, &os.ProcAttr{
		Dir:   "/",
		Env:   environ(),
		Files: []*os.File{null, log, log, runLock, stateLock, socket},
		// A sudo or a service manager may have given root supplementary groups, and containers would have them (CVE-2022-36109).
		Sys: &syscall.SysProcAttr{Setsid: !foreground, Credential: &syscall.Credential{Uid: 0, Gid: 0}},
	})
	if err != nil {
		return err
	}
	if err := keeper.Ask(r); err != nil {
		if errors.Is(err, keeper.ErrNoAnswer) && !foreground {
			return fmt.Errorf("%w; %s has the reason", err, filepath.Join(r.Run, logName))
		}
		return err
	}
	if !foreground {
		return p.Release()
	}
	state, err := p.Wait()
	if err == nil && !state.Success() {
		err = fmt.Errorf("the keeper ended with %v", state)
	}
	return err
}

// places makes the directories absolute, and makes them if they are missing.
func places(r *keeper.Request) error {
	for _, d := range []struct {
		name *string
		mode fs.FileMode
	}{{&r.Dir, 0o755}, {&r.State, 0o700}, {&r.Run, 0o700}} {
		// A mount whose server has died answers nothing but ENOTCONN; the next server takes it away.
		err := os.MkdirAll(*d.name, d.mode)
		if err != nil && !errors.Is(err, syscall.ENOTCONN) && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make a directory: %w", err)
		}
		parent, err := filepath.EvalSymlinks(filepath.Dir(*d.name))
		if err == nil {
			parent, err = filepath.Abs(parent)
		}
		if err != nil {
			return err
		}
		base := filepath.Base(*d.name)
		if base == "." || base == ".." || base == "/" {
			return fmt.Errorf("%s: name a directory of its own", *d.name)
		}
		*d.name = filepath.Join(parent, base)
	}
	for _, dir := range []string{r.State, r.Run} {
		if err := os.Chmod(dir, 0o700); err != nil { // layers hold set-user-id files, logs hold secrets
			return err
		}
	}
	return nil
}

// lock opens and locks a file for as long as a descriptor of it is open anywhere. The error is EWOULDBLOCK when it is
// locked already.
func lock(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil
}

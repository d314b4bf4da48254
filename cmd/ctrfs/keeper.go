package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/ctrfs/ctrfs/engine/keeper"
)

// serverSocket is the descriptor by which a server speaks with the keeper.
const serverSocket = 3

func keeperCommand() *cobra.Command {
	var state, level string
	resume := -1
	c := &cobra.Command{
		Use:    "keeper",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(*cobra.Command, []string) error { return runKeeper(state, level, resume) },
	}
	c.Flags().StringVar(&state, "state", "", "")
	c.Flags().StringVar(&level, "log-level", "info", "")
	c.Flags().IntVar(&resume, "resume", resume, "")
	return c
}

// runKeeper keeps until nothing is left to keep. resume is the descriptor of what the program before has handed over, or negative.
func runKeeper(state, level string, resume int) error {
	if err := undumpable(); err != nil {
		return err
	}
	log, err := newLogger(level, "keeper")
	if err != nil {
		return err
	}
	setName("ctrfs-keeper")
	// Its heap is some hundred kilobytes; what counts is that it stays so.
	debug.SetGCPercent(25)
	// Caught signals are reset to their default at exec, ignored ones are inherited: containers get defaults.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGPIPE, syscall.SIGTSTP,
		syscall.SIGTTIN, syscall.SIGTTOU)
	var k *keeper.Keeper
	var listener *net.UnixListener
	if resume >= 0 {
		k, listener, err = resumeKeeper(log, state, resume)
	} else {
		k, listener, err = newKeeper(log, state)
	}
	if err != nil {
		log.Error("the keeper does not come up", "err", err)
		return err
	}
	go k.Serve(listener)
	for {
		select {
		case s := <-signals:
			if s == syscall.SIGTERM || s == syscall.SIGINT {
				log.Info("asked to end", "signal", s.String())
				k.End()
			}
		case <-k.Done():
			return nil
		}
	}
}

// newKeeper makes a keeper of what `ctrfs mount` has opened for it.
func newKeeper(log *slog.Logger, state string) (*keeper.Keeper, *net.UnixListener, error) {
	for fd := keeperRunLock; fd <= keeperListener; fd++ {
		syscall.CloseOnExec(fd)
	}
	socket := os.NewFile(keeperListener, "control")
	defer socket.Close()
	l, err := net.FileListener(socket)
	if err != nil {
		return nil, nil, err
	}
	listener, ok := l.(*net.UnixListener)
	if !ok {
		return nil, nil, fmt.Errorf("the control socket is none: %w", syscall.ENOTSOCK)
	}
	claims, err := os.OpenFile(keeper.ClaimsFile, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, nil, err
	}
	k, err := keeper.New(log, state, claims, spawnServer)
	if err != nil {
		return nil, nil, err
	}
	return holding(k, state), listener, nil
}

// resumeKeeper goes on as the keeper that has executed this program.
func resumeKeeper(log *slog.Logger, state string, fd int) (*keeper.Keeper, *net.UnixListener, error) {
	for _, held := range []int{keeperRunLock, keeperStateLock, fd} {
		syscall.CloseOnExec(held)
	}
	text := os.NewFile(uintptr(fd), "state")
	defer text.Close()
	k, listener, err := keeper.Resume(log, state, text, spawnServer)
	if err != nil {
		return nil, nil, err
	}
	return holding(k, state), listener, nil
}

// holding says how another program is executed in place of this one: with the same descriptors for the locks.
func holding(k *keeper.Keeper, state string) *keeper.Keeper {
	k.Hold([]int{keeperRunLock, keeperStateLock}, func(program *os.File, text int, level string) error {
		argv := []string{"ctrfs", "keeper", "--state", state, "--log-level", level, "--resume", strconv.Itoa(text)}
		return syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", program.Fd()), argv, environ())
	})
	return k
}

// spawnServer starts a server. It is a plain child: the keeper waits for it as for every other.
func spawnServer(socket *os.File, r keeper.Request) (int, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	argv := []string{"ctrfs", "server", "--dir", r.Dir, "--state", r.State, "--run", r.Run, "--log-level", r.LogLevel,
		"--cgroup-root", r.CgroupRoot, "--cgroup-v1", r.CgroupV1, "--again=" + strconv.FormatBool(r.Again)}
	return syscall.ForkExec("/proc/self/exe", argv, &syscall.ProcAttr{
		Dir:   "/",
		Env:   environ(),
		Files: []uintptr{null.Fd(), uintptr(syscall.Stderr), uintptr(syscall.Stderr), socket.Fd()},
	})
}

// setName gives the process the name that ps(1) and top(1) show; executed by way of /proc it would be "exe".
func setName(name string) {
	_ = os.WriteFile("/proc/self/comm", []byte(name), 0) // nothing depends on it
}

// newLogger logs to stderr, and to the journal where there is one.
func newLogger(level, who string) (*slog.Logger, error) {
	l, err := parseLevel(level)
	if err != nil {
		return nil, err
	}
	var h slog.Handler = slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})
	if j := newJournalHandler(l); j != nil {
		h = slog.NewMultiHandler(h, j)
	}
	return slog.New(h).With("process", who), nil
}

func parseLevel(level string) (slog.Level, error) {
	var l slog.Level
	err := l.UnmarshalText([]byte(level))
	return l, err
}

package main

import (
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
	c := &cobra.Command{
		Use:    "keeper",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(*cobra.Command, []string) error { return runKeeper(state, level) },
	}
	c.Flags().StringVar(&state, "state", "", "")
	c.Flags().StringVar(&level, "log-level", "info", "")
	return c
}

func runKeeper(state, level string) error {
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
	for fd := keeperRunLock; fd <= keeperListener; fd++ {
		syscall.CloseOnExec(fd)
	}
	socket := os.NewFile(keeperListener, "control")
	listener, err := net.FileListener(socket)
	if err != nil {
		return err
	}
	socket.Close()
	claims, err := os.OpenFile(keeper.ClaimsFile, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	k, err := keeper.New(log, state, claims, spawnServer)
	if err != nil {
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

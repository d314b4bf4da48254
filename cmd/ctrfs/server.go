package main

import (
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/cgroup"
	"github.com/ctrfs/ctrfs/engine/keeper"
	"github.com/ctrfs/ctrfs/engine/local"
	"github.com/ctrfs/ctrfs/fs"
)

func serverCommand() *cobra.Command {
	r := keeper.Request{}
	c := &cobra.Command{
		Use:    "server",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(*cobra.Command, []string) error { return runServer(r) },
	}
	f := c.Flags()
	f.StringVar(&r.Dir, "dir", "", "")
	f.StringVar(&r.State, "state", "", "")
	f.StringVar(&r.Run, "run", "", "")
	f.StringVar(&r.LogLevel, "log-level", "info", "")
	f.StringVar(&r.CgroupRoot, "cgroup-root", "", "")
	f.StringVar(&r.CgroupV1, "cgroup-v1", "", "")
	f.BoolVar(&r.Again, "again", false, "")
	return c
}

// runServer serves the tree until it is unmounted. The keeper is told whether it ever answers.
func runServer(r keeper.Request) error {
	if err := undumpable(); err != nil {
		return err
	}
	log, err := newLogger(r.LogLevel, "server")
	if err != nil {
		return err
	}
	setName("ctrfs-server")
	debug.SetGCPercent(local.GCAtRest)
	syscall.CloseOnExec(serverSocket)
	client, account, err := keeper.Dial(os.NewFile(serverSocket, "keeper"))
	if err != nil {
		return err
	}
	heirs := fs.Inherit(heritage(account.Waits), log) // at once: on those connections nobody answers
	live, err := lockSoon(filepath.Join(r.Run, liveName))
	if err != nil {
		return errors.Join(err, client.Failed(err))
	}
	defer live.Close()
	// From here on, since whoever sees the mount may ask for its end at once.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	e, tree, err := open(r, log, client, account, heirs)
	if err != nil {
		return errors.Join(err, client.Failed(err))
	}
	client.HandOver(func() [][]*os.File { return waits(tree, log) })
	if err := client.Ready(); err != nil {
		return err
	}
	log.Info("mounted", "dir", r.Dir)
	e.Warm()
	e.Automate()
	return serve(e, tree, client, signals, r.Dir, log)
}

// heritage is what the server before has left behind, by way of the keeper.
func heritage(all [][]*os.File) (out []fs.Heritage) {
	for _, files := range all {
		if len(files) == 2 {
			out = append(out, fs.Heritage{Connection: files[0], Ledger: files[1]})
		}
	}
	return out
}

// waits is what this one leaves behind.
func waits(tree *fs.Server, log *slog.Logger) (out [][]*os.File) {
	all, err := tree.HandOver(func() (*os.File, error) {
		fd, err := unix.MemfdCreate("waits", unix.MFD_CLOEXEC)
		return os.NewFile(uintptr(fd), "waits"), os.NewSyscallError("memfd_create", err)
	})
	if err != nil {
		log.Error("who is blocked in wait gets an error", "err", err)
	}
	for _, one := range all {
		out = append(out, []*os.File{one.Connection, one.Ledger})
	}
	return out
}

// lockSoon is [lock], for who comes after a server that ends: its keeper has died.
func lockSoon(name string) (*os.File, error) {
	deadline := time.Now().Add(leaveLimit)
	for {
		f, err := lock(name)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			return f, err
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// open brings up the engine, then the tree in front of it.
func open(r keeper.Request, log *slog.Logger, client *keeper.Client, account keeper.Account, heirs *fs.Heirs) (*local.Engine, *fs.Server, error) {
	e, err := local.New(local.Options{Mount: r.Dir, State: r.State, Run: r.Run, Log: log,
		Cgroups: cgroup.Options{Root: r.CgroupRoot, Owner: source(r.Run)}, CgroupV1: names(r.CgroupV1), Again: r.Again}, client, account)
	if err != nil {
		return nil, nil, err
	}
	dead := detachDead(r.Dir, source(r.Run), log)
	tree, err := fs.Mount(r.Dir, e, fs.Options{Version: versionText(), Logger: log, Source: source(r.Run), Replace: dead, Heirs: heirs})
	if err != nil {
		e.Close()
		return nil, nil, err
	}
	e.Forbid(r.Dir, tree.Device())
	return e, tree, nil
}

// names are the words between commas.
func names(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

// detachDead takes away the mounts that servers of this run directory have left on dir, but for the last one, which is to be replaced,
// and says whether there is one: they died, or this one would not hold the lock. Asking the mount itself would not do, since the
// kernel answers stat(2) from its cache.
func detachDead(dir, source string, log *slog.Logger) (one bool) {
	mounts, err := mountsOn(dir)
	if err != nil {
		log.Error("dead mounts cannot be looked for", "err", err)
		return false
	}
	for i := len(mounts) - 1; i >= 0 && mounts[i].Source == source; i-- {
		if i == 0 || mounts[i-1].Source != source {
			return true
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			log.Error("a dead mount stays", "dir", dir, "err", err)
			return false
		}
	}
	return false
}

// serve waits for the end, which has three causes: somebody unmounted the tree, somebody asked the server to end, or the
// keeper died, without whom nothing can be started.
func serve(e *local.Engine, tree *fs.Server, client *keeper.Client, signals <-chan os.Signal, dir string, log *slog.Logger) error {
	ended, err := unmounted(tree, dir, log)
	if err != nil {
		return err
	}
	var failure error
	select {
	case <-ended:
	case s := <-signals:
		log.Info("asked to end", "signal", s.String())
		detach(tree, dir, log)
	case <-client.Gone():
		failure = errors.New("the keeper died; containers that run go on without it")
		detach(tree, dir, log)
	}
	e.Close()
	log.Info("unmounted", "dir", dir)
	return failure
}

// detach unmounts, if need be behind the back of whoever uses the tree. It does not wait for copies of the mount in other
// mount namespaces.
func detach(tree *fs.Server, dir string, log *slog.Logger) {
	if mounted, err := isMounted(dir, tree.Device()); err == nil && !mounted {
		return // somebody else was faster
	}
	if tree.Unmount() == nil {
		return
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		log.Error("cannot unmount", "dir", dir, "err", err)
	}
}

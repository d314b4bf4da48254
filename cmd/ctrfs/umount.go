package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/cgroup"
	"github.com/ctrfs/ctrfs/engine/keeper"
	"github.com/ctrfs/ctrfs/engine/local"
)

// sourcePrefix and the run directory make the source that a mount shows in mount(8) and findmnt(8), by which umount finds
// the processes behind it.
const sourcePrefix = "ctrfs:"

func source(run string) string { return sourcePrefix + run }

// leaveLimit is how long umount waits for the processes behind a mount to be gone.
const leaveLimit = 10 * time.Second

func umountCommand() *cobra.Command {
	var stop, keep bool
	c := &cobra.Command{
		Use:   "umount [DIR]",
		Short: "Unmount the tree; refuses while containers run unless told what to do with them",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := defaultDir
			if len(args) > 0 {
				dir = args[0]
			}
			return umount(dir, stop, keep)
		},
	}
	c.Flags().BoolVar(&stop, "stop", false, "stop what runs first")
	c.Flags().BoolVar(&keep, "keep", false, "leave running what runs; a later mount finds it")
	c.MarkFlagsMutuallyExclusive("stop", "keep")
	return c
}

// umount does with files what a user would, then umount2(2), then waits for the processes.
func umount(dir string, stop, keep bool) error {
	m, err := find(dir)
	if err != nil {
		return err
	}
	running, err := active(m.Mountpoint)
	if err != nil {
		return err
	}
	switch {
	case len(running) == 0 || keep:
	case stop:
		if err := stopAll(m.Mountpoint, running); err != nil {
			return err
		}
		keep = false
	default:
		return fmt.Errorf("%s: %d running: %s; stop them with --stop, or leave them running with --keep",
			m.Mountpoint, len(running), strings.Join(running[:min(len(running), 5)], " "))
	}
	if err := detachIdle(m.Mountpoint); err != nil {
		return err
	}
	run := strings.TrimPrefix(m.Source, sourcePrefix)
	// A server that is just being restarted would mount again. A keeper that is gone need not be told.
	if err := keeper.Ask(keeper.Request{Run: run, End: true}); err != nil && !errors.Is(err, fs.ErrNotExist) &&
		!errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, keeper.ErrNoAnswer) {
		return err
	}
	if err := released(filepath.Join(run, liveName)); err != nil || keep && len(running) > 0 {
		return err
	}
	if err := released(filepath.Join(run, lockName)); err != nil {
		return err
	}
	return stepBack(run)
}

// stepBack removes the group that keeper and server have lived in, if they had one of their own.
func stepBack(run string) error {
	text, err := os.ReadFile(filepath.Join(run, local.RootName))
	root := strings.TrimSuffix(string(text), "\n")
	if err != nil || root == "" {
		return nil
	}
	host, err := cgroup.Options{Root: root}.Detect(nil)
	if err != nil {
		return nil // it is gone, and so is what was in it
	}
	return host.StepBack()
}

// busyLimit is how long umount waits for whoever is just reading a file.
const busyLimit = time.Second

// detachIdle unmounts what nobody uses.
func detachIdle(dir string) error {
	deadline := time.Now().Add(busyLimit)
	for {
		err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil || err == unix.EINVAL: // EINVAL: it has gone meanwhile
			return nil
		case err != unix.EBUSY:
			return fmt.Errorf("unmount %s: %w", dir, err)
		case time.Now().After(deadline):
			return fmt.Errorf("%s is in use: some process has its working directory or an open file below it; fuser -vm %s names it", dir, dir)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// find returns the mount of ours that is on top of dir.
func find(dir string) (*mountinfo.Info, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if parent, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
		abs = filepath.Join(parent, filepath.Base(abs))
	}
	mounts, err := mountsOn(abs)
	if err != nil {
		return nil, err
	}
	if n := len(mounts); n > 0 && mounts[n-1].FSType == "fuse.ctrfs" {
		return mounts[n-1], nil
	}
	return nil, fmt.Errorf("%s: no ctrfs is mounted there", abs)
}

// active lists the containers of which something lives, or that are about to be started again, children before their parents. A mount whose server is dead has
// none that could be asked.
func active(dir string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "stats"))
	if errors.Is(err, unix.ENOTCONN) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 1 && (slices.Contains([]string{"listening", "running", "paused", "stopping"}, f[1]) || restarts(filepath.Join(dir, f[0]))) {
			out = append(out, f[0])
		}
	}
	slices.Reverse(out)
	return out, nil
}

// restarts reports whether a container that does not run is about to be started again.
func restarts(dir string) bool {
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	return err == nil && strings.Contains(string(status), "\nrestart.at ")
}

// stopAll stops containers, all at once, and waits for them. The word tells it from a stop by the user, after which
// unless-stopped would not start them again.
func stopAll(dir string, names []string) error {
	for _, name := range names {
		err := os.WriteFile(filepath.Join(dir, name, "stop"), []byte("umount\n"), 0)
		if err != nil && !errors.Is(err, unix.EBUSY) { // it has just exited
			return err
		}
	}
	for _, name := range names {
		if _, err := os.ReadFile(filepath.Join(dir, name, "wait")); err != nil {
			return err
		}
	}
	return nil
}

// released waits until nobody holds the lock any more.
func released(name string) error {
	deadline := time.Now().Add(leaveLimit)
	for {
		f, err := lock(name)
		if err == nil {
			return f.Close()
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil // the run directory is gone, or not ours to look at: nothing to wait for
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("unmounted, but the process behind it does not end; the lock is %s", name)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// in runs a function in a namespace, on a thread that goes there and back. It is the only way to be in another one.
func in(ns *os.File, do func() error) error {
	return visit(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return nil
	}, do)
}

// visit runs a function where enter leads to. A thread that cannot come back is never used again.
func visit(enter, do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := visitHere(enter, do)
		if back {
			runtime.UnlockOSThread() // otherwise the thread ends with this goroutine
		}
		done <- err
	}()
	return <-done
}

// visitHere is visit on this thread, and says whether the thread is back where it was.
func visitHere(enter, do func() error) (back bool, err error) {
	home, err := here()
	if err != nil {
		return true, err
	}
	defer home.Close()
	if err := enter(); err != nil {
		return true, err
	}
	err = do()
	if e := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); e != nil {
		return false, errors.Join(err, fmt.Errorf("leave a network namespace: %w", e))
	}
	return true, err
}

// here opens the namespace of this thread.
func here() (*os.File, error) {
	return os.Open("/proc/thread-self/ns/net")
}

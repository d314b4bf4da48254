package reaper

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// alone begins a reaper as PID 1 of containers without a program of their own is begun: with its signals blocked, and no child.
const alone = `
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execv(sys.argv[1], ["ctrfs-init", sys.argv[2]])
`

// TestNobody: without a program it waits, also when a child ends that it has adopted, and any signal but that one's ends it, with 0.
func TestNobody(t *testing.T) {
	f, err := File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		r := exec.Command("python3", "-c", alone, "/proc/self/fd/3", Nobody)
		r.ExtraFiles = []*os.File{f}
		if err := r.Start(); err != nil {
			t.Skip(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- r.Wait() }()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", r.Process.Pid)); string(name) == Name+"\n" {
				break
			}
			if time.Now().After(end) {
				t.Fatal("it does not begin")
			}
		}
		r.Process.Signal(syscall.SIGCHLD)
		select {
		case err := <-ended:
			t.Fatalf("it has ended by itself: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		r.Process.Signal(sig)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%v: %v", sig, err)
			}
		case <-time.After(10 * time.Second):
			r.Process.Kill()
			t.Errorf("%v does not end it", sig)
		}
	}
}

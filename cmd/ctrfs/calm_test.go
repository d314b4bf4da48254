package main

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMonitorThread: it is the runtime's own, which no goroutine ever runs on: it has nothing to sleep for but its clock.
func TestMonitorThread(t *testing.T) {
	t.Setenv("GOMAXPROCS", "")
	if err := calm(); err != nil {
		t.Fatal(err)
	}
	thread, err := monitorThread()
	if err != nil {
		t.Fatal(err)
	}
	slack, err := os.ReadFile("/proc/" + thread + "/timerslack_ns")
	if err != nil || strings.TrimSpace(string(slack)) != "10000000" {
		t.Errorf("%q, %v", slack, err)
	}
	// While something runs it naps, nanosleep(2), system call 35 of amd64 and 101 of arm64. Other threads without work wait in
	// futex(2), for work.
	var stop atomic.Bool
	defer stop.Store(true)
	go func() {
		for !stop.Load() {
		}
	}()
	naps := 0
	for range 50 {
		time.Sleep(time.Millisecond)
		call, err := os.ReadFile("/proc/self/task/" + thread + "/syscall")
		if err != nil {
			t.Skip("this kernel does not show system calls:", err)
		}
		if nr, _, _ := strings.Cut(string(call), " "); nr == strconv.Itoa(unix.SYS_NANOSLEEP) {
			naps++
		}
	}
	if naps < 25 {
		t.Errorf("thread %s naps %d times of 50: it is not the monitor", thread, naps)
	}
}

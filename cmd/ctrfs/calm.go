package main

import (
	"fmt"
	"os"
	"runtime"
	"time"
)

// calm lets this process sleep. Go's monitor thread looks every 20 µs whether a system call blocks a processor that somebody
// else could use, and a server whose reads of /dev/fuse block, or a keeper that waits in vfork(2), gives it reason to: up to
// twelve thousand wake-ups a second, on a processor that a starting container wants. With more processors than such calls
// nobody waits for one, and the monitor may come late. Whoever has set GOMAXPROCS keeps the runtime as it is.
func calm() error {
	if os.Getenv("GOMAXPROCS") != "" {
		return nil
	}
	runtime.GOMAXPROCS(max(processors, runtime.GOMAXPROCS(0)))
	monitor, err := monitorThread()
	if err != nil {
		return err
	}
	file := fmt.Sprintf("/proc/%s/timerslack_ns", monitor)
	return os.WriteFile(file, fmt.Appendf(nil, "%d", monitorSlack.Nanoseconds()), 0)
}

const (
	processors   = 3                     // each costs the memory of its own free lists; more than three bring nothing on two cores
	monitorSlack = 10 * time.Millisecond // the longest that it sleeps by itself
)

// monitorThread is the second thread of the process: the runtime makes it first of all. The directory lists them in the order of
// their making.
func monitorThread() (string, error) {
	dir, err := os.Open("/proc/self/task")
	if err != nil {
		return "", err
	}
	defer dir.Close()
	threads, err := dir.Readdirnames(2)
	if err != nil {
		return "", err
	}
	if len(threads) < 2 {
		return "", fmt.Errorf("%s lists no monitor thread", dir.Name())
	}
	return threads[1], nil
}

//go:build crashpoints

package crash

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

var (
	mu  sync.Mutex
	dir string // guarded by mu
)

// Points says where the test's orders lie: in the run directory.
func Points(run string) {
	mu.Lock()
	defer mu.Unlock()
	dir = filepath.Join(run, "crashpoints")
}

// Point is passed when a step is done. The name says which kind of step.
func Point(name string) {
	mu.Lock()
	defer mu.Unlock()
	if dir == "" {
		return // the keeper
	}
	passed, err := os.OpenFile(filepath.Join(dir, "passed"), os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return // nobody wants to know
	}
	defer passed.Close()
	fmt.Fprintln(passed, name)
	at, err := os.ReadFile(filepath.Join(dir, "at"))
	if err != nil {
		return
	}
	all, _ := os.ReadFile(passed.Name())
	times := 0
	for line := range bytes.Lines(all) {
		if string(line) == name+"\n" {
			times++
		}
	}
	if strings.TrimSpace(string(at)) == fmt.Sprint(times, " ", name) && os.Rename(filepath.Join(dir, "at"), filepath.Join(dir, "hit")) == nil {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // it does not get any further
	}
}

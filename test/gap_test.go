package test

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestKillServerGap: whoever makes containers all the time while servers die gets an error, or a container. There is no moment at which
// the place of the mount is a directory of the host's.
func TestKillServerGap(t *testing.T) {
	if !beneath() {
		t.Skip("before Linux 6.5 a mount cannot be put beneath another one")
	}
	m := MountFor(t)
	var over atomic.Bool
	made := make(chan []string)
	go func() {
		var names []string
		for i := 0; !over.Load(); i++ {
			name := "c" + strconv.Itoa(i)
			err := os.Mkdir(m.Dir+"/"+name, 0o755)
			errno, _ := errors.AsType[syscall.Errno](err)
			switch errno {
			case 0:
				names = append(names, name)
			case syscall.ENOTCONN, syscall.ECONNABORTED, syscall.EIO:
				time.Sleep(50 * time.Microsecond) // the next server needs a processor, too
			default:
				t.Errorf("mkdir %s: %v", name, err)
			}
			if len(names) == 64 { // there is no need for more at a time
				for _, old := range names[:48] {
					os.Remove(m.Dir + "/" + old)
				}
				names = names[48:]
			}
		}
		made <- names
	}()
	for range 6 {
		m.killServer()
	}
	over.Store(true)
	for _, name := range <-made {
		if _, err := os.Stat(m.Dir + "/" + name + "/state"); err != nil {
			t.Errorf("mkdir(2) has made %s, and it is no container: %v", name, err)
		}
	}
	if err := m.Umount(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(m.Dir); err != nil || len(left) > 0 {
		t.Errorf("in the directory below the mount there are %v (%v)", left, err)
	}
}

// beneath reports whether this kernel has MOVE_MOUNT_BENEATH.
func beneath() bool {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	major, rest, _ := strings.Cut(string(release), ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, _ := strconv.Atoi(major)
	b, _ := strconv.Atoi(minor)
	return a > 6 || a == 6 && b >= 5
}

package keeper

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pty opens a terminal of this machine's: what a keeper gets, with a log, and the path of the program's end.
func pty(t *testing.T, how int) (*terminal, string, string) {
	t.Helper()
	fd, err := unix.Open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("no terminal to be had: ", err)
	}
	if !isMaster(fd) {
		t.Fatal("the master of a terminal is not taken for one")
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "log")
	log, err := os.OpenFile(name, os.O_CREATE|how|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	x := &terminal{master: os.NewFile(uintptr(fd), "terminal"), log: log, over: make(chan struct{}),
		failed: func(error) {}}
	return x, fmt.Sprintf("/dev/pts/%d", n), name
}

// opened opens the program's end.
func opened(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func logged(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "\r\n", "\n")
}

// TestTerminalEnd: what was written before the exit is in the log when the exit is told, whether the program's end is closed or
// not, and also when it was closed and opened again.
func TestTerminalEnd(t *testing.T) {
	for _, left := range []bool{false, true} {
		x, path, name := pty(t, os.O_WRONLY)
		first := opened(t, path)
		go x.copy()
		var want strings.Builder
		for i := range 5000 {
			fmt.Fprintf(&want, "line %d\n", i)
		}
		text := want.String()
		first.WriteString(text[:len(text)/2])
		first.Close()
		time.Sleep(10 * time.Millisecond) // for the copying to find nobody there
		second := opened(t, path)
		second.WriteString(text[len(text)/2:])
		if left {
			defer second.Close()
		} else {
			second.Close()
		}
		if err := x.end(); err != nil {
			t.Fatal(err)
		}
		if got := logged(t, name); got != text {
			t.Errorf("left open %v: %d bytes of %d are in the log", left, len(got), len(text))
		}
	}
}

// TestTerminalRest: what the kernel still holds at the exit is copied, also when some of it is on its way within the kernel.
func TestTerminalRest(t *testing.T) {
	x, path, name := pty(t, os.O_WRONLY)
	f := opened(t, path)
	text := strings.Repeat("0123456789\n", 1000)
	f.WriteString(text)
	f.Close()
	if err := x.master.SetReadDeadline(time.Unix(1, 0)); err != nil { // as if the exit came before the first copy
		t.Fatal(err)
	}
	x.copy()
	if got := logged(t, name); got != text {
		t.Errorf("%d bytes of %d are in the log", len(got), len(text))
	}
}

// TestTerminalLeftBehind: who has the terminal open and goes on writing when PID 1 is gone delays nothing.
func TestTerminalLeftBehind(t *testing.T) {
	x, path, _ := pty(t, os.O_WRONLY)
	noise := opened(t, path)
	defer noise.Close()
	slow, log, err := os.Pipe() // so that there always is something to copy
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	x.log.Close()
	x.log = log
	go func() {
		for chunk := make([]byte, 4096); ; time.Sleep(2 * time.Millisecond) {
			if _, err := slow.Read(chunk); err != nil {
				return
			}
		}
	}()
	stopped := make(chan error, 1)
	go func() {
		for {
			if _, err := noise.Write(bytes.Repeat([]byte("y\n"), 2048)); err != nil {
				stopped <- err
				return
			}
		}
	}()
	go x.copy()
	time.Sleep(50 * time.Millisecond)
	begin := time.Now()
	if err := x.end(); err != nil || time.Since(begin) > endLimit/2 {
		t.Errorf("the exit waited for %v (%v)", time.Since(begin), err)
	}
	if err := <-stopped; err == nil {
		t.Error("the terminal is still there")
	}
}

// TestTerminalWithoutLog: a program goes on when its log takes nothing more, as one does whose screen is gone.
func TestTerminalWithoutLog(t *testing.T) {
	x, path, name := pty(t, os.O_RDONLY) // a log that cannot be written
	f := opened(t, path)
	told := false
	x.failed = func(error) { told = true }
	go x.copy()
	for range 1000 {
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	if err := x.end(); err != nil {
		t.Error(err)
	}
	if got := logged(t, name); got != "" || !told {
		t.Errorf("%d bytes are in it, or nobody says that it takes none", len(got))
	}
}

// TestNoMaster: nothing else is taken for the master of a terminal.
func TestNoMaster(t *testing.T) {
	x, path, _ := pty(t, os.O_WRONLY)
	defer x.master.Close()
	f := opened(t, path)
	defer f.Close()
	null, err := os.OpenFile("/dev/null", os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, f := range []*os.File{f, null, x.log} {
		raw, err := f.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			if isMaster(int(fd)) {
				t.Errorf("%s is taken for one", f.Name())
			}
		})
	}
}

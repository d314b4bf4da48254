package keeper

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/engine/plan"
)

// TestFinish: a program is waited for, and one that takes too long is killed with what it has started.
func TestFinish(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("launching needs root")
	}
	claims, err := os.Create(filepath.Join(t.TempDir(), "claims"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := New(slog.New(slog.DiscardHandler), t.TempDir(), claims, nil)
	if err != nil {
		t.Fatal(err)
	}
	note := filepath.Join(t.TempDir(), "pids")
	for _, c := range []struct {
		text, program string
		limit         time.Duration
		exit          int
		errno         syscall.Errno
	}{
		{"exit 0", "/bin/sh", 5 * time.Second, 0, 0},
		{"exit 7", "/bin/sh", 5 * time.Second, 7, 0},
		{"echo $$ > " + note + "; sleep 100 & echo $! >> " + note + "; sleep 100", "/bin/sh", 500 * time.Millisecond, 0, syscall.ETIMEDOUT},
		{"", "/nowhere", time.Second, 0, syscall.ENOENT},
	} {
		program, err := launch.Assemble([]plan.Step{plan.Clone{}, plan.Session{}, plan.Exec{Candidates: []string{c.program}, Args: []string{"sh", "-c", c.text}}}, launch.Files{})
		if err != nil {
			t.Fatal(err)
		}
		image, err := program.Encode()
		if err != nil {
			t.Fatal(err)
		}
		img, err := launch.Load(int(image.Fd()), nil)
		image.Close()
		if err != nil {
			t.Fatal(err)
		}
		status, err := k.finish(img, c.limit, time.After(c.limit))
		img.Close()
		if errno, _ := errors.AsType[syscall.Errno](err); status.ExitStatus() != c.exit || errno != c.errno {
			t.Errorf("%s %q: status %d, %v", c.program, c.text, status, err)
		}
	}
	text, err := os.ReadFile(note)
	if err != nil || len(strings.Fields(string(text))) != 2 {
		t.Fatalf("%q, %v", text, err)
	}
	for _, pid := range strings.Fields(string(text)) {
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			stat, err := os.ReadFile("/proc/" + pid + "/stat")
			if err != nil || strings.Contains(string(stat), ") Z ") {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("process %s outlives its limit: %s", pid, stat)
			}
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.launching) > 0 {
		t.Errorf("%d programs are still on their way", len(k.launching))
	}
}

// TestSettledTooLate: a program that has ended before anybody notes that it runs leaves no child behind, whose number would be another's.
func TestSettledTooLate(t *testing.T) {
	k := &Keeper{children: map[int]*child{}, launching: map[*child]bool{}}
	c := &child{exited: new(syscall.WaitStatus), image: &launch.Image{}}
	k.launching[c] = true
	if k.settled(c); len(k.children) > 0 {
		t.Error("an ended program is a child")
	}
}

// TestRunOnLeash: a program lives as long as somebody holds the other end of its leash, and nothing waits for it.
func TestRunOnLeash(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("launching needs root")
	}
	claims, err := os.Create(filepath.Join(t.TempDir(), "claims"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := New(slog.New(slog.DiscardHandler), t.TempDir(), claims, nil)
	if err != nil {
		t.Fatal(err)
	}
	near, far := pair(t)
	s := &server{out: newOutbox(far)}
	defer s.out.close()
	for _, c := range []struct {
		text   string
		let    bool // go of the leash
		errno  syscall.Errno
		status int
	}{{"exit 3", false, 0, 3}, {"sleep 100 & sleep 100", true, syscall.ETIMEDOUT, 0}} {
		program, err := launch.Assemble([]plan.Step{plan.Clone{}, plan.Session{}, plan.Exec{Candidates: []string{"/bin/sh"}, Args: []string{"sh", "-c", c.text}}}, launch.Files{})
		if err != nil {
			t.Fatal(err)
		}
		image, err := program.Encode()
		if err != nil {
			t.Fatal(err)
		}
		leash, hand, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		fds := []int{}
		for _, f := range []*os.File{image, leash} {
			d, err := dup(f)
			if err != nil {
				t.Fatal(err)
			}
			fd, err := unix.FcntlInt(d.Fd(), unix.F_DUPFD_CLOEXEC, 3)
			if err != nil {
				t.Fatal(err)
			}
			d.Close()
			f.Close()
			fds = append(fds, fd)
		}
		go k.runOnLeash(s, message{Kind: kindRun, Seq: 9, Status: onLeash}, fds)
		if c.let {
			waitFor(t, func() bool { k.mu.Lock(); defer k.mu.Unlock(); return len(k.children) == 1 && len(k.launching) == 0 })
			k.mu.Lock()
			if k.busy != 0 {
				t.Error("an upgrade would wait for it")
			}
			for range k.living {
				t.Error("a server would be told of it")
			}
			k.mu.Unlock()
			hand.Close()
		}
		var m message
		if _, _, err := near.receive(&m); err != nil || m.Kind != kindRan || m.Seq != 9 || syscall.Errno(m.Errno) != c.errno || syscall.WaitStatus(m.Status).ExitStatus() != c.status {
			t.Errorf("%q: %+v, %v", c.text, m, err)
		}
		hand.Close()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.launching)+len(k.children) > 0 {
		t.Errorf("%d and %d programs are left", len(k.launching), len(k.children))
	}
}

// waitFor waits until something is so.
func waitFor(t *testing.T, is func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
	}
}

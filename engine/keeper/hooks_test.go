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
		status, err := k.finish(img, c.limit)
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

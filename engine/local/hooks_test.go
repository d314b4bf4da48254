package local

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/engine/plan"
)

// TestHookFiles: what hooks write is bounded, and told apart; what they read none of them changes.
func TestHookFiles(t *testing.T) {
	out, err := output(2)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := out.WriteAt([]byte("x"), 2*launch.HookOutput); err == nil {
		t.Error("it grows")
	}
	for i, text := range []string{"\none\ntwo\n", "three"} {
		if _, err := out.WriteAt([]byte(text), int64(i)*launch.HookOutput); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := firstLine(out, 0), firstLine(out, 1); a != "one" || b != "three" {
		t.Errorf("%q and %q", a, b)
	}
	state, err := memory("state")
	if err == nil {
		err = fill(state, []byte("state"))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	if _, err := state.WriteAt([]byte("other"), 0); err == nil {
		t.Error("a hook can write to the state")
	}
}

// TestHookEnd is the words for every end.
func TestHookEnd(t *testing.T) {
	step := plan.Hook{Point: plan.Prestart, Path: "/x", Timeout: 2 * time.Second}
	for _, c := range []struct {
		errno  syscall.Errno
		status syscall.WaitStatus
		line   string
		want   string
	}{
		{syscall.ECANCELED, 3 << 8, "", "exit status 3"},
		{syscall.ECANCELED, 9, "oh", `killed by KILL: "oh"`},
		{syscall.ETIMEDOUT, 9, "", "killed after 2s"},
		{syscall.ENOENT, 127 << 8, "", "no such file or directory"},
		{syscall.ECANCELED, 1 << 8, strings.Repeat("x", 3) + "\x1b", `exit status 1: "xxx\x1b"`},
	} {
		if got := hookEnd(step, c.errno, c.status, c.line); got != c.want {
			t.Errorf("%v %#x: %s, want %s", c.errno, c.status, got, c.want)
		}
	}
}

// TestReported: a report says who it is from; silence is nobody.
func TestReported(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	if err := unix.SetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		t.Fatal(err)
	}
	unix.Write(pair[1], []byte{0})
	if pid, err := reported(pair[0]); pid != os.Getpid() || err != nil {
		t.Errorf("got %d, %v", pid, err)
	}
	unix.Close(pair[1])
	if pid, err := reported(pair[0]); pid != 0 || err != nil {
		t.Errorf("got %d, %v from nobody", pid, err)
	}
	if pid, err := pidInside(os.Getpid()); pid == 0 || err != nil {
		t.Errorf("got %d, %v", pid, err)
	}
}

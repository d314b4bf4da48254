package launch_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/engine/plan"
)

// shellHook is a hook of that point.
func shellHook(point, text string, timeout int) plan.Hook {
	return plan.NewHook(point, specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", text}, Env: []string{"ONLY=this"}, Timeout: &timeout})
}

// hookFiles are a state and room for the output of two hooks.
func hookFiles(t *testing.T, points ...string) launch.Hooks {
	t.Helper()
	dir := t.TempDir()
	h := launch.Hooks{States: map[string]*os.File{}}
	var err error
	for _, p := range points {
		name := filepath.Join(dir, "state"+p)
		if err = os.WriteFile(name, []byte("the state"), 0o600); err != nil {
			t.Fatal(err)
		}
		if h.States[p], err = os.Open(name); err != nil {
			t.Fatal(err)
		}
	}
	if h.Output, err = os.Create(filepath.Join(dir, "output")); err != nil {
		t.Fatal(err)
	}
	if h.Discard, err = os.OpenFile("/dev/null", os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	}
	return h
}

// written is what the hook with that index wrote.
func written(t *testing.T, h launch.Hooks, index int) string {
	t.Helper()
	b := make([]byte, 4096)
	n, _ := h.Output.ReadAt(b, int64(index)*launch.HookOutput)
	text, _, _ := strings.Cut(string(b[:n]), "\x00")
	return text
}

// launched runs steps in new namespaces, the last of which is a program that exits with 7.
func launched(t *testing.T, h launch.Hooks, steps ...plan.Step) (*launch.Failure, syscall.WaitStatus) {
	t.Helper()
	all := append([]plan.Step{plan.Clone{Namespaces: []specs.LinuxNamespaceType{specs.PIDNamespace}}}, steps...)
	all = append(all, plan.Exec{Candidates: []string{"/bin/sh"}, Args: []string{"sh", "-c", "exit 7"}})
	program, err := launch.Assemble(all, launch.Files{Hooks: h})
	if err != nil {
		t.Fatal(err)
	}
	return run(t, program, 10*time.Second)
}

// TestHooksInTheContainer: hooks run one after the other with the state, their environment and nothing else, as children of
// the child, which is itself afterwards.
func TestHooksInTheContainer(t *testing.T) {
	requireRoot(t)
	h := hookFiles(t, plan.StartContainer)
	const look = `exec 1>&2; echo $PPID $ONLY $(cat) $(umask) $(env | grep -vc '^ONLY=\|^PWD=\|^_=\|^SHLVL=\|^OLDPWD='); echo /proc/self/fd/*`
	first, second := shellHook(plan.StartContainer, look, 5), shellHook(plan.StartContainer, look, 5)
	second.Index = 1
	second.Rights = []plan.Step{plan.Umask{Mask: 0o077}}
	failure, status := launched(t, h, plan.Umask{Mask: 0o027}, first, second)
	if failure != nil || status.ExitStatus() != 7 {
		t.Fatalf("%v, status %d", failure, status.ExitStatus())
	}
	for i, want := range []string{"1 this the state 0027 0\n", "1 this the state 0077 0\n"} {
		want += "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3\n" // the last is the directory itself
		if got := written(t, h, i); got != want {
			t.Errorf("hook %d says %q, want %q", i, got, want)
		}
	}
}

// TestHookStops: a hook that does not end well is what the launch failed at, and nothing comes after it.
func TestHookStops(t *testing.T) {
	requireRoot(t)
	mark := filepath.Join(t.TempDir(), "mark")
	for _, c := range []struct {
		name   string
		hook   plan.Hook
		errno  syscall.Errno
		exit   int
		signal syscall.Signal
	}{
		{"status", shellHook(plan.StartContainer, "echo why >&2; exit 3", 5), syscall.ECANCELED, 3, -1},
		{"signal", shellHook(plan.StartContainer, "echo why >&2; kill -9 $$", 5), syscall.ECANCELED, -1, syscall.SIGKILL},
		{"timeout", shellHook(plan.StartContainer, "echo why >&2; trap '' TERM ALRM; sleep 100", 1), syscall.ETIMEDOUT, -1, syscall.SIGKILL},
		{"missing", plan.NewHook(plan.StartContainer, specs.Hook{Path: "/nowhere"}), syscall.ENOENT, 127, -1},
		{"rights", plan.Hook{Point: plan.StartContainer, Path: "/bin/true", Timeout: time.Second, Rights: []plan.Step{plan.Rlimit{Resource: 999}}}, syscall.EINVAL, 127, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := hookFiles(t, plan.StartContainer)
			next := shellHook(plan.StartContainer, "touch "+mark, 5)
			next.Index = 1
			begin := time.Now()
			failure, status := launched(t, h, plan.Session{}, c.hook, next)
			if failure == nil || failure.Step != 2 || failure.Errno != c.errno || failure.Status.ExitStatus() != c.exit || failure.Status.Signal() != c.signal {
				t.Fatalf("got %+v (%v)", failure, failure)
			}
			if status.ExitStatus() != 127 {
				t.Errorf("the child ended with %#x", status)
			}
			if took := time.Since(begin); c.errno == syscall.ETIMEDOUT && (took < time.Second || took > 4*time.Second) {
				t.Errorf("it took %v", took)
			}
			if text := written(t, h, 0); c.errno != syscall.ENOENT && c.errno != syscall.EINVAL && text != "why\n" {
				t.Errorf("it wrote %q", text)
			}
			if _, err := os.Stat(mark); err == nil {
				t.Error("the next hook ran")
			}
		})
	}
}

// TestMeeting: the child goes on when it is answered, and gives up when it is not.
func TestMeeting(t *testing.T) {
	requireRoot(t)
	for _, answers := range []int{2, 1, 0} {
		t.Run(fmt.Sprint(answers), func(t *testing.T) {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(pair[0])
			theirs := os.NewFile(uintptr(pair[1]), "socket")
			defer theirs.Close()
			heard := make(chan int)
			go func() {
				n := 0
				for range answers {
					if got, _ := unix.Read(pair[0], make([]byte, 2)); got == 1 {
						n++
					}
					unix.Write(pair[0], make([]byte, 1))
				}
				if answers < 2 {
					unix.Read(pair[0], make([]byte, 1))
				}
				unix.Shutdown(pair[0], unix.SHUT_RDWR)
				heard <- n
			}()
			failure, status := launched(t, launch.Hooks{Meet: theirs}, plan.Hooks{Point: plan.Prestart}, plan.Hooks{Point: plan.CreateRuntime})
			switch {
			case answers == 2 && (failure != nil || status.ExitStatus() != 7):
				t.Errorf("%v, status %#x", failure, status)
			case answers < 2 && (failure == nil || failure.Errno != syscall.ECANCELED || failure.Step != 1+answers):
				t.Errorf("got %+v", failure)
			}
			if n := <-heard; n != answers {
				t.Errorf("heard of it %d times", n)
			}
		})
	}
}

package launch_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/engine/plan"
	"github.com/ctrfs/ctrfs/engine/seccomp"
)

// withInit is a container with the host's user namespace and a reaper.
func withInit(args ...string) *engine.Config {
	c := config(args...)
	c.SetInit(true)
	return c
}

// TestInit: the program is the child of PID 1, in a session of its own, and PID 1 exits as it does. Failures are told as without.
func TestInit(t *testing.T) {
	requireRoot(t)
	r := try(t, withInit("sh", "-c", `echo $$ $PPID; cut -d' ' -f1,6 /proc/$$/stat; cat /proc/1/comm; sleep 0.01 & exit 7`), hostTree(t), time.Minute)
	if r.err != nil || r.status != 7<<8 || r.output != "2 1\n2 2\nctrfs-init\n" {
		t.Errorf("%v, status %#x, output %q", r.err, r.status, r.output)
	}
	for text, want := range map[string]syscall.WaitStatus{"kill -9 $$": 137 << 8, "kill -1 $$": 129 << 8, "exit 0": 0} {
		if r := try(t, withInit("sh", "-c", text), hostTree(t), time.Minute); r.err != nil || r.status != want {
			t.Errorf("%s: %v, status %#x", text, r.err, r.status)
		}
	}
	for name, want := range map[string]syscall.Errno{"no-such-program": syscall.ENOENT, "/etc/passwd": syscall.EACCES, "/etc": syscall.EACCES} {
		r := try(t, withInit(name), hostTree(t), time.Minute)
		if f, ok := errors.AsType[*launch.Failure](r.err); !ok || f.Errno != want || !strings.HasPrefix(stepOf(t, withInit(name), f.Step), "execute ") {
			t.Errorf("%s: %v, want a failure of the last step with %v", name, r.err, want)
		}
	}
}

// stepOf is a step of a configuration's plan in words.
func stepOf(t *testing.T, c *engine.Config, step int) string {
	t.Helper()
	steps, err := plan.Build(c, plan.Host{Roots: []plan.Prepared{{Target: "/", Text: "the host's tree"}}, NoFile: 4096, LastCap: 40, Caps: launch.Bounding()})
	if err != nil || step >= len(steps) {
		t.Fatal(step, err)
	}
	return steps[step].String()
}

// TestInitFiltered: a filter that does not let PID 1 become the reaper is told. The program, which runs by
// then, goes with its namespace.
func TestInitFiltered(t *testing.T) {
	requireRoot(t)
	filter, err := seccomp.Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchAARCH64},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"execveat"}, Action: specs.ActErrno}}})
	if err != nil {
		t.Fatal(err)
	}
	size := int(unsafe.Sizeof(unix.SockFilter{}))
	code := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(filter.Program))), len(filter.Program)*size)
	c := withInit("sh", "-c", "sleep 1000")
	c.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	r := tryOn(t, c, plan.Host{Filter: &plan.Filter{Code: code, Text: "a test's"}}, hostTree(t), time.Minute)
	f, ok := errors.AsType[*launch.Failure](r.err)
	if !ok || f.Errno != syscall.EPERM || !strings.Contains(stepOf(t, withInit("sh"), f.Step), "reaper") {
		t.Errorf("%v", r.err)
	}
}

// TestInitMissing: a plan with a reaper is refused where nobody has supplied one.
func TestInitMissing(t *testing.T) {
	if _, err := launch.Assemble([]plan.Step{plan.Clone{}, plan.Reaper{}, plan.Exec{Candidates: []string{"/bin/true"}, Args: []string{"true"}}},
		launch.Files{}); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a reaper without its file: %v", err)
	}
}

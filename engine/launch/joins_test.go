package launch_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/engine/plan"
)

// attempt launches steps that lead to a program which stays, and ends it with the test.
func attempt(t *testing.T, steps []plan.Step, files launch.Files) (launch.Child, error) {
	t.Helper()
	program, err := launch.Assemble(steps, files)
	if err != nil {
		t.Fatal(err)
	}
	img := mapped(t, program)
	defer img.Close()
	child, err := img.Launch(10 * time.Second)
	if child.PID != 0 {
		t.Cleanup(func() {
			unix.PidfdSendSignal(child.PidFD, unix.SIGKILL, nil, 0)
			unix.Wait4(child.PID, nil, 0, nil)
			unix.Close(child.PidFD)
		})
	}
	return child, err
}

// start is [attempt] with steps that are right.
func start(t *testing.T, steps []plan.Step, files launch.Files) launch.Child {
	t.Helper()
	child, err := attempt(t, steps, files)
	if err != nil {
		t.Fatal(err)
	}
	return child
}

// namespace opens a namespace of a process. One of time is that of the children first, and an execve(2) away from its own: the
// process that waits for that may be faster.
func namespace(t *testing.T, pid int, kind string) *os.File {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// staying is a program that does nothing until it is killed.
var staying = plan.Exec{Candidates: []string{"/bin/sleep"}, Args: []string{"sleep", "1000"}}

// shell is a program that runs a script.
func shell(script string) plan.Exec {
	return plan.Exec{Candidates: []string{"/bin/sh"}, Args: []string{"sh", "-c", script}}
}

// TestJoinTime: a time namespace is entered by a copy, and by nobody who shares memory. What else there is holds for a copy as
// well: the program is this process's child, its pidfd came here, and what fails is told.
func TestJoinTime(t *testing.T) {
	requireRoot(t)
	other := start(t, []plan.Step{plan.Fork{Copy: true}, plan.TimeNamespace{Offsets: []string{"boottime 864000 0"}}, plan.Clone{}, staying}, launch.Files{})
	files := launch.Files{Join: map[specs.LinuxNamespaceType]*os.File{specs.TimeNamespace: namespace(t, other.PID, "time")}}
	join := plan.Join{Type: specs.TimeNamespace}
	var up unix.Sysinfo_t
	if err := unix.Sysinfo(&up); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf(`read up rest < /proc/uptime; [ ${up%%.*} -ge %d ] || exit 1; [ $(readlink /proc/self/ns/time) = 'time:[%d]' ] || exit 2; exit 7`,
		up.Uptime+863999, inode(t, files.Join[specs.TimeNamespace]))
	program, err := launch.Assemble([]plan.Step{plan.Fork{Copy: true}, join, plan.Clone{Namespaces: []specs.LinuxNamespaceType{specs.IPCNamespace}}, shell(script)}, files)
	if err != nil {
		t.Fatal(err)
	}
	if failure, status := run(t, program, 5*time.Second); failure != nil || status.ExitStatus() != 7 {
		t.Errorf("%v, status %d", failure, status.ExitStatus())
	}
	child := start(t, []plan.Step{plan.Fork{Copy: true}, join, plan.Clone{}, staying}, files)
	if parent := parentOf(t, child.PID); parent != os.Getpid() || unix.PidfdSendSignal(child.PidFD, 0, nil, 0) != nil {
		t.Errorf("the program's parent is %d, its pidfd %d", parent, child.PidFD)
	}
	for _, c := range []struct {
		steps []plan.Step
		step  string
		errno syscall.Errno
	}{
		{[]plan.Step{plan.Fork{}, join, plan.Clone{}, staying}, "step 2", syscall.EUSERS},
		{[]plan.Step{plan.Fork{Copy: true}, plan.Join{Type: specs.TimeNamespace}, plan.Clone{}, plan.Exec{Candidates: []string{"/no"}, Args: []string{"no"}}}, "step 4", syscall.ENOENT},
		{[]plan.Step{plan.Fork{Copy: true}, plan.Join{Type: specs.UTSNamespace}, plan.Clone{}, staying}, "step 2", syscall.EINVAL},
	} {
		files.Join[specs.UTSNamespace] = files.Join[specs.TimeNamespace] // of another kind than it says
		if _, err := attempt(t, c.steps, files); engine.Errno(err) != c.errno || !strings.Contains(err.Error(), c.step) {
			t.Errorf("%v: got %v, want %s, %v", c.steps, err, c.step, c.errno)
		}
	}
	if _, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != nil { // the two that stay
		t.Error(err)
	}
}

// TestCopyIsKilled: a child that got stuck is killed when its time is over, also when it has the memory of a copy.
func TestCopyIsKilled(t *testing.T) {
	requireRoot(t)
	other := start(t, []plan.Step{plan.Fork{Copy: true}, plan.TimeNamespace{}, plan.Clone{}, staying}, launch.Files{})
	files := launch.Files{Join: map[specs.LinuxNamespaceType]*os.File{specs.TimeNamespace: namespace(t, other.PID, "time")}}
	socket, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket[0])
	files.Hooks.Meet = os.NewFile(uintptr(socket[1]), "socket") // nobody answers
	defer files.Hooks.Meet.Close()
	program, err := launch.Assemble([]plan.Step{plan.Fork{Copy: true}, plan.Join{Type: specs.TimeNamespace}, plan.Clone{}, plan.Hooks{}, staying}, files)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if failure, _ := run(t, program, 300*time.Millisecond); engine.Errno(failure) != syscall.ETIMEDOUT || time.Since(began) > 5*time.Second {
		t.Errorf("got %v after %s", failure, time.Since(began))
	}
}

// lair makes a mount namespace of somebody hostile: its /proc is a tree of lies, and what a program or a directory is called
// leads out of it by every link there is.
func lair(t *testing.T) launch.Child {
	t.Helper()
	script := `set -e; mount -t tmpfs lies /proc; mkdir -p /proc/self /proc/sys/net/ipv4; mount -t tmpfs lair /mnt; mkdir /mnt/dir
echo lies > /proc/self/timens_offsets; echo lies > /proc/sys/net/ipv4/ip_forward
cd /mnt; ln -s ../../../../../.. up; ln -s /mnt/dir dirlink; ln -s /proc/self/fd/3 magic; exec sleep 1000`
	child := start(t, []plan.Step{plan.Clone{Namespaces: []specs.LinuxNamespaceType{specs.MountNamespace}}, plan.Private{}, plan.Root{Mountpoint: t.TempDir()}, plan.DropOldRoot{},
		plan.Exec{Candidates: []string{"/bin/sh"}, Args: []string{"sh", "-c", script}, Env: []string{"PATH=" + engine.DefaultPath}}}, launch.Files{Roots: []*os.File{hostTree(t)}})
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child.PID)); err != nil || time.Now().After(end) {
			t.Fatal("the lair is not made", err)
		} else if string(name) == "sleep\n" {
			return child
		}
	}
}

// TestForeignMounts: in another's mounts, kernel parameters are written to the kernel, and no directory leads out.
func TestForeignMounts(t *testing.T) {
	requireRoot(t)
	other := lair(t)
	proc, err := os.OpenFile("/proc", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer proc.Close()
	files := launch.Files{Proc: proc, Join: map[specs.LinuxNamespaceType]*os.File{specs.MountNamespace: namespace(t, other.PID, "mnt")}}
	before := []plan.Step{plan.Fork{Copy: true}, plan.Join{Type: specs.MountNamespace}, plan.HostProc{},
		plan.TimeNamespace{Offsets: []string{"boottime 864000 0"}}, plan.Clone{}, plan.Network{Here: true}, plan.AsMounted{}, plan.Sysctl{Name: "net.ipv4.ip_forward", Path: "sys/net/ipv4/ip_forward", Value: "1"}}
	for _, c := range []struct {
		cwd, pwd string
		errno    syscall.Errno
	}{
		{"/mnt/dir", "/mnt/dir", 0}, {"/mnt/dirlink", "/mnt/dir", 0}, {"/mnt/up", "/", 0}, {"/mnt/up/usr", "/usr", 0}, {"/mnt/magic", "", syscall.ENOENT},
		{"/mnt/missing", "", syscall.ENOENT},
		{"/bin/sh", "", syscall.ENOTDIR},
	} {
		check := fmt.Sprintf(`[ "$(pwd)" = %s ] || exit 1; read x < /proc/sys/net/ipv4/ip_forward; [ $x = lies ] || exit 2; read x < /proc/self/timens_offsets; [ $x = lies ] || exit 3; exit 7`, c.pwd)
		steps := append(append([]plan.Step{}, before...), plan.Chdir{Path: c.cwd, Exists: true}, shell(check))
		program, err := launch.Assemble(steps, files)
		if err != nil {
			t.Fatal(err)
		}
		failure, status := run(t, program, 5*time.Second)
		if c.errno == 0 && (failure != nil || status.ExitStatus() != 7) || c.errno != 0 && (failure == nil || failure.Errno != c.errno) {
			t.Errorf("%s: got %v, status %d, want %v", c.cwd, failure, status.ExitStatus(), c.errno)
		}
	}
	if names, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/mnt", other.PID)); err != nil || strings.Contains(fmt.Sprint(names), "missing") {
		t.Errorf("a directory was made: %v, %v", names, err)
	}
	// That the kernel has got it, the namespaces themselves say.
	child := start(t, append(append([]plan.Step{}, before...), staying), files)
	offsets, err := os.ReadFile(fmt.Sprintf("/proc/%d/timens_offsets", child.PID))
	if err != nil || !strings.Contains(string(offsets), "864000") {
		t.Errorf("the offsets are %q, %v", offsets, err)
	}
	out, err := exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", child.PID), "cat", "/proc/sys/net/ipv4/ip_forward").CombinedOutput()
	if string(out) != "1\n" {
		t.Errorf("the kernel parameter is %q, %v", out, err)
	}
}

// inode identifies a namespace.
func inode(t *testing.T, f *os.File) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// parentOf reads the parent of a process.
func parentOf(t *testing.T, pid int) (parent int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var state string
	fmt.Sscan(string(text[strings.LastIndexByte(string(text), ')')+1:]), &state, &parent)
	return parent
}

package security

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/test"
)

// What a container's root has of the world, as one text: its namespaces, its identity, its rights, the calls that are open to it,
// and the files of the host's that it can open. Whatever changes here changes what ctrfs promises.
func TestSurface(t *testing.T) {
	g := mounted(t)
	program, err := test.Program("probe")
	must(t, err)
	private := g.Base + "/private"
	must(t, os.Mkdir(private, 0o755))
	must(t, os.WriteFile(private+"/private", []byte("words of root's\n"), 0o600))

	var host []string
	kinds, err := os.ReadDir("/proc/self/ns")
	must(t, err)
	for _, kind := range kinds {
		link, err := os.Readlink("/proc/self/ns/" + kind.Name())
		must(t, err)
		host = append(host, link)
	}
	// Not as PID 1, whom the kernel spares from some things, and not with a number that exists inside.
	cmd := fmt.Sprintf("sh -c '/probe/probe %d %s; true'", os.Getpid(), strings.Join(host, " "))
	mounts := fmt.Sprintf("%s /probe none bind,ro,x-mount.mkdir\n%s/private /private none bind,x-mount.mkdir\n%s /shown none bind,idmap,ro,x-mount.mkdir\ncgroup /cgroup cgroup x-mount.mkdir",
		filepath.Dir(program), private, private)
	root := g.freshRoot("surface")
	must(t, os.WriteFile(root+"/private", nil, 0o644))
	o := g.run("c", root, cmd, "mounts", mounts)
	want, err := os.ReadFile("testdata/surface.txt")
	must(t, err)
	if o.exit != "0" || o.log+"\n" != string(want) {
		t.Errorf("wanted\n%s\ngot %v", want, o)
	}
	// The probe finds what is open: it takes all three defences to close it.
	o = g.run("open", root, cmd, "mounts", mounts, "seccomp", "unconfined", "caps", "all", "namespaces", "pid host")
	for _, line := range []string{"pid: the host's", "Seccomp: 0", "unshare mnt: allowed", "clone into a user namespace: allowed", "mount: allowed", "open_tree: allowed",
		"keyctl: EINVAL", "TIOCSTI: ENOTTY", "sethostname: allowed", "signal a process outside: EPERM", "see a process outside: allowed"} {
		if !strings.Contains(o.log, "  "+line+"\n") {
			t.Errorf("with everything open, there is no %q: this test shows nothing\n%v", line, o)
		}
	}
}

// The system calls of 32-bit programs, and those of x32, are closed as the others are.
func TestSurface32(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("of the machines that ctrfs is for, only amd64 has 32-bit system calls that Go knows")
	}
	g := mounted(t)
	program, err := test.Program("compat", "GOARCH=386")
	must(t, err)
	if errors.Is(exec.Command(program).Start(), unix.ENOEXEC) {
		t.Skip("this kernel runs no 32-bit programs")
	}
	mounts := filepath.Dir(program) + " /probe none bind,ro,x-mount.mkdir"
	root := g.attacker("surface")
	o := g.run("c", root, "sh -c '/probe/compat; true'", "mounts", mounts)
	want, err := os.ReadFile("testdata/surface32.txt")
	must(t, err)
	if o.exit != "0" || o.log+"\n" != string(want) {
		t.Errorf("wanted\n%s\ngot %v", want, o)
	}
	o = g.run("open", root, "sh -c '/probe/compat; true'", "mounts", mounts, "seccomp", "unconfined", "caps", "all")
	for _, line := range []string{"unshare mnt: allowed", "clone into a user namespace: allowed", "mount: allowed", "keyctl: EINVAL", "socketcall AF_VSOCK: allowed"} {
		if !strings.Contains(o.log+"\n", line+"\n") {
			t.Errorf("with everything open, there is no %q: this test shows nothing\n%v", line, o)
		}
	}
	if o := g.run("c", root, "hostile x32"); o.exit != "159" {
		t.Errorf("a system call of x32 does not end in SIGSYS: %v", o)
	}
}

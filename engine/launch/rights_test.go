package launch_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
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

// inside runs a shell script with a configuration and returns its output, which has to come with exit status 0.
func inside(t *testing.T, script string, change func(*engine.Config)) string {
	t.Helper()
	return insideOn(t, plan.Host{}, script, change)
}

func insideOn(t *testing.T, host plan.Host, script string, change func(*engine.Config)) string {
	t.Helper()
	requireRoot(t)
	c := config("sh", "-ec", script)
	change(c)
	r := tryOn(t, c, host, hostTree(t), time.Minute)
	if r.err != nil || r.status.ExitStatus() != 0 {
		t.Fatalf("launch: %v, status %#x, output %q", r.err, r.status, r.output)
	}
	return r.output
}

// refused launches what must not start, and returns the step and the errno.
func refused(t *testing.T, c *engine.Config, host plan.Host, root *os.File) *launch.Failure {
	t.Helper()
	requireRoot(t)
	r := tryOn(t, c, host, root, time.Minute)
	var f *launch.Failure
	if !errors.As(r.err, &f) {
		t.Fatalf("got %v, status %#x, output %q, want a failure", r.err, r.status, r.output)
	}
	return f
}

// status are the lines of /proc/self/status that say what a program may do.
const status = `grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\t ' ' ' | sed 's/ *$//'`

// has checks that an output has these lines.
func has(t *testing.T, output string, lines ...string) {
	t.Helper()
	have := strings.Split(output, "\n")
	for _, want := range lines {
		if !slices.Contains(have, want) {
			t.Errorf("no line %q in\n%s", want, output)
		}
	}
}

const none = "0000000000000000"

// soil gives this thread what no container may inherit: a group, and inheritable capabilities.
func soil(t *testing.T) {
	t.Helper()
	requireRoot(t)
	before, err := syscall.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setgroups([]int{4242}); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&head, &sets[0]); err != nil {
		t.Fatal(err)
	}
	soiled := sets
	soiled[0].Inheritable = 1 << unix.CAP_NET_RAW
	if err := unix.Capset(&head, &soiled[0]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unix.Capset(&head, &sets[0]), syscall.Setgroups(before)); err != nil {
			t.Error(err)
		}
		runtime.UnlockOSThread()
	})
}

// TestNothingIsInherited: neither groups nor inheritable capabilities of the keeper reach a program (CVE-2022-36109,
// CVE-2022-24769).
func TestNothingIsInherited(t *testing.T) {
	soil(t)
	has(t, inside(t, status, func(*engine.Config) {}), "Uid: 0 0 0 0", "Groups:", "CapInh: "+none, "CapAmb: "+none,
		"CapPrm: 00000000a80425fb", "CapEff: 00000000a80425fb", "CapBnd: 00000000a80425fb", "NoNewPrivs: 1")
}

func TestUser(t *testing.T) {
	soil(t)
	out := inside(t, status, func(c *engine.Config) {
		c.Spec.Process.User = specs.User{UID: 1000, GID: 100, AdditionalGids: []uint32{20, 4}}
	})
	has(t, out, "Uid: 1000 1000 1000 1000", "Gid: 100 100 100 100", "Groups: 4 20", "CapInh: "+none, "CapPrm: "+none,
		"CapEff: "+none, "CapAmb: "+none, "CapBnd: 00000000a80425fb")
}

// TestAmbient: a user keeps across the execution what the configuration names as ambient, and nothing else.
func TestAmbient(t *testing.T) {
	const bind = "0000000000000400"
	out := inside(t, status, func(c *engine.Config) {
		c.Spec.Process.User = specs.User{UID: 1000, GID: 1000}
		c.Spec.Process.Capabilities.Inheritable = []string{"CAP_NET_BIND_SERVICE"}
		c.Spec.Process.Capabilities.Ambient = []string{"CAP_NET_BIND_SERVICE", "CAP_KILL"}
	})
	has(t, out, "Uid: 1000 1000 1000 1000", "CapInh: "+bind, "CapPrm: "+bind, "CapEff: "+bind, "CapAmb: "+bind)
}

// TestUserExecutesAsUser: root's rights are gone before the program is opened.
func TestUserExecutesAsUser(t *testing.T) {
	requireRoot(t)
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	c := config(file)
	if r := try(t, c, hostTree(t), time.Minute); r.err != nil {
		t.Fatalf("as root: %v", r.err)
	}
	c.Spec.Process.User.UID = 1000
	if f := refused(t, c, plan.Host{}, hostTree(t)); f.Errno != syscall.EACCES {
		t.Errorf("got %v, want EACCES", f)
	}
}

// TestOOMScore: the child has the score, and this process, whose memory it borrowed, has kept its own.
func TestOOMScore(t *testing.T) {
	before, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	score := 321
	if out := inside(t, "cat /proc/self/oom_score_adj", func(c *engine.Config) { c.Spec.Process.OOMScoreAdj = &score }); out != "321\n" {
		t.Errorf("got %q", out)
	}
	if after, err := os.ReadFile("/proc/self/oom_score_adj"); err != nil || string(after) != string(before) {
		t.Errorf("this process had %q and has %q, %v", before, after, err)
	}
}

// TestSysctl: parameters are those of the container's namespaces, and of nobody else's.
func TestSysctl(t *testing.T) {
	const script = "cat /proc/sys/kernel/shmmax /proc/sys/net/ipv4/ip_local_port_range /proc/sys/net/ipv4/conf/lo/forwarding | tr '\t' ' '"
	before, err := os.ReadFile("/proc/sys/kernel/shmmax")
	if err != nil {
		t.Fatal(err)
	}
	out := inside(t, script, func(c *engine.Config) {
		c.Spec.Linux.Sysctl = map[string]string{"kernel.shmmax": "65536", "net.ipv4.ip_local_port_range": "2000 3000", "net.ipv4.conf.lo.forwarding": "0"}
	})
	if out != "65536\n2000 3000\n0\n" {
		t.Errorf("got %q", out)
	}
	if after, err := os.ReadFile("/proc/sys/kernel/shmmax"); err != nil || string(after) != string(before) {
		t.Errorf("the host had %q and has %q, %v", before, after, err)
	}
	c := config("true")
	c.Spec.Linux.Sysctl = map[string]string{"net.ipv4.no_such_thing": "1"}
	if f := refused(t, c, plan.Host{}, hostTree(t)); f.Errno != syscall.ENOENT {
		t.Errorf("got %v, want ENOENT", f)
	}
}

// filter returns a seccomp filter that answers the named system calls with EPERM.
func filter(denied ...uint32) *plan.Filter {
	instruction := func(code uint16, jt, jf uint8, k uint32) []byte {
		b := binary.NativeEndian.AppendUint16(nil, code)
		return binary.NativeEndian.AppendUint32(append(b, jt, jf), k)
	}
	code := instruction(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, 0)
	for i, nr := range denied {
		code = append(code, instruction(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, uint8(len(denied)-i), 0, nr)...)
	}
	code = append(code, instruction(unix.BPF_RET|unix.BPF_K, 0, 0, unix.SECCOMP_RET_ALLOW)...)
	code = append(code, instruction(unix.BPF_RET|unix.BPF_K, 0, 0, unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM))...)
	return &plan.Filter{Code: code, Text: "a test"}
}

// TestSeccomp: the filter is the very last, so it need not allow what the launch does; without no_new_privs it comes while
// CAP_SYS_ADMIN is still there.
func TestSeccomp(t *testing.T) {
	strict := plan.Host{Filter: filter(unix.SYS_UNAME, unix.SYS_SETRESUID, unix.SYS_SETGROUPS, unix.SYS_CAPSET, unix.SYS_CLOSE_RANGE, unix.SYS_SETSID)}
	out := insideOn(t, strict, status+"; uname || echo denied", func(c *engine.Config) { c.Spec.Process.User.UID = 1000 })
	has(t, out, "NoNewPrivs: 1", "Seccomp: 2", "denied")
	loose := plan.Host{Filter: filter(unix.SYS_UNAME)}
	out = insideOn(t, loose, status+"; uname || echo denied", func(c *engine.Config) {
		c.Spec.Process.User.UID, c.Spec.Process.NoNewPrivileges = 1000, false
	})
	has(t, out, "Uid: 1000 1000 1000 1000", "NoNewPrivs: 0", "Seccomp: 2", "CapEff: "+none, "denied")
	if out = inside(t, status, func(*engine.Config) {}); !strings.Contains(out, "Seccomp: 0") {
		t.Errorf("a filter that nobody asked for: %s", out)
	}
}

// TestLabelNeedsItsModule: the attribute is written by the child itself, and a kernel without the module says so.
func TestLabelNeedsItsModule(t *testing.T) {
	if lsm, err := os.ReadFile("/sys/kernel/security/lsm"); err == nil && strings.ContainsAny(string(lsm), "pl") {
		t.Skip("this kernel has security modules: ", string(lsm))
	}
	c := config("true")
	c.Spec.Process.ApparmorProfile = "nobody-has-this"
	f := refused(t, c, plan.Host{AppArmor: true}, hostTree(t))
	if steps, err := plan.Build(c, plan.Host{AppArmor: true, LastCap: 40}); err != nil || f.Errno != syscall.EINVAL {
		t.Errorf("got %v, %v, want EINVAL", f, err)
	} else if step, ok := steps[f.Step-1].(plan.Label); !ok { // the plan without a root has a step less
		t.Errorf("it failed at %T", step)
	}
}

// tree makes a root that holds /usr of this machine by links into a mount of it, and what the test puts there.
func tree(t *testing.T, make func(dir string) error) *os.File {
	t.Helper()
	requireRoot(t)
	dir := t.TempDir()
	err := make(dir)
	for _, name := range []string{"proc", "sys", "usr"} {
		err = errors.Join(err, os.MkdirAll(filepath.Join(dir, name), 0o755))
	}
	for _, name := range []string{"bin", "lib", "lib64", "sbin"} {
		err = errors.Join(err, os.Symlink("usr/"+name, filepath.Join(dir, name)))
	}
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "root")
	t.Cleanup(func() { f.Close() })
	return f
}

// TestCwdStaysInside: the working directory is made and entered by descriptors of the root. Nothing that the root holds leads
// to what is behind a descriptor of the launching process (CVE-2024-21626).
func TestCwdStaysInside(t *testing.T) {
	requireRoot(t)
	outside := t.TempDir()
	dir, err := os.Open(outside)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	magic := fmt.Sprintf("/proc/self/fd/%d", dir.Fd())
	for _, cwd := range []string{magic, magic + "/made", "/way/out/made", "/proc/self/root", "/way/out"} {
		t.Run(cwd, func(t *testing.T) {
			root := tree(t, func(dir string) error {
				return errors.Join(os.Mkdir(filepath.Join(dir, "way"), 0o755), os.Symlink(magic, filepath.Join(dir, "way/out")))
			})
			c := config("/nothing")
			c.Spec.Process.Cwd = cwd
			f := refused(t, c, plan.Host{}, root)
			if f.Errno != syscall.ELOOP && f.Errno != syscall.EXDEV {
				t.Errorf("got %v, want ELOOP or EXDEV", f)
			}
		})
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("the launch has made %v outside of the root, %v", left, err)
	}
	out := inside(t, "pwd -P", func(c *engine.Config) { c.Spec.Process.Cwd = "/dev/shm/a/b" })
	if out != "/dev/shm/a/b\n" {
		t.Errorf("a missing directory: %q", out)
	}
}

// TestMaskIsTheNullDevice: what hides a file is the node that was verified, when no path leads to it any more.
func TestMaskIsTheNullDevice(t *testing.T) {
	out := inside(t, "stat -c '%F %t:%T' /etc/passwd /proc/timer_list; ls -A /dev | wc -l", func(c *engine.Config) {
		c.Spec.Linux.MaskedPaths = []string{"/dev", "/etc/passwd", "/proc/timer_list", "/no/such/path"}
		c.Spec.Process.Args[0] = "/bin/sh"
	})
	if out != "character special file 1:3\ncharacter special file 1:3\n0\n" {
		t.Errorf("got %q", out)
	}
}

// TestMaskRefusesMagicLinks: a path to hide that leads through procfs to anything but a name.
func TestMaskRefusesMagicLinks(t *testing.T) {
	c := config("true")
	c.Spec.Linux.MaskedPaths = []string{"/proc/self/exe"}
	if f := refused(t, c, plan.Host{}, hostTree(t)); f.Errno != syscall.ELOOP && f.Errno != syscall.EXDEV {
		t.Errorf("got %v, want ELOOP or EXDEV", f)
	}
}

// TestHostileDev: a root whose own /dev is used, and leads away, is refused, and nothing is made or mounted elsewhere.
func TestHostileDev(t *testing.T) {
	requireRoot(t)
	outside := t.TempDir()
	dir, err := os.Open(outside)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cases := map[string]func(string) error{
		"null is a link": func(root string) error {
			return errors.Join(os.Mkdir(filepath.Join(root, "dev"), 0o755), os.Symlink("/etc/shadow", filepath.Join(root, "dev/null")))
		},
		"dev is a magic link": func(root string) error {
			return os.Symlink(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), filepath.Join(root, "dev"))
		},
	}
	for name, hostile := range cases {
		t.Run(name, func(t *testing.T) {
			c := config("/nothing")
			c.Spec.Mounts = slices.DeleteFunc(c.Spec.Mounts, func(m specs.Mount) bool { return strings.HasPrefix(m.Destination, "/dev") })
			if f := refused(t, c, plan.Host{}, tree(t, hostile)); f.Errno != syscall.ELOOP && f.Errno != syscall.EXDEV {
				t.Errorf("got %v, want ELOOP or EXDEV", f)
			}
		})
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("the launch has made %v outside of the root, %v", left, err)
	}
}

// TestMountTargetStaysInside: the same for where something is mounted, whether the directory is there or is to be made.
func TestMountTargetStaysInside(t *testing.T) {
	requireRoot(t)
	outside := t.TempDir()
	dir, err := os.Open(outside)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	magic := fmt.Sprintf("/proc/self/fd/%d", dir.Fd())
	for _, target := range []string{"/way/out", "/way/out/made"} {
		root := tree(t, func(dir string) error {
			return errors.Join(os.Mkdir(filepath.Join(dir, "way"), 0o755), os.Symlink(magic, filepath.Join(dir, "way/out")))
		})
		c := config("/nothing")
		c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: target, Type: "tmpfs", Source: "tmpfs"})
		if f := refused(t, c, plan.Host{}, root); f.Errno != syscall.ELOOP && f.Errno != syscall.EXDEV {
			t.Errorf("%s: got %v, want ELOOP or EXDEV", target, f)
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("the launch has made %v outside of the root, %v", left, err)
	}
}

package security

import (
	"bufio"
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/test"
)

// pidfdInfo is struct pidfd_info of include/uapi/linux/pidfd.h as of Linux 6.16.
type pidfdInfo struct {
	mask, cgroup uint64
	ids          [11]uint32
	exit         int32
	coredump     uint32
	_            uint32
}

// undumpable reports whether nobody may dump or attach to a process. known is false where the kernel does not tell.
func undumpable(pid int) (yes, known bool) {
	const (
		getInfo  = 0xc048ff0b // PIDFD_GET_INFO
		coredump = 1 << 4     // PIDFD_INFO_COREDUMP
		skip     = 1 << 1     // PIDFD_COREDUMP_SKIP
	)
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false, false
	}
	defer unix.Close(fd)
	info := pidfdInfo{mask: coredump}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), getInfo, uintptr(unsafe.Pointer(&info)))
	if errno != 0 || info.mask&coredump == 0 {
		return false, false
	}
	return info.coredump&skip != 0, true
}

// Nobody reaches into keeper or server: they can be neither traced nor dumped, and stand nowhere that matters.
func TestProcessesAreClosed(t *testing.T) {
	g := mounted(t)
	for name, pid := range g.processes() {
		if yes, known := undumpable(pid); known && !yes {
			t.Errorf("the %s can be dumped and traced", name)
		} else if !known {
			t.Log("this kernel does not tell who can be dumped")
		}
		if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || cwd != "/" {
			t.Errorf("the %s stands in %s (%v)", name, cwd, err)
		}
		limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
		must(t, err)
		if !bytes.Contains(limits, []byte("Max core file size        0 ")) {
			t.Errorf("the %s may leave cores:\n%s", name, limits)
		}
	}
}

// A child on its way to its program is as closed as the keeper. It is kept on its way by thousands of places to look for the
// program in, each at the end of a long path.
func TestChildIsClosedUntilExec(t *testing.T) {
	g := mounted(t)
	places := strings.Repeat("/proc/self/cwd/x:", 3000)
	g.make("c", g.Root(), "sleep 1000", "env", "PATH="+places+"/bin")
	p := g.processes()
	if yes, known := undumpable(p["keeper"]); !known {
		t.Skip("this kernel does not tell who can be dumped")
	} else if !yes {
		t.Error("the keeper can be dumped, and with it its children")
	}
	seen := 0
	for try := 0; try < 20 && seen < 3; try++ {
		started := make(chan error, 1)
		go func() { started <- g.put("c/start", "1") }()
		for done := false; !done; {
			select {
			case err := <-started:
				must(t, err)
				done = true
			default:
			}
			for _, pid := range children(p["keeper"]) {
				if pid == p["server"] || !onItsWay(pid) {
					continue
				}
				yes, known := undumpable(pid)
				if !onItsWay(pid) || !known {
					continue
				}
				seen++
				if !yes {
					t.Fatal("a child on its way can be dumped and traced")
				}
			}
		}
		g.Write("c/kill", "KILL")
		g.Read("c/wait")
	}
	t.Logf("looked at a child on its way %d times", seen)
	if seen == 0 {
		t.Error("no child was seen on its way: this test shows nothing")
	}
}

// What comes into a container that runs, to change its mounts, is as closed to its first process, though it has the same ids and may
// do everything in the container's namespaces.
func TestJoinerIsClosed(t *testing.T) {
	g := mounted(t)
	g.sameServer(t)
	root := g.attacker("lurker")
	for name, settings := range map[string][]string{
		"apart": {"caps", "all", "seccomp", "unconfined", "no_new_privs", "0"},
		"along": {"namespaces", "user host", "seccomp", "unconfined"}, // with the default capabilities: more would be root's
	} {
		g.make(name, root, "hostile lurk", settings...)
		g.Write(name+"/start", "1")
		test.Eventually(t, "it lurks", patience, func() bool { return strings.Contains(g.Read(name+"/log"), "lurking") })
		for range 25 {
			begun := time.Now()
			g.Write(name+"/mounts", "tmpfs /x tmpfs x-mount.mkdir\ntmpfs /y tmpfs x-mount.mkdir\ntmpfs /z tmpfs x-mount.mkdir")
			g.Write(name+"/mounts", "")
			if took := time.Since(begun); took > patience { // somebody holds what comes in, until the launch is given up
				t.Fatalf("%s: changing its mounts took %v", name, took)
			}
		}
		if log := g.Read(name + "/log"); log != "lurking\nsaw somebody" {
			t.Errorf("%s: %s", name, log)
		}
		g.end(name)
	}
}

// onItsWay reports whether a process still runs the keeper's program.
func onItsWay(pid int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && strings.HasPrefix(exe, "/memfd:ctrfs")
}

// children lists the children of every thread of a process.
func children(pid int) (out []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range files {
		text, _ := os.ReadFile(file)
		for field := range strings.FieldsSeq(string(text)) {
			n, err := strconv.Atoi(field)
			if err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

// The program that keeper and server run cannot be written to by anybody, running or not, by whatever way it is reached; and
// the file on the disk is another, which may be replaced meanwhile.
func TestProgramIsSealed(t *testing.T) {
	test.RequireRoot(t)
	i, err := test.NewInstance()
	must(t, err)
	g := &ground{Tree: &test.Tree{Instance: i, T: t}}
	t.Cleanup(func() { must(t, i.Close()) })
	text, err := os.ReadFile(i.Binary)
	must(t, err)
	onDisk := i.Base + "/ctrfs"
	must(t, os.WriteFile(onDisk, text, 0o755))
	original := i.Binary
	i.Binary = onDisk
	must(t, i.Mount())
	i.Binary = original

	var held []*os.File
	for name, pid := range g.processes() {
		exe := fmt.Sprintf("/proc/%d/exe", pid)
		if f, err := os.OpenFile(exe, os.O_RDWR, 0); err == nil {
			t.Errorf("root can open the %s's program for writing", name)
			f.Close()
		}
		f, err := os.Open(exe)
		must(t, err)
		defer f.Close()
		held = append(held, f)
		seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
		const want = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
		if err != nil || seals&want != want {
			t.Errorf("the %s's program has the seals %#x (%v), wanted %#x", name, seals, err, want)
		}
	}
	// While they run, the file on the disk can be written, and a server that is started afterwards does not come from it.
	must(t, os.WriteFile(onDisk, []byte("#!/bin/false\n"), 0o755))
	must(t, os.Remove(onDisk))
	before := g.processes()["server"]
	must(t, syscall.Kill(before, syscall.SIGKILL))
	test.Eventually(t, "another server answers", patience, func() bool {
		_, now, err := g.Processes()
		return err == nil && now != before && g.Mounted()
	})
	// What a container executes as /proc/self/exe is the same copy.
	if o := g.run("c", g.Root(), "/proc/self/exe version"); !strings.HasPrefix(o.log, "ctrfs ") {
		t.Errorf("the program is not what /proc/self/exe of a child on its way is: %v", o)
	}
	must(t, i.Umount())
	for _, f := range held {
		w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if _, err := w.WriteAt([]byte("x"), 0); err == nil || w.Truncate(0) == nil {
			t.Error("a program that has ended can be written to")
		}
		w.Close()
	}
}

// Nothing of ctrfs listens under a name without a file: such a name is open to everybody in the network namespace.
func TestNoAbstractSockets(t *testing.T) {
	g := mounted(t)
	g.Start("c", "sleep 1000", "stop.timeout", "0")
	own := map[string]string{}
	for name, pid := range g.processes() {
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		must(t, err)
		for _, fd := range fds {
			if link, err := os.Readlink(fd); err == nil && strings.HasPrefix(link, "socket:[") {
				own[strings.Trim(link, "socket:[]")] = name
			}
		}
	}
	if len(own) == 0 {
		t.Fatal("keeper and server have no sockets: this test shows nothing")
	}
	f, err := os.Open("/proc/net/unix")
	must(t, err)
	defer f.Close()
	found := 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 7 || own[fields[6]] == "" {
			continue
		}
		found++
		if len(fields) > 7 && strings.HasPrefix(fields[7], "@") {
			t.Errorf("the %s listens on %s", own[fields[6]], fields[7])
		}
	}
	if found == 0 {
		t.Error("none of the sockets is in /proc/net/unix: this test shows nothing")
	}
}

// Nothing from a container is ever executed or loaded by ctrfs: the program needs no libraries, keeper and server have mapped
// nothing but it for execution, and the server has no children.
func TestNothingIsLoaded(t *testing.T) {
	g := mounted(t)
	root := g.freshRoot("trap")
	ran := g.trap(root)
	g.make("c", root, "sh -c 'echo up; sleep 1000'", "rootfs.mode", "rw", "env", "LD_PRELOAD=/lib/evil.so\nPATH=/bin")
	g.Write("c/start", "1")
	g.Sh("cat ps stats c/ps c/stats c/status c/plan c/log c/config.json > /dev/null; ls -lR c > /dev/null")

	file, err := elf.Open(g.Binary)
	must(t, err)
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP && !strings.HasSuffix(g.Binary, ".race") {
			t.Error("the program loads libraries")
		}
	}
	p := g.processes()
	for name, pid := range p {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		must(t, err)
		for line := range strings.Lines(string(maps)) {
			f := strings.Fields(line)
			if len(f) > 5 && strings.Contains(f[1], "x") && !strings.HasPrefix(f[5], "/memfd:ctrfs") && f[5][0] != '[' &&
				!strings.HasSuffix(g.Binary, ".race") {
				t.Errorf("the %s has mapped %s", name, f[5])
			}
		}
	}
	if c := children(p["server"]); len(c) > 0 {
		t.Errorf("the server has children: %v", c)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("ctrfs ran a program of a container")
	}
}

// trap puts programs and libraries into a root that a careless runtime would run on the host. The file that is returned appears
// when one did.
func (g *ground) trap(root string) (ran string) {
	g.T.Helper()
	script := []byte("#!/bin/sh\necho \"$0 $*\" >> /ran\n")
	must(g.T, os.MkdirAll(root+"/usr/bin", 0o755))
	must(g.T, os.MkdirAll(root+"/lib", 0o755))
	for _, name := range []string{"/bin/ps", "/usr/bin/ps", "/bin/top", "/usr/bin/getent", "/usr/bin/newuidmap", "/bin/mount"} {
		os.Remove(root + name)
		must(g.T, os.WriteFile(root+name, script, 0o755))
	}
	for _, name := range []string{"/lib/evil.so", "/lib/libnss_files.so.2", "/etc/nsswitch.conf"} {
		must(g.T, os.WriteFile(root+name, []byte("not a library"), 0o755))
	}
	return root + "/ran"
}

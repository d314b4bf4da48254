package security

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A working directory that leads out of the root by what the child has open is refused, by whatever name, and nothing is made
// there. Inside, it is where the configuration says.
func TestWorkingDirectory(t *testing.T) {
	g := mounted(t)
	root := g.freshRoot("links")
	var ways []string
	for i, way := range append(descriptors(), "/proc/self/cwd", "/proc/self/root", "/proc/1/root", "/proc/thread-self/cwd/../../..") {
		must(t, os.Symlink(way, fmt.Sprintf("%s/way%d", root, i)))
		ways = append(ways, way, fmt.Sprintf("/way%d/ctrfs-made", i))
	}
	g.make("c", root, "sh -c 'echo stood in $(pwd); ls -a'")
	for _, way := range ways {
		g.Write("c/cwd", way)
		if g.Read("c/cwd") == "/" { // cleaned, there is no link left in it
			continue
		}
		if o := g.try("c"); o.refused == "" {
			t.Errorf("cwd %s: %v", way, o)
		}
	}
	g.nothingMade(t, "ctrfs-made")
	// Plain links stay inside.
	must(t, os.Symlink(g.canary, root+"/absolute"))
	must(t, os.Symlink(strings.Repeat("../", 20)+g.canary, root+"/relative"))
	for _, way := range []string{"/absolute/made", "/relative/made", "/absolute/../../../.."} {
		g.Write("c/cwd", way)
		if o := g.try("c"); strings.Contains(o.log, "secret") {
			t.Errorf("cwd %s: %v", way, o)
		}
	}
}

// nothingMade looks for what a start may have made through a descriptor: in the cgroups and the directories of ctrfs, outside
// of layers.
func (g *ground) nothingMade(t *testing.T, name string) {
	t.Helper()
	for _, top := range []string{"/sys/fs/cgroup", g.Run, g.State} {
		filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() && filepath.Base(path) == "upper" {
				return filepath.SkipDir
			}
			if err == nil && d.Name() == name {
				t.Errorf("a start has made %s", path)
			}
			return nil
		})
	}
}

// traps are what a root may hold in the place of a directory that is mounted on.
func (g *ground) traps() map[string]func(path string) error {
	link := func(target string) func(string) error {
		return func(path string) error { return os.Symlink(target, path) }
	}
	traps := map[string]func(string) error{
		"absolute": link(g.canary),
		"relative": link(strings.Repeat("../", 20) + g.canary),
		"inside":   link("/tmp"),
		"itself":   link("."),
		"loop":     link("link"), // a name in /, which leads back
		"root":     link("/proc/1/root" + g.canary),
		"file":     func(path string) error { return os.WriteFile(path, nil, 0o644) },
		"dangling": link("/no/such/place"),
	}
	for _, d := range descriptors() {
		traps[d] = link(d)
	}
	return traps
}

// descriptors are the names that a child's descriptors may have: those of the keeper, and those passed to it.
func descriptors() (names []string) {
	for n := 3; n < 32; n++ {
		names = append(names, fmt.Sprintf("/proc/self/fd/%d", n))
	}
	return names
}

// view is what a program sees of the kernel's file systems and of a masked file, and what it is when they are real: procfs
// and sysfs by their magic numbers, devices by theirs.
func view(t *testing.T) (cmd, want string) {
	t.Helper()
	for _, masked := range []string{"/proc/keys", "/proc/kcore", "/proc/timer_list"} {
		if _, err := os.Stat(masked); err == nil {
			return "sh -c 'echo view $(stat -f -c %t /proc) $(stat -f -c %t /sys) $(stat -c %t:%T /dev/null " + masked + ")'", "view 9fa0 62656572 1:3 1:3"
		}
	}
	t.Fatal("this kernel has nothing to mask")
	return "", ""
}

// A root whose /proc, /sys or /dev is a trap is refused.
func TestFakeKernelTrees(t *testing.T) {
	g := mounted(t)
	cmd, want := view(t)
	for _, mode := range []string{"overlay", "rw"} {
		root := g.freshRoot(mode)
		for _, place := range []string{"proc", "sys", "dev"} {
			must(t, os.Remove(root+"/"+place))
			for name, trap := range g.traps() {
				must(t, trap(root+"/"+place))
				os.Remove(root + "/link")
				must(t, os.Symlink(place, root+"/link"))
				o := g.run("c", root, cmd, "rootfs.mode", mode)
				if o.refused == "" {
					t.Errorf("%s root with a trap (%s) for /%s: %v", mode, name, place, o)
				}
				must(t, os.Remove(root+"/"+place))
			}
			must(t, os.Mkdir(root+"/"+place, 0o755))
		}
		if o := g.run("c", root, cmd, "rootfs.mode", mode); o.log != want {
			t.Errorf("a plain root: %v", o)
		}
	}
	g.nothingMade(t, "pts")
}

// A mount that the configuration asks for lands inside the root, whatever links are on the way.
func TestMountTargets(t *testing.T) {
	g := mounted(t)
	root := g.freshRoot("targets")
	started := 0
	try := func(at, trap string) {
		t.Helper()
		g.make("c", root, "sh -c 'mount; touch /way/ctrfs-made/file /way/file; echo end'", "rootfs.mode", "rw")
		err := g.reconfigure("c", func(s spec) {
			s["mounts"] = append(s["mounts"].([]any), spec{"destination": at, "type": "tmpfs", "source": "tmpfs"})
		})
		if err == nil {
			if o := g.try("c"); o.refused == "" {
				started++
				if strings.HasPrefix(trap, "/proc/self/fd") {
					t.Errorf("a target below a link to %s was taken: %v", trap, o)
				}
			}
		}
		must(t, os.Remove(g.Dir+"/c"))
	}
	for name, trap := range g.traps() {
		must(t, trap(root+"/way"))
		try("/way/ctrfs-made", name)
		must(t, os.RemoveAll(root+"/way"))
	}
	for _, at := range []string{"/../../../../ctrfs-made", "/proc/self/cwd/ctrfs-made", "/dev/fd/13/ctrfs-made", "relative/ctrfs-made"} {
		try(at, "")
	}
	g.nothingMade(t, "ctrfs-made")
	if started == 0 {
		t.Error("nothing was started: this test shows nothing")
	}
}

// While one container's root is changed under its hands by another that shares it, starts either fail or give the real thing,
// and the host's files stay as they are.
func TestRacingRoot(t *testing.T) {
	g := mounted(t)
	g.sameServer(t)
	root := g.freshRoot("shared")
	for _, d := range []string{"data", "work"} {
		must(t, os.MkdirAll(root+"/"+d, 0o755))
	}
	// Each is exchanged with a link to something better, by one atomic call, several times during each start. As fast as it
	// goes would be too fast: renames of directories are serialised on a file system, and nothing else would get on.
	const pause = 100 * time.Microsecond
	swaps := map[string]string{"data": g.canary, "work": "/proc/self/fd/13", "dev": strings.Repeat("../", 20) + g.canary, "proc": g.canary, "sys": "/proc/self/fd/14"}
	for name, target := range swaps {
		must(t, os.Symlink(target, root+"/"+name+".link"))
	}
	stop := make(chan struct{})
	var racing sync.WaitGroup
	racing.Go(func() {
		for {
			for name := range swaps {
				for range 2 { // to the link, and back
					unix.Renameat2(unix.AT_FDCWD, root+"/"+name, unix.AT_FDCWD, root+"/"+name+".link", unix.RENAME_EXCHANGE)
					time.Sleep(pause)
				}
				select {
				case <-stop:
					return
				case <-time.After(5 * pause):
				}
			}
			os.RemoveAll(root + "/data/deep")
			os.RemoveAll(root + "/work/deep")
		}
	})
	cmd, want := view(t)
	g.make("c", root, cmd, "rootfs.mode", "rw", "cwd", "/work/deep/made")
	must(t, g.reconfigure("c", func(s spec) {
		s["mounts"] = append(s["mounts"].([]any), spec{"destination": "/data/deep/made", "type": "tmpfs", "source": "tmpfs"})
	}))
	started, refused := 0, 0
	for end := time.Now().Add(patience); started+refused < 200 && time.Now().Before(end); {
		switch o := g.try("c"); {
		case o.refused != "":
			refused++
		case o.log == want:
			started++
		case strings.Trim(strings.NewReplacer("view", "", "9fa0", "", "62656572", "", "1:3", "").Replace(lastLine(o.log)), " ") == "":
			started++ // what was exchanged after the start is not there; nothing false is
		case !strings.HasPrefix(o.log, "view") && o.exit != "0": // the shell was not to be found at that moment
			refused++
		default:
			t.Fatalf("started with a wrong view: %v", o)
		}
	}
	close(stop)
	racing.Wait()
	t.Logf("%d starts, %d refusals", started, refused)
	if started == 0 || refused == 0 {
		t.Error("the race was not close: this test shows little")
	}
	g.nothingMade(t, "made")
	g.nothingMade(t, "deep")
}

func lastLine(text string) string { return text[strings.LastIndexByte(text, '\n')+1:] }

// What is masked shows nothing, and what is read-only cannot be opened for writing, each of them. Nothing is written: without
// its defence, this test would change the host it runs on.
func TestMasked(t *testing.T) {
	g := mounted(t)
	g.make("c", g.Root(), "true")
	var linux spec
	must(t, g.reconfigure("c", func(s spec) { linux = s["linux"].(spec) }))
	var script strings.Builder
	count := 0
	for _, p := range linux["maskedPaths"].([]any) {
		info, err := os.Stat(p.(string))
		if err != nil {
			continue // this kernel has no such thing
		}
		count++
		if info.IsDir() {
			fmt.Fprintf(&script, "[ -z \"$(ls -A %[1]s)\" ] || echo %[1]s is not empty\n", p)
		} else {
			fmt.Fprintf(&script, "[ $(stat -c %%t:%%T %[1]s) = 1:3 ] || echo %[1]s shows\n", p)
		}
	}
	for _, p := range linux["readonlyPaths"].([]any) {
		if _, err := os.Stat(p.(string)); err != nil {
			continue
		}
		count++
		fmt.Fprintf(&script, "for f in $(find %s -type f 2>/dev/null | head -n 300); do (: >> $f) 2>/dev/null && echo $f was opened for writing; done\n", p)
	}
	script.WriteString("(: >> /sys/kernel/mm/ksm/run) 2>/dev/null && echo /sys is writable\n")
	g.Write("c/cmd", "sh -c '"+script.String()+"'")
	if o := g.try("c"); o.exit != "0" && o.exit != "1" || o.log != "" {
		t.Errorf("%v", o)
	}
	if count < 8 {
		t.Errorf("%d paths looked at: this test shows little", count)
	}
}

// A mask is the host's own null device, also where the root's /dev/null is a link to something that one would like to see in
// the place of a masked file, and no tmpfs on /dev is in between; also when the link is put there after the device was, by
// another container with the same root, which takes the device away.
func TestMaskIsNull(t *testing.T) {
	g := mounted(t)
	cmd, want := view(t)
	root := g.freshRoot("nulls")
	g.make("c", root, cmd, "rootfs.mode", "rw")
	must(t, g.reconfigure("c", func(s spec) {
		s["mounts"] = slices.DeleteFunc(s["mounts"].([]any), func(m any) bool { return strings.HasPrefix(m.(spec)["destination"].(string), "/dev") })
	}))
	for _, target := range []string{"/etc/passwd", "../etc/passwd", "/proc/sys/kernel/core_pattern", "/proc/self/fd/3", "/proc/version"} {
		must(t, os.Symlink(target, root+"/dev/null"))
		if o := g.try("c"); o.refused == "" && o.log != want {
			t.Errorf("/dev/null -> %s: %v", target, o)
		}
		must(t, os.Remove(root+"/dev/null"))
	}
	stop := make(chan struct{})
	var racing sync.WaitGroup
	racing.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Microsecond):
			}
			os.Remove(root + "/dev/null")
			os.Symlink("/etc/passwd", root+"/dev/null")
		}
	})
	for range 100 {
		// The device itself may be gone by the time of the look, but what masks may not be another.
		if o := g.try("c"); o.refused == "" && !strings.HasSuffix(lastLine(o.log), " 1:3") {
			t.Errorf("raced: %v", o)
			break
		}
	}
	close(stop)
	racing.Wait()
}

// A container's root can do nothing to the host's kernel with the capabilities that it has.
func TestForbiddenCalls(t *testing.T) {
	g := mounted(t)
	before := map[string]string{}
	for _, name := range []string{"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hostname"} {
		if text, err := os.ReadFile(name); err == nil {
			before[name] = string(text)
		}
	}
	o := g.run("c", g.attacker("attacker"), "hostile calls")
	if o.exit != "0" || strings.Count(o.log, "\n") < 20 {
		t.Fatal(o)
	}
	for line := range strings.Lines(o.log) {
		if strings.HasSuffix(strings.TrimSpace(line), ": done") {
			t.Error(strings.TrimSpace(line))
		}
	}
	for name, want := range before {
		if text, err := os.ReadFile(name); err != nil || string(text) != want {
			t.Errorf("%s was %q and is %q (%v)", name, want, text, err)
		}
	}
}

// No file of a cgroup is in reach of a container, of a v1 hierarchy least of all.
func TestCgroupFiles(t *testing.T) {
	g := mounted(t)
	o := g.run("c", g.Root(), `sh -c 'for f in $(find / -name release_agent -o -name notify_on_release -o -name "cgroup.*" 2>/dev/null)
do (: >> $f) 2>/dev/null && echo $f; done; grep cgroup /proc/mounts | grep -v "[ ,]ro[, ]"; echo end'`)
	if o.log != "end" {
		t.Errorf("%v", o)
	}
}

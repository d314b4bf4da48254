package overlay

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// bind makes a clone of a source, and closes it at the end.
func bind(t testing.TB, s *Store, source string, o BindOptions) *os.File {
	t.Helper()
	f, err := s.Bind(source, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// rootOf makes a root of a clone, for what expects one.
func rootOf(f *os.File) *Root { return &Root{Mounts: []Mount{{File: f, Target: "/"}}} }

// attach puts a clone onto a directory, or a file, of the tests' own namespace.
func attach(t testing.TB, f *os.File, at string) string {
	t.Helper()
	if err := unix.MoveMount(int(f.Fd()), "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
	return at
}

// sourceTree is a directory with a tmpfs on it, and another one below, x/sub.
func sourceTree(t *testing.T, dir string, flags uintptr) string {
	t.Helper()
	top := mounted(t, makeTree(t, dir, map[string]string{"beneath": "x"}), "tmpfs", flags, "mode=755")
	makeTree(t, top, map[string]string{"file": "content", "sub/": "", "to-file": "->file", "to-sub": "->sub", "a/": "", "b/": ""})
	makeTree(t, mounted(t, top+"/sub", "tmpfs", unix.MS_NOEXEC, "mode=755"), map[string]string{"inner": "i", "a/": "", "b/": ""})
	return top
}

// What of the source is seen, and with which flags.
func TestBindFlags(t *testing.T) {
	s, dir := newStore(t), tempDir(t)
	source := sourceTree(t, dir+"/source", unix.MS_NOSUID)
	const ro, nodev = unix.MOUNT_ATTR_RDONLY, unix.MOUNT_ATTR_NODEV
	for _, test := range []struct {
		name     string
		o        BindOptions
		top, sub string // flags
		inner    string // what reading a file of the mount below gives
	}{
		{"plain", BindOptions{}, "nosuid", "nosuid", "ENOENT"},
		{"recursive", BindOptions{Recursive: true}, "nosuid", "noexec", "i"},
		{"flags", BindOptions{Recursive: true, Attr: nodev}, "nosuid nodev", "noexec", "i"},
		{"read-only above", BindOptions{Recursive: true, Attr: ro}, "ro nosuid", "noexec", "i"},
		{"read-only", BindOptions{Recursive: true, Attr: ro | nodev, AttrRecursive: true}, "ro nosuid nodev", "ro nodev noexec", "i"},
		{"access times", BindOptions{Attr: unix.MOUNT_ATTR_NOATIME | unix.MOUNT_ATTR_NOSYMFOLLOW}, "nosuid", "nosuid", "ENOENT"},
	} {
		t.Run(test.name, func(t *testing.T) {
			write := map[bool]string{true: "EROFS"}[strings.HasPrefix(test.sub, "ro")]
			expect(t, rootOf(bind(t, s, source, test.o)), [][2]string{{"flags /", test.top}, {"flags /sub", test.sub}, {"read /file", "content"},
				{"read /sub/inner", test.inner}, {"read /beneath", "ENOENT"}, {"write /sub/new x", write}})
			os.Remove(source + "/sub/new")
		})
	}
	// The access time is set anew, which takes the flag of the source away first.
	at := attach(t, bind(t, s, source, BindOptions{Attr: unix.MOUNT_ATTR_NOATIME}), makeTree(t, dir+"/at", map[string]string{"x": ""}))
	if line := lineOf(t, at); !strings.Contains(line, "noatime") || strings.Contains(line, "relatime") {
		t.Error(line)
	}
	for _, bad := range []BindOptions{{Attr: unix.MOUNT_ATTR_IDMAP}, {Attr: 1 << 40}, {Propagation: unix.MS_SLAVE | unix.MS_SHARED}, {Propagation: unix.MS_RDONLY}} {
		if f, err := s.Bind(source, bad); engine.Errno(err) != syscall.EINVAL || !strings.HasPrefix(err.Error(), "write mounts: ") {
			t.Errorf("%+v: %v, %v", bad, f, err)
		}
	}
}

// lineOf is the line of what is mounted at a path, in mountinfo.
func lineOf(t testing.TB, at string) (found string) {
	t.Helper()
	for line := range strings.Lines(mountTable()) {
		if parseMountLine(line).path == at {
			found = line
		}
	}
	return found
}

// Files are bound as well as directories, whatever their type, and links lead to what they lead to on the host.
func TestBindFiles(t *testing.T) {
	s, dir := newStore(t), makeTree(t, tempDir(t), map[string]string{"file": "f", "link": "->file", "dir/": "", "to-dir": "->dir", "at": ""})
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	socketAt(t, dir+"/socket")
	for source, kind := range map[string]uint32{"file": unix.S_IFREG, "link": unix.S_IFREG, "dir": unix.S_IFDIR, "to-dir": unix.S_IFDIR,
		"fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK} {
		var st unix.Stat_t
		if err := unix.Fstat(int(bind(t, s, dir+"/"+source, BindOptions{}).Fd()), &st); err != nil || st.Mode&unix.S_IFMT != kind {
			t.Errorf("%s: mode %o, %v; want %o", source, st.Mode, err, kind)
		}
	}
	at := attach(t, bind(t, s, dir+"/link", BindOptions{Attr: unix.MOUNT_ATTR_RDONLY}), dir+"/at")
	if text, err := os.ReadFile(at); string(text) != "f" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	if err := os.WriteFile(at, nil, 0o644); engine.Errno(err) != syscall.EROFS {
		t.Errorf("write: %v", err)
	}
}

func deviceOf(t testing.TB, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Dev
}

// socketAt makes a socket file. Not by package net, with which the test binary would need the host's libraries.
func socketAt(t testing.TB, path string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
}

// A source is refused as a root is.
func TestBindRefused(t *testing.T) {
	s, dir := newStore(t), makeTree(t, tempDir(t), map[string]string{
		"file": "x", "to-file": "->file", "loop": "->loop", "dangling": "->nowhere", "to-fd": "->/proc/self/fd/0",
		"mount/": "", "process/": "", "own-file": "", "to-mount": "->mount/web", "un/": "", "escape": "->../../../../../../../../../proc/self/root",
	})
	own := mounted(t, dir+"/mount", "tmpfs", 0, "")
	makeTree(t, own, map[string]string{"web/env": ""})
	s.Forbid(own, deviceOf(t, own))
	unbindable := mounted(t, dir+"/un", "tmpfs", 0, "")
	if err := unix.Mount("", unbindable, "", unix.MS_UNBINDABLE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(own+"/web/env", dir+"/own-file", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir+"/own-file", unix.MNT_DETACH)
	if err := unix.Mount("/proc/self", dir+"/process", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir+"/process", unix.MNT_DETACH)
	self := fmt.Sprintf("/proc/%d", os.Getpid())
	for _, test := range []struct {
		source string
		want   syscall.Errno
		says   string
	}{
		{dir + "/none", syscall.ENOENT, "create it first"},
		{dir + "/dangling", syscall.ENOENT, ""},
		{dir + "/loop", syscall.ELOOP, ""},
		{dir + "/file/", syscall.ENOTDIR, ""},
		{dir + "/to-file/x", syscall.ENOTDIR, ""},
		{dir + "/file/..", syscall.ENOTDIR, ""},
		{dir + "/mount", syscall.EINVAL, "own mount"},
		{dir + "/to-mount", syscall.EINVAL, "own mount"},
		{dir + "/mount/web/env", syscall.EINVAL, "own mount"},
		{dir + "/own-file", syscall.EINVAL, "own mount"},
		{"file", syscall.EINVAL, "absolute"},
		{"", syscall.EINVAL, "absolute"},
		{unbindable, syscall.EINVAL, "unbindable"},
		{dir + "/to-fd", syscall.EINVAL, "procfs"},
		{dir + "/escape", syscall.EINVAL, "procfs"},
		{dir + "/process/root", syscall.EINVAL, "link of procfs"},
		{dir + "/process/fd/0", syscall.EINVAL, "link of procfs"},
		{"/proc/self", syscall.EINVAL, "link of procfs"},
		{"/proc/self/fd/0", syscall.EINVAL, "procfs"},
		{"/proc/thread-self/ns/net", syscall.EINVAL, "procfs"},
		{"/dev/fd/0", syscall.EINVAL, "procfs"},
		{self, syscall.EINVAL, "one process"},
		{self + "/fd", syscall.EINVAL, "one process"},
		{self + "/fd/0", syscall.EINVAL, "one process"},
		{self + "/root", syscall.EINVAL, "one process"},
		{self + "/environ", syscall.EINVAL, "one process"},
	} {
		f, err := s.Bind(test.source, BindOptions{})
		if err == nil {
			f.Close()
		}
		if engine.Errno(err) != test.want || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "mounts") {
			t.Errorf("Bind(%q) = %v, want %v and %q", test.source, err, test.want, test.says)
		}
	}
	numbers, _ := filepath.Glob("/proc/irq/[0-9]*") // no processes, in spite of their names
	for _, fine := range append(numbers, "/proc/sys/kernel", "/proc/cpuinfo", "/dev/null", "/") {
		bind(t, s, fine, BindOptions{})
	}
}

// A link of the source's path that somebody flips to and fro never leads to a file of ours, nor to what procfs links to.
func TestBindRace(t *testing.T) {
	s, dir := newStore(t), makeTree(t, tempDir(t), map[string]string{"good": "good", "mount/": "", "flip": "good", "link": "->good"})
	own := mounted(t, dir+"/mount", "tmpfs", 0, "")
	makeTree(t, own, map[string]string{"bad": "bad"})
	s.Forbid(own, deviceOf(t, own))
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			os.Remove(dir + "/next")
			if target := []string{"good", "mount/bad", "/proc/self/cwd", ""}[i%4]; target != "" {
				os.Symlink(target, dir+"/next")
			} else {
				os.WriteFile(dir+"/next", []byte("good"), 0o600)
			}
			os.Rename(dir+"/next", dir+"/flip")
		}
	}()
	for begin := time.Now(); time.Since(begin) < time.Second/2; {
		f, err := s.Bind(dir+"/flip", BindOptions{})
		if err != nil {
			continue
		}
		var st unix.Stat_t
		unix.Fstat(int(f.Fd()), &st)
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			t.Errorf("a file of mode %o", st.Mode)
		} else if text, _ := os.ReadFile(fdPath(f)); string(text) != "good" {
			t.Errorf("a file that says %q", text)
		}
		f.Close()
	}
	close(stop)
	<-done
	// The narrowest moment: it was a file when it was looked at, and is a link when it is opened.
	w := walk{files: true}
	if err := w.enter(dir); err != nil {
		t.Fatal(err)
	}
	defer func() { w.at.Close() }()
	if err := w.end("link"); err != syscall.ELOOP {
		t.Errorf("a link at the end: %v", err)
	}
}

// With ids, the container's root has the rights to a source that root has, without it those of a stranger.
func TestBindIDs(t *testing.T) {
	s, ids, dir := newStore(t), guestIDs(t), makeTree(t, tempDir(t), map[string]string{"d/closed": "c", "d/sub/": ""})
	if err := os.Chmod(dir+"/d/closed", 0o600); err != nil {
		t.Fatal(err)
	}
	mounted(t, dir+"/d/sub", "tmpfs", 0, "mode=755")
	script := [][2]string{{"stat /closed", "100600 65534:65534"}, {"read /closed", "EACCES"}, {"write /sub/new x", "EACCES"}, {"stat /sub", "40755 65534:65534"}}
	expectAs(t, rootOf(bind(t, s, dir+"/d", BindOptions{Recursive: true})), script)
	expectAs(t, rootOf(bind(t, s, dir+"/d", BindOptions{Recursive: true, IDs: ids})), [][2]string{{"stat /closed", "100600 0:0"}, {"read /closed", "c"},
		{"write /sub/new x", ""}, {"stat /sub", "40755 0:0"}, {"as 5 write /new x", "EACCES"}, {"write /new x", ""}, {"chown /new 9 9", ""}})
	if got := owners(t, dir+"/d", "new", "sub/new"); got != "new 100644 9:9, sub/new 100644 0:0" {
		t.Error(got)
	}
	for source, says := range map[string]string{"/proc": "proc at /proc", "/proc/cpuinfo": "proc at /proc/cpuinfo", "/sys": "sysfs at /sys"} {
		_, err := s.Bind(source, BindOptions{IDs: ids})
		if engine.Errno(err) != syscall.EOPNOTSUPP || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "leave out idmap") {
			t.Errorf("Bind(%s) = %v", source, err)
		}
	}
	mounted(t, makeTree(t, dir+"/d/p", map[string]string{"x": ""}), "proc", 0, "")
	_, err := s.Bind(dir+"/d", BindOptions{Recursive: true, IDs: ids})
	if engine.Errno(err) != syscall.EOPNOTSUPP || !strings.Contains(err.Error(), "proc at "+dir+"/d/p") {
		t.Errorf("Bind = %v", err)
	}
	bind(t, s, dir+"/d", BindOptions{IDs: ids})
}

// Mount events travel as mount_namespaces(7) says: of the host to a bind mount (down), and of the bind mount to the host
// (up), in the mount that was named and in one below it.
func TestBindPropagation(t *testing.T) {
	const private, slave, shared, unbindable = unix.MS_PRIVATE, unix.MS_SLAVE, unix.MS_SHARED, unix.MS_UNBINDABLE
	for _, test := range []struct {
		name     string
		kind     uint64
		deep     bool
		top, sub string
	}{
		{"default", 0, false, "", ""},
		{"private", private, false, "", "down"}, {"rprivate", private, true, "", ""},
		{"slave", slave, false, "down", "down"}, {"rslave", slave, true, "down", "down"},
		{"shared", shared, false, "down up", "down up"}, {"rshared", shared, true, "down up", "down up"},
		{"unbindable", unbindable, false, "", "down"}, {"runbindable", unbindable, true, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, dir := newStore(t), tempDir(t)
			source := sourceTree(t, dir+"/source", 0)
			if err := unix.Mount("", source, "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
				t.Fatal(err)
			}
			at := makeTree(t, dir+"/at", map[string]string{"x": ""})
			attach(t, bind(t, s, source, BindOptions{Recursive: true, Propagation: test.kind, PropagationRecursive: test.deep}), at)
			for below, want := range map[string]string{"": test.top, "/sub": test.sub} {
				if got := travels(t, source+below, at+below); got != want {
					t.Errorf("%q: events travel %q, want %q", below, got, want)
				}
			}
		})
	}
	// A source that is private becomes shared with nobody; one that is a slave stays one, whatever is asked for but
	// private.
	s, dir := newStore(t), tempDir(t)
	source := sourceTree(t, dir+"/source", 0)
	at := attach(t, bind(t, s, source, BindOptions{Propagation: shared}), makeTree(t, dir+"/at", map[string]string{"x": ""}))
	if got := travels(t, source, at); got != "" || !strings.Contains(lineOf(t, at), "shared:") {
		t.Errorf("events travel %q: %s", got, lineOf(t, at))
	}
}

// travels mounts something on either side, and says which way it got to the other.
func travels(t *testing.T, host, guest string) string {
	t.Helper()
	var ways []string
	for _, way := range []struct{ name, from, to string }{{"down", host + "/a", guest + "/a"}, {"up", guest + "/b", host + "/b"}} {
		mounted(t, way.from, "tmpfs", 0, "")
		if lineOf(t, way.to) != "" {
			ways = append(ways, way.name)
		}
		unix.Unmount(way.from, 0)
	}
	return strings.Join(ways, " ")
}

// A source whose server does not answer is given up on, and so is a file of a root; one of ours is not asked.
func TestBindSilentServer(t *testing.T) {
	needRoot(t)
	dir := makeTree(t, t.TempDir(), map[string]string{"mnt/": "", "link": "->mnt/web"})
	got := runErrand(t, exec.Command("/proc/self/exe"), errand{Ops: []string{"fuse-bind " + dir}})[0]
	if got != "EINVAL EINVAL EINVAL ETIMEDOUT ETIMEDOUT" {
		t.Error(got)
	}
}

// Files of a root, attached nowhere yet, are read as inside; nothing else is, and nothing outside.
func TestOpenInRoot(t *testing.T) {
	s, ids, outside := newStore(t), guestIDs(t), makeTree(t, tempDir(t), map[string]string{"canary": "alive"})
	root := ownedRoot(t)
	makeTree(t, root, map[string]string{
		"etc/passwd": "root:x:0:0\n", "etc/absolute": "->/etc/passwd", "etc/up": "->../../../../../../etc/passwd", "etc/dir/": "",
		"etc/out": "->../../../../../../.." + outside + "/canary", "etc/magic": "->/proc/self/root" + outside + "/canary",
		"etc/fd": "->/proc/self/fd/0", "etc/loop": "->loop", "etc/cpu": "->/proc/cpuinfo", "etc/mem": "->/proc/self/status",
	})
	if err := unix.Mkfifo(root+"/etc/fifo", 0o666); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(root+"/etc/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	socketAt(t, root+"/etc/socket")
	mounted(t, root+"/proc", "proc", 0, "")
	for _, as := range []*IDs{nil, ids} {
		for mode := range modes {
			r := prepareAs(t, s, "c", root, mode, as)
			for path, want := range map[string]string{
				"/etc/passwd": "root:x:0:0\n", "etc/passwd": "root:x:0:0\n", "/etc/absolute": "root:x:0:0\n", "/etc/up": "root:x:0:0\n", "/closed": "c",
				"/../../etc/passwd": "root:x:0:0\n",
				"/etc/out":          "ENOENT", "/etc/loop": "ELOOP", "/etc/none": "ENOENT", "/etc": "EINVAL", "/etc/fifo": "EINVAL", "/etc/null": "EINVAL",
				"/etc/socket": "EINVAL", "/etc/dir": "EINVAL", "": "ENOENT",
			} {
				if got := readInRoot(r, path); got != want {
					t.Errorf("%s, ids %v: %q is %q, want %q", mode, as, path, got, want)
				}
			}
			// Whether the root shows a procfs at all or not.
			for _, path := range []string{"/etc/magic", "/etc/fd", "/etc/cpu", "/etc/mem"} {
				if got := readInRoot(r, path); !slices.Contains([]string{"ELOOP", "ENOENT", "EINVAL"}, got) {
					t.Errorf("%s, ids %v: %q is %q", mode, as, path, got)
				}
			}
		}
	}
}

func readInRoot(r *Root, path string) string {
	f, err := OpenInRoot(r.Mounts[0].File, path)
	if err != nil {
		return errName(engine.Errno(err))
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// silentBind binds what is on a FUSE mount at dir/mnt that nobody serves.
func silentBind(dir string) (string, error) {
	dev, closer, err := mountSilent(dir + "/mnt")
	if err != nil {
		return "", err
	}
	defer closer.Close() // and what waits for an answer ends
	s := &Store{}
	s.Forbid("/elsewhere", dev)
	var out []string
	begin := time.Now()
	try := func(path string) {
		_, err := s.Bind(filepath.Join(dir, path), BindOptions{Recursive: true})
		out = append(out, unix.ErrnoName(engine.Errno(err)))
	}
	try("mnt")
	try("mnt/web")
	try("link")
	if took := time.Since(begin); took > patience/2 {
		return "it took " + took.String(), nil
	}
	s.forbidden.Store(nil)
	try("link")
	root, err := clone(nil, dir, true, 0, nil)
	if err != nil {
		return "", err
	}
	defer root.Close()
	out = append(out, readInRoot(rootOf(root), "/link"))
	return strings.Join(out, " "), nil
}

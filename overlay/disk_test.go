package overlay

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// mustRun runs a program of the host's, or skips the test where there is none.
func mustRun(t testing.TB, name string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/sbin", "/usr/sbin"} {
		if err != nil {
			path, err = exec.LookPath(dir + "/" + name)
		}
	}
	if err != nil {
		t.Skipf("needs %s", name)
	}
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// diskFile makes a file that holds a file system with the files of testRoot.
func diskFile(t testing.TB, s *Store, kind, file string) {
	t.Helper()
	root := testRoot(t, file+".files")
	size := map[string]int64{"ext4": 16 << 20, "btrfs": 128 << 20, "xfs": 300 << 20}[kind]
	if size > 0 {
		if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, size)); err != nil {
			t.Fatal(err)
		}
	}
	switch kind {
	case "ext4":
		mustRun(t, "mke2fs", "-q", "-F", "-t", "ext4", "-d", root, file)
	case "btrfs":
		mustRun(t, "mkfs.btrfs", "-q", "-f", "--rootdir", root, file)
	case "xfs":
		mustRun(t, "mkfs.xfs", "-q", "-f", file)
		r := prepare(t, s, "filler", file, "rw")
		expect(t, r, [][2]string{{"write /base from the root", ""}, {"write /gone x", ""}, {"mkdir /dir", ""}, {"mkdir /proc", ""}, {"write /dir/file deep", ""}, {"write /dir/other y", ""}})
		r.Close()
		loopGone(t, file)
	case "squashfs":
		mustRun(t, "mksquashfs", root, file, "-quiet", "-no-progress")
	case "erofs":
		mustRun(t, "mkfs.erofs", file, root)
	}
}

// loopGone waits until no loop device has the file.
func loopGone(t testing.TB, path string) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for range 400 {
		device, _, err := findLoop(file)
		if device == nil && err == nil {
			return
		}
		device.Close()
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("a loop device has %s still", path)
}

func kinds() (names []string) {
	for _, k := range diskKinds {
		names = append(names, k.name)
	}
	return names
}

// A file with each file system, in each mode, with and without ids: what is seen, where writes go, and what is left.
func TestDisks(t *testing.T) {
	for _, kind := range kinds() {
		t.Run(kind, func(t *testing.T) {
			s, dir := newStore(t), tempDir(t)
			made := dir + "/a disk:1"
			diskFile(t, s, kind, made)
			for _, ids := range []*IDs{nil, guestIDs(t)} {
				for _, mode := range []engine.RootMode{"overlay", "volatile", "ro", "rw"} {
					t.Run(fmt.Sprint(mode, " ", ids != nil), func(t *testing.T) { testDisk(t, s, kind, made, mode, ids) })
				}
			}
		})
	}
}

func testDisk(t *testing.T, s *Store, kind, file string, mode engine.RootMode, ids *IDs) {
	look := expect
	if ids != nil {
		look = expectAs
	}
	before, table := digest(t, file), mountTable()
	id := fmt.Sprint("c", mode, ids != nil)
	home(t, s, id)
	r, err := s.Prepare(id, Directory(file), mode, ids)
	sealed := kind == "squashfs" || kind == "erofs"
	if mode == "rw" && sealed {
		if engine.Errno(err) != syscall.EROFS {
			t.Errorf("rw: %v, want EROFS", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	write := map[bool]string{true: "EROFS"}[mode == "ro"]
	look(t, r, [][2]string{
		{"read /base", "from the root"}, {"ls /dir", "file other"}, {"write /dir/new hello", write}, {"stat /base", "100644 0:0"},
		{"flags /", strings.TrimSpace(map[bool]string{true: "ro "}[mode == "ro"] + "nodev")},
	})
	second, err := s.Prepare(id+"2", Directory(file), "ro", nil)
	if mode == "rw" {
		if engine.Errno(err) != syscall.EBUSY || !strings.Contains(err.Error(), "/dev/loop") {
			t.Errorf("of a file that is written to: %v, want EBUSY", err)
		}
	} else if err != nil {
		t.Error(err)
	} else {
		if mode == "ro" && device(t, second) != device(t, r) {
			t.Error("two roots of one file are two file systems")
		}
		second.Close()
		if _, err := s.Prepare(id+"2", Directory(file), "rw", nil); engine.Errno(err) != syscall.EBUSY && !sealed {
			t.Errorf("to write to a root that is in use: %v, want EBUSY", err)
		}
	}
	r.Close()
	loopGone(t, file)
	if changed := digest(t, file) != before; changed != (mode == "rw") {
		t.Errorf("the file has changed: %v", changed)
	}
	if mountTable() != table {
		t.Error("the host's mount table has changed")
	}
	if mode == "overlay" || mode == "rw" {
		r, err := s.Prepare(id, Directory(file), mode, ids)
		if err != nil {
			t.Fatal(err)
		}
		look(t, r, [][2]string{{"read /dir/new", "hello"}, {"rm /dir/new", ""}})
		r.Close()
	}
	loopGone(t, file)
}

// digest stands for a file: how it begins, and when it was written to.
func digest(t testing.TB, file string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", `head -c 4M "$1" | sha256sum; stat -c '%s %b %y' "$1"`, "sh", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// device is the file system that a root is on.
func device(t testing.TB, r *Root) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(r.Mounts[0].File.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Dev
}

// What was not unmounted is not shown as a root that does not change; once it has been written to, it is.
func TestUncleanDisk(t *testing.T) {
	s, dir := newStore(t), tempDir(t)
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			file := filepath.Join(dir, kind)
			diskFile(t, s, kind, file)
			r := prepare(t, s, "c", file, "rw")
			expect(t, r, [][2]string{{"write /more text", ""}})
			unix.Sync()
			mustRun(t, "cp", "--sparse=always", file, file+".copy")
			r.Close()
			_, err := s.Prepare("c", Directory(file+".copy"), "overlay", nil)
			if engine.Errno(err) != syscall.EUCLEAN {
				t.Errorf("got %v, want EUCLEAN", err)
			}
			loopGone(t, file+".copy")
			prepare(t, s, "c", file+".copy", "rw").Close()
			loopGone(t, file+".copy")
			r = prepare(t, s, "c", file+".copy", "ro")
			expect(t, r, [][2]string{{"read /base", "from the root"}})
			// A copy, with the same UUID, beside it.
			expect(t, prepare(t, s, "d", file, "ro"), [][2]string{{"read /base", "from the root"}})
		})
	}
}

func TestDiskErrors(t *testing.T) {
	s, dir := newStore(t), tempDir(t)
	makeTree(t, dir, map[string]string{"text": "hello", "empty": "", "broken": "XFSB" + strings.Repeat("x", 1<<20)})
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	home(t, s, "c")
	for _, test := range []struct {
		path  string
		check syscall.Errno
		start syscall.Errno
	}{
		{dir + "/text", syscall.EINVAL, syscall.EINVAL},
		{dir + "/empty", syscall.EINVAL, syscall.EINVAL},
		{dir + "/fifo", syscall.ENOTDIR, syscall.ENOTDIR},
		{"/dev/loop0", syscall.EOPNOTSUPP, syscall.EOPNOTSUPP},
		{dir + "/broken", 0, syscall.EUCLEAN},
	} {
		if err := s.Check(test.path); engine.Errno(err) != test.check {
			t.Errorf("Check(%s) = %v, want %v", test.path, err, test.check)
		}
		r, err := s.Prepare("c", Directory(test.path), "overlay", nil)
		if err == nil {
			r.Close()
		}
		if engine.Errno(err) != test.start {
			t.Errorf("Prepare(%s) = %v, want %v", test.path, err, test.start)
		}
	}
	loopGone(t, dir+"/broken")
}

// FuzzRecognise: whatever a file holds, it is recognised or refused.
func FuzzRecognise(f *testing.F) {
	for _, k := range diskKinds {
		f.Add(append(make([]byte, min(k.at, 2000)), k.magic...))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if kind, err := recognise(strings.NewReader(string(text))); (kind == nil) == (err == nil) {
			t.Errorf("%v, %v", kind, err)
		}
	})
}

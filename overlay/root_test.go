package overlay

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// home makes the directory of a container, unless it is there.
func home(t testing.TB, s *Store, id string) {
	t.Helper()
	if err := s.MakeHome(id); err != nil && err != unix.EEXIST {
		t.Fatal(err)
	}
}

func prepare(t testing.TB, s *Store, id, root string, mode engine.RootMode) *Root {
	t.Helper()
	return prepareAs(t, s, id, root, mode, nil)
}

func prepareAs(t testing.TB, s *Store, id, root string, mode engine.RootMode, ids *IDs) *Root {
	t.Helper()
	home(t, s, id)
	r, err := s.Prepare(id, Directory(root), mode, ids)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// fingerprint renders a tree with everything that would betray a change, access times excepted.
func fingerprint(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		names := make([]byte, 1024)
		n, _ := unix.Llistxattr(path, names)
		content := ""
		if d.Type().IsRegular() {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(text)
		}
		fmt.Fprintf(&b, "%s %o %d %d:%d %d %d %d %q %q\n", path, st.Mode, st.Nlink, st.Uid, st.Gid, st.Ino,
			st.Mtim.Nano(), st.Ctim.Nano(), names[:max(n, 0)], content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func testRoot(t testing.TB, dir string) string {
	return makeTree(t, dir, map[string]string{"base": "from the root", "gone": "x", "dir/file": "deep", "dir/other": "y", "proc/": "", "link": "->base"})
}

// Every mode: what a container sees, where its writes go, what the next one finds, and what happens to the root.
func TestModes(t *testing.T) {
	tests := []struct {
		mode         engine.RootMode
		kept         bool   // the second Prepare finds the writes
		through      bool   // the root has them
		flags, write string // of the mount; outcome of a write
	}{
		{mode: engine.RootOverlay, kept: true, flags: "nodev"},
		{mode: engine.RootVolatile, flags: "nodev"},
		{mode: engine.RootReadOnly, flags: "ro nodev", write: "EROFS"},
		{mode: engine.RootDirect, kept: true, through: true, flags: "nodev"},
	}
	for _, test := range tests {
		t.Run(string(test.mode), func(t *testing.T) {
			s, root := newStore(t), testRoot(t, tempDir(t))
			before := fingerprint(t, root)
			r := prepare(t, s, "c1", root, test.mode)
			expect(t, r, [][2]string{
				{"read /base", "from the root"}, {"read /link", "from the root"}, {"ls /dir", "file other"},
				{"flags /", test.flags},
				{"write /new hello", test.write}, {"write /dir/file changed", test.write}, {"rm /gone", test.write},
				{"rm /dir/other", test.write}, {"mkdir /made", test.write},
			})
			r.Close()
			want := [][2]string{{"read /new", "ENOENT"}, {"read /dir/file", "deep"}, {"read /gone", "x"}, {"ls /dir", "file other"}, {"ls /made", "ENOENT"}}
			if test.kept {
				want = [][2]string{{"read /new", "hello"}, {"read /dir/file", "changed"}, {"read /gone", "ENOENT"}, {"ls /dir", "file"}, {"ls /made", ""}}
			}
			expect(t, prepare(t, s, "c1", root, test.mode), want)
			if changed := fingerprint(t, root) != before; changed != test.through {
				t.Errorf("the root has changed: %v, want %v", changed, test.through)
			}
		})
	}
}

// Two containers of one root do not see each other's writes, and a removed one's do not come back.
func TestLayersArePrivate(t *testing.T) {
	s, root := newStore(t), testRoot(t, tempDir(t))
	expect(t, prepare(t, s, "a", root, engine.RootOverlay), [][2]string{{"write /mine a", ""}})
	expect(t, prepare(t, s, "b", root, engine.RootOverlay), [][2]string{{"read /mine", "ENOENT"}})
	if err := s.Remove("a"); err != nil {
		t.Fatal(err)
	}
	expect(t, prepare(t, s, "a", root, engine.RootOverlay), [][2]string{{"read /mine", "ENOENT"}})
	for _, dir := range []string{"containers", "trash", "host", "containers/b", Home("b")} {
		if info, err := os.Stat(filepath.Join(s.state, dir)); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: mode %v, %v: others of the host can reach layers", dir, info.Mode(), err)
		}
	}
}

func TestOddPaths(t *testing.T) {
	s, dir := newStore(t), tempDir(t)
	for _, name := range []string{"a:b", "a,b", `a\b`, `a\:b,c=d`, "a b\tc", "a\nb", "ä'\"$(x)", strings.Repeat("n", 255)} {
		root := testRoot(t, filepath.Join(dir, name))
		for mode := range modes {
			expect(t, prepare(t, s, "c", root, mode), [][2]string{{"read /base", "from the root"}})
		}
	}
}

// The root of an overlay is the root directory in owner and mode, and nothing in a root is a device.
func TestRootDirectory(t *testing.T) {
	s, root := newStore(t), testRoot(t, tempDir(t))
	if err := os.Chown(root, 1234, 5678); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root, 0o750|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	for mode := range modes {
		if mode == engine.RootReadOnly {
			continue // no node can be made, and the mount's flag is checked with the modes
		}
		expect(t, prepare(t, s, string(mode), root, mode), [][2]string{
			{"stat /", "41750 1234:5678"}, {"null /null", ""}, {"open /null", "EACCES"}, {"rm /null", ""},
		})
	}
}

// mounted gives a test a directory with a mount on it, which the test's own mount table therefore shows for a while.
func mounted(t *testing.T, dir, kind string, flags uintptr, data string) string {
	t.Helper()
	if err := unix.Mount("ctrfs-test", dir, kind, flags, data); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// Roots on other file systems, and with mounts below them.
func TestRootOnOtherFileSystems(t *testing.T) {
	s, dir := newStore(t), tempDir(t)
	memory := mounted(t, makeTree(t, dir+"/memory", map[string]string{"x/": ""}), "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "")
	testRoot(t, memory)
	lower := testRoot(t, dir+"/lower")
	work := makeTree(t, dir+"/w", map[string]string{"upper/": "", "work/": "", "merged/": ""})
	merged := mounted(t, work+"/merged", "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, work, work))
	for mode := range modes {
		flags := map[engine.RootMode]string{"ro": "ro nosuid nodev noexec"}[mode]
		if flags == "" {
			flags = "nosuid nodev noexec"
		}
		expect(t, prepare(t, s, "m", memory, mode), [][2]string{{"read /base", "from the root"}, {"flags /", flags}})
		expect(t, prepare(t, s, "o", merged, mode), [][2]string{{"read /base", "from the root"}})
	}
	makeTree(t, lower, map[string]string{"dir/sub/": "", "dir/sub/beneath": "z"})
	makeTree(t, mounted(t, lower+"/dir/sub", "tmpfs", 0, ""), map[string]string{"above": "z"})
	for mode, want := range map[engine.RootMode]string{"overlay": "beneath", "volatile": "beneath", "ro": "above", "rw": "above"} {
		expect(t, prepare(t, s, "s", lower, mode), [][2]string{{"ls /dir/sub", want}})
	}
	expect(t, prepare(t, s, "s", lower, engine.RootReadOnly), [][2]string{{"write /dir/sub/above x", "EROFS"}, {"flags /dir/sub", "ro nodev"}})
}

// The whole host as a root: the layer is below its own lower directory then.
func TestRootIsTheHost(t *testing.T) {
	s := newStore(t)
	expect(t, prepare(t, s, "c", "/", engine.RootReadOnly), [][2]string{{"writable /", "EROFS"}, {"writable /usr", "EROFS"}})
	for _, mode := range []engine.RootMode{"overlay", "volatile"} {
		if got := in(t, prepare(t, s, "c", "/", mode), "layered /")[0]; got != "true" {
			t.Fatalf("%s: a write would reach the host", mode)
		}
		expect(t, prepare(t, s, "c", "/", mode), [][2]string{{"write /ctrfs-test-file x", ""}, {"read /ctrfs-test-file", "x"}})
	}
	if _, err := os.Lstat("/ctrfs-test-file"); err == nil {
		os.Remove("/ctrfs-test-file")
		t.Error("a write has reached the host")
	}
}

// A mount made in a container stays there, also where the host's mounts are shared; and a container does not read the
// host's paths.
func TestNothingTravels(t *testing.T) {
	s, dir := newStore(t), tempDir(t)
	root := mounted(t, makeTree(t, dir+"/shared", map[string]string{"x/": ""}), "tmpfs", 0, "")
	if err := unix.Mount("", root, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	testRoot(t, root)
	before := mountTable()
	for mode := range modes {
		got := in(t, prepare(t, s, "c", root, mode), "mounts")[0]
		if strings.Contains(got, "shared:") || strings.Contains(got, "master:") || !strings.Contains(got, " /proc ") {
			t.Errorf("%s: mounts travel:\n%s", mode, got)
		}
		if (mode == "overlay" || mode == "volatile") && strings.Contains(got, dir) {
			t.Errorf("%s: the container reads the host's paths:\n%s", mode, got)
		}
	}
	if after := mountTable(); after != before {
		t.Errorf("the host's mount table has changed:\n%s", after)
	}
}

// Kernels that refuse layers on detached mounts are served through a private namespace. The way works on all kernels.
func TestAttachedLayers(t *testing.T) {
	s, root := newStore(t), testRoot(t, tempDir(t))
	s.attach.Store(true)
	// As systemd has it: what is mounted in a copy of this namespace would be mounted here too.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	before := mountTable()
	r := prepare(t, s, "c", root, engine.RootVolatile)
	if after := mountTable(); after != before {
		t.Errorf("the host's mount table has changed:\n%s", after)
	}
	expect(t, r, [][2]string{{"write /base x", ""}, {"read /base", "x"}, {"flags /", "nodev"}})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if r, err := s.Prepare("c", Directory(root), engine.RootVolatile, nil); err != nil {
				t.Error(err)
			} else {
				r.Close()
			}
		})
	}
	wg.Wait()
}

func TestPrepareErrors(t *testing.T) {
	s, dir := newStore(t), tempDir(t)
	makeTree(t, dir, map[string]string{"file": "", "root/": ""})
	tests := []struct {
		id, root string
		mode     engine.RootMode
		want     syscall.Errno
	}{
		{"c", dir + "/none", "overlay", syscall.ENOENT},
		{"c", dir + "/file", "ro", syscall.EINVAL},
		{"c", dir + "/root", "sideways", syscall.EINVAL},
		{"../c", dir + "/root", "overlay", syscall.EINVAL},
		{"", dir + "/root", "overlay", syscall.EINVAL},
		{".c", dir + "/root", "overlay", syscall.EINVAL},
		{strings.Repeat("c", 256), dir + "/root", "overlay", syscall.EINVAL},
		{"c", engine.RootHost, "rw", syscall.EINVAL},
		{"c", "/proc", "overlay", syscall.EINVAL}, // the kernel's refusal
	}
	home(t, s, "c")
	for _, test := range tests {
		r, err := s.Prepare(test.id, Directory(test.root), test.mode, nil)
		if err == nil {
			r.Close()
		}
		if engine.Errno(err) != test.want {
			t.Errorf("Prepare(%q, %q, %q) = %v, want %v", test.id, test.root, test.mode, err, test.want)
		}
	}
	if err := s.Remove("../x"); engine.Errno(err) != syscall.EINVAL {
		t.Errorf("Remove of a path: %v", err)
	}
}

// A layer that cannot be written to is an error, not an overlay that is silently read-only.
func TestReadOnlyState(t *testing.T) {
	s, root := newStore(t), testRoot(t, tempDir(t))
	prepare(t, s, "c", root, engine.RootOverlay).Close()
	if err := unix.Mount(s.state, s.state, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(s.state, unix.MNT_DETACH)
	if err := unix.Mount("", s.state, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	ro := &Store{state: s.state, trash: s.trash, host: s.host}
	var err error
	if ro.homes, err = openat(nil, s.state+"/containers", unix.O_DIRECTORY); err != nil {
		t.Fatal(err)
	}
	defer ro.homes.Close()
	if _, err := ro.Prepare("c", Directory(root), engine.RootOverlay, nil); engine.Errno(err) != syscall.EROFS {
		t.Errorf("Prepare = %v, want EROFS", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	s, root := newStore(t), testRoot(t, tempDir(t))
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			id, from := fmt.Sprint("c", i), []string{root, engine.RootHost}[i%2]
			for range 5 {
				home(t, s, id)
				r, err := s.Prepare(id, Directory(from), []engine.RootMode{"overlay", "volatile", "ro"}[i%3], nil)
				if err != nil {
					t.Error(err)
					return
				}
				r.Close()
				if err := s.Remove(id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// The plan is told without a look at the root, and it is what Prepare does.
func TestDescribe(t *testing.T) {
	s, root := newStore(t), testRoot(t, tempDir(t))
	for _, from := range []string{root, engine.RootHost} {
		r := prepare(t, s, "c", from, engine.RootOverlay)
		said, err := s.Describe("c", Directory(from), engine.RootOverlay)
		if err != nil || !slices.EqualFunc(said, r.Mounts, func(a, b Mount) bool { return a.Target == b.Target && a.Text == b.Text }) {
			t.Errorf("described %+v, %v; made %+v", said, err, r.Mounts)
		}
	}
	said, err := s.Describe("7", Directory("/srv/debian"), engine.RootOverlay)
	if want := "overlay lower=/srv/debian upper=" + s.state + "/containers/7/7/upper nodev"; err != nil || said[0].Text != want {
		t.Errorf("got %+v, %v; want %q", said, err, want)
	}
}

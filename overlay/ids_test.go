package overlay

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// The ids of the tests' containers on the host. Those of groups differ from those of users, so that one cannot be taken
// for the other.
const (
	guestUID = 100000
	guestGID = 300000
)

var (
	guestUIDs = []syscall.SysProcIDMap{{ContainerID: 0, HostID: guestUID, Size: 65536}}
	guestGIDs = []syscall.SysProcIDMap{{ContainerID: 0, HostID: guestGID, Size: 65536}}
)

func guestIDs(t testing.TB) *IDs {
	t.Helper()
	needRoot(t)
	return &IDs{Userns: userNamespace(t, guestUIDs, guestGIDs), UID: guestUID, GID: guestGID}
}

// expectAs is expect in a user namespace with the ids of the tests' containers.
func expectAs(t testing.TB, r *Root, script [][2]string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: guestUIDs, GidMappings: guestGIDs,
		GidMappingsEnableSetgroups: true, Credential: &syscall.Credential{}}
	// The child is nobody to the host, and the root is attached below here.
	if err := os.Chmod(filepath.Dir(t.TempDir()), 0o711); err != nil {
		t.Fatal(err)
	}
	var ops []string
	for _, line := range script {
		ops = append(ops, line[0])
	}
	compare(t, script, inWith(t, r, cmd, ops))
}

// owners renders the owners on disk of names in dir; a name that is not there is left out.
func owners(t testing.TB, dir string, names ...string) string {
	t.Helper()
	var out []string
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err == nil {
			out = append(out, fmt.Sprintf("%s %o %d:%d", name, st.Mode, st.Uid, st.Gid))
		}
	}
	return strings.Join(out, ", ")
}

// ownedRoot is a root with files of several users.
func ownedRoot(t testing.TB) string {
	t.Helper()
	root := testRoot(t, tempDir(t))
	makeTree(t, root, map[string]string{"user": "u", "attr": "a", "one": "l", "beyond": "b", "open/": "", "closed": "c"})
	err := errors.Join(os.Chown(root+"/user", 1000, 1001), os.Link(root+"/one", root+"/other"), os.Chown(root+"/beyond", 70000, 70000),
		unix.Setxattr(root+"/attr", "user.test", []byte("old"), 0), os.Chmod(root+"/open", 0o777|os.ModeSticky), os.Chmod(root+"/closed", 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// addPrograms adds set-user-ID programs of two users to a root, and returns what they say of who runs them, for users
// who are none of the two; mapped tells whether the container has these users. The program is the test binary, so there
// are none where that is linked to libraries which the root lacks, as with the race detector.
func addPrograms(t testing.TB, root string, mapped bool) [][2]string {
	t.Helper()
	self, err := elf.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	if slices.ContainsFunc(self.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Log("the test binary is not static: set-user-ID programs are not tried")
		return nil
	}
	program, err := os.ReadFile("/proc/self/exe")
	for name, owner := range map[string]int{"/su": 0, "/su1000": 1000} {
		if err == nil {
			err = errors.Join(os.WriteFile(root+name, program, 0o755), os.Chown(root+name, owner, owner), unix.Chmod(root+name, 0o4755))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if mapped {
		return [][2]string{{"euid-as 7 /su", "0"}, {"euid-as 5 /su1000", "1000"}}
	}
	return [][2]string{{"euid-as 7 /su", "7"}, {"euid-as 5 /su1000", "5"}}
}

// In a user namespace a root looks as it does without, whatever its mode, and what is written has the ids on disk that
// the container sees.
func TestModesInUserNamespace(t *testing.T) {
	const written = "new 100644 0:0, mine 100644 1000:1000, user 100644 7:8, one 104755 1000:1000, base 100644 0:0"
	tests := []struct {
		mode    engine.RootMode
		write   string // outcome
		onDisk  func(s *Store, root string) string
		through bool
	}{
		{mode: "overlay", onDisk: func(s *Store, _ string) string { return s.layerPath("c") + "/upper" }},
		{mode: "volatile"},
		{mode: "ro", write: "EROFS"},
		{mode: "rw", onDisk: func(_ *Store, root string) string { return root }, through: true},
	}
	for _, test := range tests {
		t.Run(string(test.mode), func(t *testing.T) {
			s, root, ids := newStore(t), ownedRoot(t), guestIDs(t)
			programs := addPrograms(t, root, true)
			before := fingerprint(t, root)
			other := map[bool]string{true: "linked", false: "l"}[test.through] // overlayfs copies one name of a file up
			script := [][2]string{
				{"stat /", "40755 0:0"}, {"stat /base", "100644 0:0"}, {"stat /user", "100644 1000:1001"}, {"stat /beyond", "100644 65534:65534"},
				{"read /closed", "c"}, {"as 1000 read /closed", "EACCES"},
				{"attr /attr", "old"},
				{"write /new hello", test.write}, {"as 1000 write /open/mine m", test.write}, {"chown /user 7 8", test.write}, {"write /base changed", test.write},
				{"rm /gone", test.write}, {"rm /dir", test.write}, {"write /one linked", test.write}, {"link /one /third", test.write}, {"setattr /attr new", test.write},
				{"chown /one 1000 1000", test.write}, {"setid /one", test.write}, {"mkdir /made", test.write},
			}
			if test.write == "" {
				script = append(script, [][2]string{{"stat /new", "100644 0:0"}, {"stat /open/mine", "100644 1000:1000"}, {"stat /user", "100644 7:8"},
					{"read /base", "changed"}, {"stat /one", "104755 1000:1000"}, {"read /other", other}, {"read /third", "linked"}, {"attr /attr", "new"},
					{"read /gone", "ENOENT"}, {"ls /dir", "ENOENT"}, {"null /null", "EPERM"}, {"chown /new 70000 0", "EINVAL"}}...)
			}
			r := prepareAs(t, s, "c", root, test.mode, ids)
			expectAs(t, r, append(script, programs...))
			r.Close()
			if test.onDisk != nil {
				dir := test.onDisk(s, root)
				if got := owners(t, dir, "new", "user", "one", "base"); got != strings.Replace(written, "mine 100644 1000:1000, ", "", 1) {
					t.Errorf("on disk: %s", got)
				}
				if got := owners(t, dir+"/open", "mine"); got != "mine 100644 1000:1000" {
					t.Errorf("on disk: %s", got)
				}
				// And so another range of ids, or none, shows the same.
				expect(t, prepare(t, s, "c", root, test.mode), [][2]string{{"stat /new", "100644 0:0"}, {"stat /user", "100644 7:8"},
					{"read /gone", "ENOENT"}, {"stat /beyond", "100644 70000:70000"}})
			}
			if changed := fingerprint(t, root) != before; changed != test.through {
				t.Errorf("the root has changed: %v, want %v", changed, test.through)
			}
		})
	}
}

// A layer that was made without a user namespace is used with one, and everything in a layer belongs to ids of the
// container, what overlayfs makes for itself included.
func TestLayerOwners(t *testing.T) {
	s, root, ids := newStore(t), ownedRoot(t), guestIDs(t)
	if err := os.Chown(root, 12, 34); err != nil {
		t.Fatal(err)
	}
	expect(t, prepare(t, s, "c", root, "overlay"), [][2]string{{"write /early x", ""}, {"chown /early 5 6", ""}, {"rm /gone", ""}})
	r := prepareAs(t, s, "c", root, "overlay", ids)
	expectAs(t, r, [][2]string{{"stat /", "40755 12:34"}, {"stat /early", "100644 5:6"}, {"read /gone", "ENOENT"}, {"rm /base", ""},
		{"rm /dir/file", ""}, {"write /late x", ""}})
	r.Close()
	expectAs(t, prepareAs(t, s, "v", root, "volatile", ids), [][2]string{{"stat /", "40755 12:34"}, {"write /dir/file x", ""}})
	layer := s.layerPath("c")
	if got := owners(t, layer, "upper", "work"); got != "upper 40755 12:34, work 40700 0:0" {
		t.Error(got)
	}
	for _, name := range []string{"upper/base", "upper/dir/file", "work/work", "upper/late"} {
		if got := owners(t, layer, name); !strings.HasSuffix(got, " 0:0") {
			t.Errorf("%s: %q, not root's", name, got)
		}
	}
}

// The root called host, as its own user namespace sees it.
func TestRootHostInUserNamespace(t *testing.T) {
	s, ids := newStore(t), guestIDs(t)
	for _, mode := range []engine.RootMode{"overlay", "volatile", "ro"} {
		t.Run(string(mode), func(t *testing.T) {
			write := map[engine.RootMode]string{"ro": "EROFS"}[mode]
			expectAs(t, prepareAs(t, s, "h", engine.RootHost, mode, ids), [][2]string{
				{"sh id -u", "0"}, {"stat /", "40755 0:0"}, {"stat /usr", owners(t, "/", "usr")[len("usr "):]}, {"flags /usr", "ro nodev"},
				{"writable /usr", "EROFS"}, {"stat /etc/passwd", "100644 0:0"}, {"stat /root", "40700 0:0"}, {"ls /root", ""},
				{"write /etc/mine x", write}, {"as 1000 write /tmp/mine x", write}, {"as 1000 write /etc/yours x", map[string]string{"": "EACCES", "EROFS": "EROFS"}[write]},
			})
		})
	}
	if got := owners(t, s.layerPath("h")+"/upper", "etc/mine", "tmp/mine"); got != "etc/mine 100644 0:0, tmp/mine 100644 1000:1000" {
		t.Error(got)
	}
}

// Without an idmap nothing of a root belongs to the container's root: what the other tests see is not there by itself.
func TestUnmappedRoot(t *testing.T) {
	s, root := newStore(t), ownedRoot(t)
	programs := addPrograms(t, root, false)
	expectAs(t, prepare(t, s, "c", root, "overlay"), append(programs, [][2]string{
		{"stat /base", "100644 65534:65534"}, {"read /closed", "EACCES"}, {"write /new x", "EACCES"},
	}...))
}

// What is mounted below a root is idmapped with it, left out when it is the kernel's, and an error when it cannot be
// idmapped and holds files. So is a root that cannot.
func TestWhatCannotBeMapped(t *testing.T) {
	s, ids, dir := newStore(t), guestIDs(t), tempDir(t)
	root := testRoot(t, dir+"/root with space")
	makeTree(t, root, map[string]string{"a/": "", "proc/": "", "b/p/": "", "b/p/beneath": "x", "b/d/": ""})
	memory := mounted(t, root+"/a", "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755")
	makeTree(t, memory, map[string]string{"closed": "c", "q/": ""})
	if err := errors.Join(os.Chmod(memory+"/closed", 0o600), os.Chown(memory+"/closed", 3, 4)); err != nil {
		t.Fatal(err)
	}
	mounted(t, root+"/proc", "proc", 0, "")
	mounted(t, root+"/b/p", "proc", 0, "")
	mounted(t, memory+"/q", "sysfs", 0, "")
	before := mountTable()
	for mode, write := range map[engine.RootMode]string{"ro": "EROFS", "rw": ""} {
		expectAs(t, prepareAs(t, s, "c", root, mode, ids), [][2]string{
			{"stat /a/closed", "100600 3:4"}, {"ls /a", "closed q"}, {"ls /proc", ""}, {"ls /b/p", "beneath"}, {"ls /a/q", ""},
			{"flags /a", strings.TrimSpace(map[string]string{"EROFS": "ro"}[write] + " nosuid nodev noexec")}, {"write /a/new x", write}, {"rm /a/new", write},
		})
	}
	// The overlay modes do not look at mounts below.
	expectAs(t, prepareAs(t, s, "c", root, "overlay", ids), [][2]string{{"ls /a", ""}})
	if after := mountTable(); after != before {
		t.Errorf("the host's mount table has changed:\n%s", after)
	}
	work := makeTree(t, dir+"/w", map[string]string{"upper/": "", "work/": "", "lower/": ""})
	merged := mounted(t, root+"/b/d", "overlay", 0, fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", work, work, work))
	for _, test := range []struct {
		root string
		mode engine.RootMode
		says string
	}{
		{root, "ro", "overlay at " + merged}, {root, "rw", "overlay at " + merged}, {merged, "overlay", "overlay at " + merged},
		{merged, "volatile", "overlay at " + merged}, {merged, "ro", "overlay at " + merged}, {merged, "rw", "overlay at " + merged},
		{"/proc", "ro", "proc at /proc"}, {"/proc/sys", "rw", "proc at /proc/sys"}, {"/proc", "volatile", "proc at /proc"},
	} {
		r, err := s.Prepare("c", Directory(test.root), test.mode, ids)
		if err == nil {
			r.Close()
		}
		if engine.Errno(err) != syscall.EOPNOTSUPP || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "echo 'user host' > namespaces") {
			t.Errorf("Prepare(%s, %s) = %v, want EOPNOTSUPP that says %q", test.root, test.mode, err, test.says)
		}
	}
	// Without a user namespace, all of them are as they were.
	expect(t, prepare(t, s, "c", root, "ro"), [][2]string{{"ls /b/d", ""}, {"stat /a/closed", "100600 3:4"}})
}

// ctrfs's own mount is left out of a root that it lies below, and nobody asks its server, which is the one who asks.
func TestOwnMountLeftOut(t *testing.T) {
	s, ids, dir := newStore(t), guestIDs(t), tempDir(t)
	makeTree(t, dir, map[string]string{"mnt/": ""})
	dev, closer, err := mountSilent(dir + "/mnt")
	if err != nil {
		t.Skip("no FUSE here:", err)
	}
	defer unix.Unmount(dir+"/mnt", unix.MNT_DETACH)
	defer closer.Close()
	// Nobody serves it: without the hint it is a file system as any other, with it it goes.
	if _, err := s.Prepare("c", Directory(dir), "ro", ids); engine.Errno(err) != syscall.EOPNOTSUPP || !strings.Contains(err.Error(), "fuse at "+dir+"/mnt") {
		t.Errorf("Prepare = %v", err)
	}
	s.Forbid(dir+"/mnt", dev)
	expectAs(t, prepareAs(t, s, "c", dir, "ro", ids), [][2]string{{"ls /mnt", ""}})
}

// An administrator's own idmapped mount is not mapped a second time.
func TestMappedTwice(t *testing.T) {
	s, ids, root := newStore(t), guestIDs(t), ownedRoot(t)
	tree, err := clone(nil, root, true, 0, ids)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, root, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(root, unix.MNT_DETACH)
	home(t, s, "c")
	for mode := range modes {
		r, err := s.Prepare("c", Directory(root), mode, ids)
		if err == nil {
			r.Close()
		}
		if engine.Errno(err) != syscall.EOPNOTSUPP || !strings.Contains(err.Error(), "other ids already") {
			t.Errorf("%s: %v", mode, err)
		}
	}
}

// Kernels that refuse layers on detached mounts are served through a private namespace, with ids as without.
func TestAttachedLayersInUserNamespace(t *testing.T) {
	s, root, ids := newStore(t), ownedRoot(t), guestIDs(t)
	s.attach.Store(true)
	before := mountTable()
	for _, mode := range []engine.RootMode{"overlay", "volatile"} {
		expectAs(t, prepareAs(t, s, "c", root, mode, ids), [][2]string{{"write /base x", ""}, {"stat /base", "100644 0:0"}, {"stat /user", "100644 1000:1001"}})
	}
	if after := mountTable(); after != before {
		t.Errorf("the host's mount table has changed:\n%s", after)
	}
	if got := owners(t, s.layerPath("c")+"/upper", "base"); got != "base 100644 0:0" {
		t.Error(got)
	}
}

// threadStates lists what the threads of this process may do; one line when all may do the same.
func threadStates(t testing.TB) []string {
	t.Helper()
	files, _ := filepath.Glob("/proc/self/task/*/status")
	var states []string
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		var state []string
		for line := range strings.Lines(string(text)) {
			if key, _, _ := strings.Cut(line, ":"); slices.Contains([]string{"Uid", "Gid", "CapEff", "CapPrm"}, key) {
				state = append(state, strings.Join(strings.Fields(line), " "))
			}
		}
		states = append(states, strings.Join(state, " "))
	}
	slices.Sort(states)
	return slices.Compact(states)
}

// No thread keeps the ids, nor loses a right, whatever happens meanwhile.
func TestThreadsAreRestored(t *testing.T) {
	ids, before := guestIDs(t), threadStates(t)
	if len(before) != 1 {
		t.Fatalf("threads differ to begin with: %q", before)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_, err := ids.as(func() (*os.File, error) {
				var now threadIDs
				if err := now.get(); err != nil || now.uid != guestUID || now.gid != guestGID {
					t.Errorf("inside: %+v, %v", now, err)
				}
				runtime.Gosched()
				return nil, syscall.EDOM
			})
			if err != syscall.EDOM {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	if after := threadStates(t); !slices.Equal(after, before) {
		t.Errorf("threads are %q, were %q", after, before)
	}
}

func TestManyAtOnceInUserNamespaces(t *testing.T) {
	s, root, before := newStore(t), ownedRoot(t), threadStates(t)
	print := fingerprint(t, root)
	both := []*IDs{guestIDs(t), nil}
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			id, from := fmt.Sprint("c", i), []string{root, engine.RootHost}[i%2]
			for range 5 {
				home(t, s, id)
				r, err := s.Prepare(id, Directory(from), []engine.RootMode{"overlay", "volatile", "ro"}[i%3], both[i/2%2])
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
	if after := threadStates(t); !slices.Equal(after, before) {
		t.Errorf("threads are %q, were %q", after, before)
	}
	if fingerprint(t, root) != print {
		t.Error("the root has changed")
	}
}

func TestParseMountLine(t *testing.T) {
	for line, want := range map[string]mountLine{
		`36 35 98:0 /mnt1 /mnt\0402\134x rw,noatime master:1 - ext3 /dev/root rw`: {id: 36, dev: unix.Mkdev(98, 0), path: `/mnt 2\x`, kind: "ext3"},
		`27 1 254:0 / / rw - ext4 /dev/vda rw`:                                    {id: 27, dev: unix.Mkdev(254, 0), path: "/", kind: "ext4"},
		``:                                                                        {},
		`x y z`:                                                                   {},
	} {
		if got := parseMountLine(line); got != want {
			t.Errorf("%q: got %+v, want %+v", line, got, want)
		}
	}
}

func FuzzParseMountLine(f *testing.F) {
	f.Add(`36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`)
	f.Add(" - ")
	f.Fuzz(func(t *testing.T, line string) { parseMountLine(line) })
}

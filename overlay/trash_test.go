package overlay

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// fill makes a layer by hand and returns its upper directory.
func fill(t testing.TB, s *Store, id string) string {
	t.Helper()
	return makeTree(t, filepath.Join(s.state, Home(id), "upper"), map[string]string{"a": "x"})
}

func inDir(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func flushed(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Flush(t.Context()); err != nil {
		t.Errorf("flush: %v", err)
	}
	if left := inDir(t, s.state+"/trash"); len(left) > 0 {
		t.Errorf("the trash still holds %v", left)
	}
}

// A removal is a rename, however much there is to delete.
func TestRemoveIsQuick(t *testing.T) {
	s := newStore(t)
	upper := fill(t, s, "c")
	for i := range 100 {
		files := map[string]string{}
		for j := range 100 {
			files[fmt.Sprintf("d%d/f%d", i, j)] = ""
		}
		makeTree(t, upper, files)
	}
	begin := time.Now()
	if err := s.Remove("c"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 50*time.Millisecond {
		t.Errorf("Remove of 10000 files took %v", took)
	}
	if left, err := s.List(); len(left) > 0 || err != nil {
		t.Errorf("containers still holds %v, %v", left, err)
	}
	flushed(t, s)
	if err := s.Remove("c"); err != nil {
		t.Errorf("Remove of what is gone: %v", err)
	}
}

// Whatever a container has left in its layer goes, and nothing else does.
func TestRemoveOddTrees(t *testing.T) {
	s, outside := newStore(t), makeTree(t, tempDir(t), map[string]string{"dir/file": "canary"})
	before := fingerprint(t, outside)
	upper := fill(t, s, "c")
	// Should the deletion fail, the flags are in the way of the test's own cleaning up.
	t.Cleanup(func() {
		filepath.WalkDir(s.state, func(path string, d os.DirEntry, err error) error {
			if err == nil && (d.IsDir() || d.Type().IsRegular()) {
				setInodeFlags(path, 0)
			}
			return nil
		})
	})
	makeTree(t, upper, map[string]string{
		"to-dir": "->" + outside + "/dir", "to-file": "->" + outside + "/dir/file", "up": "->../../../..",
		"closed/file": "x", "kept/frozen/file": "x", "kept/appending/file": "x", "-rf": "x", "new\nline": "x",
	})
	for _, err := range []error{
		unix.Mkfifo(upper+"/fifo", 0o600),
		unix.Mknod(upper+"/null", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))),
		unix.Mknod(upper+"/no-such-disk", unix.S_IFBLK|0o600, int(unix.Mkdev(250, 99))),
		unix.Mknod(upper+"/socket", unix.S_IFSOCK|0o600, 0),
		os.Chmod(upper+"/closed", 0),
		setInodeFlags(upper+"/kept/frozen/file", 0x10),
		setInodeFlags(upper+"/kept/frozen", 0x10),
		setInodeFlags(upper+"/kept/appending", 0x20),
		setInodeFlags(upper+"/kept", 0x10),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Remove("c"); err != nil {
		t.Fatal(err)
	}
	flushed(t, s)
	if after := fingerprint(t, outside); after != before {
		t.Errorf("what links lead to has changed:\n%s\n%s", before, after)
	}
}

func setInodeFlags(path string, flags int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetPointerInt(int(f.Fd()), setFlags, flags)
}

// A tree deeper than any path and than there are descriptors costs neither.
func TestRemoveDeepTree(t *testing.T) {
	s := newStore(t)
	at, err := openat(nil, fill(t, s, "c"), unix.O_PATH)
	if err != nil {
		t.Fatal(err)
	}
	for range 3000 {
		next, err := mkdirat(at, "deep", 0o700)
		at.Close()
		if err != nil {
			t.Fatal(err)
		}
		at = next
	}
	at.Close()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	low := unix.Rlimit{Cur: 64, Max: old.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	if err := s.Remove("c"); err != nil {
		t.Fatal(err)
	}
	flushed(t, s)
}

// What a process did not get to delete, the next one does; what cannot be deleted is told and does not keep it busy.
func TestTrashSurvivesACrash(t *testing.T) {
	needRoot(t)
	state := filepath.Join(tempDir(t), "state")
	makeTree(t, state, map[string]string{"trash/1/a/b/c": "x", "trash/2": "x", "trash/3/": "", "host/an-earlier-boot/etc/passwd": "x", "host/new/etc/": ""})
	s, err := Open(state)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	flushed(t, s)
	if left := inDir(t, state+"/host"); len(left) > 0 {
		t.Errorf("host still holds %v", left)
	}
	fill(t, s, "stuck")
	mounted(t, makeTree(t, state+"/"+Home("stuck")+"/upper/mnt", map[string]string{"x/": ""})+"/x", "tmpfs", 0, "")
	fill(t, s, "free")
	for _, id := range []string{"stuck", "free"} {
		if err := s.Remove(id); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(t.Context()); engine.Errno(err) != unix.EBUSY {
		t.Errorf("Flush with a mount in the trash = %v, want EBUSY", err)
	}
	if left := inDir(t, state+"/trash"); len(left) != 1 {
		t.Errorf("the trash holds %v, want one directory", left)
	}
	// The rename has taken the mount along, so it is unmounted where it is now.
	for line := range strings.Lines(mountTable()) {
		if path := strings.Fields(line)[4]; strings.HasPrefix(path, state) {
			if err := unix.Unmount(path, 0); err != nil {
				t.Error(err)
			}
		}
	}
}

// Close does not wait for the trash, and Flush can be called off.
func TestCloseInterruptsDeletion(t *testing.T) {
	needRoot(t)
	state := filepath.Join(tempDir(t), "state")
	s, err := Open(state)
	if err != nil {
		t.Fatal(err)
	}
	// In one directory, that it is the deletion of one entry which has to be interrupted; links, as they are quickly made.
	dir := makeTree(t, state+"/"+Home("c"), map[string]string{"0": ""})
	one, err := os.Open(dir + "/0")
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	const links = 20000
	for i := range links {
		if err := os.Link(dir+"/0", fmt.Sprint(dir, "/link", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Remove("c"); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	for unix.Fstat(int(one.Fd()), &st) == nil && st.Nlink > links {
		time.Sleep(100 * time.Microsecond) // until it has begun
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Flush(ctx); err != nil && err != context.Canceled {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if len(inDir(t, state+"/trash")) == 0 {
		t.Error("Close has waited for the deletion")
	}
	if s, err = Open(state); err != nil {
		t.Fatal(err)
	}
	flushed(t, s)
	s.Close()
}

// A discarded layer leaves the container's other files alone, and the next one is empty.
func TestDiscard(t *testing.T) {
	s, root := newStore(t), testRoot(t, tempDir(t))
	if err := s.Discard("c"); err != nil {
		t.Errorf("of a container that is not there: %v", err)
	}
	expect(t, prepare(t, s, "c", root, engine.RootOverlay), [][2]string{{"write /mine a", ""}})
	makeTree(t, filepath.Join(s.state, Home("c")), map[string]string{"record": "r"})
	if err := s.Discard("c"); err != nil {
		t.Fatal(err)
	}
	if left := inDir(t, filepath.Join(s.state, Home("c"))); !slices.Equal(left, []string{"record"}) {
		t.Errorf("its directory holds %v, want record", left)
	}
	expect(t, prepare(t, s, "c", root, engine.RootOverlay), [][2]string{{"read /mine", "ENOENT"}})
}

func TestReconcile(t *testing.T) {
	s := newStore(t)
	for _, id := range []string{"1", "2", "3"} {
		fill(t, s, id)
	}
	if err := s.Reconcile(func(id string) bool { return id == "2" }); err != nil {
		t.Fatal(err)
	}
	if left, err := s.List(); !slices.Equal(left, []string{"2"}) || err != nil {
		t.Errorf("containers holds %v, want 2; %v", left, err)
	}
	flushed(t, s)
}

// A crash between any two steps of making a layer leaves one that the next Prepare completes.
func TestHalfMadeLayer(t *testing.T) {
	s, root := newStore(t), testRoot(t, tempDir(t))
	if err := os.Chmod(root, 0o711); err != nil {
		t.Fatal(err)
	}
	for i, half := range []string{"", "/upper"} {
		id := fmt.Sprint(i)
		if err := os.MkdirAll(s.state+"/"+Home(id)+half, 0o700); err != nil {
			t.Fatal(err)
		}
		expect(t, prepare(t, s, id, root, engine.RootOverlay), [][2]string{{"stat /", "40711 0:0"}, {"write /x y", ""}})
	}
}

func TestOpenRefusesALinkInItsPlace(t *testing.T) {
	needRoot(t)
	// The bait is the test's own: were the link followed, what it leads to would be made 0700.
	bait := makeTree(t, tempDir(t), map[string]string{"file": "x"})
	before := fingerprint(t, bait)
	state := makeTree(t, tempDir(t), map[string]string{"containers": "->" + bait})
	if s, err := Open(state); err == nil {
		s.Close()
		t.Error("Open has followed a link")
	}
	if fingerprint(t, bait) != before {
		t.Error("what the link leads to has changed")
	}
}

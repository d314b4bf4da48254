package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// packed packs a directory.
func packed(t testing.TB, dir string) []byte {
	t.Helper()
	top, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	var b bytes.Buffer
	if err := Pack(t.Context(), top, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sample makes a layer with all that one can have.
func sample(t *testing.T) string {
	t.Helper()
	rights := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	attr := func(mode int64, uid int, xattrs ...string) func(h *tar.Header) {
		return func(h *tar.Header) {
			h.Mode, h.Uid, h.Gid, h.PAXRecords = mode, uid, uid, map[string]string{}
			for i := 0; i < len(xattrs); i += 2 {
				h.PAXRecords[paxXattr+xattrs[i]] = xattrs[i+1]
			}
		}
	}
	layer, _, _, err := unpacked(t, tarOf(t, dir("./").with(attr(0o711, 5)), dir("d").with(attr(0o3775, 33, "user.x", "\x00\x01")), file("d/.wh..wh..opq", ""),
		file("d/a", "1").with(attr(0o4755, 1000, capability, rights, "user.y", "z")), hard("b", "d/a"), hard("d/c", "d/a"), sym("l", "/etc/passwd").with(attr(0o777, 7)),
		hard("l2", "l"), fifo("p").with(attr(0o640, 9)), file("d/.wh.x", ""), file(".wh.y", ""), file(strings.Repeat("long/", 60)+"ü\xff", "2"),
		file("holes", "x"+strings.Repeat("\x00", 4<<20)+"y"), file("empty", ""), file(strings.Repeat("n", 200), "")))
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

// TestPack: what is packed and unpacked again is what it was, and the same bytes each time.
func TestPack(t *testing.T) {
	needRoot(t)
	layer := sample(t)
	b := packed(t, layer)
	if again := packed(t, layer); !bytes.Equal(b, again) {
		t.Error("it is packed in another way each time")
	}
	second, _, r, err := unpacked(t, b)
	if err != nil || !r.Exact || len(r.Notes) > 0 {
		t.Fatal(r, err)
	}
	same(t, "the layer", show(t, second, ""), show(t, layer, ""))
	if !bytes.Equal(packed(t, second), b) {
		t.Error("the copy is packed in another way")
	}
	var names []string
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		names = append(names, h.Name)
		for record := range h.PAXRecords {
			if strings.Contains(record, "overlay") {
				t.Errorf("%s has %s", h.Name, record)
			}
		}
	}
	for _, want := range []string{"./", ".wh.y", "d/", "d/.wh..wh..opq", "d/.wh.x"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is missing among %q", want, names)
		}
	}
}

// TestPackRefuses: what no layer can hold, and what changes meanwhile.
func TestPackRefuses(t *testing.T) {
	needRoot(t)
	tmp := t.TempDir()
	top, _ := os.Open(tmp)
	defer top.Close()
	os.WriteFile(filepath.Join(tmp, ".wh.x"), nil, 0o600)
	wantErrno(t, "a name of a whiteout", Pack(background, top, io.Discard), syscall.EINVAL, ".wh.x")
	os.Remove(filepath.Join(tmp, ".wh.x"))
	at, err := unix.Dup(int(top.Fd()))
	for i := 0; i < 20 && err == nil; i++ { // further than any path
		name, before := strings.Repeat("d", 250), at
		if err = unix.Mkdirat(before, name, 0o755); err == nil {
			at, err = unix.Openat(before, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		}
		unix.Close(before)
	}
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(at)
	if err := Pack(background, top, io.Discard); !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("a path that is too long: %v", err)
	}
}

// inOverlay does what it is told with an overlay over layers, the lowest last, in a mount namespace that ends with it.
func inOverlay(t *testing.T, layers []string, do func(merged string)) {
	t.Helper()
	merged := filepath.Join(t.TempDir(), "merged")
	os.Mkdir(merged, 0o755)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // it ends with the goroutine
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = unix.Mount("overlay", merged, "overlay", 0, "lowerdir="+strings.Join(layers, ":"))
		}
		if err == nil {
			do(merged)
			err = unix.Unmount(merged, unix.MNT_DETACH)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestOverlay: whiteouts and opaque directories are what overlayfs takes for such.
func TestOverlay(t *testing.T) {
	needRoot(t)
	lower, _, _, err := unpacked(t, tarOf(t, file("a/old", ""), file("b/old", ""), file("c/old", ""), file("d/old", ""), file("e", ""), file("f/old", ""), file("f/keep", "")))
	if err != nil {
		t.Fatal(err)
	}
	upper, _, _, err := unpacked(t, tarOf(t, file("a/new", ""), file("b/.wh..wh..opq", ""), file("b/new", ""), file(".wh.c", ""), file(".wh.d", ""), file("d/new", ""),
		file(".wh.e", ""), file("f/.wh.old", "")))
	if err != nil {
		t.Fatal(err)
	}
	again, _, _, err := unpacked(t, packed(t, upper))
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range []string{upper, again} {
		inOverlay(t, []string{layer, lower}, func(merged string) {
			var names []string
			filepath.Walk(merged, func(path string, info os.FileInfo, err error) error {
				if err == nil && info.Mode().IsRegular() {
					name, _ := filepath.Rel(merged, path)
					names = append(names, name)
				}
				return err
			})
			if got, want := fmt.Sprint(names), "[a/new a/old b/new d/new f/keep]"; got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
}

// peer makes a tree of an archive with a program that others use.
type peer struct {
	name    string
	unpack  func(t *testing.T, archive, dir string) (tree string)
	without string // what it leaves out, see show
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

var peers = []peer{
	{"tar", func(t *testing.T, archive, dir string) string {
		run(t, "tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", archive, "-C", dir)
		return dir
	}, ""},
	{"umoci", func(t *testing.T, archive, dir string) string {
		image := dir + "/image"
		run(t, "umoci", "init", "--layout", image)
		run(t, "umoci", "new", "--image", image+":x")
		run(t, "umoci", "raw", "add-layer", "--image", image+":x", archive)
		run(t, "umoci", "unpack", "--image", image+":x", dir+"/bundle")
		return dir + "/bundle/rootfs"
	}, ""},
}

// TestPeers: archives that GNU tar has made, in each of its forms, come to what other programs make of them.
func TestPeers(t *testing.T) {
	needRoot(t)
	tree := sample(t)
	for _, gone := range []string{"d/x", "y"} { // which mean nothing to tar
		os.Remove(filepath.Join(tree, gone))
	}
	unix.Removexattr(filepath.Join(tree, "d"), opaque)
	for _, form := range []string{"gnu", "posix", "gnu --sparse", "posix --sparse"} {
		archive := filepath.Join(t.TempDir(), "a.tar")
		posix := strings.HasPrefix(form, "posix")
		args := append(strings.Fields("--format="+form), "--numeric-owner", "-cf", archive, "-C", tree, ".")
		if posix {
			args = append([]string{"--xattrs", "--xattrs-include=*"}, args...)
		}
		run(t, "tar", args...)
		b, err := os.ReadFile(archive)
		if err != nil {
			t.Fatal(err)
		}
		layer, exact, r, err := unpacked(t, b)
		if err != nil || !r.Exact {
			t.Fatal(form, r, err)
		}
		rebuilt(t, form, layer, exact, b)
		ours := show(t, layer, "")
		for _, p := range peers {
			if _, err := exec.LookPath(p.name); err != nil {
				t.Logf("%s is not here", p.name)
				continue
			}
			if p.name == "umoci" && form == "gnu --sparse" {
				continue // it does not know that
			}
			same(t, form+" by "+p.name, ours, show(t, p.unpack(t, archive, t.TempDir()), p.without))
		}
		if posix {
			same(t, "the original", ours, show(t, tree, ""))
		}
	}
}

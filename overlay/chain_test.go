package overlay

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// image makes layers as an unpacked image has them, the uppermost first, that hide parts of each other.
func image(t testing.TB, s *Store, n int) Source {
	t.Helper()
	base := s.state + "/images/layers"
	from := Source{Base: base}
	for i := range n {
		dir := filepath.Join(base, fmt.Sprintf("%02d", i), "files")
		makeTree(t, dir, map[string]string{fmt.Sprintf("own%d", i): "x", "shared": fmt.Sprint("from ", i), "dir/": "", fmt.Sprintf("dir/in%d", i): fmt.Sprint(i)})
		from.Layers = append(from.Layers, dir)
	}
	bottom := from.Layers[n-1]
	makeTree(t, bottom, map[string]string{"gone": "x", "opaque/below": "x", "base": "deep"})
	if n > 1 {
		top := makeTree(t, from.Layers[0], map[string]string{"opaque/above": "x"})
		if err := unix.Mknod(top+"/gone", unix.S_IFCHR, 0); err != nil {
			t.Fatal(err)
		}
		if err := unix.Setxattr(top+"/opaque", "trusted.overlay.opaque", []byte("y"), 0); err != nil {
			t.Fatal(err)
		}
	}
	return from
}

// A root of many layers, in each mode that an image has, with each kind of ids, and made in both ways.
func TestChain(t *testing.T) {
	for _, n := range []int{1, 2, 40, 128} {
		for _, attach := range []bool{false, true} {
			for _, ids := range []*IDs{nil, guestIDs(t)} {
				t.Run(fmt.Sprintf("%d attached %v user %v", n, attach, ids != nil), func(t *testing.T) {
					testChain(t, n, attach, ids)
				})
			}
		}
	}
}

func testChain(t *testing.T, n int, attach bool, ids *IDs) {
	s := newStore(t)
	s.attach.Store(attach)
	from := image(t, s, n)
	look := expect
	if ids != nil {
		look = expectAs
	}
	before, table := fingerprint(t, from.Base), mountTable()
	opaque, gone := "above", "ENOENT"
	if n == 1 {
		opaque, gone = "below", "x"
	}
	for _, mode := range []engine.RootMode{"overlay", "volatile", "ro"} {
		home(t, s, "c")
		r, err := s.Prepare("c", from, mode, ids)
		if err != nil {
			t.Fatal(mode, err)
		}
		want := map[bool]string{true: "EROFS"}[mode == "ro"]
		script := [][2]string{
			{"read /shared", "from 0"}, {"read /base", "deep"}, {"read /gone", gone}, {"ls /opaque", opaque}, {fmt.Sprintf("read /dir/in%d", n-1), fmt.Sprint(n - 1)},
			{"read /dir/in0", "0"}, {"flags /", strings.TrimSpace(map[bool]string{true: "ro "}[mode == "ro"] + "nodev")}, {"write /shared changed", want}, {"rm /base", want}, {"mkdir /made", want},
		}
		look(t, r, script)
		r.Close()
	}
	if fingerprint(t, from.Base) != before {
		t.Error("the image has changed")
	}
	if mountTable() != table {
		t.Error("the host's mount table has changed")
	}
	r, err := s.Prepare("c", from, "overlay", ids)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	again := [][2]string{{"read /shared", "changed"}, {"read /base", "ENOENT"}, {"ls /made", ""}}
	look(t, r, again)
}

// An image is not written to, and layers are below their directory, without a link on the way.
func TestChainErrors(t *testing.T) {
	s := newStore(t)
	from := image(t, s, 2)
	home(t, s, "c")
	if err := os.Symlink("00", from.Base+"/link"); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		layer string
		mode  engine.RootMode
		want  syscall.Errno
	}{
		{from.Layers[0], "rw", syscall.EINVAL},
		{from.Base + "/none", "overlay", syscall.ENOENT},
		{from.Base + "/link/files", "overlay", syscall.ELOOP},
		{from.Base + "/../../containers", "overlay", syscall.EINVAL},
		{"/usr", "ro", syscall.EINVAL},
	}
	for _, test := range tests {
		r, err := s.Prepare("c", Source{Base: from.Base, Layers: []string{test.layer, from.Layers[1]}}, test.mode, nil)
		if err == nil {
			r.Close()
		}
		if engine.Errno(err) != test.want {
			t.Errorf("%s %s: %v, want %v", test.mode, test.layer, err, test.want)
		}
	}
}

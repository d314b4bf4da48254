package launch

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// tree is a mount of the container's that later steps work in. They find it by its descriptor: by its path they would find
// whatever another container, which may change the same root, has exchanged it with for that moment. A mask on a path that is
// missing is no error, so a mask could be made to miss.
type tree struct {
	at    string
	mount arg
}

// treesAt are the places of such mounts.
var treesAt = []string{"/proc", "/sys", "/dev", "/dev/pts"}

// remember has later steps find what lies below a place in its mount. It hides an earlier one.
func (a *assembler) remember(at string, mount arg) {
	a.trees = slices.Insert(a.trees, 0, tree{at, mount})
}

// treeAt is the mount of a place, or nil.
func (a *assembler) treeAt(at string) *arg {
	for i := range a.trees {
		if a.trees[i].at == at {
			return &a.trees[i].mount
		}
	}
	return nil
}

// open opens a path inside the root: openat2(2) with RESOLVE_IN_ROOT, from the root or from the tree that it lies in.
func (a *assembler) open(p string, how, size arg) *call {
	for _, t := range a.trees {
		if p == t.at {
			return a.call(unix.SYS_OPENAT2, t.mount, a.path("."), how, size)
		}
		if name, ok := strings.CutPrefix(p, t.at+"/"); ok {
			return a.call(unix.SYS_OPENAT2, t.mount, a.path(name), how, size)
		}
	}
	return a.call(unix.SYS_OPENAT2, cwd, a.path(p), how, size)
}

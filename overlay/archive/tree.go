package archive

import (
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	pathMax   = 4095    // of a path in an archive, as of any that a program could name
	depthMax  = 2048    // directories in each other: half of it are slashes
	linksMax  = 40      // symbolic links on the way, as the kernel
	dirsMax   = 1 << 20 // directories of a layer
	openMax   = 256     // directories that are kept open
	nameMax   = 255
	maskMode  = 0o7777
	firstMode = 0o700 // of a directory, until the end
)

// node is a directory of the layer. Each has been made here, so no name is looked up to know that it is one, and no path is ever
// given to the kernel: a name, in a directory that is open.
type node struct {
	up         *node
	name       string
	next, prev *node // of those that are open, when it is
	fd         int   // -1 when it is not open
	depth      int

	attrs  attrs
	acl    string // the default one, which would be inherited by what is made in it
	opaque bool
	said   bool // the archive has an entry of it
	gone   bool // something else has taken its place
}

// attrs are what a file has besides what is in it.
type attrs struct {
	mode     uint32
	uid, gid uint32
	mtime    unix.Timespec
	atime    unix.Timespec
}

// key is a name in a directory.
type key struct {
	in   *node
	name string
}

// tree is the layer as it is made.
type tree struct {
	root *node // always open, and in no list
	all  []*node
	kids map[key]*node
	late map[key]owner // owners that are set afterwards; of a directory itself with an empty name
	ring node          // of open directories: next is the one that was used last
	open int
	path string // of the last lookup, and where it led; nil after what may have changed that
	last *node
}

func newTree(root int) *tree {
	t := &tree{root: &node{fd: root, attrs: attrs{mode: 0o755}}, kids: map[key]*node{}, late: map[key]owner{}}
	t.ring.next, t.ring.prev = &t.ring, &t.ring
	t.all = []*node{t.root}
	return t
}

// close closes what is open, but the root, which is not the tree's.
func (t *tree) close() {
	for t.ring.next != &t.ring {
		t.shut(t.ring.next)
	}
}

func (t *tree) unlist(n *node) {
	n.prev.next, n.next.prev = n.next, n.prev
}

func (t *tree) list(n *node) {
	n.next, n.prev = t.ring.next, &t.ring
	n.next.prev, n.prev.next = n, n
}

func (t *tree) shut(n *node) {
	t.unlist(n)
	unix.Close(n.fd)
	n.fd = -1
	t.open--
}

// dirFD is a descriptor of a directory, good until the next call.
func (t *tree) dirFD(n *node) (int, error) {
	if n == t.root {
		return n.fd, nil
	}
	if n.fd >= 0 {
		if t.ring.next != n {
			t.unlist(n)
			t.list(n)
		}
		return n.fd, nil
	}
	var way []*node // from n up to one that is open
	at := n
	for ; at.fd < 0; at = at.up {
		way = append(way, at)
	}
	for i := len(way) - 1; i >= 0; i-- {
		dir := way[i]
		fd, err := ignoringEINTR(func() (int, error) {
			return unix.Openat(dir.up.fd, dir.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		})
		if err != nil {
			return -1, err
		}
		dir.fd = fd
		t.list(dir)
		if t.open++; t.open > openMax {
			t.shut(t.ring.prev)
		}
	}
	return n.fd, nil
}

func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != syscall.EINTR {
			return n, err
		}
	}
}

// pathOf is the path of a name in a directory, relative to the layer; "." is the layer itself.
func pathOf(n *node, name string) string {
	var parts []string
	if name != "" {
		parts = append(parts, name)
	}
	for ; n.up != nil; n = n.up {
		parts = append(parts, n.name)
	}
	if len(parts) == 0 {
		return "."
	}
	var b strings.Builder
	for i := len(parts) - 1; i >= 0; i-- {
		b.WriteString(parts[i])
		if i > 0 {
			b.WriteByte('/')
		}
	}
	return b.String()
}

// clean checks a path of an archive and takes it apart: the directory, without leading and double slashes and dots, and the name in
// it. The layer itself has no name.
func clean(path string) (dir, name string, err error) {
	if len(path) > pathMax {
		return "", "", bad(fmt.Sprintf("a path of %d bytes", len(path)))
	}
	if strings.IndexByte(path, 0) >= 0 {
		return "", "", bad("a zero byte in a path")
	}
	plain := true
	for part := range strings.SplitSeq(path, "/") {
		switch {
		case part == "" || part == ".":
			plain = false
		case part == "..":
			return "", "", bad("a path with ..")
		case len(part) > nameMax:
			return "", "", bad(fmt.Sprintf("a name of %d bytes", len(part)))
		}
	}
	if !plain {
		var parts []string
		for part := range strings.SplitSeq(path, "/") {
			if part != "" && part != "." {
				parts = append(parts, part)
			}
		}
		path = strings.Join(parts, "/")
	}
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:], nil
	}
	return "", path, nil
}

// dir finds a directory by its clean path. A link on the way is followed as it would be in a container that has the layer as its
// root: it leads nowhere else. With create, what is missing is made.
func (t *tree) dir(path string, create bool) (*node, error) {
	if t.last != nil && t.path == path {
		return t.last, nil
	}
	at, rest, links := t.root, path, 0
	for rest != "" {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..": // in a link only
			if at.up != nil {
				at = at.up
			}
			continue
		}
		if kid := t.kids[key{at, name}]; kid != nil {
			at = kid
			continue
		}
		text, err := t.link(at, name)
		switch {
		case err == nil:
			if links++; links > linksMax {
				return nil, badAs(syscall.ELOOP, "too many symbolic links on the way")
			}
			if strings.HasPrefix(text, "/") {
				at = t.root
			}
			rest = text + "/" + rest
		case create && (err == syscall.ENOENT || err == syscall.EINVAL):
			if at, err = t.implied(at, name, err == syscall.EINVAL); err != nil {
				return nil, err
			}
		case err == syscall.EINVAL:
			return nil, syscall.ENOTDIR
		default:
			return nil, err
		}
	}
	t.path, t.last = path, at
	return at, nil
}

// link reads a symbolic link. EINVAL: it is something else.
func (t *tree) link(in *node, name string) (string, error) {
	fd, err := t.dirFD(in)
	if err != nil {
		return "", err
	}
	var text [pathMax + 1]byte
	n, err := unix.Readlinkat(fd, name, text[:])
	if err != nil {
		return "", err
	}
	return string(text[:n]), nil
}

// implied makes a directory that the archive has no entry of, up to here. It may take the place of a whiteout, and of nothing else.
func (t *tree) implied(in *node, name string, taken bool) (*node, error) {
	if strings.HasPrefix(name, whiteout) {
		return nil, bad("a directory whose name is that of a whiteout")
	}
	if taken {
		if st, err := t.stat(in, name); err != nil {
			return nil, err
		} else if !isWhiteout(&st) {
			return nil, badAs(syscall.ENOTDIR, "it is in what is no directory")
		}
	}
	return t.mkdir(in, name, nil)
}

func (t *tree) stat(in *node, name string) (st unix.Stat_t, err error) {
	fd, err := t.dirFD(in)
	if err == nil {
		err = unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	return st, err
}

func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

// mkdir makes a directory. What was there of the same name, no directory, is hidden with all that is below it: the new one is opaque.
func (t *tree) mkdir(in *node, name string, lost func()) (*node, error) {
	if in.depth >= depthMax {
		return nil, bad("too many directories in each other")
	}
	if len(t.all) >= dirsMax {
		return nil, badAs(syscall.E2BIG, "too many directories")
	}
	replaced := false
	for {
		fd, err := t.dirFD(in)
		if err == nil {
			err = unix.Mkdirat(fd, name, firstMode)
		}
		if err == syscall.EEXIST && !replaced {
			if err = t.clear(in, name, lost); err == nil {
				replaced = true
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		n := &node{up: in, name: strings.Clone(name), fd: -1, depth: in.depth + 1, opaque: replaced, attrs: attrs{mode: 0o755}}
		t.kids[key{in, n.name}] = n
		t.all = append(t.all, n)
		return n, nil
	}
}

// clear takes away what has a name, whatever it is. lost is called for what was in an entry of the archive, and had something in it.
func (t *tree) clear(in *node, name string, lost func()) error {
	t.last = nil
	delete(t.late, key{in, name})
	if kid := t.kids[key{in, name}]; kid != nil {
		return t.remove(kid, lost)
	}
	fd, err := t.dirFD(in)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG && lost != nil {
		lost()
	}
	return unix.Unlinkat(fd, name, 0)
}

// remove takes away a directory with all that is in it.
func (t *tree) remove(n *node, lost func()) error {
	names, err := t.names(n)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := t.clear(n, name, lost); err != nil {
			return err
		}
	}
	if n.fd >= 0 {
		t.shut(n)
	}
	n.gone = true
	delete(t.kids, key{n.up, n.name})
	fd, err := t.dirFD(n.up)
	if err != nil {
		return err
	}
	return unix.Unlinkat(fd, n.name, unix.AT_REMOVEDIR)
}

// names are the names in a directory.
func (t *tree) names(n *node) (names []string, err error) {
	fd, err := t.dirFD(n)
	if err != nil {
		return nil, err
	}
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		return nil, err
	}
	buf := make([]byte, 32<<10)
	for {
		got, err := ignoringEINTR(func() (int, error) { return unix.Getdents(fd, buf) })
		if err != nil || got == 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buf[:got], -1, names)
	}
}

package cgroup

import (
	"errors"
	"iter"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// leafName is the v2 directory that holds a group's own processes. No valid container name starts with an underscore.
const leafName = "_self"

// Tree is one directory at the root of every hierarchy that the host uses, with a group for each container below it.
type Tree struct {
	host    *Host
	name    string
	roots   []dir // the hierarchies, in the order of Host.used; to remove the tree, and to put processes back
	tops    []dir // the tree's directory in each
	filters filters
	enabled []string // controllers that the tree had to enable in the root of v2

	late    late     // which groups have what few of them have
	empties sync.Map // texts of [Tree.Empty] by file
}

// Tree makes or opens the directory called name in every hierarchy. Unless [Options] say otherwise it lies at the root, not in the caller's own group: a
// session manager may destroy that one with the session. The caller closes the tree. Errors: EINVAL, EACCES, EROFS.
func (h *Host) Tree(name string) (*Tree, error) {
	if err := engine.ValidateName(name); err != nil {
		return nil, err
	}
	t := &Tree{host: h, name: name}
	if err := t.open(); err != nil {
		_ = t.Close()
		return nil, err
	}
	return t, nil
}

func (t *Tree) open() error {
	for _, y := range t.host.used {
		root, err := openDir(y.mount)
		if err != nil {
			return err
		}
		t.roots = append(t.roots, root)
		var fs unix.Statfs_t
		// A later mount may hide the hierarchy. Directories in a tmpfs would limit nothing.
		if err := unix.Fstatfs(root.fd, &fs); err != nil || fs.Type != unix.CGROUP_SUPER_MAGIC && fs.Type != unix.CGROUP2_SUPER_MAGIC {
			return &engine.Error{Op: "open", File: y.mount, Errno: syscall.ENODEV, Why: "not a cgroup file system; another mount hides it"}
		}
		// A server that comes back finds its tree with its containers in it.
		if err := root.mkdir(t.name); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		top, err := openDir(path.Join(y.mount, t.name))
		if err != nil {
			return err
		}
		t.tops = append(t.tops, top)
	}
	if p, err := t.host.lookup("write", devicesFile); err == nil && p.filtered() {
		if err := t.filters.hold(t.tops[p.in[0].index], "."); err != nil {
			return err
		}
	}
	if !t.host.leaf {
		return nil
	}
	// From the root down: a group offers below it only what it got from above (cgroups(7), "subtree_control").
	var err error
	if t.enabled, err = enable(t.roots[0], ".", t.host.wanted); err != nil {
		return err
	}
	_, err = enable(t.tops[0], ".", t.host.wanted)
	return err
}

// enable enables controllers for the groups below the v2 group at rel, and returns those that were not.
func enable(d dir, rel string, wanted []string) ([]string, error) {
	file := path.Join(rel, "cgroup.subtree_control")
	// Reading first is not only for the answer: the write may wait for a grace period of milliseconds.
	text, err := d.read(file)
	if err != nil {
		return nil, err
	}
	have := strings.Fields(text)
	missing := slices.DeleteFunc(slices.Clone(wanted), func(c string) bool { return slices.Contains(have, c) })
	if len(missing) == 0 {
		return nil, nil
	}
	return missing, d.write(file, "+"+strings.Join(missing, " +"))
}

// Close gives the tree's descriptors back. Groups stay.
func (t *Tree) Close() error {
	for _, d := range slices.Concat(t.roots, t.tops) {
		d.close()
	}
	t.filters.close()
	t.roots, t.tops = nil, nil
	return nil
}

// Release gives back the descriptors of hierarchies that this ctrfs has mounted, so that they can be unmounted. Files in them cannot
// be used any more.
func (t *Tree) Release() {
	for i, y := range t.host.used {
		if y.private {
			t.roots[i].close()
			t.tops[i].close()
			t.roots[i].fd, t.tops[i].fd = -1, -1
		}
	}
}

// Remove removes the tree's directories and every group in them. Controllers that it enabled in the root of v2 are disabled
// again, unless other groups there may rely on them. Errors: EBUSY while processes live in it.
func (t *Tree) Remove() error {
	for _, root := range t.roots {
		if err := root.rmdir(t.name); err != nil {
			return err
		}
	}
	if len(t.enabled) == 0 {
		return nil
	}
	// A service manager that came later found the controllers enabled and has not asked for them again. A tree opened after a
	// crash does not know what its predecessor enabled, and leaves them: nothing is limited by that.
	kind, _, _ := strings.Cut(t.name, "-")
	others, err := t.roots[0].subdirs(".")
	if err != nil || slices.ContainsFunc(others, func(name string) bool { return name != asideName && !strings.HasPrefix(name, kind+"-") }) {
		return err
	}
	// Another tree of ours has in its own directory enabled what it uses, and the kernel knows.
	err = t.roots[0].write("cgroup.subtree_control", "-"+strings.Join(t.enabled, " -"))
	if errors.Is(err, unix.EBUSY) {
		return nil
	}
	return err
}

// Groups lists the paths of all groups that exist in any hierarchy, sorted, so that parents come before their children.
func (t *Tree) Groups() ([]string, error) {
	var all []string
	for _, top := range t.tops {
		paths, err := top.below(".")
		if err != nil {
			return nil, err
		}
		all = append(all, paths[1:]...)
	}
	all = slices.DeleteFunc(all, inLeaf)
	slices.Sort(all)
	return slices.Compact(all), nil
}

// Create makes the group at p, names joined by slashes, in every hierarchy and gives it the limits of r. The group above
// must exist. All or nothing. Errors: EINVAL, EEXIST, ENOENT, and those of [Group.Apply].
func (t *Tree) Create(p string, r *specs.LinuxResources) (*Group, error) {
	g, err := t.group(p)
	if err != nil {
		return nil, err
	}
	// Knowing a new group's limits saves reading them, and most containers' limits are written nowhere at all.
	g.have = slices.Clone(t.host.initial)
	for i, top := range t.tops {
		if t.host.used[i].late {
			continue
		}
		if err := top.mkdir(p); err != nil {
			return nil, also(err, t.undo(p, top))
		}
	}
	err = g.furnish()
	for i, l := range t.host.limits {
		if err == nil && l.passed && path.Dir(p) != "." {
			err = g.look(l, &g.have[i])
		}
	}
	if err != nil {
		return nil, also(err, g.Remove())
	}
	if err := g.inheritDevices(); err != nil {
		return nil, also(err, g.Remove())
	}
	if err := g.Apply(r); err != nil {
		return nil, also(err, g.Remove())
	}
	return g, nil
}

// inheritDevices notes what a new group got from the group around it: v1's devices, which it can only narrow.
func (g *Group) inheritDevices() error {
	i := slices.IndexFunc(g.tree.host.limits, func(p *place) bool { return p.file == devicesFile })
	if p := g.tree.host.limits[i]; path.Dir(g.path) != "." && !p.filtered() {
		return g.look(p, &g.have[i])
	}
	return nil
}

// undo removes the directories of p from the hierarchies before the one that failed. That one's own, if there is any, was
// there before, and so is somebody else's.
func (t *Tree) undo(p string, failed dir) error {
	var errs []error
	for i, top := range t.tops {
		if top == failed {
			break
		}
		if t.host.used[i].late {
			continue
		}
		errs = append(errs, top.rmdir(p))
	}
	return errors.Join(errs...)
}

// Open returns the group at p. Where a crash left it in some hierarchies only, the others are given it too; its processes
// are not moved. Errors: EINVAL, ENOENT when no hierarchy has it.
func (t *Tree) Open(p string) (*Group, error) {
	g, err := t.group(p)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(t.tops, func(top dir) bool { return top.exists(p) }) {
		return nil, t.tops[0].fail("open", p, "", unix.ENOENT)
	}
	// Every prefix is made, since the crash may have been in the removal of the group above.
	for i, top := range t.tops {
		if t.host.used[i].late {
			continue
		}
		for prefix := range prefixes(p) {
			if err := top.mkdir(prefix); err != nil && !errors.Is(err, unix.EEXIST) {
				return nil, err
			}
		}
	}
	if err := t.recall(p); err != nil {
		return nil, err
	}
	return g, g.furnish()
}

// prefixes yields the path of every group around the one at p, the outermost first, and p.
func prefixes(p string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range len(p) + 1 {
			if (i == len(p) || p[i] == '/') && !yield(p[:i]) {
				return
			}
		}
	}
}

// group checks a path and returns the group that it names, whether it exists or not. Paths come from names that users
// chose, so each is held to the rule for those: no dots, no leaf, no newline that would forge a line of /proc/PID/cgroup.
func (t *Tree) group(p string) (*Group, error) {
	for name := range strings.SplitSeq(p, "/") {
		if err := engine.ValidateName(name); err != nil {
			return nil, err
		}
	}
	return &Group{tree: t, path: p}, nil
}

// furnish makes what a group needs besides its directory: on v2 controllers from the group above, and the leaf; in v1's
// cpuset, processors, where another controller in the same hierarchy brings every group into it.
func (g *Group) furnish() error {
	for _, y := range g.tree.host.used {
		if !y.late && y.cpuset() {
			if err := g.tree.inherit(y, g.path); err != nil {
				return err
			}
		}
	}
	if !g.tree.host.leaf {
		return nil
	}
	home := g.tree.tops[0]
	// The tree's own directory has its controllers enabled since it was opened.
	if above := path.Dir(g.path); above != "." {
		if _, err := enable(home, above, g.tree.host.wanted); err != nil {
			return err
		}
	}
	if err := home.mkdir(path.Join(g.path, leafName)); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

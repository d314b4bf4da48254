package cgroup

import (
	"errors"
	"path"
	"strings"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/crash"
	"golang.org/x/sys/unix"
)

// delegated are the files of a v2 group that go to whom it is delegated to, with its directory: those of
// /sys/kernel/cgroup/delegate without a controller. The limits stay out of reach, cgroups(7), "Delegation".
var delegated = []string{"cgroup.procs", "cgroup.threads", "cgroup.subtree_control"}

// What somebody may make in a part that is delegated: a service manager needs a tenth of it. Without bounds the paths would be
// longer than any call takes, and every listing would take as long as somebody likes.
const (
	delegatedDepth = "12"
	delegatedCount = "4096"
)

// Delegate lets the user uid of this machine arrange the group's own processes in v2 groups below the leaf, which is made where
// the host needs none otherwise: what is made there is in nobody's way, and not among the groups that [Tree.Groups] lists. What
// holds for the group holds for all of them. Errors: EOPNOTSUPP without a v2 hierarchy, for v1's are no safe thing to delegate.
func (g *Group) Delegate(uid, gid int) error {
	home, y := g.tree.tops[0], g.tree.host.used[0]
	if !y.unified {
		return &engine.Error{Op: "delegate", File: "cgroup", Errno: errUnsupported,
			Why: "cgroup v2 is not mounted, and no part of v1 can be given to a container", Cure: "mount -t cgroup2 none somewhere below /sys/fs/cgroup"}
	}
	leaf := path.Join(g.path, leafName)
	if err := home.mkdir(leaf); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	if !g.tree.host.leaf {
		g.tree.late.add(leafName, g.path)
	}
	if err := errors.Join(home.write(path.Join(leaf, "cgroup.max.depth"), delegatedDepth), home.write(path.Join(leaf, "cgroup.max.descendants"), delegatedCount)); err != nil {
		return err
	}
	for _, file := range delegated {
		if err := home.chown(path.Join(leaf, file), uid, gid); err != nil {
			return err
		}
	}
	return home.chown(leaf, uid, gid)
}

// entranceName is the group below a leaf that takes those who cannot be in the leaf itself. A service manager leaves it alone.
const entranceName = "_exec"

// entrance returns the v2 group in which another process of the group's begins: the leaf, unless whoever it is delegated to has
// handed controllers down from there, which the kernel allows no process beside.
func (g *Group) entrance(y *hierarchy) (string, error) {
	leaf := g.own(y)
	if leaf == g.path {
		return leaf, nil
	}
	text, err := g.top(y).read(path.Join(leaf, "cgroup.subtree_control"))
	if err != nil || strings.TrimSpace(text) == "" {
		return leaf, err
	}
	below := path.Join(leaf, entranceName)
	if err := g.top(y).mkdir(below); err != nil && !errors.Is(err, unix.EEXIST) {
		return "", err
	}
	return below, nil
}

// chown gives a file or a group to a user.
func (d dir) chown(rel string, uid, gid int) error {
	if err := unix.Fchownat(d.fd, rel, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return d.fail("chown", rel, "", err)
	}
	crash.Point("give a group away")
	return nil
}

// inLeaf reports whether a path is that of a leaf, or of a group that whoever it is delegated to has made below it.
func inLeaf(p string) bool {
	return strings.HasSuffix(p, "/"+leafName) || strings.Contains(p, "/"+leafName+"/")
}

// Delegable says whether groups can be given to containers at all.
func (h *Host) Delegable() bool { return h.used[0].unified }

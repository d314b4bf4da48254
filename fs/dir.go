package fs

import (
	"context"
	"strings"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// dir is a container, or the root of the mount.
type dir struct {
	node
	scope *scope
}

// newDir makes the node of a container. The identity is read once: it never changes, and inode numbers hang on it.
func (t *tree) newDir(c engine.Container) *dir {
	return &dir{node{tree: t, place: place{c: c, id: c.View().ID}}, t.container}
}

// Lookup finds a file by the table, then a container. The size of a file is not left out although the kernel asks for it
// again: a size of 0 would, for a moment, end a concurrent sendfile(2).
func (d *dir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if r := d.scope.byName[name]; r != nil {
		return d.lookupRow(ctx, r, out)
	}
	if c, ok := d.tree.engine.Child(d.c, name); ok {
		return d.enter(ctx, c, out), 0
	}
	return nil, syscall.ENOENT
}

// lookupRow makes the node of a row. A link is not always there, and is asked for each time.
func (d *dir) lookupRow(ctx context.Context, r *row, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if r.link != nil {
		return d.lead(ctx, out, inode(d.id, r.name), r.reach, func() (string, bool) { return r.link(d.program()) })
	}
	out.SetEntryTimeout(forever)
	common := func() node { return node{tree: d.tree, place: d.place} }
	at := fs.StableAttr{Mode: syscall.S_IFDIR, Ino: inode(d.id, r.name)}
	switch {
	case r.links != nil:
		l := &links{common(), r}
		l.fill(&out.Attr)
		return d.NewInode(ctx, l, at), 0
	case r.shelf != nil:
		s := &shelf{common(), r}
		s.fill(&out.Attr)
		out.SetAttrTimeout(forever)
		return d.NewInode(ctx, s, at), 0
	}
	f := &file{common(), r, at.Ino}
	f.fill(&out.Attr, caller(ctx))
	if !r.readable() || r.setting() || r.wait != nil {
		out.SetAttrTimeout(moment)
	}
	at.Mode = syscall.S_IFREG
	return d.NewInode(ctx, f, at), 0
}

// enter makes the node of a child container. When the kernel knows it already, go-fuse keeps the older node.
func (d *dir) enter(ctx context.Context, c engine.Container, out *fuse.EntryOut) *fs.Inode {
	child := d.tree.newDir(c)
	child.fill(&out.Attr)
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	return d.NewInode(ctx, child, fs.StableAttr{Mode: syscall.S_IFDIR, Ino: inode(child.id, "")})
}

// fill makes the attributes of a directory. Its times are those of the container's last change, but the kernel keeps what it
// was told first: nothing needs them to the second, and tar would take a change for a fault.
func (d *dir) fill(out *fuse.Attr) {
	fill(out, d.owner(), d.changed())
	out.Mode |= syscall.S_IFDIR
}

// Getattr is asked once, and again after a change that went through the kernel.
func (d *dir) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	d.fill(&out.Attr)
	out.Ino = d.StableAttr().Ino // go-fuse adds it to the answer to GETATTR, but not to SETATTR
	out.SetTimeout(forever)
	return 0
}

// Setattr keeps owner and mode, of the root too.
func (d *dir) Setattr(ctx context.Context, fh fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if o, ok := changed(d.owner(), in); ok {
		set := d.tree.engine.SetRootOwner
		if who := d.subject(); who != nil {
			set = func(o engine.Owner) error { return who.SetOwner("", o) }
		}
		if err := set(o); err != nil {
			return d.refuse(err)
		}
	}
	return d.Getattr(ctx, fh, out)
}

// Readdir lists the files in the order of the table, then the containers by name.
func (d *dir) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	entries := d.files()
	for _, c := range d.tree.engine.Children(d.c) {
		v := c.View()
		entries = append(entries, fuse.DirEntry{Name: v.Name, Mode: syscall.S_IFDIR, Ino: inode(v.ID, "")})
	}
	return fs.NewListDirStream(entries), 0
}

// files lists the files, and what every directory has.
func (d *dir) files() []fuse.DirEntry {
	up := d.StableAttr().Ino
	if _, parent := d.Parent(); parent != nil {
		up = parent.StableAttr().Ino
	}
	entries := []fuse.DirEntry{
		{Name: ".", Mode: syscall.S_IFDIR, Ino: d.StableAttr().Ino},
		{Name: "..", Mode: syscall.S_IFDIR, Ino: up},
	}
	for _, r := range d.scope.rows {
		kind := uint32(syscall.S_IFREG)
		switch {
		case r.directory():
			kind = syscall.S_IFDIR
		case r.link != nil:
			if _, there := r.link(d.program()); !there {
				continue
			}
			kind = syscall.S_IFLNK
		}
		entries = append(entries, fuse.DirEntry{Name: r.name, Mode: kind, Ino: inode(d.id, r.name)})
	}
	return entries
}

// nameable checks the name of a container to be in d. The kernel refuses most taken names by itself, since it has looked
// them up; what reaches this point is a race, or a caller that is not the kernel.
func (d *dir) nameable(op, name string) error {
	if d.scope.byName[name] != nil {
		return &engine.Error{Op: op, File: name, Errno: syscall.EEXIST, Why: "the name of a control file",
			Cure: "take another name"}
	}
	return engine.ValidateName(name)
}

// Mkdir makes a container. It belongs to its maker; mode has been masked by the kernel.
func (d *dir) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if err := d.nameable("mkdir", name); err != nil {
		return nil, d.refuse(err)
	}
	by := caller(ctx)
	c, err := d.tree.engine.Create(by, d.c, name, engine.Owner{UID: by.UID, GID: by.GID, Mode: mode & 0o777})
	if err != nil {
		return nil, d.refuse(err)
	}
	d.tree.writes.Add(1)
	return d.enter(ctx, c, out), 0
}

// Rmdir removes a container with everything it owned; its control files do not stand in the way. A directory of links or of
// execs is part of the container: as with files that are not settings, removing it alone does nothing.
func (d *dir) Rmdir(ctx context.Context, name string) syscall.Errno {
	if r := d.scope.byName[name]; r != nil && r.directory() {
		return 0
	}
	c, ok := d.tree.engine.Child(d.c, name)
	if !ok {
		return syscall.ENOENT
	}
	if err := d.tree.engine.Remove(caller(ctx), c); err != nil {
		return d.tree.refuse(c, err)
	}
	d.tree.writes.Add(1)
	return 0
}

// Unlink resets a setting, and does nothing to any other file: both let `rm -r` remove a container. A setting of an active
// container stays, also a live one, so that an `rm -r` that must fail does not take the limits off first.
func (d *dir) Unlink(ctx context.Context, name string) syscall.Errno {
	r := d.scope.byName[name]
	if r == nil {
		return syscall.ENOENT
	}
	if !r.setting() {
		return 0
	}
	var err error
	if r.tune != nil {
		err = d.network.Update(caller(ctx), name, false, func(c *engine.NetworkConfig) error { return r.tune(c, "") })
	} else if change, bad := r.reset(d.fresh()); bad != nil {
		err = bad
	} else {
		err = d.program().Update(caller(ctx), name, false, change)
	}
	if err != nil {
		return d.refuse(err)
	}
	d.tree.writes.Add(1)
	return 0
}

// renameNoReplace is RENAME_NOREPLACE of renameat2(2), <linux/fs.h>, which is what a rename here always does.
const renameNoReplace = 1

// Rename moves a container within the mount.
func (d *dir) Rename(ctx context.Context, name string, to fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if flags&^renameNoReplace != 0 {
		return syscall.EINVAL
	}
	parent, ok := to.(*dir)
	if !ok || d.scope.byName[name] != nil {
		return d.refuse(&engine.Error{Op: "rename", File: name, Errno: syscall.EPERM, Why: "a control file has one name",
			Cure: "copy its content with cat"})
	}
	c, ok := d.tree.engine.Child(d.c, name)
	if !ok {
		return syscall.ENOENT
	}
	err := parent.nameable("rename", newName)
	if err == nil {
		err = d.tree.engine.Rename(caller(ctx), c, parent.c, newName)
	}
	if err != nil {
		return d.tree.refuse(c, err)
	}
	d.tree.writes.Add(1)
	return 0
}

// Create refuses a file that the table does not have, with the errno of cgroupfs: a misspelt name, or `sed -i`. An
// editor's hidden file leaves no sentence: the editor goes on without it.
func (d *dir) Create(_ context.Context, name string, _, _ uint32, _ *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if strings.HasPrefix(name, ".") {
		return nil, nil, 0, syscall.EACCES
	}
	why, cure := "no such control file", "ls lists the files, and help in the root explains them"
	if r := d.scope.byName[name]; r != nil && r.absent != "" {
		why, cure = "it is not there now", r.absent
	}
	return nil, nil, 0, d.refuse(&engine.Error{Op: "create", File: name, Errno: syscall.EACCES, Why: why, Cure: cure})
}

// Mknod, Symlink and Link make what the tree does not hold.
func (d *dir) Mknod(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (d *dir) Symlink(context.Context, string, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (d *dir) Link(context.Context, fs.InodeEmbedder, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

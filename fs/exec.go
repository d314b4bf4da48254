package fs

import (
	"context"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// execs is the directory exec of a container: a directory for each of its execs, and nothing else. Removing it does nothing, for
// the sake of rm -r.
type execs struct {
	node
	row *row
}

// execDir is an exec's directory. It has the files of its table and no other entries.
type execDir struct{ dir }

func (e *execs) fill(out *fuse.Attr) {
	o := e.owner()
	o.Mode = e.row.mode()
	if own, ok := e.c.Owner(e.row.name); ok {
		o = own
	}
	fill(out, o, e.c.View().Changed)
	out.Mode |= syscall.S_IFDIR
}

// enter makes the node of an exec.
func (e *execs) enter(ctx context.Context, x engine.Exec, out *fuse.EntryOut) *fs.Inode {
	child := &execDir{dir{node{tree: e.tree, c: e.c, x: x, id: x.View().ID}, e.tree.exec}}
	child.fill(&out.Attr)
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	return e.NewInode(ctx, child, fs.StableAttr{Mode: syscall.S_IFDIR, Ino: inode(child.id, "")})
}

func (e *execs) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	x, ok := e.c.Exec(name)
	if !ok {
		return nil, syscall.ENOENT
	}
	return e.enter(ctx, x, out), 0
}

// Readdir lists the execs by name.
func (e *execs) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	entries := []fuse.DirEntry{
		{Name: ".", Mode: syscall.S_IFDIR, Ino: e.StableAttr().Ino},
		{Name: "..", Mode: syscall.S_IFDIR, Ino: inode(e.id, "")},
	}
	for _, x := range e.c.Execs() {
		v := x.View()
		entries = append(entries, fuse.DirEntry{Name: v.Name, Mode: syscall.S_IFDIR, Ino: inode(v.ID, "")})
	}
	return fs.NewListDirStream(entries), 0
}

func (e *execs) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	e.fill(&out.Attr)
	out.Ino = e.StableAttr().Ino // as in [dir.Getattr]
	out.SetTimeout(forever)
	return 0
}

// Setattr keeps owner and mode, as of any file of the container.
func (e *execs) Setattr(ctx context.Context, fh fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	var now fuse.Attr
	e.fill(&now)
	if o, ok := changed(engine.Owner{UID: now.Uid, GID: now.Gid, Mode: now.Mode & 0o777}, in); ok {
		if err := e.c.SetOwner(e.row.name, o); err != nil {
			return e.refuse(err)
		}
	}
	return e.Getattr(ctx, fh, out)
}

// Mkdir makes an exec, which belongs to its maker.
func (e *execs) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	by := caller(ctx)
	x, err := e.c.AddExec(by, name, engine.Owner{UID: by.UID, GID: by.GID, Mode: mode & 0o777})
	if err != nil {
		return nil, e.refuse(err)
	}
	e.tree.writes.Add(1)
	return e.enter(ctx, x, out), 0
}

// Rmdir removes an exec; why not is told in its own error file.
func (e *execs) Rmdir(ctx context.Context, name string) syscall.Errno {
	x, ok := e.c.Exec(name)
	if !ok {
		return syscall.ENOENT
	}
	if err := e.c.RemoveExec(caller(ctx), x); err != nil {
		return e.tree.refuse(x, err)
	}
	e.tree.writes.Add(1)
	return 0
}

// Rename refuses: an exec has one name and one container.
func (e *execs) Rename(_ context.Context, name string, _ fs.InodeEmbedder, _ string, _ uint32) syscall.Errno {
	return e.refuse(&engine.Error{Op: "rename", File: "exec/" + name, Errno: syscall.EPERM, Why: "an exec keeps its name",
		Cure: "make another one: mkdir exec/NAME"})
}

// Create, Mknod, Symlink and Link make what the tree does not hold.
func (e *execs) Create(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, syscall.EPERM
}

func (e *execs) Mknod(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (e *execs) Symlink(context.Context, string, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (e *execs) Link(context.Context, fs.InodeEmbedder, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (d *execDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if r := d.scope.byName[name]; r != nil {
		return d.lookupRow(ctx, r, out)
	}
	return nil, syscall.ENOENT
}

// Readdir lists the files in the order of the table.
func (d *execDir) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	return fs.NewListDirStream(d.files()), 0
}

// Mkdir, Rmdir and Rename are for containers, of which there are none here.
func (d *execDir) Mkdir(_ context.Context, name string, _ uint32, _ *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, d.refuse(&engine.Error{Op: "mkdir", File: name, Errno: syscall.EPERM, Why: "an exec holds no containers",
		Cure: "make it in a container, or at the top"})
}

func (d *execDir) Rmdir(context.Context, string) syscall.Errno { return syscall.ENOENT }

func (d *execDir) Rename(_ context.Context, name string, _ fs.InodeEmbedder, _ string, _ uint32) syscall.Errno {
	return d.refuse(&engine.Error{Op: "rename", File: name, Errno: syscall.EPERM, Why: "a control file has one name",
		Cure: "copy its content with cat"})
}

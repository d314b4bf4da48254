package fs

import (
	"context"
	"slices"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// linking is a directory of a container that holds symbolic links and nothing else. Which of them are there, and where they
// lead, is for the engine to say at each moment.
type linking struct {
	names  []string
	target func(c engine.Container, name string) (string, bool)
}

// leads returns where a link leads, if it is there.
func (l *linking) leads(c engine.Container, name string) (target string, ok bool) {
	if !slices.Contains(l.names, name) {
		return "", false
	}
	return l.target(c, name)
}

// links is such a directory. Removing it, or a link, succeeds and does nothing, for the sake of rm -r; what is asked for
// afterwards is there again.
type links struct {
	node
	row *row
}

// link is one symbolic link.
type link struct {
	node
	leads func() (target string, ok bool)
	reach func(engine.Program) (string, error) // of a row that has one
}

// linkIno numbers a link.
func (l *links) linkIno(name string) uint64 { return inode(l.id, l.row.name+"/"+name) }

func (l *links) fill(out *fuse.Attr) {
	o := l.owner()
	o.Mode = l.row.mode()
	if own, ok := l.c.Owner(l.row.name); ok {
		o = own
	}
	fill(out, o, l.c.View().Changed)
	out.Mode |= syscall.S_IFDIR
}

// Lookup is asked each time: links come and go with what runs.
func (l *links) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return l.lead(ctx, out, l.linkIno(name), nil, func() (string, bool) { return l.row.links.leads(l.c, name) })
}

// Readdir lists the links that there are.
func (l *links) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	entries := []fuse.DirEntry{
		{Name: ".", Mode: syscall.S_IFDIR, Ino: l.StableAttr().Ino},
		{Name: "..", Mode: syscall.S_IFDIR, Ino: inode(l.id, "")},
	}
	for _, name := range l.row.links.names {
		if _, ok := l.row.links.leads(l.c, name); ok {
			entries = append(entries, fuse.DirEntry{Name: name, Mode: syscall.S_IFLNK, Ino: l.linkIno(name)})
		}
	}
	return fs.NewListDirStream(entries), 0
}

func (l *links) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	l.fill(&out.Attr)
	return 0
}

// Setattr keeps owner and mode, as of any file of the container.
func (l *links) Setattr(ctx context.Context, fh fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	var now fuse.Attr
	l.fill(&now)
	if o, ok := changed(engine.Owner{UID: now.Uid, GID: now.Gid, Mode: now.Mode & 0o777}, in); ok {
		if err := l.c.SetOwner(l.row.name, o); err != nil {
			return l.refuse(err)
		}
	}
	return l.Getattr(ctx, fh, out)
}

func (l *links) Unlink(context.Context, string) syscall.Errno { return 0 }

// Mkdir, Create, Mknod, Symlink, Link and Rename make what the tree does not hold.
func (l *links) Mkdir(context.Context, string, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (l *links) Create(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, syscall.EPERM
}

func (l *links) Mknod(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (l *links) Symlink(context.Context, string, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (l *links) Link(context.Context, fs.InodeEmbedder, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (l *links) Rename(context.Context, string, fs.InodeEmbedder, string, uint32) syscall.Errno {
	return syscall.EPERM
}

// lead makes the node of a link, if it is there.
func (n *node) lead(ctx context.Context, out *fuse.EntryOut, ino uint64, reach func(engine.Program) (string, error), leads func() (string, bool)) (*fs.Inode, syscall.Errno) {
	if _, ok := leads(); !ok {
		return nil, syscall.ENOENT
	}
	child := &link{node{tree: n.tree, place: n.place}, leads, reach}
	child.fill(&out.Attr)
	return n.NewInode(ctx, child, fs.StableAttr{Mode: syscall.S_IFLNK, Ino: ino}), 0
}

// fill makes the attributes of a link. Its size is the length of its target, as tar wants it. It belongs to the owner of the
// container's directory; nothing else about a link is ever asked.
func (l *link) fill(out *fuse.Attr) {
	target, _ := l.leads()
	o := l.owner()
	o.Mode = 0o777
	fill(out, o, l.program().View().Changed)
	out.Mode |= syscall.S_IFLNK
	out.Size = uint64(len(target))
}

func (l *link) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	l.fill(&out.Attr)
	return 0
}

// Setattr lets chown -R pass: the owner follows the directory's.
func (l *link) Setattr(ctx context.Context, fh fs.FileHandle, _ *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return l.Getattr(ctx, fh, out)
}

// Readlink tells where the link leads at this moment.
func (l *link) Readlink(context.Context) ([]byte, syscall.Errno) {
	target, ok := l.leads()
	if !ok {
		return nil, syscall.ENOENT
	}
	if l.reach != nil {
		var err error
		if target, err = l.reach(l.program()); err != nil {
			return nil, l.refuse(err)
		}
	}
	return []byte(target), 0
}

package fs

import (
	"context"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// place is what a directory of the tree is about. It never changes; the root is the zero place.
type place struct {
	c       engine.Container
	x       engine.Exec // of c, in its directory; nil elsewhere
	image   engine.Image
	network engine.Network
	id      string // of the container, the exec, the image or the network, empty in the root
}

// shelving is a directory of things of one kind, each of which is a directory itself: exec of a container, images, and networks.
type shelving struct {
	one    string // what lies in it, for sentences
	scope  func(*tree) *scope
	all    func(*tree, place) []place
	find   func(t *tree, at place, name string) (place, bool)
	make   func(t *tree, by engine.Caller, at place, name string, o engine.Owner) (place, error)
	remove func(t *tree, by engine.Caller, it place) error
}

// shelf is such a directory. Removing it does nothing, for the sake of rm -r.
type shelf struct {
	node
	row *row
}

// leaf is the directory of one of the things. It has the files of its table and no other entries.
type leaf struct {
	dir
	of *shelving
}

func (s *shelf) fill(out *fuse.Attr) {
	o := s.owner()
	o.Mode = s.row.mode()
	t := s.tree.started
	if who := s.subject(); who != nil {
		if own, ok := who.Owner(s.row.name); ok {
			o = own
		}
		t = s.changed()
	}
	fill(out, o, t)
	out.Mode |= syscall.S_IFDIR
}

// enter makes the node of one of the things.
func (s *shelf) enter(ctx context.Context, it place, out *fuse.EntryOut) *fs.Inode {
	of := s.row.shelf
	child := &leaf{dir{node{tree: s.tree, place: it}, of.scope(s.tree)}, of}
	child.fill(&out.Attr)
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	return s.NewInode(ctx, child, fs.StableAttr{Mode: syscall.S_IFDIR, Ino: inode(it.id, "")})
}

func (s *shelf) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	it, ok := s.row.shelf.find(s.tree, s.place, name)
	if !ok {
		return nil, syscall.ENOENT
	}
	return s.enter(ctx, it, out), 0
}

// Readdir lists the things by name.
func (s *shelf) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	up := uint64(rootIno)
	if s.id != "" {
		up = inode(s.id, "")
	}
	entries := []fuse.DirEntry{
		{Name: ".", Mode: syscall.S_IFDIR, Ino: s.StableAttr().Ino},
		{Name: "..", Mode: syscall.S_IFDIR, Ino: up},
	}
	for _, it := range s.row.shelf.all(s.tree, s.place) {
		entries = append(entries, fuse.DirEntry{Name: it.name(), Mode: syscall.S_IFDIR, Ino: inode(it.id, "")})
	}
	return fs.NewListDirStream(entries), 0
}

func (s *shelf) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	s.fill(&out.Attr)
	out.Ino = s.StableAttr().Ino // as in [dir.Getattr]
	out.SetTimeout(forever)
	return 0
}

// Setattr keeps owner and mode, as of any file of the container; in the root, as there.
func (s *shelf) Setattr(ctx context.Context, fh fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	var now fuse.Attr
	s.fill(&now)
	if o, ok := changed(engine.Owner{UID: now.Uid, GID: now.Gid, Mode: now.Mode & 0o777}, in); ok {
		who := s.subject()
		if who == nil {
			return syscall.EPERM
		}
		if err := who.SetOwner(s.row.name, o); err != nil {
			return s.refuse(err)
		}
	}
	return s.Getattr(ctx, fh, out)
}

// Mkdir makes a thing, which belongs to its maker.
func (s *shelf) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	by := caller(ctx)
	it, err := s.row.shelf.make(s.tree, by, s.place, name, engine.Owner{UID: by.UID, GID: by.GID, Mode: mode & 0o777})
	if err != nil {
		return nil, s.refuse(err)
	}
	s.tree.writes.Add(1)
	return s.enter(ctx, it, out), 0
}

// Rmdir removes a thing; why not is told in its own error file.
func (s *shelf) Rmdir(ctx context.Context, name string) syscall.Errno {
	it, ok := s.row.shelf.find(s.tree, s.place, name)
	if !ok {
		return syscall.ENOENT
	}
	if err := s.row.shelf.remove(s.tree, caller(ctx), it); err != nil {
		return s.tree.refuse(it.subject(), err)
	}
	s.tree.writes.Add(1)
	return 0
}

// Rename refuses: a thing on a shelf has one name.
func (s *shelf) Rename(_ context.Context, name string, _ fs.InodeEmbedder, _ string, _ uint32) syscall.Errno {
	return s.refuse(&engine.Error{Op: "rename", File: s.row.name + "/" + name, Errno: syscall.EPERM, Why: s.row.shelf.one + " keeps its name",
		Cure: "make another one: mkdir " + s.row.name + "/NAME"})
}

// Create, Mknod, Symlink and Link make what the tree does not hold.
func (s *shelf) Create(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, syscall.EPERM
}

func (s *shelf) Mknod(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (s *shelf) Symlink(context.Context, string, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (s *shelf) Link(context.Context, fs.InodeEmbedder, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (l *leaf) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if r := l.scope.byName[name]; r != nil {
		return l.lookupRow(ctx, r, out)
	}
	return nil, syscall.ENOENT
}

// Readdir lists the files in the order of the table.
func (l *leaf) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	return fs.NewListDirStream(l.files()), 0
}

// Mkdir, Rmdir and Rename are for containers, of which there are none here.
func (l *leaf) Mkdir(_ context.Context, name string, _ uint32, _ *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, l.refuse(&engine.Error{Op: "mkdir", File: name, Errno: syscall.EPERM, Why: l.of.one + " holds no containers",
		Cure: "make it in a container, or at the top"})
}

func (l *leaf) Rmdir(context.Context, string) syscall.Errno { return syscall.ENOENT }

func (l *leaf) Rename(_ context.Context, name string, _ fs.InodeEmbedder, _ string, _ uint32) syscall.Errno {
	return l.refuse(&engine.Error{Op: "rename", File: name, Errno: syscall.EPERM, Why: "a control file has one name",
		Cure: "copy its content with cat"})
}

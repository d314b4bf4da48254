package fs

import (
	"context"
	"hash/fnv"
	"io"
	"log/slog"
	"math"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// tree is what all nodes of one mount share.
type tree struct {
	engine    engine.Engine
	version   string
	log       *slog.Logger
	started   time.Time // the time of the root and its files
	root      *scope
	container *scope
	exec      *scope
	image     *scope
	network   *scope

	memos   memos
	samples samples
	waits   ledger
	writes  atomic.Uint64 // operations through the mount that changed something, see [stamp]
	acting  atomic.Int32  // writes to actions that are under way
}

// node is what a directory and a file have in common. It never changes.
type node struct {
	fs.Inode
	tree *tree
	place
}

// subject is whom the files of a directory are about, as far as every file is about it.
type subject interface {
	Generation() uint64
	Owner(file string) (engine.Owner, bool)
	SetOwner(file string, o engine.Owner) error
	Fail(err error)
}

// program is whom the files of a directory are about where that is a program; nil elsewhere.
func (p place) program() engine.Program {
	switch {
	case p.x != nil:
		return p.x
	case p.c != nil:
		return p.c
	}
	return nil
}

// subject is nil in the root.
func (p place) subject() subject {
	switch {
	case p.image != nil:
		return p.image
	case p.network != nil:
		return p.network
	}
	if who := p.program(); who != nil {
		return who
	}
	return nil
}

// name is that of the directory.
func (p place) name() string {
	switch {
	case p.image != nil:
		return p.image.View().Name
	case p.network != nil:
		return p.network.View().Name
	}
	return p.program().View().Name
}

// changed is when the subject last changed; in the root, when the mount was made.
func (n *node) changed() time.Time {
	switch {
	case n.image != nil:
		return n.image.View().Changed
	case n.network != nil:
		return n.network.View().Changed
	}
	if p := n.program(); p != nil {
		return p.View().Changed
	}
	return n.tree.started
}

// fresh is the configuration that the settings of a directory have at first, and when they are reset.
func (n *node) fresh() *engine.Config {
	switch {
	case n.x != nil:
		return n.x.Inherited()
	case n.c != nil:
		return n.c.View().Config.Fresh()
	}
	return engine.NewConfig()
}

// forever is how long the kernel may keep what changes through the kernel only: names, and all about directories.
const forever = time.Hour

// moment is how long it may keep what it has just been told of a file that changes through its own writes, which it notices,
// or through config.json: until the open(2) that made it ask. It rounds this up to its clock tick, 1 to 4 ms. A wait file is
// another such: nobody reads by the size of what blocks.
const moment = time.Nanosecond

// Inode numbers that mean something else: none, the root, and the file by which go-fuse stops poll(2).
const (
	noIno   = 0
	rootIno = 1
	pollIno = math.MaxUint64
)

// inode numbers a directory's file, or with an empty name its directory: the same number after a restart of the server,
// because cp takes a file whose number changed for another one.
func inode(id, name string) uint64 {
	h := fnv.New64a()
	io.WriteString(h, id+"/"+name)
	switch n := h.Sum64(); n {
	case noIno, rootIno, pollIno:
		return n ^ 1<<32
	default:
		return n
	}
}

// caller is who sent a request.
func caller(ctx context.Context) engine.Caller {
	c, ok := fuse.FromContext(ctx)
	if !ok {
		return engine.Caller{UID: nobody, GID: nobody} // go-fuse always says who
	}
	return engine.Caller{UID: c.Uid, GID: c.Gid, PID: c.Pid}
}

// owner is the owner and mode of a directory, which are also the owner of its files.
func (n *node) owner() engine.Owner {
	who := n.subject()
	if who == nil {
		return n.tree.engine.RootOwner()
	}
	o, _ := who.Owner("")
	return o
}

// stamp reads the moment, before a text is made.
func (n *node) stamp() stamp {
	s := stamp{writes: n.tree.writes.Load()} // of all containers: what runs below shows in ps and stats above
	if who := n.subject(); who != nil {
		s.generation = who.Generation()
	}
	return s
}

// source is what rows make their texts from, at this moment.
func (n *node) source() source {
	s := source{tree: n.tree, c: n.c, p: n.program(), image: n.image, network: n.network}
	if s.p != nil {
		s.view = s.p.View()
	}
	return s
}

// refuse turns an error into what the system call returns, and leaves the sentence where the user looks for it. It is the
// only way by which an error leaves this package.
func (n *node) refuse(err error) syscall.Errno {
	return n.tree.refuse(n.subject(), err)
}

// refuse is the same for a subject that is not the node's own: the child that could not be removed or renamed.
func (t *tree) refuse(who subject, err error) syscall.Errno {
	if !explained(err) {
		t.log.Error("an error without an errno", "error", err)
	}
	if who != nil {
		who.Fail(err)
	}
	if errno := engine.Errno(err); errno != syscall.EAGAIN {
		return errno
	}
	// To EAGAIN, Go's package os, Node and others wait for poll(2) to tell of room, and the tree has no poll(2): for ever.
	return syscall.EBUSY
}

// fill sets what the attributes of directories and files have in common.
func fill(out *fuse.Attr, o engine.Owner, t time.Time) {
	out.Mode = o.Mode
	out.Owner = fuse.Owner{Uid: o.UID, Gid: o.GID}
	out.Nlink = 1 // of directories, too: find(1) would otherwise count children by it
	out.SetTimes(&t, &t, &t)
}

// changed applies chown(2) and chmod(2) to an owner; the kernel has checked who may. Times are accepted and mean nothing,
// as in cgroupfs.
func changed(o engine.Owner, in *fuse.SetAttrIn) (engine.Owner, bool) {
	before := o
	if uid, ok := in.GetUID(); ok {
		o.UID = uid
	}
	if gid, ok := in.GetGID(); ok {
		o.GID = gid
	}
	if mode, ok := in.GetMode(); ok {
		o.Mode = mode & 0o777
	}
	return o, o != before
}

// Statfs tells of no blocks, so that df leaves the mount out as it does other trees of files that are not on a disk.
func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, 63
	return 0
}

// Fsync has nothing to do: every write was applied when it returned. The kernel asks once and takes ENOSYS as success.
func (n *node) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno { return syscall.ENOSYS }

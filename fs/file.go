package fs

import (
	"context"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// file is one row in one directory.
type file struct {
	node
	row *row
	ino uint64
}

// waitSize is the size of a stream that would block: not 0, for busybox would then not read, and the longest text that may
// come, "unknown\n".
const waitSize = 8

// blockSize is the st_blksize of a setting. Programs take it for the size of their buffers, so that a long value arrives
// in one write(2) rather than cut.
const blockSize = maxValue

// fill makes the attributes of this moment. A text that cannot be had counts as empty: the reader is told why, ls is not
// stopped.
func (f *file) fill(out *fuse.Attr, by engine.Caller) {
	s := f.sourceFor(by)
	o := f.owner()
	o.Mode = f.row.mode()
	if who := f.subject(); who != nil {
		if own, ok := who.Owner(f.row.name); ok {
			o = own
		}
	}
	fill(out, o, f.changed())
	out.Mode |= syscall.S_IFREG
	switch {
	case f.row.read != nil:
		text, _ := f.peek(s)
		out.Size = uint64(len(text))
	case f.row.log != nil:
		out.Size = uint64(f.row.log.size(s))
	case f.row.wait != nil:
		out.Size = f.waitSize(s)
	case f.row.feed != nil:
		out.Size = uint64(len(quiet))
	}
	if f.row.setting() {
		// The number of blocks is set below because go-fuse leaves it alone when there is a block size.
		out.Blksize = blockSize
	}
	out.Blocks = (out.Size + 511) / 512
}

// waitSize is exact once there is something to read, and a promise before.
func (f *file) waitSize(s source) uint64 {
	text, ok := f.row.wait.now(s)
	switch {
	case !ok:
		return waitSize
	case text == "":
		return 0
	}
	return uint64(len(text) + 1)
}

// sourceFor is what the text of a reader is made from.
func (f *file) sourceFor(by engine.Caller) source {
	s := f.source()
	if f.row.mine {
		s.sight = f.tree.sightOf(by)
	}
	return s
}

// peek returns the text whose size is told, and keeps it for the read that follows, if that shows the same to everybody.
func (f *file) peek(s source) (string, error) {
	if s.sight != nil {
		return f.row.text(s)
	}
	now := f.stamp()
	if text, ok := f.tree.memos.get(f.ino, now, false); ok {
		return text, nil
	}
	text, err := f.row.text(s)
	if err == nil {
		f.tree.memos.put(f.ino, now, text)
	}
	return text, err
}

// text returns what a reader is shown. The first reading of a handle takes the text whose size was told.
func (f *file) text(first bool, by *sight) (string, error) {
	if by != nil {
		s := f.source()
		s.sight = by
		return f.row.text(s)
	}
	if text, ok := f.tree.memos.get(f.ino, f.stamp(), true); ok && first {
		return text, nil
	}
	return f.row.text(f.source())
}

// Getattr answers stat(2), and the question of permission at each open(2): an attribute timeout would save the latter, but
// give a program that stats, writes and stats again an old size.
func (f *file) Getattr(ctx context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.fill(&out.Attr, caller(ctx))
	return 0
}

// Setattr keeps owner and mode. A new size is accepted and means nothing: truncation alone changes nothing.
func (f *file) Setattr(ctx context.Context, fh fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	var now fuse.Attr
	f.fill(&now, caller(ctx)) // owner and mode may still be those of the directory and the table
	o, ok := changed(engine.Owner{UID: now.Uid, GID: now.Gid, Mode: now.Mode & 0o777}, in)
	if ok {
		who := f.subject()
		if who == nil {
			return syscall.EPERM
		}
		if err := who.SetOwner(f.row.name, o); err != nil {
			return f.refuse(err)
		}
	}
	return f.Getattr(ctx, fh, out)
}

// openFlags: no page cache, and no FLUSH at close, from which nobody would see an error.
const openFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH

// Open lets a privileged user read an action, as empty, for the sake of grep -r and tar; writing state is refused to all.
func (f *file) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY && !f.row.writable() {
		return nil, 0, f.refuse(f.row.unwritable())
	}
	h := &handle{file: f, opener: caller(ctx), add: flags&syscall.O_APPEND != 0}
	s := f.sourceFor(h.opener)
	h.sight = s.sight // later, another process may have the opener's number
	if f.row.feed != nil {
		h.feed = newFeed(f.row, s, flags)
	}
	if f.row.log != nil && flags&syscall.O_ACCMODE != syscall.O_WRONLY {
		var err error
		if h.log, err = f.row.log.open(f.source()); err != nil {
			return nil, 0, f.refuse(err)
		}
	}
	return h, openFlags, 0
}

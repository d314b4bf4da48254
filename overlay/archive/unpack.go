package archive

import (
	"archive/tar"
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

const (
	entriesMax = 1 << 24  // of an archive
	holesMax   = 64 << 30 // bytes of sparse files that are not in the archive: they are read as zeros
	tailMax    = 64 << 20 // bytes after the end of the archive
	notesMax   = 100
	lateMax    = 1 << 20 // files whose owner is set afterwards
	idsMax     = 1 << 16 // the ids that a container has, and the program that unpacks: 0 to 65535

	whiteout   = ".wh."
	whiteouts  = whiteout + whiteout // what layers say of themselves
	opaqueMark = whiteouts + ".opq"
)

// bad is the error of an archive that no layer may be.
func bad(why string) error { return badAs(syscall.EBADMSG, why) }

func badAs(errno syscall.Errno, why string) error {
	return &engine.Error{Op: "unpack", Errno: errno, Why: why}
}

// naming says which entry an error is of.
func naming(entry string, err error) error {
	if e, ok := err.(*engine.Error); ok {
		e.File = entry
		return e
	}
	return &engine.Error{Op: "unpack", File: entry, Errno: engine.Errno(err), Err: err}
}

// unpacker is one layer being unpacked.
type unpacker struct {
	tree    *tree
	in      *tar.Reader
	raw     *recorder
	exact   *records
	pool    *finishers
	exactly bool // the umask is 0
	holes   int64
	result  Result
	skipped map[string]bool // paths of what was left out, which hard links may name
	buf     []byte
}

// work unpacks and says so.
func work(root, from, answer, exact *os.File, limit int64, exactly bool) error {
	defer from.Close()
	out := bufio.NewWriter(answer)
	say := json.NewEncoder(out) // a line each
	in := newStream(from)
	defer in.close()
	u := &unpacker{exactly: exactly, tree: newTree(int(root.Fd())), skipped: map[string]bool{}, buf: make([]byte, chunkSize)}
	defer u.tree.close()
	u.result.Exact = true
	entry := ""
	err := u.prepare(in, exact, limit)
	if err == nil {
		entry, err = u.entries()
		if e := u.pool.close(); err == nil {
			err = e
		}
	}
	if err == nil {
		err = u.end()
	}
	if err == nil {
		u.result.DiffID, u.result.Size = in.sum(), u.raw.size
		err = u.report(say)
	}
	if err != nil {
		if err := say.Encode(saying{Refused: refused(entry, err)}); err != nil {
			return err
		}
	}
	return out.Flush()
}

// refused turns an error into what is said about it.
func refused(entry string, err error) *refusal {
	r := &refusal{Entry: entry, Errno: int(syscall.EBADMSG), Why: err.Error()}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		r.Errno = int(errno)
	}
	if e, ok := errors.AsType[*engine.Error](err); ok {
		r.Errno = int(e.Errno)
		if r.Why = e.Why; e.File != "" {
			r.Entry = e.File
		}
		if e.Err != nil {
			r.Why = strings.TrimPrefix(r.Why+": "+e.Err.Error(), ": ")
		}
	}
	return r
}

func (u *unpacker) prepare(in *stream, exact *os.File, limit int64) error {
	records, err := newRecords(exact)
	if err != nil {
		return err
	}
	u.exact = records
	u.raw = &recorder{from: in, to: records, limit: limit}
	u.in = tar.NewReader(u.raw)
	u.pool = newFinishers()
	return nil
}

// entries unpacks all. The entry is the one that the error is about, or the one before it.
func (u *unpacker) entries() (entry string, err error) {
	for {
		h, err := u.in.Next()
		if err == io.EOF {
			return "", u.tail()
		}
		if errors.Is(err, tar.ErrInsecurePath) {
			err = nil // it is looked at below
		}
		if err != nil {
			return entry, broken(err, entry)
		}
		entry = h.Name
		if u.result.Files++; u.result.Files > entriesMax {
			return entry, badAs(syscall.E2BIG, "too many entries")
		}
		if err := u.entry(h); err != nil {
			return entry, err
		}
		if err := u.pool.failed(); err != nil {
			return entry, err
		}
	}
}

// broken is the error of a stream that cannot be read. What cannot be decompressed and what is no tar come without an errno.
func broken(err error, after string) error {
	why := "the archive is malformed"
	if errors.Is(err, io.ErrUnexpectedEOF) {
		why = "the archive is cut off"
	}
	if after != "" {
		why += " after this entry"
	}
	errno := syscall.EBADMSG
	if found, ok := errors.AsType[syscall.Errno](err); ok {
		errno = found
	}
	return &engine.Error{Op: "unpack", File: after, Errno: errno, Why: why, Err: err}
}

// tail reads what comes after the last entry. An archive ends with empty blocks: without one it may be half of itself.
func (u *unpacker) tail() error {
	if !u.raw.zeros {
		return badAs(syscall.EBADMSG, "the archive is cut off: its end is missing")
	}
	n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{io.LimitReader(u.raw, tailMax+1)}, u.buf)
	if err != nil {
		return broken(err, "")
	}
	if n > tailMax {
		return bad("it goes on after its end")
	}
	return nil
}

// entry unpacks one.
func (u *unpacker) entry(h *tar.Header) error {
	dir, name, err := clean(h.Name)
	if err != nil {
		return err
	}
	a, err := attrsOf(h)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // it says nothing about a file
	}
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return bad("the layer itself is no directory")
		}
		return u.describe(u.tree.root, a, h)
	}
	in, err := u.tree.dir(dir, true)
	if err != nil {
		return err
	}
	if strings.HasPrefix(name, whiteout) {
		return u.whiteout(in, name)
	}
	switch h.Typeflag {
	case tar.TypeReg, '\x00', tar.TypeCont, tar.TypeGNUSparse:
		return u.file(in, name, a, h)
	case tar.TypeDir:
		return u.directory(in, name, a, h)
	case tar.TypeLink:
		return u.hardLink(in, name, h.Linkname)
	case tar.TypeSymlink:
		return u.symlink(in, name, a, h)
	case tar.TypeFifo:
		return u.fifo(in, name, a, h)
	case tar.TypeChar, tar.TypeBlock:
		if len(u.skipped) < notesMax*notesMax {
			u.skipped[pathOf(in, name)] = true
		}
		u.note("%s: a device node, which a container gets from its devices only", h.Name)
		return nil
	}
	return bad(fmt.Sprintf("an entry of the unknown type %q", h.Typeflag))
}

// note says what was left out.
func (u *unpacker) note(format string, args ...any) {
	switch len(u.result.Notes) {
	case notesMax:
		u.result.Notes = append(u.result.Notes, "and more")
	case notesMax + 1:
	default:
		u.result.Notes = append(u.result.Notes, clip(fmt.Sprintf(format, args...)))
	}
}

// lost is called when an entry takes the place of another: what was in that is nowhere any more.
func (u *unpacker) lost() { u.result.Exact = false }

// whiteout hides what has a name in the layers below. It says nothing about this layer, whatever the order: what is here hides
// already, and a directory is made to.
func (u *unpacker) whiteout(in *node, name string) error {
	if name == opaqueMark {
		in.opaque = true
		return nil
	}
	if strings.HasPrefix(name, whiteouts) {
		u.note("%s: a mark that says nothing to overlayfs", pathOf(in, name))
		return nil
	}
	switch name = strings.TrimPrefix(name, whiteout); name {
	case "", ".", "..":
		return bad("a whiteout of nothing that could be in a directory")
	}
	if kid := u.tree.kids[key{in, name}]; kid != nil {
		kid.opaque = true
		return nil
	}
	fd, err := u.tree.dirFD(in)
	if err == nil {
		err = unix.Mknodat(fd, name, unix.S_IFCHR, 0)
	}
	if err == syscall.EEXIST {
		return nil
	}
	return err
}

// directory makes one, or takes the one that is there.
func (u *unpacker) directory(in *node, name string, a attrs, h *tar.Header) error {
	n := u.tree.kids[key{in, name}]
	if n == nil {
		var err error
		if n, err = u.tree.mkdir(in, name, u.lost); err != nil {
			return err
		}
	}
	return u.describe(n, a, h)
}

// describe notes what a directory is to be at the end: its time changes with all that is made in it, and its group and default
// access list would be inherited.
func (u *unpacker) describe(n *node, a attrs, h *tar.Header) error {
	n.attrs, n.said = a, true
	if len(h.PAXRecords) == 0 {
		return nil
	}
	fd, err := u.tree.dirFD(n)
	if err != nil {
		return err
	}
	return u.xattrs(h, true, func(name, value string) error {
		if name == defaultACL {
			n.acl = value
			return nil
		}
		return unix.Fsetxattr(fd, name, []byte(value), 0)
	})
}

// replacing makes something under a name that may be taken.
func (u *unpacker) replacing(in *node, name string, do func(dir int) error) error {
	for i := 0; ; i++ {
		fd, err := u.tree.dirFD(in)
		if err == nil {
			err = do(fd)
		}
		if err != syscall.EEXIST || i > 0 {
			return err
		}
		if err := u.tree.clear(in, name, u.lost); err != nil {
			return err
		}
	}
}

// hardLink makes a link to what this layer has. What a container would find through symbolic links is not meant.
func (u *unpacker) hardLink(in *node, name, to string) error {
	dir, base, err := clean(to)
	if err != nil {
		return err
	}
	wrong := bad("a hard link to a directory or to a whiteout")
	if base == "" {
		return wrong
	}
	err = u.replacing(in, name, func(fd int) error {
		of, err := u.tree.dir(dir, false)
		if err != nil {
			return err
		}
		st, err := u.tree.stat(of, base)
		if err != nil {
			return err
		}
		if isWhiteout(&st) || st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return wrong
		}
		if of == in && base == name {
			return nil
		}
		source, err := u.tree.dirFD(of)
		if err == nil {
			fd, err = u.tree.dirFD(in)
		}
		if err == nil {
			err = unix.Linkat(source, base, fd, name, 0)
		}
		if late, ok := u.tree.late[key{of, base}]; ok && err == nil {
			err = u.later(in, name, &late)
		}
		return err
	})
	if err == syscall.ENOENT || err == syscall.ENOTDIR {
		if u.skipped[strings.TrimPrefix(dir+"/"+base, "/")] {
			u.note("%s: a link to a device node", pathOf(in, name))
			return nil
		}
		return bad(fmt.Sprintf("a hard link to %s, which the layer does not have before it", engine.Quote(to)))
	}
	return err
}

// lateOwner takes an owner out of a that this program has no id for. The files get it afterwards, see report.go.
func (u *unpacker) lateOwner(a *attrs) *owner {
	if a.uid < idsMax && a.gid < idsMax {
		return nil
	}
	o := &owner{UID: a.uid, GID: a.gid}
	a.uid, a.gid = 0, 0
	return o
}

// later notes such an owner, nil for none, of what has just been made.
func (u *unpacker) later(in *node, name string, o *owner) error {
	if o == nil {
		return nil
	}
	if len(u.tree.late) >= lateMax {
		return badAs(syscall.E2BIG, "too many files with an owner beyond 65535")
	}
	u.tree.late[key{in, strings.Clone(name)}] = *o
	return nil
}

func (u *unpacker) symlink(in *node, name string, a attrs, h *tar.Header) error {
	if h.Linkname == "" || len(h.Linkname) > pathMax || strings.IndexByte(h.Linkname, 0) >= 0 {
		return bad("a symbolic link to no path")
	}
	err := u.replacing(in, name, func(dir int) error { return unix.Symlinkat(h.Linkname, dir, name) })
	if err != nil {
		return err
	}
	return u.settle(in, name, a, h)
}

func (u *unpacker) fifo(in *node, name string, a attrs, h *tar.Header) error {
	err := u.replacing(in, name, func(dir int) error { return unix.Mknodat(dir, name, unix.S_IFIFO|a.mode, 0) })
	if err != nil {
		return err
	}
	return u.settle(in, name, a, h)
}

// settle sets what is to be said of what cannot be opened: it was made a moment ago, and nobody else is here.
func (u *unpacker) settle(in *node, name string, a attrs, h *tar.Header) error {
	late := u.lateOwner(&a)
	dir, err := u.tree.dirFD(in)
	if err == nil {
		err = u.later(in, name, late)
	}
	if err != nil {
		return err
	}
	if a.uid != 0 || a.gid != 0 {
		err = unix.Fchownat(dir, name, int(a.uid), int(a.gid), unix.AT_SYMLINK_NOFOLLOW)
	}
	if err == nil && h.Typeflag == tar.TypeFifo {
		err = unix.Fchmodat(dir, name, a.mode, 0)
	}
	if err == nil {
		err = u.xattrs(h, false, nil)
	}
	if err == nil {
		err = unix.UtimesNanoAt(dir, name, []unix.Timespec{a.atime, a.mtime}, unix.AT_SYMLINK_NOFOLLOW)
	}
	return err
}

// end sets the attributes of directories, now that nothing is made in them any more.
func (u *unpacker) end() error {
	if err := u.exact.close(); err != nil {
		return err
	}
	u.result.Opaque = u.tree.root.opaque
	for _, n := range u.tree.all {
		if n.gone {
			continue
		}
		fd, err := u.tree.dirFD(n)
		if err == nil {
			err = u.finishDir(fd, n)
		}
		if err != nil {
			return naming(pathOf(n, ""), err)
		}
	}
	return nil
}

func (u *unpacker) finishDir(fd int, n *node) error {
	a := &n.attrs
	late := u.lateOwner(a)
	if err := u.later(n, "", late); err != nil {
		return err
	}
	if a.uid != 0 || a.gid != 0 {
		if err := unix.Fchown(fd, int(a.uid), int(a.gid)); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(fd, a.mode); err != nil {
		return err
	}
	if n.acl != "" {
		if err := unix.Fsetxattr(fd, defaultACL, []byte(n.acl), 0); err != nil {
			return err
		}
	}
	if !n.said {
		return nil
	}
	return futimens(fd, a)
}

// report says what this program cannot do itself, and the result.
func (u *unpacker) report(say *json.Encoder) error {
	for _, n := range u.tree.all {
		if n.opaque && !n.gone {
			if err := say.Encode(saying{Opaque: []byte(pathOf(n, ""))}); err != nil {
				return err
			}
		}
	}
	for at, late := range u.tree.late {
		late.Path = []byte(pathOf(at.in, at.name))
		if err := say.Encode(saying{Owner: &late}); err != nil {
			return err
		}
	}
	return say.Encode(saying{Result: &u.result})
}

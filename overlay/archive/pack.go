package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// Pack writes a directory as overlayfs has it, an upper one or any tree, as a layer: what overlayfs hides as whiteouts, and
// nothing of overlayfs itself. The same tree gives the same bytes: names in order, no times but those of the last change, no names
// of users. Sockets are left out, as tar(1) does. Of dir nothing is believed, and no link is followed; the caller sees to it that
// nobody writes there meanwhile.
//
// Errors: EINVAL for what no layer can hold (a name that a whiteout has), EBUSY for a file that changes, those of reading, of w and
// of ctx.
func Pack(ctx context.Context, dir *os.File, w io.Writer) error {
	out := bufio.NewWriterSize(w, 256<<10)
	p := &packer{ctx: ctx, root: dir, out: tar.NewWriter(out), seen: map[inode]string{}, buf: make([]byte, 256<<10)}
	if err := p.directory("."); err != nil {
		return err
	}
	if err := p.out.Close(); err != nil {
		return err
	}
	return out.Flush()
}

// inode is a file, whatever it is called.
type inode struct{ dev, ino uint64 }

// packer is one Pack.
type packer struct {
	ctx  context.Context
	root *os.File
	out  *tar.Writer
	seen map[inode]string // the first name of files that have several
	buf  []byte
}

func packError(path string, err error) error {
	if _, ok := err.(*engine.Error); ok || err == nil {
		return err
	}
	return &engine.Error{Op: "pack", File: path, Errno: engine.Errno(err), Err: err}
}

// directory writes a directory and all that is in it. It is opened by its path each time, so that few are open at once.
func (p *packer) directory(path string) error {
	if len(path) > pathMax {
		return packError(clip(path), syscall.ENAMETOOLONG)
	}
	dir, err := within(p.root, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return packError(path, err)
	}
	names, err := p.enter(dir, path)
	var subs []string
	for _, name := range names {
		if err != nil {
			break
		}
		var sub bool
		if sub, err = p.entry(dir, path, name); sub {
			subs = append(subs, name)
		}
	}
	dir.Close()
	if err != nil {
		return packError(path, err)
	}
	for _, name := range subs {
		if err := p.directory(join(path, name)); err != nil {
			return err
		}
	}
	return nil
}

func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// enter writes a directory itself, and lists it.
func (p *packer) enter(dir *os.File, path string) ([]string, error) {
	if err := p.ctx.Err(); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, err
	}
	h := header(&st, path+"/", tar.TypeDir)
	if err := p.xattrs(dir, h); err != nil {
		return nil, err
	}
	if err := p.out.WriteHeader(h); err != nil {
		return nil, err
	}
	var mark [2]byte
	if n, err := unix.Fgetxattr(int(dir.Fd()), opaque, mark[:]); err == nil && string(mark[:n]) == "y" {
		if err := p.out.WriteHeader(&tar.Header{Name: join(path, opaqueMark), Typeflag: tar.TypeReg, Mode: 0o600, ModTime: noTime}); err != nil {
			return nil, err
		}
	}
	names, err := dir.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// header is what every kind of entry has.
func header(st *unix.Stat_t, name string, kind byte) *tar.Header {
	return &tar.Header{Name: name, Typeflag: kind, Mode: int64(st.Mode & maskMode), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX}
}

// kinds are those of entries without contents.
var kinds = map[uint32]byte{unix.S_IFLNK: tar.TypeSymlink, unix.S_IFIFO: tar.TypeFifo, unix.S_IFCHR: tar.TypeChar, unix.S_IFBLK: tar.TypeBlock}

// entry writes what is in a directory, unless that is a directory.
func (p *packer) entry(dir *os.File, in, name string) (sub bool, err error) {
	path := join(in, name)
	if strings.HasPrefix(name, whiteout) {
		return false, &engine.Error{Op: "pack", File: path, Errno: syscall.EINVAL, Why: "in a layer, a name that begins with " + whiteout + " hides another file",
			Cure: "rename it or delete it"}
	}
	if err := p.ctx.Err(); err != nil {
		return false, err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, packError(path, err)
	}
	if isWhiteout(&st) {
		return false, p.hide(in, name)
	}
	kind := st.Mode & unix.S_IFMT
	switch kind {
	case unix.S_IFDIR:
		return true, nil
	case unix.S_IFSOCK:
		return false, nil
	case unix.S_IFREG:
		return false, packError(path, p.file(dir, in, name))
	}
	h := header(&st, path, kinds[kind])
	if p.linked(&st, h) {
		return false, p.out.WriteHeader(h)
	}
	switch kind {
	case unix.S_IFLNK:
		n, err := unix.Readlinkat(int(dir.Fd()), name, p.buf)
		if err != nil {
			return false, packError(path, err)
		}
		h.Linkname = string(p.buf[:n])
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	return false, p.out.WriteHeader(h)
}

// noTime is that of what is no file.
var noTime = time.Unix(0, 0)

// hide writes a whiteout.
func (p *packer) hide(in, name string) error {
	if len(name) > nameMax-len(whiteout) {
		return packError(join(in, name), syscall.ENAMETOOLONG)
	}
	return p.out.WriteHeader(&tar.Header{Name: join(in, whiteout+name), Typeflag: tar.TypeReg, Mode: 0o600, ModTime: noTime})
}

// linked makes h a hard link, if the same file has been written under another name.
func (p *packer) linked(st *unix.Stat_t, h *tar.Header) bool {
	if st.Nlink < 2 {
		return false
	}
	id := inode{st.Dev, st.Ino}
	first, ok := p.seen[id]
	if !ok {
		p.seen[id] = h.Name
		return false
	}
	h.Typeflag, h.Linkname, h.Size, h.PAXRecords = tar.TypeLink, first, 0, nil
	return true
}

// file writes a regular file.
func (p *packer) file(dir *os.File, in, name string) error {
	fd, err := ignoringEINTR(func() (int, error) {
		return unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("it has just become another kind of file: %w", syscall.EBUSY)
	}
	if st.Size == 0 {
		// The other form of a whiteout, for layers that are in an overlay themselves.
		if _, err := unix.Fgetxattr(fd, "trusted.overlay.whiteout", nil); err == nil {
			return p.hide(in, name)
		}
	}
	h := header(&st, join(in, name), tar.TypeReg)
	if p.linked(&st, h) {
		return p.out.WriteHeader(h)
	}
	h.Size = st.Size
	if err := p.xattrs(f, h); err != nil {
		return err
	}
	if err := p.out.WriteHeader(h); err != nil {
		return err
	}
	return p.contents(f, st.Size)
}

// contents writes what is in a file. Of holes nothing is read.
func (p *packer) contents(f *os.File, size int64) error {
	fd := int(f.Fd())
	for at := int64(0); at < size; {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			data, err = size, nil
		}
		if err != nil {
			return err
		}
		if at, err = p.zeros(at, min(data, size)); err != nil || at == size {
			return err
		}
		hole, err := unix.Seek(fd, at, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for hole = min(hole, size); at < hole; {
			n, err := f.ReadAt(p.buf[:min(hole-at, int64(len(p.buf)))], at)
			if n == 0 {
				return fmt.Errorf("it has just become shorter: %w: %w", err, syscall.EBUSY)
			}
			if _, err := p.out.Write(p.buf[:n]); err != nil {
				return err
			}
			at += int64(n)
			if err := p.ctx.Err(); err != nil {
				return err
			}
		}
	}
	return nil
}

// zeros writes a hole.
func (p *packer) zeros(from, to int64) (int64, error) {
	if from < to {
		clear(p.buf)
	}
	for from < to {
		n, err := p.out.Write(p.buf[:min(to-from, int64(len(p.buf)))])
		if err == nil {
			err = p.ctx.Err()
		}
		if err != nil {
			return from, err
		}
		from += int64(n)
	}
	return to, nil
}

// xattrs adds those of a file that Unpack would set.
func (p *packer) xattrs(f *os.File, h *tar.Header) error {
	fd := int(f.Fd())
	n, err := unix.Flistxattr(fd, p.buf)
	if err == unix.EOPNOTSUPP || n == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	for raw := range bytes.SplitSeq(bytes.TrimSuffix(slices.Clone(p.buf[:n]), []byte{0}), []byte{0}) {
		name := string(raw)
		if name != capability && name != accessACL && name != defaultACL && !strings.HasPrefix(name, "user.") {
			continue
		}
		if strings.Contains(name, "=") {
			continue // PAX has no way to say that
		}
		n, err := unix.Fgetxattr(fd, name, p.buf)
		if err == unix.ENODATA {
			continue
		}
		if err != nil {
			return err
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxXattr+name] = string(p.buf[:n])
	}
	return nil
}

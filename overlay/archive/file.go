package archive

import (
	"archive/tar"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

const (
	smallMax  = 64 << 10 // of a file that is written aside
	finishing = 32       // files at once
	workers   = 2
	holeMin   = 64 << 10 // of zeros, for which a file gets a hole
)

// attrsOf takes from an entry what is set on any file.
func attrsOf(h *tar.Header) (attrs, error) {
	a := attrs{mode: uint32(h.Mode) & maskMode, uid: uint32(h.Uid), gid: uint32(h.Gid)}
	const none = 1<<32 - 1 // the id that means no change
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= none || int64(h.Gid) >= none {
		return a, bad(fmt.Sprintf("an owner that cannot be: %d:%d", h.Uid, h.Gid))
	}
	if h.Size < 0 {
		return a, bad("a negative size")
	}
	a.mtime = unix.Timespec{Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}
	a.atime = a.mtime
	if !h.AccessTime.IsZero() {
		a.atime = unix.Timespec{Sec: h.AccessTime.Unix(), Nsec: int64(h.AccessTime.Nanosecond())}
	}
	return a, nil
}

// Names of extended attributes that are more than data.
const (
	capability = "security.capability"
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"

	paxXattr  = "SCHILY.xattr."
	paxSparse = "GNU.sparse."
)

// xattrs calls set for each extended attribute of an entry that a layer may have. What is not for everybody to have is left out,
// with a note: above all trusted.overlay, by which an archive could have the layers below show what they hide. set is nil for what
// can have none.
func (u *unpacker) xattrs(h *tar.Header, dir bool, set func(name, value string) error) error {
	for record, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(record, paxXattr)
		if !ok {
			continue
		}
		switch {
		case set == nil, strings.IndexByte(name, 0) >= 0, len(name) > nameMax,
			name != capability && name != accessACL && !(dir && name == defaultACL) && !(strings.HasPrefix(name, "user.") && name != "user."):
			u.note("%s: the extended attribute %s", h.Name, engine.Quote(name))
			continue
		}
		err := set(name, value)
		if err == syscall.EOPNOTSUPP {
			u.note("%s: the extended attribute %s, which the file system cannot keep", h.Name, engine.Quote(name))
			err = nil
		}
		if err != nil {
			return badXattr(name, err)
		}
	}
	return nil
}

// badXattr is the error of an extended attribute that cannot be set.
func badXattr(name string, err error) error {
	errno := engine.Errno(err)
	if errno == syscall.EINVAL {
		errno = syscall.EBADMSG // its value is none
	}
	return badAs(errno, fmt.Sprintf("the extended attribute %s: %v", engine.Quote(name), err))
}

// job is a file that has been made, and is to be finished. Its name may be another file's by then.
type job struct {
	fd     int
	in     *node
	name   string
	entry  string
	data   []byte // of a small file
	attrs  attrs
	xattrs map[string]string
	mode   bool // is to be set: it was not by open
}

// finishers write small files, and set what is said of files, beside the reading of the archive. What has to happen in the order of
// the archive, the making of names, does not happen here.
type finishers struct {
	jobs    chan *job
	buffers chan []byte
	wait    sync.WaitGroup
	err     atomic.Pointer[error]
}

func newFinishers() *finishers {
	p := &finishers{jobs: make(chan *job, finishing), buffers: make(chan []byte, finishing+workers+1)}
	for range cap(p.buffers) {
		p.buffers <- nil // made when they are used
	}
	for range workers {
		p.wait.Go(func() {
			for j := range p.jobs {
				p.finish(j)
			}
		})
	}
	return p
}

// close waits for all of them.
func (p *finishers) close() error {
	close(p.jobs)
	p.wait.Wait()
	return p.failed()
}

func (p *finishers) failed() error {
	if err := p.err.Load(); err != nil {
		return *err
	}
	return nil
}

func (p *finishers) buffer() []byte {
	if b := <-p.buffers; b != nil {
		return b
	}
	return make([]byte, smallMax)
}

// finish does one job. After an error it only closes.
func (p *finishers) finish(j *job) {
	err := p.failed()
	if err == nil {
		if err = p.complete(j); err != nil {
			failure := naming(j.entry, err)
			p.err.CompareAndSwap(nil, &failure)
		}
	}
	unix.Close(j.fd)
	if j.data != nil {
		p.buffers <- j.data[:smallMax]
	}
}

// complete: writing takes the set-user-ID bits and capabilities away, and so does a change of owner. Times are last.
func (p *finishers) complete(j *job) error {
	for data := j.data; len(data) > 0; {
		n, err := ignoringEINTR(func() (int, error) { return unix.Write(j.fd, data) })
		if err != nil {
			return err
		}
		data = data[n:]
	}
	a := &j.attrs
	if a.uid != 0 || a.gid != 0 {
		if err := unix.Fchown(j.fd, int(a.uid), int(a.gid)); err != nil {
			return err
		}
	}
	if j.mode || a.mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
		if err := unix.Fchmod(j.fd, a.mode); err != nil {
			return err
		}
	}
	for name, value := range j.xattrs {
		if err := unix.Fsetxattr(j.fd, name, []byte(value), 0); err != nil {
			return badXattr(name, err)
		}
	}
	return futimens(j.fd, a)
}

// futimens sets the times of an open file.
func futimens(fd int, a *attrs) error {
	times := [2]unix.Timespec{a.atime, a.mtime}
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&times)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// file makes a regular file.
func (u *unpacker) file(in *node, name string, a attrs, h *tar.Header) error {
	late := u.lateOwner(&a)
	j := &job{in: in, name: name, entry: h.Name, attrs: a, mode: !u.exactly}
	err := u.xattrs(h, false, func(name, value string) error {
		if j.xattrs == nil {
			j.xattrs = map[string]string{}
		}
		j.xattrs[name] = value
		return nil
	})
	if err != nil {
		return err
	}
	err = u.replacing(in, name, func(dir int) error {
		j.fd, err = ignoringEINTR(func() (int, error) {
			return unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, a.mode)
		})
		return err
	})
	if err == nil {
		err = u.later(in, name, late)
	}
	if err != nil {
		return err
	}
	if err := u.contents(j, h); err != nil {
		if j.data != nil {
			u.pool.buffers <- j.data[:smallMax]
		}
		unix.Close(j.fd)
		return err
	}
	u.pool.jobs <- j
	return nil
}

// contents takes what is in a file out of the archive.
func (u *unpacker) contents(j *job, h *tar.Header) error {
	if h.Size == 0 {
		return nil
	}
	if sparse(h) {
		// What the archive has of it is not what is in the file, and is recorded with the rest.
		if u.holes += h.Size; u.raw.limit > 0 && u.holes > u.raw.limit {
			return errLimit
		}
		if u.holes > holesMax {
			return badAs(syscall.EFBIG, "too many bytes in sparse files")
		}
		_, err := u.large(j, h.Size)
		return err
	}
	u.raw.payload = true
	defer func() { u.raw.payload = false }()
	var sum uint32
	var err error
	if h.Size <= smallMax {
		j.data = u.pool.buffer()[:h.Size]
		if _, err = io.ReadFull(u.in, j.data); err != nil {
			return broken(err, "")
		}
		sum = crc32.Checksum(j.data, castagnoli)
	} else if sum, err = u.large(j, h.Size); err != nil {
		return err
	}
	u.exact.file(pathOf(j.in, j.name), h.Size, sum)
	return nil
}

// sparse reports whether an entry is of a file with holes, in any of the ways of GNU tar.
func sparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for record := range h.PAXRecords {
		if strings.HasPrefix(record, paxSparse) {
			return true
		}
	}
	return false
}

// large writes a file piece by piece, but for long runs of zeros.
func (u *unpacker) large(j *job, size int64) (sum uint32, err error) {
	at := int64(0)
	for at < size {
		part := u.buf[:min(size-at, int64(len(u.buf)))]
		if _, err := io.ReadFull(u.in, part); err != nil {
			return 0, broken(err, "")
		}
		sum = crc32.Update(sum, castagnoli, part)
		if err := writeParts(j.fd, part, at); err != nil {
			return 0, err
		}
		at += int64(len(part))
		if err := u.pool.failed(); err != nil {
			return 0, err
		}
	}
	return sum, unix.Ftruncate(j.fd, size)
}

// writeParts writes what is not zeros in pieces of holeMin, as few calls as that takes.
func writeParts(fd int, data []byte, at int64) error {
	for len(data) > 0 {
		n := 0
		for n < len(data) && !isZero(data[n:min(n+holeMin, len(data))]) {
			n = min(n+holeMin, len(data))
		}
		if n == 0 {
			n = min(holeMin, len(data))
			data, at = data[n:], at+int64(n)
			continue
		}
		for part := data[:n]; len(part) > 0; {
			m, err := ignoringEINTR(func() (int, error) { return unix.Pwrite(fd, part, at) })
			if err != nil {
				return err
			}
			part, at = part[m:], at+int64(m)
		}
		data = data[n:]
	}
	return nil
}

package local

import (
	"bytes"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/crash"
)

// openLog makes the new log beside the old one, which stands until the program runs. A start that nobody has asked for goes on
// with the old one: whoever looks why a container was started again finds what it said before.
func (s *starting) openLog() (err error) {
	name := s.c.logPath()
	if s.why == onRequest {
		s.newLog = name + fresh
		s.log, err = openFresh(s.newLog)
		return err
	}
	os.Remove(name + fresh) // of a start that a crash cut off: the next server would take it for this one's
	crash.Point("remove a log that was cut off")
	fd, err := unix.Open(name, appending|unix.O_CLOEXEC, 0o600)
	crash.Point("open a log")
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	s.log = os.NewFile(uintptr(fd), name)
	return nil
}

// appending is how a program writes its log.
const appending = unix.O_WRONLY | unix.O_CREAT | unix.O_APPEND | unix.O_NOFOLLOW

// openFresh makes a file for a log, in the place of one that a crash has left.
func openFresh(name string) (*os.File, error) {
	const how = appending | unix.O_EXCL
	fd, err := unix.Open(name, how|unix.O_CLOEXEC, 0o600)
	if err == unix.EEXIST { // of a start that a crash cut off
		if err = unix.Unlink(name); err == nil {
			crash.Point("remove a log that was cut off")
			fd, err = unix.Open(name, how|unix.O_CLOEXEC, 0o600)
		}
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	crash.Point("make a log")
	return os.NewFile(uintptr(fd), name), nil
}

// placeLog makes the new log the container's. The program has it open.
func (s *starting) placeLog() {
	if s.newLog != "" {
		if err := unix.Rename(s.newLog, s.c.logPath()); err != nil {
			s.c.e.log.Error("the log of a container that runs is not in its place", "file", s.newLog, "err", err)
		}
		crash.Point("place a log")
	}
	s.log.Close()
}

// dropLog takes away the new log of a start that has failed.
func (s *starting) dropLog() {
	s.log.Close()
	if s.newLog != "" {
		os.Remove(s.newLog)
		crash.Point("drop a log")
	}
}

// logReader is an open log. It reads the one that the container has now: a start replaces the file, and an open log follows.
//
// What log.max has taken out is a hole, so that everything else is where it was: tail -f goes on at its offset. Whoever reads from
// the beginning is not to read as many zeros, and gets the kept part, from its first whole line on, as if the file began there. A
// reader that then turns to a place beyond what such a file would have is taken to mean the true offset, as pagers do, which go
// by the size. A reader whose place has been taken out meanwhile goes on with what is kept.
type logReader struct {
	name string

	mu    sync.Mutex
	file  uint64 // inode of the file that shift is about; guarded by mu
	shift int64  // how far the beginning is moved for this reader, who has begun there; guarded by mu
	next  int64  // where it goes on; guarded by mu
}

// Log implements [engine.Container].
func (c *container) Log() (engine.Log, error) { return &logReader{name: c.logPath()}, nil }

func (c *container) logPath() string { return c.e.store.logPath(c.id) }

// open opens the log that there is now; nil when there is none.
func (l *logReader) open() (*os.File, error) {
	// Nothing but a crash or root leaves something else there, and nobody is shown what that leads to (CVE-2026-53489).
	f, err := os.OpenFile(l.name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if os.IsNotExist(err) {
		return nil, nil
	}
	return f, err
}

// ReadPage implements [engine.Log].
func (l *logReader) ReadPage(b []byte, off int64) (int, error) {
	f, err := l.open()
	if f == nil {
		return 0, err
	}
	defer f.Close()
	n, err := f.ReadAt(b, off)
	if firstKept(f, 0) > 0 { // looked at afterwards: it may have been taken out meanwhile
		return 0, unix.EINVAL
	}
	return n, err
}

// ReadAt implements [engine.Log].
func (l *logReader) ReadAt(b []byte, off int64) (int, error) {
	f, err := l.open()
	if f == nil {
		return 0, err
	}
	defer f.Close()
	var info unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &info); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if off == 0 || l.file != info.Ino {
		l.file, l.shift, l.next = info.Ino, 0, off
	}
	at, kept := off+l.shift, firstKept(f, info.Size)
	switch {
	case off != l.next && l.shift > 0 && at >= info.Size && off >= kept:
		at = off
	case off == l.next && at < kept: // it was too slow
		l.shift = keptLine(f, info.Size) - off
		at = off + l.shift
	}
	n, err := f.ReadAt(b, at)
	if off == l.next {
		l.next += int64(n)
	}
	return n, err
}

// lineMax bounds how far the first whole line is looked for.
const lineMax = 64 << 10

// keptLine is where the first whole line begins that is kept, or near it, if lines are long.
func keptLine(f *os.File, size int64) int64 {
	at := firstKept(f, size)
	if at == 0 || at >= size {
		return at
	}
	b := make([]byte, min(lineMax, size-at))
	n, err := f.ReadAt(b, at)
	if err != nil && err != io.EOF {
		return at
	}
	text := bytes.TrimLeft(b[:n], "\x00") // of a block of which only a part was given back
	if end := bytes.IndexByte(text, '\n'); end >= 0 && end+1 < len(text) {
		text = text[end+1:]
	}
	return at + int64(n-len(text))
}

// Size implements [engine.Log].
func (l *logReader) Size() (int64, error) {
	info, err := os.Lstat(l.name)
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Close implements [engine.Log].
func (l *logReader) Close() error { return nil }

// placeLate puts a log in its place whose server died between a launch and that, when the program has ended meanwhile. A file that
// was changed after the end waits for the place of another run, which a crash cut off.
func placeLate(log string, finished time.Time) error {
	info, err := os.Lstat(log + fresh)
	if err == nil && !info.ModTime().After(finished) {
		err = os.Rename(log+fresh, log)
		crash.Point("place a log")
	}
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

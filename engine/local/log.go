package local

import (
	"os"

	"golang.org/x/sys/unix"
)

// openLog makes the new log beside the old one, which stands until the program runs. A start that nobody has asked for goes on
// with the old one: whoever looks why a container was started again finds what it said before.
func (s *starting) openLog() error {
	const how = unix.O_WRONLY | unix.O_CREAT | unix.O_APPEND | unix.O_NOFOLLOW
	name, exclusive := s.c.logPath()+fresh, unix.O_EXCL
	if s.why != onRequest {
		os.Remove(name) // of a start that a crash cut off: the next server would take it for this one's
		name, exclusive = s.c.logPath(), 0
	} else {
		s.newLog = name
	}
	fd, err := unix.Open(name, how|exclusive|unix.O_CLOEXEC, 0o600)
	if err == unix.EEXIST { // likewise
		if err = unix.Unlink(name); err == nil {
			fd, err = unix.Open(name, how|exclusive|unix.O_CLOEXEC, 0o600)
		}
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	s.log = os.NewFile(uintptr(fd), name)
	return nil
}

// placeLog makes the new log the container's. The program has it open.
func (s *starting) placeLog() {
	if s.newLog != "" {
		if err := unix.Rename(s.newLog, s.c.logPath()); err != nil {
			s.c.e.log.Error("the log of a container that runs is not in its place", "file", s.newLog, "err", err)
		}
	}
	s.log.Close()
}

// dropLog takes away the new log of a start that has failed.
func (s *starting) dropLog() {
	s.log.Close()
	if s.newLog != "" {
		os.Remove(s.newLog)
	}
}

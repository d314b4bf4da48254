package archive

import (
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

// What the confined program says, a line of JSON each, in this order:
//
//	{"Opaque":PATH}                 … a directory that hides what is below it: it takes rights that no user namespace has
//	{"Owner":{"Path":PATH,…}}       … a file whose owner the namespace does not know
//	{"Result":{…}} or {"Refused":…}   the end
//
// Nobody knows who speaks: an archive that has taken the program over could say anything. So a line does no more than any archive
// could have asked for, in the layer and nowhere else.

// saying is one line. Paths are bytes, which need not be text.
type saying struct {
	Opaque  []byte   `json:",omitempty"`
	Owner   *owner   `json:",omitempty"`
	Result  *Result  `json:",omitempty"`
	Refused *refusal `json:",omitempty"`
}

// owner is whom a file belongs to.
type owner struct {
	Path     []byte
	UID, GID uint32
}

// refusal is an [engine.Error] on its way.
type refusal struct {
	Entry, Why string
	Errno      int
}

const (
	sayingMax  = 256 << 10 // of a line
	sayingsMax = 1 << 22   // lines
)

// listen does what the confined program asks for, until it ends.
func listen(layer *os.File, from io.Reader) (h heardOf) {
	lines := bufio.NewReaderSize(from, sayingMax)
	for range sayingsMax {
		line, err := lines.ReadSlice('\n')
		if err == io.EOF && len(line) == 0 {
			return h
		}
		if errors.Is(err, os.ErrClosed) {
			return h
		}
		var s saying
		if err == nil {
			err = json.Unmarshal(line, &s)
		}
		if err == nil && (h.result != nil || h.refused != nil) {
			err = errors.New("it goes on after its result")
		}
		if err != nil {
			h.err = distrust(err)
			return h
		}
		if err = s.heed(layer, &h); err != nil {
			h.err = err
			return h
		}
	}
	h.err = distrust(errors.New("it says too much"))
	return h
}

func distrust(err error) error {
	return &engine.Error{Op: "unpack", Errno: syscall.EBADMSG, Why: "what the confined program says makes no sense: " + err.Error()}
}

// heed does what one line asks for.
func (s *saying) heed(layer *os.File, h *heardOf) error {
	switch {
	case s.Opaque != nil:
		return markOpaque(layer, string(s.Opaque))
	case s.Owner != nil:
		return s.Owner.set(layer)
	case s.Refused != nil:
		r := s.Refused
		errno := syscall.Errno(r.Errno)
		if errno <= 0 || errno >= 4096 {
			errno = syscall.EBADMSG
		}
		h.refused = &engine.Error{Op: "unpack", File: clip(r.Entry), Errno: errno, Why: clip(r.Why)}
	case s.Result != nil:
		r := s.Result
		if !strings.HasPrefix(r.DiffID, "sha256:") || len(r.DiffID) != len("sha256:")+64 || r.Size < 0 || r.Files < 0 || len(r.Notes) > notesMax+1 {
			return distrust(errors.New("a result that none can be"))
		}
		for i := range r.Notes {
			r.Notes[i] = clip(r.Notes[i])
		}
		h.result = r
	default:
		return distrust(errors.New("an empty line"))
	}
	return nil
}

// clip makes a text one that can be shown.
func clip(text string) string {
	const most = 1024
	if len(text) > most {
		text = text[:most] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

// within opens what is at a path in a layer, through no link.
func within(layer *os.File, path string, flags uint64) (*os.File, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV}
	for {
		fd, err := unix.Openat2(int(layer.Fd()), path, &how)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}

// opaque is the mark of a directory that hides what is below it, in overlayfs.
const opaque = "trusted.overlay.opaque"

func markOpaque(layer *os.File, path string) error {
	dir, err := within(layer, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Fsetxattr(int(dir.Fd()), opaque, []byte("y"), 0); err != nil {
		return &os.PathError{Op: "set " + opaque + " of", Path: path, Err: err}
	}
	return nil
}

// set gives a file to its owner. A change of owner takes the set-user-ID bits and capabilities away, which it gets again.
func (o *owner) set(layer *os.File) error {
	f, err := within(layer, string(o.Path), unix.O_PATH)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	name, rights := fmt.Sprintf("/proc/self/fd/%d", f.Fd()), make([]byte, 64)
	n := 0
	if st.Mode&unix.S_IFMT == unix.S_IFREG && err == nil {
		if n, err = unix.Getxattr(name, capability, rights); err == unix.ENODATA || err == unix.EOPNOTSUPP {
			err = nil
		}
	}
	if err == nil {
		err = unix.Fchownat(int(f.Fd()), "", int(o.UID), int(o.GID), unix.AT_EMPTY_PATH)
	}
	if special := st.Mode & (unix.S_ISUID | unix.S_ISGID); err == nil && special != 0 && st.Mode&unix.S_IFMT != unix.S_IFLNK {
		err = unix.Chmod(name, st.Mode&0o7777)
	}
	if err == nil && n > 0 {
		err = unix.Setxattr(name, capability, rights[:n], 0)
	}
	if err != nil {
		return &os.PathError{Op: "give away", Path: string(o.Path), Err: err}
	}
	return nil
}

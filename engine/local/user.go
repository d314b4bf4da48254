package local

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/overlay"
)

// accountsMax bounds what is read of a root's passwd and group, in bytes: the root may be hostile, and the largest of sites
// have less.
const accountsMax = 4 << 20

// lookUpUser replaces a user that is configured by name by its numbers.
func (s *starting) lookUpUser() error {
	if s.view.Config.Extension.User == "" {
		return nil
	}
	root, done, err := s.rootDir()
	if err != nil {
		return err
	}
	defer done()
	found, err := lookUp(s.view.Config.Extension.User, root)
	if err != nil {
		return err
	}
	next := s.view.Config.Clone()
	s.found = &account{s.view.Config.Extension.User, *found}
	found.Umask = next.Spec.Process.User.Umask
	next.Spec.Process.User = *found
	s.view.Config = next
	return nil
}

// lookUp finds the numbers of a user that is configured by name, in the root's own /etc/passwd and /etc/group. The files are
// read by this process, which resolves nothing outside of the root and loads no library of it.
func lookUp(text string, root *os.File) (*specs.User, error) {
	refuse := func(errno syscall.Errno, err error) (*specs.User, error) {
		return nil, &engine.Error{Op: "start", File: "user", Value: text, Errno: errno, Err: err,
			Cure: "name a user of the container's /etc/passwd and a group of its /etc/group, or write numbers: 1000:1000"}
	}
	passwd, err := accounts(root, "/etc/passwd", 2, 3)
	if err != nil {
		return refuse(engine.Errno(err), err)
	}
	group, err := accounts(root, "/etc/group", 2)
	if err != nil {
		return refuse(engine.Errno(err), err)
	}
	found, err := user.GetExecUser(text, nil, passwd, group)
	switch {
	case errors.Is(err, user.ErrNoPasswdEntries), errors.Is(err, user.ErrNoGroupEntries):
		return refuse(syscall.ENOENT, err)
	case err != nil:
		return refuse(syscall.EINVAL, err)
	}
	for _, id := range append(found.Sgids, found.Uid, found.Gid) {
		if id < 0 || id >= 1<<32-1 { // (uid_t)-1 means "leave it as it is" to setresuid(2)
			return refuse(syscall.EINVAL, fmt.Errorf("%d is no id", id))
		}
	}
	out := &specs.User{UID: uint32(found.Uid), GID: uint32(found.Gid)}
	for _, g := range found.Sgids {
		out.AdditionalGids = append(out.AdditionalGids, uint32(g))
	}
	slices.Sort(out.AdditionalGids)
	out.AdditionalGids = slices.Compact(out.AdditionalGids)
	return out, nil
}

// accounts reads one of the two files; a root without it has no accounts. fields are those that are numbers: a line in which one
// is not is no line, because what reads them afterwards takes what it does not understand for zero, which is root.
func accounts(root *os.File, path string, fields ...int) (io.Reader, error) {
	f, err := overlay.OpenInRoot(root, path)
	if errors.Is(err, os.ErrNotExist) {
		return &bytes.Buffer{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close()
	// Never cut short: in what is left of the last line, 1000 may have become 10.
	if info, err := f.Stat(); err == nil && info.Size() > accountsMax {
		return nil, fmt.Errorf("%s has %d bytes, more than %d: %w", path, info.Size(), accountsMax, syscall.EFBIG)
	}
	sound := &bytes.Buffer{}
	lines := bufio.NewScanner(io.LimitReader(f, accountsMax))
	lines.Buffer(nil, accountsMax)
	for lines.Scan() {
		if hasNumbers(lines.Bytes(), fields) {
			sound.Write(lines.Bytes())
			sound.WriteByte('\n')
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return sound, nil
}

// hasNumbers reports whether these fields of a line are decimal numbers.
func hasNumbers(line []byte, fields []int) bool {
	all := bytes.Split(line, []byte(":"))
	for _, i := range fields {
		if i >= len(all) || len(all[i]) == 0 || len(bytes.Trim(all[i], "0123456789")) > 0 {
			return false
		}
	}
	return true
}

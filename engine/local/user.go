package local

import (
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
	passwd, err := accounts(root, "/etc/passwd")
	if err != nil {
		return refuse(engine.Errno(err), err)
	}
	defer passwd.Close()
	group, err := accounts(root, "/etc/group")
	if err != nil {
		return refuse(engine.Errno(err), err)
	}
	defer group.Close()
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

// accounts opens one of the two files; a root without it has no accounts.
func accounts(root *os.File, path string) (io.ReadCloser, error) {
	f, err := overlay.OpenInRoot(root, path)
	if errors.Is(err, os.ErrNotExist) {
		return io.NopCloser(nothing{}), nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(f, accountsMax), f}, nil
}

// nothing is an empty file.
type nothing struct{}

func (nothing) Read([]byte) (int, error) { return 0, io.EOF }

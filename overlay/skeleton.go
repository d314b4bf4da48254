package overlay

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// builder writes one skeleton of the tables in host.go. Sources are paths of the host, which its administrator owns;
// every write goes through an [os.Root] all the same, since a copied link may stand in the way of a later row.
type builder struct {
	from string
	to   *os.Root
}

// build makes everything, in the order in which one thing needs another.
func (b builder) build() error {
	if err := b.to.Chmod(".", 0o755); err != nil {
		return err
	}
	for _, d := range directories {
		if err := b.mkdir(d.name, d.mode); err != nil {
			return err
		}
	}
	for _, l := range links {
		if err := b.to.Symlink(l[0], l[1]); err != nil {
			return err
		}
	}
	for _, step := range []func() error{b.carry, b.copyAll, b.writeFiles, b.writeAccounts} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// carry makes the place, or the link, of each tree that is mounted.
func (b builder) carry() error {
	for _, name := range carried {
		info, err := os.Lstat(filepath.Join(b.from, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = b.parents(name)
		}
		switch {
		case err != nil:
		case info.IsDir():
			err = b.mkdir(name, 0o755)
		case info.Mode().Type() == fs.ModeSymlink:
			err = b.copyLink(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copyAll copies the rows of copied that the host has.
func (b builder) copyAll() error {
	for _, pattern := range copied {
		for _, name := range b.matches(pattern) {
			if err := b.parents(name); err != nil {
				return err
			}
			if err := b.copy(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// matches returns what a pattern stands for. [filepath.Glob] and [fs.Glob] do not do: one would take the host's own
// path for a part of the pattern, the other leaves out links that lead nowhere, as a link into a tree that is mounted
// later does.
func (b builder) matches(pattern string) []string {
	dir, base := path.Split(pattern)
	var names []string
	entries, _ := os.ReadDir(filepath.Join(b.from, dir)) // a directory that is not there has no matches
	for _, e := range entries {
		if ok, _ := path.Match(base, e.Name()); ok {
			names = append(names, dir+e.Name())
		}
	}
	return names
}

// copy copies a file, a link as it is, or a tree. What has another type, or vanishes meanwhile, or is not for
// everybody, is left out.
func (b builder) copy(name string) error {
	info, err := os.Lstat(filepath.Join(b.from, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	switch perm := info.Mode().Perm(); info.Mode().Type() {
	case fs.ModeSymlink:
		return b.copyLink(name)
	case fs.ModeDir:
		if perm&0o5 != 0o5 || path.Base(name) == "private" {
			return nil
		}
		return b.copyTree(name)
	case 0:
		if perm&0o4 == 0 {
			return nil
		}
		return b.copyFile(name, perm)
	}
	return nil
}

func (b builder) copyTree(name string) error {
	if err := b.mkdir(name, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(b.from, name))
	for _, e := range entries {
		if err := b.copy(path.Join(name, e.Name())); err != nil {
			return err
		}
	}
	return err
}

func (b builder) copyLink(name string) error {
	text, err := os.Readlink(filepath.Join(b.from, name))
	if err != nil {
		return err
	}
	return b.to.Symlink(text, name)
}

func (b builder) copyFile(name string, perm fs.FileMode) error {
	// O_NONBLOCK: what was a file a moment ago could be a FIFO now.
	in, err := os.OpenFile(filepath.Join(b.from, name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	return b.create(name, perm&0o755, in)
}

// writeFiles writes the rows of files, over anything that was copied.
func (b builder) writeFiles() error {
	for _, f := range files {
		if err := b.create(f[0], 0o644, strings.NewReader(f[1])); err != nil {
			return err
		}
	}
	return nil
}

func (b builder) writeAccounts() error {
	var text [2]string
	for i, name := range accounts {
		content, err := os.ReadFile(filepath.Join(b.from, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		text[i] = string(content)
	}
	passwd, members := systemAccounts(text[0])
	if err := b.create(accounts[0], 0o644, strings.NewReader(passwd)); err != nil {
		return err
	}
	return b.create(accounts[1], 0o644, strings.NewReader(systemGroups(text[1], members)))
}

// mkdir makes a directory with exactly that mode, whatever the umask.
func (b builder) mkdir(name string, mode os.FileMode) error {
	if err := b.to.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return b.to.Chmod(name, mode)
}

// parents makes the directories above name.
func (b builder) parents(name string) error {
	for i, c := range name {
		if c == '/' {
			if err := b.mkdir(name[:i], 0o755); err != nil {
				return err
			}
		}
	}
	return nil
}

// create writes a file with exactly that mode.
func (b builder) create(name string, mode os.FileMode, content io.Reader) error {
	out, err := b.to.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, content); err != nil {
		return err
	}
	return out.Chmod(mode)
}

package overlay

import (
	"errors"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// apart are the file systems that the kernel reads out of files without a loop device. It makes a new one of each mount, with
// memory of its own; so the roots of one file get clones of the first one's mount, as long as there is such a root. After a
// restart of the server there may be two.
type apart struct {
	mu    sync.Mutex // held during a mount
	files map[place]*apartMount
}

// apartMount is such a mount, and how many roots there are of it.
type apartMount struct {
	mount *os.File
	users int
}

// mount mounts a file. The second result is to be called when the root is closed. Errors: ENOTBLK and EINVAL where the kernel
// cannot do it without a device.
func (a *apart) mount(file *os.File, kind *diskKind) (mount *os.File, done func(), err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return nil, nil, err
	}
	key := place{st.Dev, st.Ino}
	a.mu.Lock()
	defer a.mu.Unlock()
	m := a.files[key]
	if m == nil {
		first, err := kind.open(fdPath(file), true)
		if err != nil {
			return nil, nil, err
		}
		m = &apartMount{mount: first}
	}
	mount, err = openTree(m.mount, "", false)
	if errors.Is(err, syscall.EINVAL) && m.users == 0 {
		return m.mount, func() {}, nil // before 6.15, what is attached nowhere has no clones
	}
	if err != nil {
		if m.users == 0 {
			m.mount.Close()
		}
		return nil, nil, err
	}
	if m.users++; m.users == 1 {
		if a.files == nil {
			a.files = map[place]*apartMount{}
		}
		a.files[key] = m
	}
	return mount, sync.OnceFunc(func() { a.drop(key, m) }), nil
}

// drop notes that a root of m is closed.
func (a *apart) drop(key place, m *apartMount) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if m.users--; m.users == 0 {
		delete(a.files, key)
		m.mount.Close()
	}
}

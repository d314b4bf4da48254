package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// layers are the directories that an overlay is made of, by descriptor.
type layers struct {
	lowers      []*os.File // the uppermost first
	upper, work *os.File   // nil: nothing is written
	detached    []*os.File // mounts, attached nowhere, that some of them lie on
	ids         *IDs       // who makes it; nil: root
}

// chain reports whether the one option that every kernel takes is not enough.
func (l layers) chain() bool { return len(l.lowers) > 1 }

// overlayOptions are set on every overlay, because a kernel may be built or loaded with other defaults. All are off
// because a layer may meet another lower directory than it was made with, when rootfs is set anew: each of them stores
// in the layer what is true of one lower directory only. The price is that a directory of the root cannot be renamed
// (EXDEV), which every program can cope with.
var overlayOptions = []string{"redirect_dir", "metacopy", "index"}

// newOverlay makes a detached overlay mount. Layers are named /proc/self/fd/N: all kernels take that, a path may then
// contain what the option's own syntax would read as a separator, and a container does not find the host's paths in its
// mountinfo.
func newOverlay(l layers, attr uint64) (*os.File, error) {
	return l.ids.as(func() (*os.File, error) { return makeOverlay(l, attr) })
}

func makeOverlay(l layers, attr uint64) (*os.File, error) {
	c := newContext("overlay")
	defer c.close()
	c.set("source", "overlay")
	if l.chain() {
		// Of 6.5. A string of fsconfig(2) has 256 bytes, no place for forty of them.
		for _, dir := range l.lowers {
			c.set("lowerdir+", fdPath(dir))
		}
	} else {
		c.set("lowerdir", fdPath(l.lowers[0]))
	}
	if l.upper != nil {
		c.set("upperdir", fdPath(l.upper))
		c.set("workdir", fdPath(l.work))
	}
	for _, option := range overlayOptions {
		c.set(option, "off")
	}
	mount, err := c.mount(attr)
	return l.verify(mount, err)
}

// verify checks what has become of an overlay that was asked for.
func (l layers) verify(mount *os.File, err error) (*os.File, error) {
	if err != nil {
		if l.upper != nil && readOnly(l.upper) {
			return nil, errReadOnlyLayer // EINVAL, says the kernel
		}
		return nil, err
	}
	// An overlay that cannot use its work directory is mounted all the same, read-only, with a word in the kernel's
	// log.
	if l.upper != nil && readOnly(mount) {
		mount.Close()
		return nil, errReadOnlyLayer
	}
	return mount, nil
}

// mountedOverlay makes the same with mount(2), whose options may fill a page, at the directory at of a mount namespace of
// the caller's own, and takes it from there.
func mountedOverlay(at string, l layers, attr uint64) (*os.File, error) {
	options := []string{"lowerdir=" + fdPaths(l.lowers)}
	if l.upper != nil {
		options = append(options, "upperdir="+fdPath(l.upper), "workdir="+fdPath(l.work))
	}
	for _, option := range overlayOptions {
		options = append(options, option+"=off")
	}
	return l.ids.as(func() (*os.File, error) {
		if err := unix.Mount("overlay", at, "overlay", 0, strings.Join(options, ",")); err != nil {
			return l.verify(nil, fmt.Errorf("overlay: mount: %w", err))
		}
		return l.verify(clone(nil, at, false, attr, nil))
	})
}

var errReadOnlyLayer = fmt.Errorf("overlayfs cannot write to the layer: %w", syscall.EROFS)

// readOnly reports whether the mount that f is on, or its file system, is read-only.
func readOnly(f *os.File) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &fs) == nil && fs.Flags&unix.MS_RDONLY != 0
}

// overlay makes a detached overlay mount of layers that lie on detached mounts themselves. Some kernels (6.1) refuse them
// with EINVAL, others (6.18) take them. EINVAL has other causes too; then the second way fails of the same.
func (s *Store) overlay(l layers, attr uint64) (*os.File, error) {
	if !s.attach.Load() {
		mount, err := newOverlay(l, attr)
		if !errors.Is(err, syscall.EINVAL) {
			return mount, err
		}
	}
	// Every layer has to be of the namespace in which the overlay is made. A chain is already.
	if !l.chain() && !slices.Contains(l.detached, l.lowers[0]) {
		lower, err := clone(l.lowers[0], "", true, 0, nil)
		if err != nil {
			return nil, err
		}
		defer lower.Close()
		l.lowers, l.detached = []*os.File{lower}, append(l.detached, lower)
	}
	at := filepath.Join(s.state, "mnt")
	mount, err := attached(at, l.detached, func() (*os.File, error) {
		if l.chain() {
			return mountedOverlay(at, l, attr)
		}
		return newOverlay(l, attr)
	})
	if err == nil {
		s.attach.Store(true)
	}
	return mount, err
}

// attached runs do while mounts are attached, one upon the other, at the directory at of a private mount namespace. The
// namespace belongs to one thread and ends with it; what do makes must be detached.
func attached(at string, mounts []*os.File, do func() (*os.File, error)) (*os.File, error) {
	return onOwnThread(func() (*os.File, error) {
		if err := enterNamespace(at, mounts); err != nil {
			return nil, err
		}
		return do()
	})
}

// onOwnThread calls do, which may leave this process's namespaces, on a thread that ends with it.
func onOwnThread(do func() (*os.File, error)) (*os.File, error) {
	type result struct {
		file *os.File
		err  error
	}
	answer := make(chan result)
	go func() {
		// Not unlocked: the thread is in another namespace and ends with this goroutine.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread cannot end, and /proc/self is what it sees. While this goroutine holds it, another gets
			// another.
			defer runtime.UnlockOSThread()
			file, err := onOwnThread(do)
			answer <- result{file, err}
			return
		}
		file, err := do()
		answer <- result{file, err}
	}()
	r := <-answer
	return r.file, r.err
}

// enterNamespace gives the calling thread a mount namespace of its own, with mounts in it.
func enterNamespace(at string, mounts []*os.File) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	// Or the mounts below would appear on the host, where "/" is shared.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	for _, m := range mounts {
		if err := unix.MoveMount(int(m.Fd()), "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return err
		}
	}
	return nil
}

// newTmpfs makes an empty detached tmpfs of that many bytes; 0: as many as the kernel sees fit.
func newTmpfs(size int64) (*os.File, error) {
	c := newContext("tmpfs")
	defer c.close()
	c.set("source", "tmpfs")
	c.set("mode", "0700")
	if size > 0 {
		c.set("size", strconv.FormatInt(size, 10))
	}
	return c.mount(unix.MOUNT_ATTR_NODEV)
}

// fsContext is a file system being configured (fsopen(2)). The first error sticks, later calls do nothing.
type fsContext struct {
	kind string
	fd   int
	err  error
}

func newContext(kind string) *fsContext {
	c := &fsContext{kind: kind}
	if c.fd, c.err = unix.Fsopen(kind, unix.FSOPEN_CLOEXEC); c.err == syscall.ENODEV {
		c.err = fmt.Errorf("this kernel has no %s: %w", kind, syscall.EOPNOTSUPP)
	}
	return c
}

func (c *fsContext) close() {
	if c.fd >= 0 {
		unix.Close(c.fd)
	}
}

func (c *fsContext) set(key, value string) {
	if c.err == nil {
		if err := unix.FsconfigSetString(c.fd, key, value); err != nil {
			c.err = c.explain(key+"="+value, err)
		}
	}
}

// flag sets an option that has no value.
func (c *fsContext) flag(key string) {
	if c.err == nil {
		if err := unix.FsconfigSetFlag(c.fd, key); err != nil {
			c.err = c.explain(key, err)
		}
	}
}

// mount creates the file system and returns it as a detached mount.
func (c *fsContext) mount(attr uint64) (*os.File, error) {
	if c.err != nil {
		return nil, c.err
	}
	if err := unix.FsconfigCreate(c.fd); err != nil {
		return nil, c.explain("create", err)
	}
	fd, err := unix.Fsmount(c.fd, unix.FSMOUNT_CLOEXEC, int(attr))
	if err != nil {
		return nil, c.explain("mount", err)
	}
	return os.NewFile(uintptr(fd), "mount"), nil
}

// explain adds the sentence that the kernel has left in the context: "e overlay: …". Kernels before 6.5 leave theirs in
// the log.
func (c *fsContext) explain(step string, err error) error {
	text := make([]byte, 512)
	if n, readErr := unix.Read(c.fd, text); readErr == nil {
		_, sentence, _ := strings.Cut(strings.TrimSpace(string(text[:n])), " ")
		return fmt.Errorf("%s: %w", sentence, err)
	}
	return fmt.Errorf("%s: %s: %w", c.kind, step, err)
}

package local

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/overlay"
)

// A container without a mount namespace of its own gets no root, no layer and no device nodes: see unmounted in engine/plan. Who
// lends it one cannot be started again, or removed, as long as it runs: the layer of the lender's last run is still mounted.

// source is what the root of a container is made of.
func (e *Engine) source(config *engine.Config) (from overlay.Source, err error) {
	if use := config.Extension.Image; use != nil {
		from, err = e.images.source(use)
	} else {
		from = overlay.Directory(config.Rootfs())
	}
	from.Size = layerSize(config)
	return from, err
}

// layerSize is the bound of the writable layer, as overlay counts it.
func layerSize(config *engine.Config) int64 {
	if size := config.RootSize(); size != engine.Max {
		return size
	}
	return 0
}

// describeRoot says which mounts the root of a start is made of, if it has one.
func (c *container) describeRoot(config *engine.Config) ([]overlay.Mount, error) {
	if !config.OwnMounts() {
		return nil, nil
	}
	from, err := c.e.source(config)
	if err != nil {
		return nil, err
	}
	from.Strange = c.strange()
	return c.e.roots.Describe(c.id, from, config.RootMode())
}

// prepareRoot makes the root. One that is there already is not this container's to prepare.
func (s *starting) prepareRoot() (*overlay.Root, error) {
	config := s.view.Config
	if !config.OwnMounts() {
		return &overlay.Root{}, nil
	}
	from, err := s.c.e.source(config)
	if err != nil {
		return nil, err
	}
	from.Strange = s.c.strange()
	root, err := s.c.e.roots.Prepare(s.c.id, from, config.RootMode(), s.around.ids)
	if engine.Errno(err) == syscall.EBUSY { // somebody may only be looking at the file that this one is to write to
		s.c.e.looks.drop(nil)
		root, err = s.c.e.roots.Prepare(s.c.id, from, config.RootMode(), s.around.ids)
	}
	if refused, ok := errors.AsType[*engine.Error](err); ok && refused.Errno == syscall.EBUSY {
		refused.Why += s.c.sharers()
	}
	return root, err
}

// sharers names those that run with the same rootfs, for an error.
func (c *container) sharers() string {
	rootfs := c.View().Config.Rootfs()
	if rootfs == "" {
		return "" // an image is nobody's alone
	}
	c.e.mu.RLock()
	defer c.e.mu.RUnlock()
	var names []string
	for _, other := range c.e.byID {
		if v := other.View(); other != c && v.State.Active() && v.Config.Rootfs() == rootfs {
			names = append(names, v.Path)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return ", for " + strings.Join(names, ", ")
}

// rootDir opens the directory in which users are looked up by name.
func (s *starting) rootDir() (dir *os.File, close func(), err error) {
	if len(s.root.Mounts) > 0 {
		return s.root.Mounts[0].File, func() {}, nil
	}
	if mounts := s.around.files[specs.MountNamespace]; mounts != nil {
		dir, err = overlay.RootOf(mounts)
	} else {
		dir, err = os.Open("/")
	}
	return dir, func() { closeFiles([]*os.File{dir}) }, err
}

// nodes takes the mounts of the device nodes.
func (s *starting) nodes() ([]*os.File, func(), error) {
	if !s.view.Config.OwnMounts() {
		return nil, func() {}, nil
	}
	return s.c.e.devices(s.view.Config, s.around)
}

// missing explains a working directory that a start does not make.
func missing(out *engine.Error, cwd string) {
	switch out.Errno {
	case syscall.ENOENT, syscall.ENOTDIR:
		out.File, out.Value, out.Err, out.Why = "cwd", cwd, nil, "there is no such directory, and none is made where the container has no root of its own"
		out.Cure = "make it first, or write another path into cwd"
	case syscall.EACCES:
		out.Cure = "write a directory into cwd that the container's root may enter; with 'user host' in namespaces that is any"
	}
}

// landlordOf finds who runs in a mount namespace of its own that a file stands for, whatever way led to it; or whom the one
// that was asked has it from.
func (e *Engine) landlordOf(mounts *os.File, asked *container) *container {
	var wanted unix.Stat_t
	if unix.Fstat(int(mounts.Fd()), &wanted) != nil {
		return asked
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, c := range e.byID {
		v := c.View()
		var is unix.Stat_t
		if v.State.Active() && v.Config.OwnMounts() && unix.Stat(fmt.Sprintf("/proc/%d/ns/mnt", v.PID), &is) == nil &&
			is.Dev == wanted.Dev && is.Ino == wanted.Ino {
			return c
		}
	}
	if asked != nil {
		asked.mu.Lock()
		defer asked.mu.Unlock()
		if asked.landlord != nil {
			return asked.landlord
		}
	}
	return asked
}

// settleIn finds the landlords of those that an earlier server has left running.
func (e *Engine) settleIn() {
	for _, c := range e.byID {
		v := c.View()
		choice := v.Config.Namespace(specs.MountNamespace)
		if !v.State.Active() || choice.New() || choice.Host {
			continue
		}
		asked, _ := c.other(choice.Container)
		if f, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", v.PID)); err == nil {
			landlord := e.landlordOf(f, asked)
			f.Close()
			c.mu.Lock()
			c.moveIn(landlord)
			c.mu.Unlock()
		}
	}
}

// tenant names a container that runs in the mounts of c, or is about to; "" is nobody. e.mu is held.
func (e *Engine) tenant(c *container) string {
	if c.tenants.Load() == 0 {
		return ""
	}
	for _, other := range e.byID {
		other.mu.Lock()
		in := other.landlord == c
		path := other.path
		other.mu.Unlock()
		if in {
			return path
		}
	}
	return "a container that is just starting"
}

// moveIn notes whose mounts a container runs in from now on; nil is its own, or nobody's. c.mu is held.
func (c *container) moveIn(landlord *container) {
	if c.landlord != nil {
		c.landlord.tenants.Add(-1)
	}
	if c.landlord = landlord; landlord != nil {
		landlord.tenants.Add(1)
	}
}

// vacant refuses a start while somebody runs in the mounts of the last run: they have the layer, and it cannot be mounted twice.
func (c *container) vacant() error {
	c.e.mu.RLock()
	defer c.e.mu.RUnlock()
	if tenant := c.e.tenant(c); tenant != "" {
		return &engine.Error{Op: "start", File: c.View().Path, Errno: syscall.EBUSY, Why: tenant + " still runs in the mounts of its last run",
			Cure: "stop that first"}
	}
	return nil
}

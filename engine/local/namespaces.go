package local

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/plan"
	"github.com/ctrfs/ctrfs/netns"
	"github.com/ctrfs/ctrfs/overlay"
)

// surroundings are the namespaces of one start that are not made by the launch itself, and what follows from them.
type surroundings struct {
	joined map[specs.LinuxNamespaceType]string   // for the plan
	files  map[specs.LinuxNamespaceType]*os.File // what is joined, also the new user namespace
	net    *os.File                              // the new network namespace, or nil
	ids    *overlay.IDs                          // how the root is shown, or nil for as it is
	text   string                                // the mapping in words
	first  uint32                                // the range taken for this start, or 0
	wires  []wire                                // of the new network namespace, or of its pinned one
	lender *container                            // whose user namespace it enters, or nil

	mountLender *container // whose mount namespace it enters, or nil
	landlord    *container // who has made the mounts in it
}

func (s *surroundings) close() {
	if s.lender != nil {
		s.lender.guests.Add(-1)
	}
	if s.mountLender != nil {
		s.mountLender.tenants.Add(-1)
	}
	for _, f := range s.files {
		f.Close()
	}
	if s.net != nil {
		s.net.Close()
	}
}

// describe fills in what the plan says, without opening anything.
func (c *container) describe(config *engine.Config) *surroundings {
	s := &surroundings{joined: map[specs.LinuxNamespaceType]string{}, files: map[specs.LinuxNamespaceType]*os.File{}}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range engine.Namespaces {
		switch choice := config.Namespace(n.Type); {
		case choice.New() && c.pins[n.Type] != nil:
			s.joined[n.Type] = plan.OfItself
		case choice.Host:
			s.joined[n.Type] = plan.OfHost
		case !choice.New():
			s.joined[n.Type] = "of " + choice.String()
		}
	}
	s.text = strings.TrimSpace(strings.ReplaceAll(uidMap(config), "\n", ", "))
	if s.text == "" {
		s.text = "from the range that the start takes"
		if c.rec.First != 0 {
			s.text = strings.TrimSpace(mapping(c.rec.First))
		}
	}
	return s
}

// surround opens and makes what a start needs. What was opened is closed by the caller, also after an error.
func (c *container) surround(config *engine.Config) (*surroundings, error) {
	s := c.describe(config)
	networks, err := c.networksOf(config)
	if err != nil {
		return s, err
	}
	for _, n := range engine.Namespaces {
		choice := config.Namespace(n.Type)
		if s.joined[n.Type] == "" || choice.Host {
			continue
		}
		switch other, ok := c.other(choice.Container); {
		case ok && n.Type == specs.UserNamespace:
			s.lender = other
			other.guests.Add(1)
		case ok && n.Type == specs.MountNamespace:
			s.mountLender = other
			other.tenants.Add(1)
		}
		f, err := c.openNamespace(n, choice)
		if err != nil {
			return s, err
		}
		if hostsOwn(f, n.Name) {
			f.Close()
			s.joined[n.Type] = plan.OfHost
			continue
		}
		s.files[n.Type] = f
	}
	if mounts := s.files[specs.MountNamespace]; mounts != nil {
		s.landlord = c.e.landlordOf(mounts, s.mountLender)
	}
	if s.joined[specs.UserNamespace] == "" {
		return s, s.settle(c, config, networks)
	}
	if user := s.files[specs.UserNamespace]; user != nil {
		if s.ids, err = c.e.roots.Identify(user); err != nil {
			return s, err
		}
		if len(networks) > 0 && s.joined[specs.NetworkNamespace] == "" { // one that it owns is made by the child
			return s, &engine.Error{Op: "start", File: "net", Value: config.Net(), Errno: syscall.EOPNOTSUPP,
				Why: "its user namespace is another container's, and a network namespace of that one's is made by the start only", Cure: "write 'container NAME' of that container into net, or 'user new' into namespaces"}
		}
	} else if s.joined[specs.NetworkNamespace] == "" {
		if s.net, err = netns.New(); err != nil {
			return s, err
		}
	}
	return s, s.enter(c, config, networks)
}

// enter has the network namespace join its networks, if it is not another container's.
func (s *surroundings) enter(c *container, config *engine.Config, networks []*network) (err error) {
	if len(networks) == 0 {
		return nil
	}
	ns, have := s.net, s.wires
	if s.joined[specs.NetworkNamespace] == plan.OfItself {
		ns = s.files[specs.NetworkNamespace]
		if have, err = c.wiresOf(config, ns); err != nil {
			return err
		}
	}
	if ns == nil {
		return nil
	}
	s.wires = nil
	s.wires, err = c.wireUp(config, networks, ns, have)
	return err
}

// hostsOwn reports whether a namespace is the one that ctrfs itself is in, which another container may share with the host.
func hostsOwn(f *os.File, kind string) bool {
	var is, own unix.Stat_t
	return unix.Fstat(int(f.Fd()), &is) == nil && unix.Stat("/proc/self/ns/"+kind, &own) == nil && is.Dev == own.Dev && is.Ino == own.Ino
}

// settle takes quarters: from the stock for a container that has no ids yet, with its own ids otherwise.
func (s *surroundings) settle(c *container, config *engine.Config, networks []*network) error {
	c.mu.Lock()
	first := c.rec.First
	c.mu.Unlock()
	var q *quarters
	var err error
	switch uids, gids := uidMap(config), gidMap(config); {
	case uids != "" || gids != "":
		if uids == "" || gids == "" {
			return &engine.Error{Op: "start", File: "uid_map", Errno: syscall.EINVAL, Why: "only one of uid_map and gid_map is set",
				Cure: "set both, or none: then both are automatic"}
		}
		q, err = c.e.build(0, uids, gids, false)
	case first != 0:
		q, err = c.e.furnish(first, false)
	default:
		stock := c.e.stock
		if in := c.pooled(config, networks); in != nil {
			stock = in
		}
		if q, err = stock.take(); err == nil {
			s.first, s.wires = q.first, q.wires
		}
	}
	if err != nil {
		return &engine.Error{Op: "start", File: "user namespace", Errno: engine.Errno(err), Err: err,
			Cure: "see userns in the file host, or run it without one: echo 'user host' > namespaces"}
	}
	s.files[specs.UserNamespace] = q.user
	s.ids = &overlay.IDs{Userns: q.user, UID: rootOf(config.Spec.Linux.UIDMappings, q.first), GID: rootOf(config.Spec.Linux.GIDMappings, q.first)}
	if q.first != 0 {
		s.text = strings.TrimSpace(mapping(q.first))
	}
	if s.joined[specs.NetworkNamespace] == "" {
		s.net = q.net
	} else {
		q.net.Close()
	}
	return s.enter(c, config, networks)
}

// rootOf is the host's id of the container's root.
func rootOf(configured []specs.LinuxIDMapping, first uint32) uint32 {
	for _, m := range configured {
		if m.ContainerID == 0 {
			return m.HostID
		}
	}
	return first
}

// uidMap and gidMap are the configured mappings in the kernel's format; empty means automatic.
func uidMap(c *engine.Config) string { return mapText(c.Spec.Linux.UIDMappings) }
func gidMap(c *engine.Config) string { return mapText(c.Spec.Linux.GIDMappings) }

func mapText(mappings []specs.LinuxIDMapping) string {
	var b strings.Builder
	for _, m := range mappings {
		fmt.Fprintf(&b, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return b.String()
}

// furnish makes quarters for a range.
func (e *Engine) furnish(first uint32, patient bool) (*quarters, error) {
	return e.build(first, mapping(first), mapping(first), patient)
}

func (e *Engine) build(first uint32, uids, gids string, patient bool) (*quarters, error) {
	made, err := e.keeper.Namespaces(2, uids, gids, patient)
	if err != nil {
		return nil, err
	}
	return &quarters{first: first, user: made[0], net: made[1]}, nil
}

// openNamespace opens a namespace that exists: another container's, or one that a path stands for.
func (c *container) openNamespace(kind namespaceKind, choice engine.NamespaceChoice) (*os.File, error) {
	refuse := func(errno syscall.Errno, why, cure string) (*os.File, error) {
		return nil, &engine.Error{Op: "start", File: "namespaces", Value: kind.Name + " " + choice.String(), Errno: errno, Why: why, Cure: cure}
	}
	if choice.New() {
		return c.pinned(kind.Type)
	}
	if choice.Path != "" {
		f, err := c.e.roots.OpenNamespace(choice.Path, namespaceFlags[kind.Name])
		if err != nil {
			return nil, err
		}
		return f, nil
	}
	other, ok := c.other(choice.Container)
	switch {
	case !ok:
		return refuse(syscall.ENOENT, "there is no such container", "name one by its path below the mount, or write .. for the one around")
	case other == c:
		return refuse(syscall.EINVAL, "it is this container itself", "write new")
	}
	f, err := other.lend(kind)
	if err != nil {
		return refuse(engine.Errno(err), err.Error(), "start "+other.View().Path+" first")
	}
	return f, nil
}

// namespaceFlags are the kinds as NS_GET_NSTYPE, ioctl_ns(2), tells them.
var namespaceFlags = map[string]int{
	"pid": unix.CLONE_NEWPID, "net": unix.CLONE_NEWNET, "mnt": unix.CLONE_NEWNS, "ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS,
	"user": unix.CLONE_NEWUSER, "cgroup": unix.CLONE_NEWCGROUP, "time": unix.CLONE_NEWTIME,
}

// other finds a container by its path below the mount, or the one around this one.
func (c *container) other(path string) (*container, bool) {
	c.e.mu.RLock()
	defer c.e.mu.RUnlock()
	if path == engine.ParentContainer {
		return c.parent, c.parent != nil
	}
	at, children := (*container)(nil), c.e.top
	for name := range strings.SplitSeq(path, "/") {
		if at = children[name]; at == nil {
			return nil, false
		}
		children = at.children
	}
	return at, true
}

func dupFile(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// firstOf reads which range a running container has: the host's id of its root, when it has a whole range.
func firstOf(pid int) uint32 {
	if ids := mapOf(pid); len(ids) == 1 && ids[0].ContainerID == 0 && ids[0].Size == rangeSize {
		return ids[0].HostID
	}
	return 0
}

package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/cgroup"
	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/netns"
	"github.com/ctrfs/ctrfs/overlay"
)

// Processes implements [engine.Container]. It reads the host's procfs only: nothing of the container's is opened.
func (c *container) Processes() ([]engine.Process, error) {
	var out []engine.Process
	for _, m := range c.family() {
		m.mu.Lock()
		group, path, pid := m.group, m.path, m.pid
		m.mu.Unlock()
		if group == nil {
			continue
		}
		pids, err := group.OwnProcs()
		if err != nil {
			return nil, err
		}
		ids := mapOf(pid)
		for _, pid := range pids {
			if p, err := process(pid); err == nil { // else it has just exited
				p.Container, p.User = path, inner(ids, p.User)
				out = append(out, p)
			}
		}
	}
	return out, nil
}

// mapOf reads the id mapping of a process; nil when there is none to be had.
func mapOf(pid int) (ids []specs.LinuxIDMapping) {
	text, err := readProc("/proc/" + strconv.Itoa(pid) + "/uid_map")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(text) {
		var m specs.LinuxIDMapping
		if n, err := fmt.Sscan(line, &m.ContainerID, &m.HostID, &m.Size); n == 3 && err == nil {
			ids = append(ids, m)
		}
	}
	return ids
}

// inner translates an id of the host.
func inner(ids []specs.LinuxIDMapping, user string) string {
	host, err := strconv.ParseUint(user, 10, 32)
	if err != nil {
		return user
	}
	for _, m := range ids {
		if at := host - uint64(m.HostID); host >= uint64(m.HostID) && at < uint64(m.Size) {
			return strconv.FormatUint(uint64(m.ContainerID)+at, 10)
		}
	}
	return user
}

// family is the container and every one below it.
func (c *container) family() []*container {
	c.e.mu.RLock()
	defer c.e.mu.RUnlock()
	all := []*container{c}
	for i := 0; i < len(all); i++ {
		for _, child := range all[i].children {
			all = append(all, child)
		}
	}
	return all
}

// Probe finds out what this host offers, without an engine; dir is a directory for trying things in.
func Probe(dir string) ([]engine.Feature, error) {
	host, err := cgroup.Detect(nil)
	if err != nil {
		return nil, err
	}
	roots, err := overlay.Open(dir)
	if err != nil {
		return nil, err
	}
	user, err := launch.Namespaces(1, mapping(defaultFirst), mapping(defaultFirst))
	features := probe(host, roots, user, err)
	network, err := netns.OpenHost()
	if err == nil {
		features = append(features, networkFeatures(network)...)
		err = network.Close()
	}
	return features, errors.Join(err, roots.Close())
}

// noUserns is what stands in the way of user namespaces: user_namespaces(7), clone(2).
const noUserns = "; no user namespace can be made in a chroot, nor beyond user.max_user_namespaces of sysctl(8); " +
	"containers run without one: echo 'user host' > namespaces"

// probe finds out what this host offers: by trying, never by version.
// user is a user namespace, if one could be made.
func probe(host *cgroup.Host, roots *overlay.Store, user []*os.File, failed error) []engine.Feature {
	defer closeFiles(user)
	var uts unix.Utsname
	kernel := "unknown"
	if unix.Uname(&uts) == nil {
		kernel = unix.ByteSliceToString(uts.Release[:])
	}
	features := []engine.Feature{{Name: "kernel", Value: kernel}}
	features = append(features, host.Features()...)
	for _, ns := range []string{"pid", "net", "mnt", "ipc", "uts", "cgroup", "user", "time"} {
		features = append(features, exists(ns+"ns", filepath.Join("/proc/self/ns", ns), "the kernel is built without it"))
	}
	if failed != nil {
		features = slices.DeleteFunc(features, func(f engine.Feature) bool { return f.Name == "userns" })
		features = append(features, engine.Feature{Name: "userns", Value: "no", Reason: failed.Error() + noUserns})
		features = append(features, roots.Features(nil)...)
	} else {
		features = append(features, roots.Features(user[0])...)
	}
	return append(features, exists("seccomp", "/proc/sys/kernel/seccomp", "the kernel is built without CONFIG_SECCOMP_FILTER"))
}

func exists(name, path, reason string) engine.Feature {
	if _, err := os.Stat(path); err != nil {
		return engine.Feature{Name: name, Value: "no", Reason: reason}
	}
	return engine.Feature{Name: name, Value: "yes"}
}

// probe finds out what this host offers, with a range of ids that is nobody's.
func (e *Engine) probe() []engine.Feature {
	var user []*os.File
	first, err := e.ids.take()
	if err == nil {
		defer e.ids.give(first)
		user, err = e.keeper.Namespaces(1, mapping(first), mapping(first), false)
	}
	return probe(e.host, e.roots, user, err)
}

// Features implements [engine.Engine]. What others may change at any moment is looked at each time.
func (e *Engine) Features() []engine.Feature {
	return append(slices.Clone(e.features()), networkFeatures(e.networks.host)...)
}

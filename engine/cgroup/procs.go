package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ctrfs/ctrfs/engine"
	"golang.org/x/sys/unix"
)

// Join is what a newly forked child needs to get into a group without waiting for the kernel. Every other way, such as the
// parent writing the child's pid, costs a grace period of about 7 ms on an idle machine (kernel/cgroup/cgroup.c,
// cgroup_procs_write_start).
type Join struct {
	// Into is the v2 directory for clone3(2) with CLONE_INTO_CGROUP; nil without a v2 hierarchy.
	Into *os.File
	// Tasks are the v1 files into which the child, while it has one thread, writes the literal "0".
	Tasks []*os.File

	group *Group
	since uint64 // late.entries when the files were opened
}

// Join opens the group for joining. The caller closes it.
func (g *Group) Join() (*Join, error) {
	j := &Join{group: g, since: g.tree.late.entries.Load()}
	for _, y := range g.tree.host.used {
		at := g.path
		if y.late {
			at = g.tree.late.nearest(y.mount, g.path)
		}
		if at == "" {
			continue
		}
		name, flags := path.Join(at, "tasks"), unix.O_WRONLY
		var err error
		if y.unified {
			flags = unix.O_RDONLY | unix.O_DIRECTORY
			if name, err = g.entrance(y); err != nil {
				j.Close()
				return nil, err
			}
		}
		fd, err := g.top(y).open(name, flags)
		if err != nil {
			j.Close()
			return nil, err
		}
		file := os.NewFile(uintptr(fd), name)
		if y.unified {
			j.Into = file
		} else {
			j.Tasks = append(j.Tasks, file)
		}
	}
	return j, nil
}

// Close gives the descriptors back.
func (j *Join) Close() {
	if j.Into != nil {
		j.Into.Close()
	}
	for _, f := range j.Tasks {
		f.Close()
	}
}

// Procs lists the host pids of the processes in the group and in all groups below it.
func (g *Group) Procs() ([]int, error) {
	text, err := g.tree.tops[0].readBelow(g.path, "cgroup.procs")
	if err != nil {
		return nil, g.refuse("read", "cgroup.procs", "", err)
	}
	return pidList(text), nil
}

// OwnProcs lists the host pids of the processes in the group, without groups below it.
func (g *Group) OwnProcs() ([]int, error) {
	text, err := g.Read("cgroup.procs")
	return pidList(text), err
}

// writeProcs moves a process into the group in every hierarchy, the home last: who is seen in a group has its limits. It
// moves it back where one refuses.
func (g *Group) writeProcs(value string) error {
	pid, err := strconv.ParseUint(value, 10, 31)
	if err != nil || pid == 0 { // 0 would be this very process
		return engine.Invalid("cgroup.procs", value, "not a process id", "write one host pid")
	}
	from, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if errors.Is(err, os.ErrNotExist) {
		err = unix.ESRCH
	}
	if err != nil {
		return g.refuse("write", "cgroup.procs", value, g.tree.tops[0].fail("write", "cgroup.procs", value, err))
	}
	// The text is read before the first move: afterwards nobody knows where the process belongs.
	for i, y := range slices.Backward(g.tree.host.used) {
		at := g.receives(y, string(from))
		if at == "" {
			continue
		}
		if err := g.tree.roots[y.index].write(path.Join(at, "cgroup.procs"), value); err != nil {
			back := g.tree.moveBack(g.tree.host.used[i+1:], string(from), value)
			return also(g.refuse("write", "cgroup.procs", value, err), back)
		}
	}
	return nil
}

// Where returns the path of the group that a process is in; ok is false when that is none of the tree's. Errors: ESRCH.
func (t *Tree) Where(pid int) (p string, ok bool, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if errors.Is(err, os.ErrNotExist) {
		err = unix.ESRCH
	}
	if err != nil {
		return "", false, (&Group{tree: t, path: "."}).refuse("write", "cgroup.procs", fmt.Sprint(pid), err)
	}
	p, ok = t.host.used[0].member(string(text))
	if ok {
		p, ok = strings.CutPrefix(p, "./"+t.name+"/")
	}
	p, _, _ = strings.Cut(p+"/", "/"+leafName+"/") // in the leaf, or in what has been made below it
	return strings.TrimSuffix(p, "/"), ok, nil
}

// moveBack returns a process to the groups that the text of its /proc/PID/cgroup tells, in the given hierarchies. One that
// has exited meanwhile is fine.
func (t *Tree) moveBack(moved []*hierarchy, from, pid string) error {
	var errs []error
	for _, y := range moved {
		if err := t.putBack(y, from, pid); !errors.Is(err, unix.ESRCH) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (t *Tree) putBack(y *hierarchy, from, pid string) error {
	if group, ok := y.member(from); ok {
		return t.roots[y.index].write(path.Join(group, "cgroup.procs"), pid)
	}
	if y.around == nil {
		return nil // it was outside of what is mounted here, and out of reach
	}
	group, ok := y.around.member(from)
	if !ok {
		return nil
	}
	d, err := openDir(y.around.mount)
	if err != nil {
		return err
	}
	defer d.close()
	return d.write(path.Join(group, "cgroup.procs"), pid)
}

// member finds, in the text of a /proc/PID/cgroup (cgroups(7)), the process's group in hierarchy y, relative to its mount.
func (y *hierarchy) member(text string) (group string, ok bool) {
	for line := range strings.Lines(text) {
		id, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, group, _ := strings.Cut(rest, ":")
		mine := y.unified && id == "0" && controllers == ""
		for c := range strings.SplitSeq(controllers, ",") {
			mine = mine || !y.unified && c != "" && slices.Contains(y.controllers, c)
		}
		if !mine {
			continue
		}
		// Seen from a cgroup namespace, a group outside of it starts with "/..".
		rel, ok := strings.CutPrefix(group, strings.TrimSuffix(y.root, "/"))
		if ok && rel == "" {
			rel = "/"
		}
		ok = ok && strings.HasPrefix(rel, "/") && !strings.HasPrefix(rel, "/..")
		return "." + rel, ok
	}
	return "", false
}

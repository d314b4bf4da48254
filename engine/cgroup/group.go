package cgroup

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Group is the control group of one container: one directory in every hierarchy.
type Group struct {
	tree *Tree
	path string // below the tree

	mu   sync.Mutex // held while limits change, and while v1's freezer is used
	have []string   // under mu: v2 texts of Host.limits as last applied; nil when nobody has looked
}

// Path returns the group's path below its tree, as [Tree.Groups] lists it.
func (g *Group) Path() string { return g.path }

// Apply gives the group the limits of r; an absent one becomes the kernel's default. Only what differs from what is there
// is written. When one is refused, those before it are restored. Errors: EOPNOTSUPP for a limit that the host has no
// controller for, and the kernel's.
func (g *Group) Apply(r *specs.LinuxResources) error {
	config := configOf(r)
	limits := g.tree.host.limits
	want := make([]string, len(limits))
	for i, p := range limits {
		want[i] = p.limit(config)
		if err := p.check("write"); err != nil && want[i] != p.initial && (p.spare == "" || want[i] != p.spare) {
			return err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.have == nil { // opened, not created: another process may have set anything
		have := slices.Clone(g.tree.host.initial)
		for i := range limits {
			if err := g.look(limits[i], &have[i]); err != nil {
				return err
			}
		}
		g.have = have
	}
	before := slices.Clone(g.have)
	for i, p := range limits {
		if want[i] == before[i] || p.lack != "" {
			continue
		}
		if err := g.change(p, before[i], want[i]); err != nil {
			return also(err, g.restore(limits[:i+1], before))
		}
		g.have[i] = want[i]
	}
	return nil
}

// configOf wraps limits in what the table reads them from.
func configOf(r *specs.LinuxResources) *engine.Config {
	if r == nil {
		r = &specs.LinuxResources{}
	}
	return &engine.Config{Spec: specs.Spec{Linux: &specs.Linux{Resources: r}}}
}

// look replaces have by the limit that is in force.
func (g *Group) look(p *place, have *string) error {
	if p.lack != "" {
		return nil
	}
	if p.filtered() {
		*have = unknownDevices
		return nil
	}
	text, err := g.text(p)
	if err == nil {
		*have = strings.TrimSuffix(text, "\n")
	}
	return err
}

// restore brings limits back to before, the last one first. have tells the truth afterwards, whatever fails: a change of
// two files may have stopped between them, so the kernel is asked.
func (g *Group) restore(limits []*place, before []string) error {
	var errs []error
	for i, p := range slices.Backward(limits) {
		err := g.look(p, &g.have[i])
		if err == nil && g.have[i] != before[i] {
			if err = g.change(p, g.have[i], before[i]); err == nil {
				g.have[i] = before[i]
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// change sets one limit from the v2 text old to value.
func (g *Group) change(p *place, old, value string) error {
	if p.filtered() {
		return g.changeFilter(p, old, value)
	}
	changes := []change{{0, value}}
	if !p.v2 && p.set != nil {
		var err error
		if changes, err = p.set(old, value); err != nil {
			return err
		}
	}
	// One after the other, and no undo here: the caller knows what was before and asks the kernel what is.
	for len(changes) > 0 {
		file := changes[0].file
		var texts []string
		for ; len(changes) > 0 && changes[0].file == file; changes = changes[1:] {
			texts = append(texts, changes[0].text)
		}
		if err := g.top(p.in[file]).write(g.file(p, file), texts...); err != nil {
			return g.refuse("write", p.file, value, err)
		}
	}
	return nil
}

// top returns the tree's directory in a hierarchy.
func (g *Group) top(y *hierarchy) dir { return g.tree.tops[y.index] }

// file returns the path of one of a place's files.
func (g *Group) file(p *place, i int) string {
	if !p.v2 {
		return g.path + "/" + p.v1[i]
	}
	if p.own {
		return g.own(p.in[0]) + "/" + p.row.file
	}
	return g.path + "/" + p.row.file
}

// own returns the directory, in hierarchy y, of the group's own processes.
func (g *Group) own(y *hierarchy) string {
	if y.unified && g.tree.host.leaf {
		return g.path + "/" + leafName
	}
	return g.path
}

// refuse wraps an error of the gate, which names the kernel's file, in one that names the user's. A file that is missing
// from a group that exists means an older kernel (memory.peak came with 5.19), or one built without something.
func (g *Group) refuse(op, file, value string, err error) error {
	errno := engine.Errno(err)
	switch {
	case errno == syscall.ERANGE:
		errno = syscall.EINVAL
	case errno == syscall.ENOENT && g.tree.tops[0].exists(g.path):
		return &engine.Error{Op: op, File: file, Value: value, Errno: errUnsupported, Why: "this kernel has no such file", Err: err}
	}
	return &engine.Error{Op: op, File: file, Value: value, Errno: errno, Err: err}
}

// Read returns a file's text in v2's format. Errors: EOPNOTSUPP with the reason when the host lacks it, ENOENT when the
// group is gone, EACCES for cgroup.kill.
func (g *Group) Read(file string) (string, error) {
	p, err := g.tree.host.lookup("read", file)
	if err != nil {
		return "", err
	}
	if p.blind {
		return "", &engine.Error{Op: "read", File: file, Errno: syscall.EACCES, Why: "it can only be written"}
	}
	return g.text(p)
}

func (g *Group) text(p *place) (string, error) {
	if p.filtered() {
		return g.filterText(p)
	}
	var texts []string
	for i, y := range p.in {
		if p.reads > 0 && i >= p.reads {
			break
		}
		var text string
		var err error
		// Every file is another moment. v1 offers no consistent one, and v2 does it within a file only.
		if p.deep && !p.v2 {
			text, err = g.top(y).readBelow(g.path, p.v1[i])
		} else {
			text, err = g.top(y).read(g.file(p, i))
		}
		if err != nil {
			return "", g.refuse("read", p.file, "", err)
		}
		texts = append(texts, text)
	}
	if p.v2 || p.get == nil {
		return texts[0], nil
	}
	text, err := p.get(texts)
	if err != nil {
		return "", g.refuse("read", p.file, "", err)
	}
	return text, nil
}

// Write performs an action: cgroup.procs moves the process with that host pid into the group, cgroup.freeze stops (1) and
// continues (0) everything in it and below, cgroup.kill (1) kills that. Limits are set by [Group.Apply]. Errors: EINVAL,
// EACCES for a file that is no action, EOPNOTSUPP, ESRCH, ETIMEDOUT.
func (g *Group) Write(file, value string) error {
	p, err := g.tree.host.lookup("write", file)
	if err != nil {
		return err
	}
	if p.act == nil {
		return &engine.Error{Op: "write", File: file, Value: value, Errno: syscall.EACCES, Why: "not an action"}
	}
	return p.act(g, strings.TrimSuffix(value, "\n"))
}

// Populated reports whether a process lives in the group or below it. One that has exited and not been waited for does not.
func (g *Group) Populated() (bool, error) {
	text, err := g.Read("cgroup.events")
	if errors.Is(err, errUnsupported) { // v1 without a freezer
		text, err = g.tree.tops[0].readBelow(g.path, "cgroup.procs")
		return text != "", err
	}
	n, _ := keyed(text, "populated")
	return n != 0, err
}

// OOMKills counts the group's own processes, without those of groups below it, that the out-of-memory killer has killed.
func (g *Group) OOMKills() (uint64, error) {
	p, err := g.tree.host.lookup("read", "memory.events.local")
	if err != nil {
		return 0, err
	}
	text, err := g.text(p)
	if err != nil {
		return 0, err
	}
	kills, _ := keyed(text, "oom_kill")
	if p.v2 && g.tree.host.leaf {
		// The kernel counts where the victim is accounted: in the leaf, once the group passes its controllers on.
		text, err = g.top(p.in[0]).read(path.Join(g.path, leafName, p.file))
		if errors.Is(err, unix.ENOENT) {
			return kills, nil
		}
		n, _ := keyed(text, "oom_kill")
		kills += n
	}
	return kills, err
}

// Remove removes the group and all below it from every hierarchy, the home first, so that a group that is still in use
// stays whole. What is gone already is fine. Errors: EBUSY when a process lives in it for longer than dying takes.
func (g *Group) Remove() error {
	for _, top := range g.tree.tops {
		err := top.rmdir(g.path)
		if errors.Is(err, unix.EBUSY) {
			pids, _ := g.Procs()
			return &engine.Error{Op: "rmdir", File: g.path, Errno: syscall.EBUSY, Err: err,
				Why: fmt.Sprintf("processes %v live in it", pids), Cure: "kill them first"}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

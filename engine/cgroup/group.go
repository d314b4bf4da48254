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
	limits := g.tree.host.limits
	want, err := g.tree.host.wants(r)
	if err != nil {
		return err
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
	order := inOrder(limits, before, want)
	for n, i := range order {
		if err := g.change(limits[i], before[i], want[i]); err != nil {
			return also(err, g.restore(order[:n+1], before))
		}
		g.have[i] = want[i]
	}
	return nil
}

// wants lists what each limit is to be. Errors: EOPNOTSUPP.
func (h *Host) wants(r *specs.LinuxResources) ([]string, error) {
	config := configOf(r)
	want := make([]string, len(h.limits))
	for i, p := range h.limits {
		var err error
		if want[i], err = p.want(config); err != nil {
			return nil, err
		}
	}
	return want, nil
}

// Check says whether this host can express the limits of r, before there is a group. Errors: EOPNOTSUPP.
func (h *Host) Check(r *specs.LinuxResources) error {
	_, err := h.wants(r)
	return err
}

// Words names the limits that r sets, by file and value, in the order in which they are applied.
func Words(r *specs.LinuxResources) (words []string) {
	config := configOf(r)
	for i := range table {
		row := &table[i]
		if row.limit == nil {
			continue
		}
		text := row.limit(config)
		if text == row.initial || row.spare != "" && text == row.spare {
			continue
		}
		for line := range strings.SplitSeq(text, "\n") {
			words = append(words, row.file+" "+line)
		}
	}
	return words
}

// inOrder lists which limits are to be changed, in the order that the kernel takes.
func inOrder(limits []*place, before, want []string) (order []int) {
	for i, p := range limits {
		if want[i] == before[i] || p.lack != "" {
			continue
		}
		order = append(order, i)
		if n := len(order); n > 1 && order[n-2] == i-1 && p.leads != nil && !p.v2 && p.leads(before[i], want[i]) {
			order[n-1], order[n-2] = order[n-2], order[n-1]
		}
	}
	return order
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
	if p.together() {
		if text, err = g.top(p.in[0]).read(g.file(p, 0)); err == nil {
			text, err = memoryMaxFromV1([]string{text})
		}
	}
	if err == nil {
		*have = strings.TrimSuffix(text, "\n")
	}
	// What this kernel has no file for is what it is by default.
	if errors.Is(err, unix.ENOENT) && g.tree.tops[0].exists(g.path) {
		*have, err = p.fresh(), nil
	}
	return err
}

// restore brings limits back to before, the last one first. have tells the truth afterwards, whatever fails: a change of
// two files may have stopped between them, so the kernel is asked.
func (g *Group) restore(order []int, before []string) error {
	var errs []error
	for _, i := range slices.Backward(order) {
		p := g.tree.host.limits[i]
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

// change sets one limit from the text old to value.
func (g *Group) change(p *place, old, value string) error {
	if p.filtered() {
		return g.changeFilter(p, old, value)
	}
	if err := g.tree.enter(p, g.path); err != nil {
		return g.refuse("write", p.file, value, err)
	}
	changes, convert := []change{{0, value}}, p.put
	if !p.v2 {
		convert = p.set
	}
	var err error
	switch {
	case convert != nil:
		changes, err = convert(old, value)
	case value == "" && p.inherit && !p.v2:
		changes[0].text, err = g.top(p.in[0]).read(path.Join(path.Dir(g.path), p.v1[0]))
	case value == "":
		changes[0].text = "\n" // a write of nothing is none
	}
	if err != nil {
		return err
	}
	// One after the other, and no undo here: the caller knows what was before and asks the kernel what is.
	for len(changes) > 0 {
		file := changes[0].file
		var texts []string
		for ; len(changes) > 0 && changes[0].file == file; changes = changes[1:] {
			texts = append(texts, changes[0].text)
		}
		err := g.top(p.in[file]).write(g.file(p, file), texts...)
		if p.v2 && p.inherit && value == "" && engine.Errno(err) == syscall.ENOSPC {
			err = g.copyAbove(p)
		}
		if err != nil {
			return g.refuse("write", p.file, value, err)
		}
	}
	return nil
}

// copyAbove gives a group what the one above it has: an older kernel (6.1) lets nobody empty a cpuset in which processes are.
func (g *Group) copyAbove(p *place) error {
	text, err := g.top(p.in[0]).read(path.Join(path.Dir(g.path), p.row.file+".effective"))
	if err != nil {
		return err
	}
	return g.top(p.in[0]).write(g.file(p, 0), text)
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
	if y.unified && (g.tree.host.leaf || g.tree.late.has(leafName, g.path)) {
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
	if p.tell != nil {
		return p.tell(g)
	}
	return g.text(p)
}

func (g *Group) text(p *place) (string, error) {
	if p.filtered() {
		return g.filterText(p)
	}
	if p.key != "" && !g.tree.late.has(p.key, g.path) {
		return g.without(p)
	}
	var texts []string
	for i, y := range p.in {
		if p.reads > 0 && i >= p.reads {
			break
		}
		var text string
		var err error
		// Every file is another moment. v1 offers no consistent one, and v2 does it within a file only.
		switch leaf := g.own(y); {
		case p.deep && !p.v2:
			text, err = g.top(y).readBelow(g.path, p.v1[i])
		case p.own && p.v2 && leaf != g.path: // it may be delegated, and then processes are below it
			text, err = g.top(y).readBelow(leaf, p.row.file)
		default:
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

// controllers is the content of cgroup.controllers: those of the host, since what a group is not in it enters when asked.
func (g *Group) controllers() (string, error) {
	have := g.tree.host.Controllers()
	// In the order of the kernel: include/linux/cgroup_subsys.h.
	order := []string{"cpuset", "cpu", "io", "memory", "hugetlb", "pids"}
	slices.SortStableFunc(have, func(a, b string) int { return slices.Index(order, a) - slices.Index(order, b) })
	return strings.Join(have, " ") + "\n", nil
}

// stat is the content of cgroup.stat. Leaves are ours and nobody's container, so they are not counted.
func (g *Group) stat() (string, error) {
	home := g.tree.tops[0]
	groups, err := home.below(g.path)
	if err != nil {
		return "", g.refuse("read", "cgroup.stat", "", err)
	}
	groups = slices.DeleteFunc(groups, func(p string) bool { return inLeaf(p) })
	text := fmt.Sprintf("nr_descendants %d\n", len(groups)-1)
	if !g.tree.host.used[0].unified {
		return text, nil
	}
	kernel, err := home.read(g.path + "/cgroup.stat")
	if err != nil {
		return "", g.refuse("read", "cgroup.stat", "", err)
	}
	_, rest, _ := strings.Cut(kernel, "\n")
	return text + rest, nil
}

// Remove removes the group and all below it from every hierarchy, the home first, so that a group that is still in use
// stays whole. What is gone already is fine. Errors: EBUSY when a process lives in it for longer than dying takes.
func (g *Group) Remove() error {
	for i, top := range g.tree.tops {
		if y := g.tree.host.used[i]; y.late && !g.tree.late.has(y.mount, g.path) {
			continue
		}
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
	g.tree.late.forget(g.path)
	return nil
}

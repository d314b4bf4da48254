package cgroup

import (
	"errors"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
	"golang.org/x/sys/unix"
)

// late remembers which groups have been put into what most groups do without: by key ([place.key], or leafName for a leaf
// that the host does not otherwise need), the paths. A group has it only together with all groups around it.
type late struct {
	entering sync.Mutex    // one entry at a time
	entries  atomic.Uint64 // how many there have been

	mu  sync.RWMutex
	all map[string]map[string]bool // guarded by mu
}

func (l *late) has(key, p string) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.all[key][p]
}

// nearest returns the innermost of the groups around the one at p, and itself, that has the key; "" if none does.
func (l *late) nearest(key, p string) (found string) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if len(l.all[key]) == 0 {
		return ""
	}
	for prefix := range prefixes(p) {
		if l.all[key][prefix] {
			found = prefix
		}
	}
	return found
}

func (l *late) add(key, p string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = map[string]map[string]bool{}
	}
	if l.all[key] == nil {
		l.all[key] = map[string]bool{}
	}
	l.all[key][p] = true
}

// forget takes out a group that has been removed, and all below it.
func (l *late) forget(p string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, paths := range l.all {
		maps.DeleteFunc(paths, func(q string, _ bool) bool { return q == p || strings.HasPrefix(q, p+"/") })
	}
}

// enter puts the group at p, and what runs in it and below it, where a file is that it has not had, with every group around
// it. Whoever starts meanwhile is caught up with by [Join.Settle].
func (t *Tree) enter(p *place, group string) error {
	if p.key == "" || t.late.has(p.key, group) {
		return nil
	}
	t.late.entering.Lock()
	defer t.late.entering.Unlock()
	defer t.late.entries.Add(1)
	if p.v2 {
		return t.enterV2(p.key, group)
	}
	y := p.in[0]
	if y.cpuset() {
		if err := t.inherit(y, "."); err != nil {
			return err
		}
	}
	for prefix := range prefixes(group) {
		if t.late.has(p.key, prefix) {
			continue
		}
		if err := t.tops[y.index].mkdir(prefix); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		if y.cpuset() {
			if err := t.inherit(y, prefix); err != nil {
				return err
			}
		}
		t.late.add(p.key, prefix)
		t.late.entries.Add(1) // before the look at who is there: a start has either seen it, or is seen
		if err := t.gather(y, prefix); err != nil {
			return err
		}
	}
	return nil
}

// inherit gives a group of v1's cpuset that has none the processors and the memory of the group above, without which nobody
// may enter it (cpuset(7), "cpuset.cpus", ENOSPC).
func (t *Tree) inherit(y *hierarchy, group string) error {
	d, above := t.tops[y.index], path.Join(group, "..")
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		text, err := d.read(path.Join(group, file))
		if err != nil {
			return err
		}
		if strings.TrimSpace(text) != "" {
			continue
		}
		from := d
		if group == "." {
			from, above = t.roots[y.index], "."
		}
		if text, err = from.read(path.Join(above, file)); err == nil {
			err = d.write(path.Join(group, file), text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// gather moves every process of a group, and of those below it that have no group of their own there, into the group in v1
// hierarchy y. A process that is forked meanwhile is either in the group of a parent that has been moved, or found in the
// next round: it is over when a round finds nobody.
func (t *Tree) gather(y *hierarchy, group string) error {
	done, err := until(killWait, func() (bool, error) {
		pids, err := t.strangers(y, group)
		for _, pid := range pids {
			err := t.tops[y.index].write(path.Join(group, "cgroup.procs"), strconv.Itoa(pid))
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return false, err
			}
		}
		return len(pids) == 0, err
	})
	if err == nil && !done {
		err = &engine.Error{Op: "move", File: path.Join(t.tops[y.index].path, group), Errno: syscall.ETIMEDOUT,
			Why: "processes keep appearing", Cure: "try again"}
	}
	return err
}

// strangers lists the processes that belong into a group in hierarchy y and are not there.
func (t *Tree) strangers(y *hierarchy, group string) ([]int, error) {
	groups, err := t.tops[0].below(group)
	if err != nil {
		return nil, err
	}
	text, err := t.tops[y.index].read(path.Join(group, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	there := pidList(text)
	var out []int
	for _, g := range groups {
		if t.late.nearest(y.mount, g) != group {
			continue
		}
		text, err := t.tops[0].read(path.Join(g, "cgroup.procs"))
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
			return nil, err
		}
		out = append(out, pidList(text)...)
	}
	return slices.DeleteFunc(out, func(pid int) bool { return slices.Contains(there, pid) }), nil
}

// enterV2 enables a controller of v2 in a group, which for the groups around it means that their own processes go into a
// leaf: that is why a host that has no other use for v2's controllers does it only when asked.
func (t *Tree) enterV2(controller, group string) error {
	wanted := []string{controller}
	if _, err := enable(t.roots[0], ".", wanted); err != nil {
		return err
	}
	// Whoever of several trees enabled it, the last one that used it disables it: only they are there then.
	if !slices.Contains(t.enabled, controller) {
		t.enabled = append(t.enabled, controller)
	}
	if _, err := enable(t.tops[0], ".", wanted); err != nil {
		return err
	}
	for prefix := range prefixes(group) {
		t.late.add(controller, prefix)
		if prefix == group {
			return nil
		}
		if err := t.empty(prefix); err != nil {
			return err
		}
		if _, err := enable(t.tops[0], prefix, wanted); err != nil {
			return err
		}
	}
	return nil
}

// empty moves a v2 group's own processes into a leaf.
func (t *Tree) empty(group string) error {
	leaf := path.Join(group, leafName)
	if err := t.tops[0].mkdir(leaf); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	t.late.add(leafName, group)
	_, err := until(killWait, func() (bool, error) {
		text, err := t.tops[0].read(path.Join(group, "cgroup.procs"))
		if err != nil {
			return false, err
		}
		pids := pidList(text)
		for _, pid := range pids {
			err := t.tops[0].write(path.Join(leaf, "cgroup.procs"), strconv.Itoa(pid))
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return false, err
			}
		}
		return len(pids) == 0, nil
	})
	return err
}

// recall finds out, of a group that another process has made, and of those around it, what it has been put into.
func (t *Tree) recall(group string) error {
	for i, y := range t.host.used {
		for prefix := range prefixes(group) {
			if y.late && t.tops[i].exists(prefix) {
				t.late.add(y.mount, prefix)
			}
			if y.unified && t.tops[i].exists(path.Join(prefix, leafName)) {
				t.late.add(leafName, prefix)
			}
		}
	}
	for _, p := range t.host.places {
		if p.key == "" || !p.v2 {
			continue
		}
		for prefix := range prefixes(group) {
			text, err := t.tops[0].read(path.Join(prefix, "cgroup.controllers"))
			if err != nil {
				return err
			}
			if slices.Contains(strings.Fields(text), p.controller) {
				t.late.add(p.key, prefix)
			}
		}
	}
	return nil
}

// without is the text of a file that the group has not been given: no limit of its own, and the state of what is around it.
func (g *Group) without(p *place) (string, error) {
	if p.limit != nil {
		return p.initial + "\n", nil
	}
	var texts []string
	for i, y := range p.in {
		d, at := g.top(y), g.tree.late.nearest(p.key, g.path)
		if at == "" {
			d, at = g.tree.roots[y.index], "."
		}
		file := p.file
		if !p.v2 {
			file = p.v1[i]
		}
		text, err := d.read(path.Join(at, file))
		if err != nil {
			return "", g.refuse("read", p.file, "", err)
		}
		texts = append(texts, text)
	}
	if p.v2 || p.get == nil {
		return texts[0], nil
	}
	return p.get(texts)
}

// number in the values of a file; a key may have digits in it, too.
var numbers = regexp.MustCompile(`([ =]|^)\d+(\.\d+)?`)

// Empty returns what a file reads as in a group in which nothing has run: all that the tree's own file says, with 0 for each
// number. That needs no group, and has the keys that this kernel has, which do not change. Errors: those of [Group.Read].
func (t *Tree) Empty(file string) (string, error) {
	p, err := t.host.lookup("read", file)
	if err != nil {
		return "", err
	}
	if p.empty {
		return "", nil
	}
	if p.steady || p.blind {
		return (&Group{tree: t, path: "."}).Read(file)
	}
	if p.tell != nil && !p.v2 {
		return "nr_descendants 0\n", nil
	}
	if text, ok := t.empties.Load(file); ok {
		return text.(string), nil
	}
	shallow := *p.row
	shallow.deep = false // every group that there is would be read
	text, err := (&Group{tree: t, path: "."}).text(&place{row: &shallow, v2: p.v2, in: p.in, key: p.key})
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(numbers.ReplaceAllStringFunc(line, func(n string) string {
			zero := "0"
			if strings.Contains(n, ".") {
				zero = "0.00"
			}
			return strings.TrimRight(n, "0123456789.") + zero
		}))
	}
	if err == nil {
		t.empties.Store(file, b.String())
	}
	return b.String(), err
}

// receives returns the directory, in the root of hierarchy y, that a process which comes into the group goes to; from is
// the text of its /proc/PID/cgroup. "" leaves it where it is.
func (g *Group) receives(y *hierarchy, from string) string {
	if !y.late {
		return path.Join(g.tree.name, g.own(y))
	}
	if at := g.tree.late.nearest(y.mount, g.path); at != "" {
		return path.Join(g.tree.name, at)
	}
	// It leaves another container's group; outside of all of them it is not ours to move.
	if at, ok := y.member(from); ok && strings.HasPrefix(at, "./"+g.tree.name+"/") {
		return "."
	}
	return ""
}

// Settle sees to it that a child that has joined is also in what its group entered while it did so. It is called when the
// child cannot use the files of the join any more.
func (j *Join) Settle() error {
	t := j.group.tree
	if t.late.entries.Load() == j.since {
		return nil
	}
	for _, y := range t.host.used {
		if at := t.late.nearest(y.mount, j.group.path); y.late && at != "" {
			if err := t.gather(y, at); err != nil {
				return err
			}
		}
	}
	return nil
}

package cgroup

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Host is what a machine offers: its hierarchies, and where in them each file lives. It is immutable.
type Host struct {
	used   []*hierarchy // those that the table needs, the home first
	places []*place     // one for each row of the table
	leaf   bool         // the v2 hierarchy carries controllers, so processes live in leaves
	wanted []string     // controllers to enable in the v2 hierarchy

	limits  []*place // those of places that are limits, and are set by themselves
	initial []string // what each limit is in a new group
}

// hierarchy is one mounted cgroup hierarchy.
type hierarchy struct {
	mount       string   // where it is mounted
	root        string   // which of its directories is; "/" unless this is a container itself
	unified     bool     // v2
	private     bool     // mounted by this ctrfs: [Private]
	readonly    bool     // nothing can be made in it
	controllers []string // v1: also other mount options; v2: what cgroup.controllers offers
	late        bool     // v1: a group is made in it only when something has to be limited there
	index       int      // in Host.used

	around *hierarchy // the whole of it, where it is narrowed to Options.Root
}

// Detect finds the cgroup hierarchies in a mount table in the format of proc_pid_mountinfo(5); nil is this process's own.
// It takes them where they are: cpu and cpuacct together or apart, and not every controller of /proc/cgroups is mounted.
// Errors: EIO for a table that cannot be read, ENODEV when nothing useful is mounted.
func Detect(table io.Reader) (*Host, error) { return Options{}.Detect(table) }

// Detect is [Detect] for a part of the hierarchies. Errors: also ENOENT when there is no such part.
func (o Options) Detect(table io.Reader) (*Host, error) {
	if table == nil {
		f, err := os.Open("/proc/self/mountinfo")
		if err != nil {
			return nil, &engine.Error{Op: "open", File: "/proc/self/mountinfo", Errno: engine.Errno(err)}
		}
		defer f.Close()
		table = f
	}
	found, err := o.parseMounts(table)
	if err != nil {
		return nil, err
	}
	for _, y := range found {
		if y.unified {
			if y.controllers, err = offered(y.mount); err != nil {
				return nil, err
			}
		}
		if o.Root == "" || y.private {
			continue
		}
		y.narrow(o.Root)
		if y.unified {
			// What is not there is told below, together with the others.
			if y.controllers, err = offered(y.mount); err != nil && !errors.Is(err, unix.ENOENT) {
				return nil, err
			}
		}
	}
	h := newHost(found)
	if len(h.used) == 0 {
		return nil, &engine.Error{Op: "detect", File: "cgroup", Errno: syscall.ENODEV,
			Why: "no cgroup hierarchy is mounted for writing", Cure: "mount -t cgroup2 none /sys/fs/cgroup"}
	}
	return h, h.checkRoot(o.Root)
}

// parseMounts lists the hierarchies of a mount table, each once. Of several mounts of one, the first that shows its root
// and can be written is taken, else the first.
func (o Options) parseMounts(table io.Reader) ([]*hierarchy, error) {
	mounts, err := mountinfo.GetMountsFromReader(table, mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, &engine.Error{Op: "read", File: "mountinfo", Errno: syscall.EIO, Err: err}
	}
	var all []*hierarchy
	seen := map[[2]int]*hierarchy{}
	for _, m := range mounts {
		private := strings.HasPrefix(m.Source, privatePrefix)
		if private && m.Source != o.Owner {
			continue
		}
		y := &hierarchy{mount: m.Mountpoint, root: m.Root, unified: m.FSType == "cgroup2", private: private}
		options := strings.Split(m.Options+","+m.VFSOptions, ",")
		y.readonly = slices.Contains(options, "ro")
		// v1 tells its controllers among the options of the superblock; the others, such as rw, xattr and name=, are nobody's
		// controller and need no filter. v2 tells them in a file, which is not this function's to read.
		if !y.unified {
			y.controllers = strings.Split(m.VFSOptions, ",")
		}
		// A hierarchy is one superblock. Container engines bind it into their roots as well, mostly read-only and a part of it.
		device := [2]int{m.Major, m.Minor}
		if old := seen[device]; old == nil {
			seen[device] = y
			all = append(all, y)
		} else if !old.whole() && y.whole() {
			*old = *y
		}
	}
	return all, nil
}

func (y *hierarchy) whole() bool { return y.root == "/" && !y.readonly }

// offered reads which controllers a v2 mount has to give.
func offered(mount string) ([]string, error) {
	d, err := openDir(mount)
	if err != nil {
		return nil, err
	}
	defer d.close()
	text, err := d.read("cgroup.controllers")
	return strings.Fields(text), err
}

// newHost finds a place for every row of the table, and keeps the hierarchies that rows need.
func newHost(found []*hierarchy) *Host {
	h := &Host{}
	var late []string // controllers of v2 that few groups need
	for i := range table {
		p := &place{row: &table[i]}
		h.places = append(h.places, p)
		if p.settle(found); p.pages != "" && p.lack == "" && !hasPages(p.pages) {
			p.lack = "this machine has no huge pages of " + p.pages
		}
		for _, y := range p.in {
			if y != nil && !slices.Contains(h.used, y) {
				y.late = true
				h.used = append(h.used, y)
			}
			if y != nil && (y.unified || !p.late) {
				y.late = false
			}
		}
		switch {
		case !p.v2 || p.filtered() || p.controller == "" || slices.Contains(h.wanted, p.controller) || slices.Contains(late, p.controller):
		case p.late:
			late = append(late, p.controller)
		default:
			h.wanted = append(h.wanted, p.controller)
		}
	}
	// Without controllers to enable there are no internal processes to forbid, and a hybrid host is spared a directory. One
	// that has to enable some anyway enables all: that costs a group nothing.
	if h.leaf = len(h.wanted) > 0; h.leaf {
		h.wanted, late = append(h.wanted, late...), nil
	}
	slices.SortStableFunc(h.used, func(a, b *hierarchy) int { return a.rank() - b.rank() })
	for i, y := range h.used {
		y.index = i
		y.late = y.late && i > 0 // the home is always needed
	}
	for _, p := range h.places {
		h.finish(p, late)
	}
	return h
}

// finish completes a place when all hierarchies are known.
func (h *Host) finish(p *place, late []string) {
	for i, y := range p.in {
		if y == nil && len(h.used) > 0 {
			p.in[i] = h.used[0]
		}
	}
	switch {
	case p.v2 && slices.Contains(late, p.controller):
		p.key = p.controller
	case !p.v2 && len(p.in) > 0 && p.in[0] != nil && p.in[0].late:
		p.key = p.in[0].mount
	}
	if p.limit != nil && !(p.folded && !p.v2 && p.lack == "") {
		h.limits = append(h.limits, p)
		h.initial = append(h.initial, p.fresh())
	}
}

// rank orders hierarchies by how well they serve as the home: lowest first. Killing needs the freezer and the list of
// processes to be of one hierarchy, or a process that is joining could be in the one and not the other.
func (y *hierarchy) rank() int {
	switch {
	case y.unified:
		return 0
	case slices.Contains(y.controllers, "freezer"):
		return 1
	case y.late:
		return 3
	}
	return 2
}

// cpuset reports whether it is v1's cpuset, which lets nobody into a group that has been given no processors and no memory.
func (y *hierarchy) cpuset() bool { return !y.unified && slices.Contains(y.controllers, "cpuset") }

// settle decides whether the file lives in v2 or in v1 and in which hierarchies, nil standing for the home, or notes why it
// lives in neither. The order is no preference: the kernel gives a controller to one hierarchy at a time, and core files of
// v2 do all that the freezer does without its traps.
func (p *place) settle(found []*hierarchy) {
	why := ""
	if p.file == devicesFile {
		if why = p.settleDevices(found); p.v2 {
			return
		}
	}
	for _, y := range found {
		if !y.unified {
			continue
		}
		if p.controller != "" && !slices.Contains(y.controllers, p.controller) {
			if y.around != nil && slices.Contains(y.around.controllers, p.controller) {
				why = y.mount + " has not been given the controller " + p.controller + ": with systemd, Delegate=yes gives it"
			}
			continue
		}
		if p.never != "" {
			why = p.never
			break
		}
		if !y.readonly {
			p.v2, p.in = true, []*hierarchy{y}
			return
		}
		why = y.mount + " is mounted read-only"
	}
	var in []*hierarchy
	v1 := p.v1
	if p.beside != nil && slices.ContainsFunc(found, func(y *hierarchy) bool { return y.unified && !y.readonly }) {
		p.row = p.beside
		in, v1 = append(in, nil), p.v1[1:]
	}
	for _, file := range v1 {
		y, lack := find(file, found)
		if lack != "" {
			p.lack = cmp.Or(why, lack)
			return
		}
		in = append(in, y)
	}
	if p.in = in; len(in) == 0 {
		p.lack = cmp.Or(why, p.lacks, "only cgroup v2 has it")
	}
}

// hasPages reports whether the kernel has huge pages of a size, which its files write as it does those of cgroups
// (mm/hugetlb_cgroup.c, mem_fmt).
func hasPages(size string) bool {
	var n int
	var unit string
	if _, err := fmt.Sscanf(size, "%d%s", &n, &unit); err != nil {
		return false
	}
	_, err := os.Stat(fmt.Sprintf("/sys/kernel/mm/hugepages/hugepages-%dkB", n<<map[string]int{"KB": 0, "MB": 10, "GB": 20}[unit]))
	return err == nil
}

// find returns the v1 hierarchy of a file, or why there is none.
func find(file string, found []*hierarchy) (y *hierarchy, lack string) {
	controller, _, _ := strings.Cut(file, ".")
	if controller == "cgroup" || controller == "tasks" {
		return nil, "" // the home is known only when all rows have their places
	}
	for _, y := range found {
		if y.unified || !slices.Contains(y.controllers, controller) {
			continue
		}
		if y.readonly {
			return nil, y.mount + " is mounted read-only"
		}
		return y, ""
	}
	return nil, "no mounted hierarchy has the controller " + controller
}

// Mode is "v2", "v1", or "hybrid" when files of both are used.
func (h *Host) Mode() string {
	v2 := h.used[0].unified
	switch {
	case v2 && len(h.used) == 1:
		return "v2"
	case v2:
		return "hybrid"
	}
	return "v1"
}

// Controllers lists, sorted and by their v2 names, the controllers that groups have.
func (h *Host) Controllers() []string {
	var names []string
	for _, p := range h.places {
		if p.lack == "" && p.controller != "" {
			names = append(names, p.controller)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Offers reports whether groups have a file.
func (h *Host) Offers(file string) bool {
	_, err := h.lookup("read", file)
	return err == nil
}

// Features tells the mode, every controller, and each file that is missing though its controller is there, with reasons.
func (h *Host) Features() []engine.Feature {
	out := []engine.Feature{{Name: "cgroup", Value: h.Mode()}}
	have := h.Controllers()
	told := map[string]bool{"": true}
	for _, p := range h.places {
		there := p.controller == "" || slices.Contains(have, p.controller)
		if !told[p.controller] {
			told[p.controller] = true
			if there {
				out = append(out, engine.Feature{Name: "cgroup-" + p.controller, Value: "yes"})
			} else {
				out = append(out, engine.Feature{Name: "cgroup-" + p.controller, Value: "no", Reason: p.lack})
			}
		}
		if there && p.lack != "" {
			out = append(out, engine.Feature{Name: p.file, Value: "no", Reason: p.lack})
		}
	}
	return out
}

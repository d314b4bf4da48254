package test

import (
	"bufio"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Inventory is everything of ctrfs that this machine holds at one moment, one line each: "cgroup /sys/…/ctrfs-0a1b2c3d".
// What one inventory has and an earlier one has not is what happened in between has left behind.
type Inventory map[string]bool

// prefix is what every named thing that ctrfs makes on the host begins with.
const prefix = "ctrfs"

// TakeInventory looks around, from the mount and network namespace of the caller.
func TakeInventory() Inventory {
	inv := Inventory{}
	for _, look := range []func(Inventory){mounts, cgroups, links, processes, loops, tables} {
		look(inv)
	}
	return inv
}

// settle is how long a leftover may take to disappear by itself: the kernel ends a network namespace, and the last
// processes of a group, after the call that dropped them has returned; and tests of other packages may be at work.
const settle = 5 * time.Second

// Leftovers returns what was not there before and does not go away, sorted. Of that, only what is ours counts, and is waited for:
// others may be at work on the machine.
func (before Inventory) Leftovers(ours func(thing string) bool) []string {
	left := map[string]bool(TakeInventory())
	maps.DeleteFunc(left, func(thing string, _ bool) bool { return !ours(thing) })
	for end := time.Now().Add(settle); ; time.Sleep(50 * time.Millisecond) {
		now := TakeInventory()
		for thing := range left {
			if before[thing] || !now[thing] {
				delete(left, thing)
			}
		}
		if len(left) == 0 || time.Now().After(end) {
			break
		}
	}
	var out []string
	for thing := range left {
		out = append(out, thing)
	}
	slices.Sort(out)
	return out
}

// A mountLine is one line of proc_pid_mountinfo(5).
type mountLine struct{ point, kind, source string }

func mountTable() []mountLine {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []mountLine
	for scan := bufio.NewScanner(f); scan.Scan(); {
		before, after, _ := strings.Cut(scan.Text(), " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if len(head) >= 5 && len(tail) >= 2 {
			out = append(out, mountLine{point: head[4], kind: tail[0], source: tail[1]})
		}
	}
	return out
}

func mounts(inv Inventory) {
	for _, m := range mountTable() {
		if strings.Contains(m.kind+" "+m.source+" "+m.point, prefix) {
			inv[fmt.Sprintf("mount %s of type %s", m.point, m.kind)] = true
		}
	}
}

func cgroups(inv Inventory) {
	for _, m := range mountTable() {
		if m.kind != "cgroup" && m.kind != "cgroup2" {
			continue
		}
		filepath.WalkDir(m.point, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && strings.Contains(path, "/"+prefix) {
				inv["cgroup "+path] = true
			}
			return nil // a group that goes away during the walk is no matter
		})
	}
}

func links(inv Inventory) {
	all, _ := net.Interfaces()
	for _, link := range all {
		if strings.HasPrefix(link.Name, prefix) {
			inv["link "+link.Name] = true
		}
	}
}

// processes finds those that run a program called ctrfs, or ctrfs-something. A test binary of the tree is no leftover.
func processes(inv Inventory) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		exe, err := os.Readlink(dir + "/exe")
		name := strings.TrimPrefix(filepath.Base(strings.TrimSuffix(exe, " (deleted)")), "memfd:")
		if err == nil && strings.HasPrefix(name, prefix) && !strings.HasSuffix(name, ".test") {
			args, _ := os.ReadFile(dir + "/cmdline")
			inv[fmt.Sprintf("process %s %s", filepath.Base(dir), strings.ReplaceAll(string(args), "\x00", " "))] = true
		}
	}
}

func loops(inv Inventory) {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, file := range files {
		if backing, err := os.ReadFile(file); err == nil && strings.Contains(string(backing), prefix) {
			inv["loop device "+strings.TrimSpace(string(backing))] = true
		}
	}
}

func tables(inv Inventory) {
	out, err := exec.Command("nft", "list", "tables").Output()
	if err != nil {
		return // no nft: nor a table that it could have made
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, prefix) {
			inv["nft "+strings.TrimSpace(line)] = true
		}
	}
}

// RSS returns the resident memory of a process in bytes, from proc_pid_status(5).
func RSS(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.Fields(kb)[0], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no memory", pid)
}

// openFiles counts the descriptors of a process.
func openFiles(pid int) int {
	fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(fds)
}

// namesOfFiles says what the descriptors of a process are, sorted.
func namesOfFiles(pid int) (names []string) {
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		name, _ := os.Readlink(fd)
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// ownerless returns something that belongs to a container, of an instance that has none; empty when there is nothing.
func (i *Instance) ownerless() string {
	for _, pattern := range []string{i.State + "/containers/*/*", i.State + "/trash/*", i.State + "/*.new", i.Run + "/stdin/*", i.Run + "/starting",
		"/sys/fs/cgroup/ctrfs-" + i.name() + "/*/", "/sys/fs/cgroup/*/ctrfs-" + i.name() + "/*/"} {
		found, _ := filepath.Glob(pattern)
		for _, f := range found {
			if filepath.Base(f) != "leaf" {
				return f
			}
		}
	}
	return ""
}

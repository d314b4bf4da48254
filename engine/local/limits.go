package local

import (
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
)

// expressible says whether this host can set the limits of a configuration: at once, where a start would find out. A
// configuration that it could not express before, of another host, may change in other respects.
func (e *Engine) expressible(old, next *engine.Config) error {
	if err := e.host.Check(next.Spec.Linux.Resources); err != nil && e.host.Check(old.Spec.Linux.Resources) == nil {
		return err
	}
	had := map[string]bool{}
	for _, l := range old.IOMax() {
		had[l.Device()] = true
	}
	for _, l := range next.IOMax() {
		if !had[l.Device()] {
			if err := wholeDisk(l); err != nil {
				return err
			}
		}
	}
	return nil
}

// wholeDisk refuses what the kernel refuses: block/blk-cgroup.c, blkg_conf_open_bdev. sysfs(5) has a link for every block
// device, and in a partition's directory a file that says so.
func wholeDisk(l engine.IOLimit) error {
	dir := "/sys/dev/block/" + l.Device()
	why := ""
	if _, err := os.Stat(dir); err != nil {
		why = "there is no such block device"
	} else if _, err := os.Stat(dir + "/partition"); err == nil {
		why = "it is a partition, and the kernel limits whole disks"
	}
	if why == "" {
		return nil
	}
	return &engine.Error{Op: "write", File: "io.max", Value: fmt.Sprint(l), Errno: syscall.ENODEV, Why: why, Cure: "lsblk lists devices by MAJ:MIN"}
}

// mayControl says whether somebody may give an order to a group. Whom root has let write cgroup.procs may move what the kernel
// would let him in a hierarchy that was delegated to him (cgroups(7), "Delegation containment"): from one container to another,
// when he may write the cgroup.procs of the innermost container around both. The mode of the file itself has been asked when
// it was opened.
func (c *container) mayControl(by engine.Caller, file, value string) error {
	if by.UID == 0 || file != "cgroup.procs" {
		return nil // the mode of the file was asked
	}
	refuse := func(why string) error {
		return &engine.Error{Op: "write", File: file, Value: value, Errno: syscall.EACCES, Why: why,
			Cure: "ask root to move it, or for the right to write cgroup.procs there"}
	}
	pid, err := strconv.Atoi(strings.TrimSpace(value))
	if err != nil || pid < 1 {
		return engine.Invalid(file, value, "not a process id", "write one host pid")
	}
	e := c.e
	at, inside, err := e.groups.Where(pid)
	if err != nil {
		return err
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	from := e.byID[path.Base(at)]
	if !inside || from == nil {
		return refuse("the process is in no container")
	}
	around := map[*container]bool{}
	for p := from; p != nil; p = p.parent {
		around[p] = true
	}
	common := c
	for common != nil && !around[common] {
		common = common.parent
	}
	if common == nil {
		return refuse("no container is around both where it is and where it goes")
	}
	if !common.writable(by, file) {
		return refuse("you may not write it in " + common.View().Path + ", which is around both")
	}
	return nil
}

// writable reports what the kernel says of a file of the tree: its owner and mode, or the directory's owner and what a setting
// has. Further groups of the caller are not known and do not count.
func (c *container) writable(by engine.Caller, file string) bool {
	o, changed := c.Owner(file)
	if !changed {
		o, _ = c.Owner("")
		o.Mode = 0o644
	}
	switch {
	case by.UID == o.UID:
		return o.Mode&0o200 != 0
	case by.GID == o.GID:
		return o.Mode&0o020 != 0
	}
	return o.Mode&0o002 != 0
}

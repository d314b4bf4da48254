package test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Instance is one mounted ctrfs with a mount point, a state and a run directory of its own.
type Instance struct {
	Binary string // the program
	Base   string // holds all that follows; mode 0755, so that any user gets to the mount
	Dir    string // the mount
	State  string
	Run    string
	Tmp    string // scratch
	Netns  Netns  // where its commands run; empty for the tests' own

	before Inventory
	named  string // what it was when somebody last asked
}

// NewInstance makes the directories of an instance without mounting it. Give it back with Close.
func NewInstance() (*Instance, error) {
	binary, err := Binary()
	if err != nil {
		return nil, err
	}
	before := TakeInventory()
	base, err := os.MkdirTemp("", "ctrfs-test-")
	if err != nil {
		return nil, err
	}
	i := &Instance{Binary: binary, Base: base, Dir: base + "/ctr", State: base + "/state", Run: base + "/run",
		Tmp: base + "/tmp", before: before}
	for _, dir := range []string{i.Dir, i.State, i.Run, i.Tmp} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
	}
	return i, os.Chmod(base, 0o755)
}

// Mount makes an instance and mounts it; flags are added to those that name its directories.
func Mount(flags ...string) (*Instance, error) {
	i, err := NewInstance()
	if err != nil {
		return nil, err
	}
	if err := i.Mount(flags...); err != nil {
		return nil, errors.Join(err, i.Close())
	}
	return i, nil
}

// Mount runs `ctrfs mount`.
func (i *Instance) Mount(flags ...string) error {
	err := i.Command(append([]string{"mount", i.Dir, "--state", i.State, "--run", i.Run}, flags...)...)
	i.name() // while it can be read
	return err
}

// Umount runs `ctrfs umount`.
func (i *Instance) Umount(flags ...string) error {
	return i.Command(append([]string{"umount", i.Dir}, flags...)...)
}

// patience is how long a verb of ctrfs may take. It is far beyond what is right, so that only a hang runs into it.
var patience = Patiently(30 * time.Second)

// Command runs ctrfs with these arguments. What it wrote to stderr becomes the error.
func (i *Instance) Command(args ...string) error {
	cmd := i.Netns.Command(append([]string{i.Binary}, args...)...)
	// Files, not pipes: the processes that mount leaves behind must not keep us waiting for the end of a pipe, should they
	// hold on to it. Their holding on is a fault, which the transcript mount.txt looks for.
	stderr, err := os.CreateTemp(i.Tmp, "stderr")
	if err != nil {
		return err
	}
	defer os.Remove(stderr.Name())
	defer stderr.Close()
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	overdue := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer overdue.Stop()
	if err := cmd.Wait(); err != nil {
		text, _ := os.ReadFile(stderr.Name())
		return fmt.Errorf("ctrfs %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(text))
	}
	return nil
}

// Mounted reports whether the mount is there and answers.
func (i *Instance) Mounted() bool {
	text, err := os.ReadFile(i.Dir + "/version")
	return err == nil && len(text) > 0
}

// Close stops the containers, unmounts, removes the directories and fails when anything is left.
func (i *Instance) Close() error {
	var errs []error
	if i.mounts() == 0 && len(i.own()) > 0 {
		// A test that failed half-way has left its containers without a mount: they are stopped through a new one.
		errs = append(errs, i.Mount())
	}
	if i.mounts() > 0 {
		errs = append(errs, i.Umount("--stop"))
	}
	if left := i.before.Leftovers(i.mine); len(left) > 0 {
		i.dumpStacks()
		log, _ := os.ReadFile(i.Run + "/ctrfs.log")
		errs = append(errs, fmt.Errorf("left behind:\n\t%s\nctrfs.log:\n%s", strings.Join(left, "\n\t"), tail(log)))
	}
	return errors.Join(append(errs, i.abandon(), i.complaints(), os.RemoveAll(i.Base))...)
}

// complaints returns the log as an error when it tells of what no answer on the mount shows: a race that the detector saw, or
// a panic that was caught on its way out.
func (i *Instance) complaints() error {
	log, err := os.ReadFile(i.Run + "/ctrfs.log")
	if err != nil || !bytes.Contains(log, []byte("DATA RACE")) && !bytes.Contains(log, []byte("panic")) {
		return nil
	}
	return fmt.Errorf("ctrfs.log:\n%s", tail(log))
}

// failures returns what the log says is not as it should be, but for the death of a server.
func (i *Instance) failures() (lines []string) {
	log, _ := os.ReadFile(i.Run + "/ctrfs.log")
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "level=ERROR") && !strings.Contains(line, `"the server died`) && !strings.Contains(line, `"the server did not come back`) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// dumpStacks has a server that should be gone write into its log where it hangs. It ends by that.
func (i *Instance) dumpStacks() {
	_, server, err := i.Processes()
	if err == nil && syscall.Kill(server, syscall.SIGQUIT) == nil {
		time.Sleep(200 * time.Millisecond)
	}
}

// mine leaves out the mounts, processes, loop devices and cgroups of other instances, which may come and go while this one is there. Of
// the rest nobody can tell whose it is.
func (i *Instance) mine(thing string) bool {
	sign := map[string]string{"mount": i.Base, "process": i.Base, "loop": i.Base, "cgroup": i.name()}
	kind, _, _ := strings.Cut(thing, " ")
	if kind == "cgroup" && sign[kind] == "" {
		return false // it has none
	}
	return strings.Contains(thing, sign[kind])
}

// name returns what the instance calls its cgroups, after the prefix; empty when it has not got so far.
func (i *Instance) name() string {
	if text, err := os.ReadFile(i.State + "/instance"); err == nil { // the disk that it is on may be gone when it is asked for again
		i.named = strings.TrimSpace(string(text))
	}
	return i.named
}

// killContainers ends what runs in the instance's cgroups and removes them.
func (i *Instance) killContainers() {
	name := i.name()
	if name == "" {
		return
	}
	for range 20 { // the dead keep a group busy until they have been waited for
		var dirs []string
		for thing := range TakeInventory() {
			if dir, ok := strings.CutPrefix(thing, "cgroup "); ok && strings.Contains(dir, name) {
				dirs = append(dirs, dir)
			}
		}
		if len(dirs) == 0 {
			return
		}
		slices.Sort(dirs)
		for _, dir := range slices.Backward(dirs) { // the innermost first
			procs, _ := os.ReadFile(dir + "/cgroup.procs")
			for pid := range strings.FieldsSeq(string(procs)) {
				if n, err := strconv.Atoi(pid); err == nil {
					syscall.Kill(n, syscall.SIGKILL)
				}
			}
			os.Remove(dir)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// abandon takes away by force what ctrfs did not take away itself. Removing the directories would reach into a mount that is
// still there, and the next test has a right to a clean machine.
func (i *Instance) abandon() error {
	for pid := range i.own() {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	i.killContainers()
	var errs []error
	for _, m := range slices.Backward(mountTable()) {
		if strings.HasPrefix(m.point, i.Base+"/") {
			errs = append(errs, fmt.Errorf("%s was still mounted", m.point), syscall.Unmount(m.point, syscall.MNT_DETACH))
		}
	}
	return errors.Join(errs...)
}

// mounts counts what is mounted on the instance's directory: one mount, or none, unless something went wrong.
func (i *Instance) mounts() int {
	n := 0
	for _, m := range mountTable() {
		if m.point == i.Dir {
			n++
		}
	}
	return n
}

// serverName is the name of the process, by which it is told from a child on its way, which looks like the keeper.
const serverName = "ctrfs-server\n"

// Processes finds the two processes of the mount: the keeper, and the server, its child.
func (i *Instance) Processes() (keeper, server int, err error) {
	own := i.own()
	for pid, ppid := range own {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if _, ok := own[ppid]; ok && string(name) == serverName {
			return ppid, pid, nil
		}
	}
	return 0, 0, fmt.Errorf("no keeper and server among the processes %v", own)
}

// sealed is what the program of keeper and server is called, which run from a copy in memory.
const sealed = "/memfd:ctrfs (deleted)"

// own returns the processes of this instance, each with its parent.
func (i *Instance) own() map[int]int {
	own := map[int]int{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		exe, _ := os.Readlink(dir + "/exe")
		if (exe == i.Binary || exe == sealed) && i.holds(dir) {
			own[pid] = parent(dir)
		}
	}
	return own
}

// holds reports whether a process belongs to this instance: whether it has a file below its directories open.
func (i *Instance) holds(proc string) bool {
	fds, _ := filepath.Glob(proc + "/fd/*")
	for _, fd := range fds {
		if file, _ := os.Readlink(fd); strings.HasPrefix(file, i.Base+"/") {
			return true
		}
	}
	return false
}

// parent reads the fourth field of proc_pid_stat(5), after a name that may hold anything.
func parent(proc string) int {
	text, _ := os.ReadFile(proc + "/stat")
	_, rest, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}

// tail returns the end of a log, long enough for the stacks of a server.
func tail(text []byte) []byte {
	const most = 64 << 10
	return text[max(0, len(text)-most):]
}

// Env is what the instance's shells find in their environment. GORACE is for a program with the race detector.
func (i *Instance) Env(root string) []string {
	host := ""
	if i.Netns != "" {
		host = i.Netns.Path()
	}
	return []string{"HOST=" + host, "MNT=" + i.Dir, "CTRFS=" + i.Binary, "STATE=" + i.State, "RUN=" + i.Run, "TMP=" + i.Tmp, "ROOT=" + root, "GORACE=" + os.Getenv("GORACE")}
}

package local

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/cgroup"
	"github.com/ctrfs/ctrfs/engine/keeper"
	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/engine/plan"
	"github.com/ctrfs/ctrfs/overlay"
)

// Start implements [engine.Container].
func (c *container) Start(by engine.Caller) error {
	end, err := c.begin("start")
	if err != nil {
		return err
	}
	defer end()
	return c.launch(onRequest)
}

// launch starts the container. The action token is held.
func (c *container) launch(why occasion) error {
	v := c.View()
	if v.State.Active() && !(v.State == engine.Listening && why == onConnection) {
		return &engine.Error{Op: "start", File: v.Path, Errno: syscall.EBUSY, Why: "it is " + string(v.State), Cure: "stop it first: echo 1 > stop; cat wait"}
	}
	if len(v.Config.Spec.Process.Args) == 0 {
		return &engine.Error{Op: "start", File: v.Path, Errno: syscall.EINVAL, Why: "there is no program", Cure: "write one into cmd first"}
	}
	if len(v.Config.Listeners()) > 0 && why != onConnection {
		return c.listen(v, why)
	}
	if err := c.mayStart(v.Config); err != nil {
		return err
	}
	// The last run's root may still be going: the same layer cannot be mounted twice.
	c.settled.Wait()
	c.leftovers.Wait()
	c.e.looks.drop(c)
	if err := c.vacant(); err != nil {
		return err
	}
	if err := c.checkDevices(v.Config); err != nil {
		return err
	}
	s := &starting{c: c, view: v, why: why}
	if err := s.run(); err != nil {
		s.undo()
		if s.meeting.reached() {
			c.settled.Go(func() { c.stopped(v) }) // what the others began they may end
		}
		return err
	}
	return nil
}

// starting is one start on its way, with what it has made so far.
type starting struct {
	c      *container
	view   *engine.View
	why    occasion
	group  *cgroup.Group
	newTop *container // the outermost container whose group did not exist before
	kills  uint64     // OOM kills in the group by now
	root   *overlay.Root
	log    *os.File
	newLog string // beside the old one; empty when that goes on
	join   *cgroup.Join
	around *surroundings
	etc    etc
	binds  []*os.File
	plain  []bool // of each, whether it is no directory
	found  *account
	begun  bool
	steps  []plan.Step

	meeting *meeting // with the child, for hooks; nil without

	terminal, keepers *os.File // the two ends of the socket that the master goes through; nil without
	input             *os.File // what stdin is read from; nil without
}

// run prepares everything, launches, and takes the result. Whatever fails leaves the rest to undo.
func (s *starting) run() error {
	c, e := s.c, s.c.e
	described, err := c.describeRoot(s.view.Config)
	if err != nil {
		return err
	}
	s.around, err = c.surround(s.view.Config)
	defer s.around.close()
	if err != nil {
		return err
	}
	if err = s.prepare(); err != nil {
		return err
	}
	if err = s.lookUpUser(); err != nil {
		return err
	}
	s.binds, s.plain, err = c.openBinds(s.view.Config, s.view.Config.AdditionalMounts(), s.around.ids)
	defer closeFiles(s.binds)
	if err != nil {
		return err
	}
	err = s.writeEtc(s.around.wires)
	defer func() { closeFiles(s.etc.files) }()
	if err != nil {
		return err
	}
	if s.steps, err = c.planned(s.view, described, s.around, s.plain, s.etc.places); err != nil {
		return err
	}
	if err = s.openLog(); err != nil {
		return err
	}
	if s.join, err = s.group.Join(); err != nil {
		return err
	}
	defer s.join.Close()
	devices, done, err := s.nodes()
	if err != nil {
		return err
	}
	defer done()
	if err = s.openTerminal(); err != nil {
		return err
	}
	defer s.closeTerminal()
	if s.input, err = c.input().open(s.view.Config); err != nil {
		return err
	}
	defer func() { c.input().close(s.input, s.begun) }()
	files := launch.Files{Net: s.around.net, Join: s.around.files, Binds: slices.Concat(s.etc.files, s.binds), Devices: devices, Tasks: s.join.Tasks, Into: s.join.Into,
		Proc: e.facts.proc, Null: e.facts.null, Input: s.input, Log: s.log, Terminal: s.terminal}
	for _, m := range s.root.Mounts {
		files.Roots = append(files.Roots, m.File)
	}
	if err = c.e.networks.publish(c.id, s.view.Config, s.around.wires); err != nil {
		return err
	}
	c.expect(s.around.wires)
	if err = s.launch(files); err != nil {
		return err
	}
	if err := s.join.Settle(); err != nil {
		e.log.Error("a limit that was set during a start does not hold for what was started", "container", c.id, "err", err)
	}
	return nil
}

// launch runs the plan.
func (s *starting) launch(files launch.Files) (err error) {
	if s.meeting, err = s.c.meet(s.view, s.steps); err != nil {
		return err
	}
	defer s.meeting.close()
	if s.meeting != nil {
		files.Hooks = s.meeting.files
	}
	files.Sockets = s.sockets()
	if s.view.Config.Init() || s.view.Config.Inetd() {
		if files.Init, err = s.c.e.reapers.program(); err != nil {
			return err
		}
	}
	program, err := launch.Assemble(s.steps, files)
	if err == nil {
		err = s.send(program, plan.HookTime(s.view.Config.Spec.Hooks))
	}
	if refusal := s.meeting.end(); err != nil && refusal != nil {
		return refusal
	}
	if err != nil {
		return s.explain(err)
	}
	return nil
}

// noteDelay is how long the steps of a start are kept as they are. Many a container is gone by then.
const noteDelay = time.Second

// note keeps the steps of a start as text, a tenth of what they are.
func (c *container) note() {
	c.mu.Lock()
	steps := c.steps
	c.mu.Unlock()
	if steps == nil {
		return
	}
	text := plan.String(steps)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.steps) > 0 && &c.steps[0] == &steps[0] {
		c.plan, c.steps = text, nil
	}
}

// planned makes the plan.
func (c *container) planned(v *engine.View, mounts []overlay.Mount, around *surroundings, plain []bool, texts []plan.Prepared) ([]plan.Step, error) {
	h := plan.Host{Name: v.Name, Cgroup: c.groupPath(), Limits: cgroup.Words(v.Config.Spec.Linux.Resources), Mountpoint: c.e.facts.mountpoint,
		LastCap: c.e.facts.lastCap, NoFile: c.e.facts.noFile, Joined: around.joined, IDs: around.text, BindFiles: plain, Texts: texts,
		Controlled: c.e.controlled(), Input: v.Config.Extension.StdinOpen, OOMGroup: c.diesWithOthers(v.Config)}
	for _, m := range mounts {
		h.Roots = append(h.Roots, plan.Prepared{Target: m.Target, Text: m.Text})
	}
	var err error
	if h.Filter, err = filter(v.Config); err != nil {
		return nil, err
	}
	c.e.facts.rights.fill(&h, around.joined[specs.UserNamespace] != plan.OfHost)
	return plan.Build(v.Config.Booted(c.e.host.Delegable()), h)
}

// Plan implements [engine.Container]: as it would be now, or as it was while it runs.
func (c *container) Plan() (string, error) {
	v := c.View()
	c.mu.Lock()
	text, steps := c.plan, c.steps
	c.mu.Unlock()
	if v.State.Alive() && text != "" {
		return text, nil
	}
	if v.State.Alive() && steps != nil {
		return plan.String(steps), nil
	}
	mounts, err := c.describeRoot(v.Config)
	if err != nil {
		return "", err
	}
	list, err := c.planned(v, mounts, c.describe(v.Config), nil, nil)
	if err != nil {
		return "", err
	}
	return plan.String(list), nil
}

// prepare makes the groups and the root. One after the other: waking another thread takes as long as either.
func (s *starting) prepare() (err error) {
	s.c.freshGroup()
	if s.group, s.newTop, err = s.c.ensureGroup(); err != nil {
		return err
	}
	if s.newTop == nil { // the group has counted before; a host that cannot tell gets no oom in status
		s.kills, _ = s.group.OOMKills()
	}
	if err = s.delegate(s.view.Config.Booted(s.c.e.host.Delegable())); err != nil {
		return err
	}
	s.root, err = s.prepareRoot()
	return err
}

// ensureGroup returns the container's group, made when there was none, with every group above it; made is the outermost
// container that got one.
func (c *container) ensureGroup() (group *cgroup.Group, made *container, err error) {
	c.grouping.Lock() // two containers below this one may be started at the same moment
	defer c.grouping.Unlock()
	c.mu.Lock()
	group, config := c.group, c.rec.Config
	c.mu.Unlock()
	if group != nil {
		return group, nil, nil
	}
	c.e.mu.RLock()
	parent := c.parent
	c.e.mu.RUnlock()
	if parent != nil {
		if _, made, err = parent.ensureGroup(); err != nil {
			return nil, made, err
		}
	}
	group, err = c.e.groups.Create(c.groupPath(), config.Spec.Linux.Resources)
	if err != nil {
		return nil, made, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.group = group
	if made == nil {
		made = c
	}
	return group, made, nil
}

// freshGroup removes the group of an earlier run, so that counters begin anew. It is also the cure for a group that was
// killed: Linux 6.18 kills whatever is cloned into one afterwards. A group around a container that lives stays.
func (c *container) freshGroup() {
	family := c.family()
	for _, m := range family[1:] {
		if m.View().State.Alive() {
			return
		}
	}
	for _, m := range slices.Backward(family) { // children come after their parents
		if err := m.dropGroup(); err != nil {
			c.e.log.Warn("the group of an earlier run stays", "container", m.id, "err", err)
			return
		}
	}
}

// groupPath is the path of the container's group: ids, which a rename does not change.
func (c *container) groupPath() string {
	c.e.mu.RLock()
	defer c.e.mu.RUnlock()
	var ids []string
	for p := c; p != nil; p = p.parent {
		ids = append([]string{p.id}, ids...)
	}
	return strings.Join(ids, "/")
}

// dropGroup removes the container's group, if it has one.
func (c *container) dropGroup() error {
	c.mu.Lock()
	group := c.group
	c.group = nil
	c.mu.Unlock()
	if group == nil {
		return nil
	}
	c.unwatch()
	err := group.Remove()
	if err != nil {
		c.mu.Lock()
		c.group = group
		c.mu.Unlock()
	}
	return err
}

// executed takes a container that runs. It is called before its exit can be.
func (s *starting) executed(r keeper.Running) {
	c := s.c
	s.begun = true
	s.placeLog()
	mounts := mountNamespace(r.PidFD)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pid, c.pidfd, c.started, c.kills = r.PID, r.PidFD, r.Started, s.kills
	c.rec.OOM, c.rec.Kills = false, s.kills
	c.root, c.mounts, c.plan, c.steps = s.root, mounts, "", s.steps
	c.reads, c.console = s.input != nil, r.Console
	c.moveIn(s.around.landlord)
	c.settled.Go(func() {
		c.watchRun(s.kills)
		c.boundLog()
		if err := s.root.Release(); err != nil {
			c.e.log.Warn("what made a root is not closed", "container", c.id, "err", err)
		}
	})
	c.e.rest.tired()
	time.AfterFunc(noteDelay, func() {
		c.note()
		c.looking.ask(c.lookAtMemory) // what happened while the watch was made
	})
	c.failure, c.rec.Begun = "", r.Started
	c.noteStart(s.why)
	c.rec.Started = true
	if len(s.around.wires) > 0 || len(c.rec.Leases) > 0 {
		c.wired(s.around.wires)
	}
	if s.around.first != 0 {
		c.rec.First = s.around.first // on disk with the exit; until then the process itself tells
	}
	if s.found != nil {
		c.rec.Found = s.found // likewise
	}
	c.enter(engine.Running)
	c.lookAfter()
	c.beginTiring()
	c.tell(engine.EventStart, engine.Field{Key: "pid", Value: c.pid})
	if view := c.view(); len(plan.HooksOf(view.Config.Spec.Hooks, plan.Poststart)) > 0 {
		c.greeted.Go(func() { c.runLate(view, plan.Poststart, view.PID) })
	}
}

// mountNamespace opens the mount namespace of a process, pidfd_open(2), or returns nil where the kernel (before 6.11) does not
// offer it. Whoever holds it last takes the mounts down, which waits for the kernel's grace periods: held here, that is not
// the dying container, whose exit would come later by as much.
func mountNamespace(pidfd *os.File) *os.File {
	if pidfd == nil {
		return nil
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, pidfd.Fd(), pidfdGetMountNamespace, 0)
	if errno != 0 {
		return nil
	}
	return os.NewFile(fd, "mnt")
}

// pidfdGetMountNamespace is PIDFD_GET_MNT_NAMESPACE of include/uapi/linux/pidfd.h, _IO(0xFF, 3).
const pidfdGetMountNamespace = 0xff03

// explain turns what the keeper says into the sentence of the error file: the step that failed, and the cure.
func (s *starting) explain(err error) error {
	f, ok := errors.AsType[*launch.Failure](err)
	if !ok {
		return &engine.Error{Op: "start", File: s.view.Path, Errno: engine.Errno(err), Err: err}
	}
	out := &engine.Error{Op: "start", File: s.view.Path, Errno: f.Errno, Err: f.Errno}
	if f.Step >= len(s.steps) {
		return out
	}
	step := s.steps[f.Step]
	if h, ok := step.(plan.Hook); ok {
		return hookError(s.view.Path, h, f.Errno, hookEnd(h, f.Errno, f.Status, firstLine(s.meeting.files.Output, h.Index)))
	}
	out.Why = fmt.Sprintf("step %d, %s", f.Step+1, step)
	switch x := step.(type) {
	case plan.Exec:
		out.Why = fmt.Sprintf("step %d, execute %s", f.Step+1, engine.Quote(x.Args[0]))
		out.Cure = execCures[f.Errno]
	case plan.Chdir:
		if x.Exists {
			missing(out, x.Path)
		}
	case plan.Bind, plan.Mount:
		out.Cure = targetCures[f.Errno]
	case plan.User:
		if f.Errno == syscall.EINVAL { // EINVAL of setresuid(2): user_namespaces(7)
			out.File, out.Value, out.Err, out.Why = "user", fmt.Sprintf("%d:%d", x.UID, x.GID), nil, "the container's user namespace has no such user or group"
			if len(x.Groups) > 0 {
				out.Why += fmt.Sprintf(", or lacks one of the groups %v", x.Groups)
			}
			out.Cure = "name ids below 65536, or map them: see uid_map and gid_map"
		}
	case plan.Clone:
		// What pid_namespaces(7) says of one whose first process is gone.
		if pid := s.view.Config.Namespace(specs.PIDNamespace); f.Errno == syscall.ENOMEM && s.around.files[specs.PIDNamespace] != nil {
			out.File, out.Value, out.Errno, out.Err = "namespaces", "pid "+pid.String(), syscall.ESRCH, nil
			out.Why, out.Cure = "the first process of that pid namespace has ended, and nobody can enter it any more", "name another one, or write new"
		}
	}
	return out
}

// execCures says what to do about a program that cannot be executed.
var execCures = map[syscall.Errno]string{
	syscall.ENOENT:  "name a program that exists in the rootfs (an interpreter or a library's loader may be missing too), or set PATH in env",
	syscall.EACCES:  "make it executable, or name a program instead of a directory",
	syscall.ENOEXEC: "begin a script with #!, and check that the program is for this machine",
}

// undo takes back what a failed start has made, in reverse.
func (s *starting) undo() {
	c := s.c
	if s.around != nil {
		c.e.ids.give(s.around.first)
		c.unlease(s.around.wires)
		c.unexpect()
		if len(s.around.wires) > 0 {
			c.e.networks.unpublish(c.id)
		}
	}
	if s.log != nil {
		s.dropLog()
	}
	if s.meeting.reached() {
		s.endHooks()
	}
	if s.root != nil {
		s.root.Close()
	}
	for p := c; s.newTop != nil && p != nil; p = p.parent {
		if err := p.dropGroup(); err != nil {
			c.e.log.Warn("a failed start leaves a group behind", "container", p.id, "err", err)
		}
		if p == s.newTop {
			break
		}
	}
	if v := c.View(); v.Exit.Happened() || v.State == engine.Exited {
		return
	}
	// The first start made the layer; the second one may follow with another root.
	if err := c.e.roots.Discard(c.id); err != nil {
		c.e.log.Warn("a failed start leaves a layer behind", "container", c.id, "err", err)
	}
}

package local

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/cgroup"
	"github.com/ctrfs/ctrfs/engine/crash"
	"github.com/ctrfs/ctrfs/engine/keeper"
	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/engine/plan"
	"github.com/ctrfs/ctrfs/overlay"
)

// entering is one start of an exec on its way, with what it holds.
type entering struct {
	x      *exec
	view   *engine.View
	host   inhabited
	around *surroundings
	join   *cgroup.Join
	log    *os.File
	newLog string
	steps  []plan.Step

	terminal, keepers *os.File // as of [starting], and so are these
	input             *os.File
	begun             bool
}

// inhabited is the container of an exec at one moment, while its first process lives.
type inhabited struct {
	pid   int
	pidfd *os.File // the holder's to close
	group *cgroup.Group
	found *account
}

// Start implements [engine.Program].
func (x *exec) Start(by engine.Caller) error {
	end, err := x.begin("start")
	if err != nil {
		return err
	}
	defer end()
	v := x.View()
	refuse := func(errno syscall.Errno, why, cure string) error {
		return &engine.Error{Op: "start", File: v.Path, Errno: errno, Why: why, Cure: cure}
	}
	if v.State.Active() {
		return refuse(syscall.EBUSY, "it is "+string(v.State), "end it first: echo KILL > kill; cat wait")
	}
	if len(v.Config.Spec.Process.Args) == 0 {
		return refuse(syscall.EINVAL, "there is no program", "write one into cmd first")
	}
	if err := x.c.mayStart(x.c.View().Config); err != nil { // it may have been given away since
		return err
	}
	if open(v.Config) {
		return refuse(syscall.EOPNOTSUPP, "without a user namespace, CAP_SYS_PTRACE lets the container's processes reach into whatever enters it, before it has given up its rights",
			"stop the container and give it ids of its own: echo 'user new' > namespaces; or take the capability away: echo -SYS_PTRACE > caps")
	}
	x.settled.Wait()
	s := &entering{x: x, view: v}
	defer s.close()
	x.c.execs.entering.RLock()
	defer x.c.execs.entering.RUnlock()
	if s.host, err = x.c.inhabited(); err != nil {
		return err
	}
	return s.run()
}

// open reports whether those in a container may trace who enters it: a child on its way has all of ctrfs's rights and
// descriptors. Whoever has CAP_SYS_ADMIN on this machine has them anyway, and whoever shares its pid namespace sees ctrfs itself.
func open(c *engine.Config) bool {
	caps := c.Caps()
	return c.Namespace(specs.UserNamespace).Host && !c.Namespace(specs.PIDNamespace).Host &&
		slices.Contains(caps, "CAP_SYS_PTRACE") && !slices.Contains(caps, "CAP_SYS_ADMIN")
}

// inhabited returns what lives in the container, or why nothing can be added to it.
func (c *container) inhabited() (inhabited, error) {
	c.mu.Lock()
	h := inhabited{pid: c.pid, group: c.group, found: c.rec.Found}
	path, alive := c.path, c.pidfd != nil && c.group != nil
	var err error
	if alive {
		h.pidfd, err = dupFile(c.pidfd)
	}
	c.mu.Unlock()
	refuse := func(errno syscall.Errno, why, cure string) (inhabited, error) {
		return h, &engine.Error{Op: "start", File: path, Errno: errno, Why: why, Cure: cure}
	}
	if !alive {
		return refuse(syscall.EBUSY, "nothing runs in it", "start the container first: echo 1 > ../../start")
	}
	if err != nil {
		return h, err
	}
	// Of the groups above it, too: what enters a frozen one stands still before it has executed anything.
	if text, err := h.group.Read("cgroup.events"); err == nil && strings.Contains(text, "frozen 1") || c.freezing() {
		return refuse(syscall.EBUSY, "it is frozen", "thaw it first: echo 0 > ../../cgroup.freeze")
	}
	return h, nil
}

// freezing reports whether the container or one around it has been told to freeze. The kernel says frozen only when the last of
// those in it stands still.
func (c *container) freezing() bool {
	var groups []*cgroup.Group
	c.e.mu.RLock()
	for p := c; p != nil; p = p.parent {
		p.mu.Lock()
		if p.group != nil {
			groups = append(groups, p.group)
		}
		p.mu.Unlock()
	}
	c.e.mu.RUnlock()
	for _, group := range groups {
		if text, err := group.Read("cgroup.freeze"); err == nil && strings.TrimSpace(text) == "1" {
			return true
		}
	}
	return false
}

func (s *entering) close() {
	closeFiles([]*os.File{s.host.pidfd, s.log, s.terminal, s.keepers})
	if s.input != nil { // else it may be no exec's: a look at a container's health is none
		s.x.input().close(s.input, s.begun)
	}
	if s.around != nil {
		s.around.close()
	}
	if s.join != nil {
		s.join.Close()
	}
}

// run prepares everything, launches, and takes the result. Of what fails nothing is left but descriptors, which close gives back.
func (s *entering) run() (err error) {
	x, c, e := s.x, s.x.c, s.x.c.e
	if s.around, err = c.inside(s.host); err != nil {
		return err
	}
	if err = s.lookUpUser(); err != nil {
		return err
	}
	if s.steps, err = c.plannedInside(s.view.Config, s.around.joined, false); err != nil {
		return err
	}
	if s.join, err = s.host.group.Join(); err != nil {
		return err
	}
	if s.terminal, s.keepers, err = terminalPair(s.view.Config); err != nil {
		return err
	}
	if s.input, err = x.input().open(s.view.Config); err != nil {
		return err
	}
	s.newLog = x.logPath() + fresh
	if s.log, err = openFresh(s.newLog); err != nil {
		return err
	}
	program, err := launch.Assemble(s.steps, launch.Files{Join: s.around.files, Tasks: s.join.Tasks, Into: s.join.Into,
		Proc: e.facts.proc, Null: e.facts.null, Input: s.input, Log: s.log, Terminal: s.terminal})
	if err == nil && s.terminal != nil {
		err = e.keeper.StartOnTerminal(x.key(), program, 0, keeper.Terminal{Keepers: s.keepers, Log: s.log}, s.executed)
	} else if err == nil {
		err = e.keeper.Start(x.key(), program, 0, s.executed)
	}
	if err != nil {
		os.Remove(s.newLog)
		crash.Point("drop a log")
		return s.explain(err)
	}
	if err := s.join.Settle(); err != nil {
		e.log.Error("a limit that was set during a start does not hold for what was started", "container", c.id, "exec", x.id, "err", err)
	}
	return nil
}

// inside opens the namespaces that the container's first process is in, but for those that are the host's, which a child of the
// keeper is in already. That process may have left those of the configuration for others that it has made. The user namespace is
// opened last: so whoever joins them all has no more rights over the others than that process had when it entered them.
func (c *container) inside(h inhabited) (*surroundings, error) {
	s := &surroundings{joined: map[specs.LinuxNamespaceType]string{}, files: map[specs.LinuxNamespaceType]*os.File{}}
	kinds := slices.Clone(engine.Namespaces)
	slices.SortStableFunc(kinds, func(a, b namespaceKind) int { return last(a) - last(b) })
	for _, n := range kinds {
		f, err := namespaceOf(h.pid, h.pidfd, n.Name)
		if os.IsNotExist(err) { // this kernel has no such namespaces
			continue
		}
		if errno := engine.Errno(err); errno != 0 {
			if errno == syscall.ESRCH {
				errno = syscall.EBUSY // as a moment later, when that is known
			}
			return s, &engine.Error{Op: "start", File: c.View().Path, Errno: errno, Err: err, Cure: "start the container first: echo 1 > ../../start"}
		}
		if hostsOwn(f, n.Name) {
			f.Close()
			s.joined[n.Type] = plan.OfHost
			continue
		}
		s.joined[n.Type], s.files[n.Type] = plan.OfContainer, f
	}
	return s, nil
}

func last(kind namespaceKind) int {
	if kind.Type == specs.UserNamespace {
		return 1
	}
	return 0
}

// lookUpUser replaces a user that is configured by name by its numbers: the container's own user by those that its start has
// found, any other one as a start does.
func (s *entering) lookUpUser() error {
	text := s.view.Config.Extension.User
	if text == "" {
		return nil
	}
	next := s.view.Config.Clone()
	umask := next.Spec.Process.User.Umask
	if f := s.host.found; f != nil && f.Text == text {
		next.Spec.Process.User = f.User
	} else {
		dir, err := s.rootDir()
		if err != nil {
			return err
		}
		defer dir.Close()
		found, err := lookUp(text, dir)
		if err != nil {
			return err
		}
		next.Spec.Process.User = *found
	}
	next.Spec.Process.User.Umask = umask
	s.view.Config = next
	return nil
}

// rootDir opens the directory in which users are looked up.
func (s *entering) rootDir() (*os.File, error) {
	if mounts := s.around.files[specs.MountNamespace]; mounts != nil {
		return overlay.RootOf(mounts)
	}
	return os.Open("/")
}

// plannedInside makes the plan of an exec, or of a program for a connection.
func (c *container) plannedInside(config *engine.Config, joined map[specs.LinuxNamespaceType]string, connection bool) ([]plan.Step, error) {
	h := plan.Host{Cgroup: c.groupPath(), LastCap: c.e.facts.lastCap, NoFile: c.e.facts.noFile, Joined: joined, Input: config.Extension.StdinOpen, Connection: connection,
		OOMGroup: c.diesTogether()}
	var err error
	if h.Filter, err = filter(config); err != nil {
		return nil, err
	}
	c.e.facts.rights.fill(&h, joined[specs.UserNamespace] != plan.OfHost)
	return plan.Enter(config, h)
}

// diesWithOthers reports whether the kernel may kill a child on its way to be PID 1 together with programs that run: those in the
// containers around it, or its own, which runs before PID 1 has become the reaper.
func (c *container) diesWithOthers(config *engine.Config) bool {
	if !c.e.host.OOMGroup() {
		return false
	}
	c.e.mu.RLock()
	parent := c.parent
	c.e.mu.RUnlock()
	return config.Init() && config.MemoryOOMGroup() || parent != nil && parent.diesTogether()
}

// diesTogether reports whether the container's group, or one around it, has memory.oom.group.
func (c *container) diesTogether() bool {
	c.e.mu.RLock()
	defer c.e.mu.RUnlock()
	for p := c; p != nil; p = p.parent {
		if p.View().Config.MemoryOOMGroup() {
			return true
		}
	}
	return false
}

// Plan implements [engine.Program]: as it would be now, or as it was while it runs.
func (x *exec) Plan() (string, error) {
	v := x.View()
	x.mu.Lock()
	text := x.plan
	x.mu.Unlock()
	if v.State.Active() && text != "" { // else an earlier server has started it
		return text, nil
	}
	joined := map[specs.LinuxNamespaceType]string{}
	for _, n := range engine.Namespaces {
		joined[n.Type] = plan.OfContainer
		if v.Config.Namespace(n.Type).Host {
			joined[n.Type] = plan.OfHost
		}
	}
	steps, err := x.c.plannedInside(v.Config, joined, false)
	return plan.String(steps), err
}

// executed takes an exec that runs. It is called before its exit can be.
func (s *entering) executed(r keeper.Running) {
	x := s.x
	if err := unix.Rename(s.newLog, x.logPath()); err != nil {
		x.c.e.log.Error("the log of an exec that runs is not in its place", "file", s.newLog, "err", err)
	}
	crash.Point("place a log")
	s.begun = true
	x.mu.Lock()
	defer x.mu.Unlock()
	x.pid, x.pidfd, x.started, x.failure, x.plan = r.PID, r.PidFD, r.Started, "", plan.String(s.steps)
	x.reads, x.console = s.input != nil, r.Console
	x.rec.Begun = r.Started
	x.enter(engine.Running)
	x.settled.Go(func() { x.save() }) // for the case that the keeper and its account are lost
}

// explain is [starting.explain], with what can only become of an exec.
func (s *entering) explain(err error) error {
	out := (&starting{c: s.x.c, view: s.view, steps: s.steps, around: s.around}).explain(err)
	f, ok := err.(*launch.Failure)
	if !ok || f.Step >= len(s.steps) {
		return out
	}
	refuse := func(errno syscall.Errno, why, cure string) error {
		return &engine.Error{Op: "start", File: s.view.Path, Errno: errno, Err: f.Errno, Why: why, Cure: cure}
	}
	switch step := s.steps[f.Step].(type) {
	case plan.Clone, plan.JoinCgroup: // pid_namespaces(7): nobody enters one whose first process is gone
		if f.Errno == syscall.ENOMEM || f.Errno == syscall.ENODEV {
			return refuse(syscall.EBUSY, "the container has just exited", "start the container first: echo 1 > ../../start")
		}
	case plan.BecomeRoot, plan.Join:
		return refuse(f.Errno, fmt.Sprintf("step %d, %s", f.Step+1, step),
			"the container's first process may be in a user namespace of its own making, which lets nobody in as root: run the program by way of that process")
	case plan.Terminal:
		return refuse(f.Errno, fmt.Sprintf("step %d, %s", f.Step+1, step), "look what is mounted on /dev/pts in the container, or write 0 into tty")
	}
	if f.Errno == syscall.ECHILD { // killed on the way: with the container, or for its memory
		return refuse(syscall.EBUSY, fmt.Sprintf("killed at step %d, %s", f.Step+1, s.steps[f.Step]),
			"see whether the container still runs, and whether it has memory left: ../../state, ../../memory.events")
	}
	return out
}

package local

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/crash"
	"github.com/ctrfs/ctrfs/engine/keeper"
)

// recover reads the records and the keeper's account, and brings the machine into agreement.
func (e *Engine) recover(account keeper.Account) error {
	if err := e.loadRootOwner(); err != nil {
		return err
	}
	ids, err := e.roots.List()
	if err != nil {
		return err
	}
	records, broken := e.store.load(ids)
	e.broken = broken
	e.plant(records)
	if err := e.reopenGroups(); err != nil {
		return err
	}
	if err := e.claim(account); err != nil {
		return err
	}
	e.recoverEars(account)
	for _, x := range account.Exits {
		e.exited(x)
	}
	for _, r := range account.Running {
		if c, is := e.callOf(r.ID); is {
			c.goOnCall(r)
			continue
		}
		if in, is := e.execOf(r.ID); is {
			e.resumeExec(in, r)
			continue
		}
		e.resume(r)
		e.orphans = e.orphans || r.Adopted
	}
	for _, c := range e.byID { // nobody else has them yet
		c.watchRun(0)
		c.loseExecs()
	}
	if err := e.recoverInputs(account); err != nil {
		return err
	}
	e.recoverNetworks()
	e.settleIn()
	e.thawCommitted()
	e.pinAgain(account)
	go e.keeper.Serve(e.exited)
	e.recoverListening()
	e.removeStrays()
	known := func(id string) bool { return e.byID[id] != nil || slices.Contains(broken, id) }
	if err := e.roots.Reconcile(known); err != nil {
		e.log.Warn("what is left of removed containers stays", "err", err)
	}
	e.images.collect()
	return nil
}

// plant builds the hierarchy from the records. A container whose parent is gone, which no sequence of operations leads to,
// comes to the top rather than being lost.
func (e *Engine) plant(records []*record) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range records {
		e.byID[r.ID] = newContainer(e, *r)
		e.byID[r.ID].plantExecs()
	}
	for _, r := range records {
		c := e.byID[r.ID]
		parent := e.byID[r.Parent]
		if parent == nil && r.Parent != "" {
			e.log.Error("the container around this one is gone; it moves to the top", "container", r.ID, "parent", r.Parent)
		}
		siblings := e.childrenOf(asContainer(parent))
		for siblings[c.name] != nil {
			e.log.Error("two containers have one name", "name", c.name, "container", r.ID)
			c.name = c.name[:min(len(c.name), 40)] + "-" + r.ID
		}
		e.adopt(c, parent)
	}
	for _, c := range e.top {
		c.repath()
	}
}

// claim holds the ranges of ids that containers have: those on record, and those that only their processes know. A stopped
// container whose range another ctrfs has taken meanwhile gets another one with its next start.
func (e *Engine) claim(account keeper.Account) (err error) {
	holders := map[uint32]bool{}
	for _, r := range account.Running {
		if c := e.byID[r.ID]; c != nil && uidMap(c.rec.Config) == "" && c.rec.Config.Namespace(specs.UserNamespace).New() {
			if first := firstOf(r.PID); first != 0 {
				c.rec.First = first
			}
		}
	}
	for id, files := range account.Pinned {
		if c := e.byID[id]; c != nil && len(files) == len(pinnable) {
			c.pins = pinMap(files)
		}
	}
	for _, c := range e.byID {
		if c.rec.First != 0 {
			holders[c.rec.First] = true
		}
	}
	e.ids, err = newRanges(account.Claims, holders, func(first uint32) {
		for _, c := range e.byID {
			if c.rec.First == first {
				c.rec.First = 0
			}
		}
	})
	return err
}

// reopenGroups finds the groups of the containers that have one.
func (e *Engine) reopenGroups() error {
	paths, err := e.groups.Groups()
	if err != nil {
		return err
	}
	for _, p := range paths {
		c := e.byID[path.Base(p)]
		if c == nil || c.groupPath() != p {
			continue
		}
		if c.group, err = e.groups.Open(p); err == nil {
			err = c.group.Repair(c.rec.Config.Spec.Linux.Resources)
		}
		if err != nil {
			e.log.Error("a group is not as it should be", "container", c.id, "err", err)
			c.Fail(err)
		}
	}
	return nil
}

// resume takes a container that lives, as the keeper says.
func (e *Engine) resume(r keeper.Running) {
	c := e.byID[r.ID]
	if c == nil {
		e.log.Error("the keeper knows a container that has no record", "container", r.ID, "pid", r.PID)
		if r.PidFD != nil {
			r.PidFD.Close()
		}
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pid, c.pidfd, c.started, c.rec.Started = r.PID, r.PidFD, r.Started, true
	c.kills, c.console = c.rec.Kills, r.Console
	c.recall(r.Started)
	c.lookAfter()
	c.state = engine.Running
	if frozen, err := c.readFreeze(); err == nil && frozen {
		c.state = engine.Paused
	}
	if !c.rec.KillAt.IsZero() {
		c.state = engine.Stopping
		c.killLater(c.started, c.rec.KillAt)
	}
	c.restoreLog()
	c.boundLog()
	if r.Adopted && c.rec.Config.Spec.Process.Terminal {
		c.failure = errHungUp.Error()
	}
}

// errHungUp is what became of a terminal whose master nobody holds any more.
var errHungUp = &engine.Error{Op: "console", File: "tty", Errno: syscall.EIO, Why: "its terminal was hung up when the process died that held it",
	Cure: "stop and start it again: what it writes now is lost"}

// readFreeze asks the group. c.mu is held.
func (c *container) readFreeze() (bool, error) {
	if c.group == nil {
		return false, nil
	}
	text, err := c.group.Read("cgroup.freeze")
	return strings.TrimSpace(text) == "1", err
}

// restoreLog puts the log of a running container in its place whose server died between the launch and that. The program's
// own standard output says which file it is; on a terminal it does not, but then whatever waits for its place is this run's: a
// start begins with a file of its own.
func (c *container) restoreLog() {
	next := c.logPath() + fresh
	_, terminal := c.rec.Config.Terminal()
	if target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/1", c.pid)); !terminal && (err != nil || target != next) {
		return
	}
	if err := os.Rename(next, c.logPath()); err != nil && !(terminal && os.IsNotExist(err)) {
		c.e.log.Error("the log of a running container is not in its place", "container", c.id, "err", err)
	}
	crash.Point("place a log")
}

// removeStrays removes groups that belong to no container, and ends what runs in groups of which the keeper knows nothing:
// its parent died, nobody would ever learn of its exit, and the next start would find it in the way.
func (e *Engine) removeStrays() {
	paths, err := e.groups.Groups()
	if err != nil {
		e.log.Error("groups cannot be listed", "err", err)
		return
	}
	for _, p := range slices.Backward(paths) {
		c := e.byID[path.Base(p)]
		if c != nil && c.groupPath() == p && c.holdsLife() {
			continue
		}
		group, err := e.groups.Open(p)
		if err != nil {
			continue
		}
		pids, err := group.Procs()
		if err == nil && len(pids) > 0 {
			e.log.Warn("ending processes without a parent", "group", p, "pids", pids)
			err = group.Kill()
		}
		if err == nil && c == nil {
			err = group.Remove()
		}
		if err != nil {
			e.log.Error("a group that belongs to nobody stays", "group", p, "err", err)
		}
	}
}

// holdsLife reports whether the container or one below it runs.
func (c *container) holdsLife() bool {
	c.e.mu.RLock()
	defer c.e.mu.RUnlock()
	return c.anyAlive()
}

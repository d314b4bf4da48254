package cgroup

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/ctrfs/ctrfs/engine"
	"golang.org/x/sys/unix"
)

// Bounds on waiting for the kernel. Freezing takes 0.2 ms for twenty processes, but a process in an uninterruptible sleep
// freezes only when it wakes.
const (
	freezeWait = time.Second
	killWait   = 2 * time.Second
	shortWait  = 20 * time.Millisecond // where the freeze will never be complete
)

// writeFreeze is the action of cgroup.freeze.
func (g *Group) writeFreeze(value string) error {
	if value != "0" && value != "1" {
		return engine.Invalid("cgroup.freeze", value, "neither 0 nor 1", "write 1 to pause, 0 to resume")
	}
	return g.freeze(value == "1", freezeWait)
}

// freeze stops or continues everything in the group and below it, and returns when that is done. A freeze that does not
// come about in time is taken back, unless memory has run out.
func (g *Group) freeze(on bool, limit time.Duration) error {
	p, err := g.tree.host.lookup("write", "cgroup.freeze")
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	before, err := g.text(p)
	if err != nil {
		return err
	}
	if err := g.setFreeze(p, on); err != nil || !on {
		return err
	}
	// A task that waits for memory, with the killer held, sleeps where no freezer reaches it; it freezes on its way out, and
	// whether the others have frozen is not told apart.
	short := g.short()
	if short {
		limit = min(limit, shortWait)
	}
	frozen, err := g.awaitFrozen(p, limit)
	if frozen || err == nil && short {
		return nil
	}
	if err == nil {
		err = &engine.Error{Op: "write", File: p.file, Value: "1", Errno: syscall.ETIMEDOUT,
			Why: "a process in it sleeps uninterruptibly", Cure: "try again"}
	}
	if before != "1\n" {
		_ = g.setFreeze(p, false) // the kernel refuses no thaw; the error to report is the first
	}
	return err
}

// setFreeze asks the kernel for a freeze or a thaw.
func (g *Group) setFreeze(p *place, freeze bool) error {
	file, value := 0, "0"
	if freeze {
		value = "1"
	}
	if !p.v2 {
		// cgroup.freeze is read from the first of v1's files and written to the second.
		file, value = 1, "THAWED"
		if freeze {
			value = "FROZEN"
		}
	}
	if err := g.top(p.in[file]).write(g.file(p, file), value); err != nil {
		return g.refuse("write", p.file, value, err)
	}
	return nil
}

// awaitFrozen waits until nothing in the group runs any more. It reads instead of polling: the kernel holds back the
// notifications of cgroup.events for up to 10 ms.
func (g *Group) awaitFrozen(p *place, limit time.Duration) (bool, error) {
	return until(limit, func() (bool, error) {
		text, err := g.Read("cgroup.events")
		if err != nil {
			return false, err
		}
		if n, _ := keyed(text, "frozen"); n == 1 {
			return true, nil
		}
		if p.v2 {
			return false, nil
		}
		// A process forked while v1 freezes may be missed; asking again catches it.
		return false, g.setFreeze(p, true)
	})
}

// writeKill is the action of cgroup.kill.
func (g *Group) writeKill(value string) error {
	if value != "1" {
		return engine.Invalid("cgroup.kill", value, "not 1", "write 1")
	}
	return g.Kill()
}

// Kill sends SIGKILL to every process in the group and below it, including those being forked, and returns when all have
// got it, which is before they are gone. v2's cgroup.kill does just that. On v1 the group is frozen, so that nobody forks
// or exits, and thawed afterwards, since a task that v1 has frozen dies only then; there a group that was frozen is not
// any more. Errors: EBUSY when a group above is frozen, ETIMEDOUT when processes keep appearing.
func (g *Group) Kill() error {
	p, err := g.tree.host.lookup("write", "cgroup.kill")
	if err != nil {
		return err
	}
	if p.v2 {
		if err := g.top(p.in[0]).write(g.file(p, 0), "1"); err != nil {
			return g.refuse("write", "cgroup.kill", "1", err)
		}
		return nil
	}
	// Without the lock, a thaw by somebody else could let a process fork between the list and the signals.
	g.mu.Lock()
	defer g.mu.Unlock()
	done, err := until(killWait, g.killFrozen)
	if err == nil && !done {
		pids, _ := g.Procs()
		err = &engine.Error{Op: "write", File: "cgroup.kill", Value: "1", Errno: syscall.ETIMEDOUT,
			Why: fmt.Sprintf("processes still appear or do not die: %v", pids), Cure: "try again"}
	}
	return err
}

// killFrozen is one round of killing on v1. It reports whether nobody can have escaped: all were frozen, or none is left.
func (g *Group) killFrozen() (bool, error) {
	freezer, err := g.tree.host.lookup("write", "cgroup.freeze")
	if err != nil { // no freezer: only an empty group proves the end
		n, err := g.signal(unix.SIGKILL)
		return n == 0, err
	}
	if err := g.setFreeze(freezer, true); err != nil {
		return false, err
	}
	// One that will not freeze is sleeping uninterruptibly and forks nothing either, so the signals go out regardless; only
	// the proof is missing, and the next round looks again.
	frozen, err := g.awaitFrozen(freezer, killWait/20)
	n, errSignal := g.signal(unix.SIGKILL)
	if err := errors.Join(err, errSignal, g.setFreeze(freezer, false)); err != nil {
		return false, err
	}
	above, err := g.top(freezer.in[0]).read(g.path + "/freezer.parent_freezing")
	if err == nil && above == "1\n" && n > 0 {
		return false, &engine.Error{Op: "write", File: "cgroup.kill", Value: "1", Errno: syscall.EBUSY,
			Why: "a group above is frozen, and cgroup v1 lets nothing die in it", Cure: "write 0 to cgroup.freeze there"}
	}
	return frozen || n == 0, nil
}

// signalBatch bounds how many pidfds are open at a time.
const signalBatch = 256

// signal sends sig to every process in the group and below it, and returns how many there were. A pid may be another
// process's by the time it is used: the pidfd is opened first, and used only when the pid is still listed then.
func (g *Group) signal(sig unix.Signal) (int, error) {
	pids, err := g.Procs()
	for batch := range slices.Chunk(pids, signalBatch) {
		if err = g.signalEach(batch, sig); err != nil {
			break
		}
	}
	return len(pids), err
}

func (g *Group) signalEach(pids []int, sig unix.Signal) error {
	fds := map[int]int{}
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err == unix.ESRCH {
			continue
		}
		if err != nil {
			return g.refuse("kill", fmt.Sprint(pid), "", err)
		}
		fds[pid] = fd
	}
	still, err := g.Procs()
	if err != nil {
		return err
	}
	for _, pid := range still {
		fd, ok := fds[pid]
		if !ok {
			continue
		}
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && err != unix.ESRCH {
			return g.refuse("kill", fmt.Sprint(pid), "", err)
		}
	}
	return nil
}

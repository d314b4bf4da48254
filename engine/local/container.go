package local

import (
	"context"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/cgroup"
	"github.com/ctrfs/ctrfs/engine/plan"
	"github.com/ctrfs/ctrfs/overlay"
)

// container is one container of this machine.
type container struct {
	e  *Engine
	id string // immutable

	// action serialises what changes the container: a token taken with [container.begin]. It is held during a launch,
	// unlike mu, which is held for memory operations only.
	action chan struct{}

	// Guarded by Engine.mu.
	parent   *container
	children map[string]*container
	removed  bool

	generation atomic.Uint64

	mu      sync.Mutex
	name    string        // guarded by mu, changed under Engine.mu too
	path    string        // likewise
	within  []string      // likewise: the ids of the containers around it, the nearest first
	rec     record        // guarded by mu; Config is never changed, only replaced
	state   engine.State  // guarded by mu
	pid     int           // guarded by mu
	pidfd   *os.File      // guarded by mu; nil when nothing runs
	started time.Time     // guarded by mu; of the present run
	kills   uint64        // guarded by mu; OOM kills in its group that have been told, or are an earlier run's
	failure string        // guarded by mu
	changed time.Time     // guarded by mu
	moved   chan struct{} // guarded by mu; closed and replaced when the state changes, or no restart is due any more
	steps   []plan.Step   // guarded by mu; of the last start, until plan holds them
	plan    string        // guarded by mu; the same as text, which is a tenth of them
	group   *cgroup.Group // guarded by mu; nil until something needs it
	root    *overlay.Root // guarded by mu; held while it runs, so that nobody waits for its teardown
	mounts  *os.File      // guarded by mu; its mount namespace, held for the same reason; may be nil

	timer    *time.Timer       // guarded by mu; of the restart that is due
	health   engine.HealthView // guarded by mu; of the present run
	unlook   func()            // guarded by mu; ends looking after it; nil while nobody does
	bounding atomic.Bool       // somebody looks after the log: logmax.go

	memory   *cgroup.Watch      // guarded by mu; tells when its memory runs out; nil where no limit binds
	triggers map[string]trigger // guarded by mu; of pressure files
	shortAt  atomic.Int64       // when memory was last told of, in nanoseconds
	short    atomic.Bool        // memory was told of, and nobody has looked
	looking  errand             // what follows

	pins   map[specs.LinuxNamespaceType]*os.File // guarded by mu; namespaces that others have entered, or nil
	guests atomic.Int32                          // starts on their way that enter its user namespace

	reads   bool // guarded by mu; the present run has a FIFO as its standard input
	console int  // guarded by mu; [keeper.Running.Console] of the present run

	wires []wire // guarded by mu; the links of its network namespace, which runs or is pinned

	seen *seen // guarded by mu; what the kernel said of them last

	landlord *container   // guarded by mu; who has made the mounts that it runs in, nil for itself and for nobody
	tenants  atomic.Int32 // who runs in mounts that it has made, and starts on their way that enter its mount namespace

	ear ear // what it listens on

	execs execs // further programs in it

	measured measured // the list of its changes

	grouping  sync.Mutex // one making of the group at a time; the inner container's before the outer one's, then mu
	lending   sync.Mutex // one pinning at a time; taken before saving
	saving    sync.Mutex // one writer of the record at a time; taken after the action token, before mu
	unkept    bool       // the record is unlinked for good; guarded by saving
	settled   background // what follows an exit in the background: the root's teardown, the record, hooks
	leftovers background // the end of what an exit left behind
	greeted   background // the poststart hooks, which the poststop ones come after
}

func newContainer(e *Engine, r record) *container {
	c := &container{e: e, id: r.ID, action: make(chan struct{}, 1), children: map[string]*container{},
		name: r.Name, path: r.Name, rec: r, state: engine.Created, changed: time.Now(), moved: make(chan struct{})}
	if r.Started {
		c.state = engine.Exited
	}
	return c
}

// actionLimit is how long an operation waits for another one on the same container. Each takes milliseconds, but for a
// launch whose program lies on a dead file server; then the answer is EBUSY.
const actionLimit = 500 * time.Millisecond

// begin takes the action token; the result gives it back.
func (c *container) begin(op string) (end func(), err error) {
	return begin(c.action, op, func() string { return c.View().Path })
}

// begin takes the action token of whatever has that path.
func begin(action chan struct{}, op string, path func() string) (end func(), err error) {
	select {
	case action <- struct{}{}:
		return func() { <-action }, nil
	default:
	}
	timer := time.NewTimer(actionLimit)
	defer timer.Stop()
	select {
	case action <- struct{}{}:
		return func() { <-action }, nil
	case <-timer.C:
		return nil, &engine.Error{Op: op, File: path(), Errno: syscall.EBUSY, Why: "another operation on it has not ended", Cure: "try again"}
	}
}

// View implements [engine.Container].
func (c *container) View() *engine.View {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.view()
}

// view is [container.View]. c.mu is held.
func (c *container) view() *engine.View {
	return &engine.View{ID: c.id, Name: c.name, Path: c.path, Config: c.rec.Config, State: c.state, PID: c.pid,
		Started: c.started, Exit: c.rec.Exit, OOM: c.rec.OOM, Failure: c.failure, Changed: c.changed,
		Health: c.health, Restarts: c.rec.Restarts, Due: c.rec.RestartAt}
}

// Generation implements [engine.Container].
func (c *container) Generation() uint64 { return c.generation.Load() }

// touched notes a change. c.mu is held.
func (c *container) touched() {
	c.generation.Add(1)
	c.changed = time.Now()
}

// enter changes the state and wakes whoever waits for that. c.mu is held.
func (c *container) enter(s engine.State) {
	c.state = s
	c.touched()
	close(c.moved)
	c.moved = make(chan struct{})
}

// Owner implements [engine.Container].
func (c *container) Owner(file string) (engine.Owner, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return ownerIn(c.rec.Owner, c.rec.Owners, file)
}

// SetOwner implements [engine.Container].
func (c *container) SetOwner(file string, o engine.Owner) error {
	end, err := c.begin("chown")
	if err != nil {
		return err
	}
	defer end()
	return c.amend(func(r *record) { setOwner(&r.Owner, &r.Owners, file, o) })
}

// ownerIn finds the owner of a file, or of the directory, which has no name.
func ownerIn(dir engine.Owner, files map[string]engine.Owner, file string) (engine.Owner, bool) {
	if file == "" {
		return dir, true
	}
	o, ok := files[file]
	return o, ok
}

// setOwner changes it. The map may be in use elsewhere.
func setOwner(dir *engine.Owner, files *map[string]engine.Owner, file string, o engine.Owner) {
	if file == "" {
		*dir = o
		return
	}
	next := maps.Clone(*files)
	if next == nil {
		next = map[string]engine.Owner{}
	}
	next[file] = o
	*files = next
}

// amend changes the record: on disk first, then in memory. The action token is held.
func (c *container) amend(change func(*record)) error {
	c.saving.Lock()
	defer c.saving.Unlock()
	c.mu.Lock()
	next := c.rec
	c.mu.Unlock()
	change(&next)
	if err := c.e.store.save(&next); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// An exit may have come meanwhile; it has its own way to the disk, behind this one.
	next.Exit, next.Started, next.KillAt, next.First = c.rec.Exit, c.rec.Started, c.rec.KillAt, c.rec.First
	next.Leases = c.rec.Leases
	next.OOM, next.Kills, next.restarting = c.rec.OOM, c.rec.Kills, c.rec.restarting
	next.Begun = c.rec.Begun
	c.rec = next
	c.touched()
	return nil
}

// Fail implements [engine.Container].
func (c *container) Fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failure = err.Error()
	c.touched()
}

// Update implements [engine.Container].
func (c *container) Update(by engine.Caller, file string, live bool, change func(*engine.Config) error) error {
	end, err := c.begin("write")
	if err != nil {
		return err
	}
	defer end()
	v := c.View()
	if v.State.Active() && !live {
		return &engine.Error{Op: "write", File: file, Errno: syscall.EBUSY, Why: "it cannot change while the container is " + string(v.State),
			Cure: "stop it first: echo 1 > stop"}
	}
	next := v.Config.Clone()
	if err := change(next); err != nil {
		return err
	}
	if err := c.mayBecome(by, v.Config, next); err != nil {
		return err
	}
	if next.RelativeRootfs() {
		root, err := c.e.roots.Beside(by.PID, next.Rootfs())
		if err == nil {
			err = next.SetRootfs(root)
		}
		if err != nil {
			return err
		}
	}
	release, err := c.e.images.pin(v.Config, next)
	if err != nil {
		return err
	}
	defer release()
	if v.State.Active() && next.Spec.Process.Terminal != v.Config.Spec.Process.Terminal {
		return &engine.Error{Op: "write", File: file, Errno: syscall.EBUSY, Why: "a program gets its terminal when it starts",
			Cure: "stop it first: echo 1 > stop"}
	}
	if err := next.Validate(); err != nil {
		return err
	}
	if v.State.Active() && next.DeviceList() != v.Config.DeviceList() {
		if err := c.checkDevices(next); err != nil {
			return err
		}
	}
	if v.State.Active() {
		if err := checkLiveDevices(v.Config, next); err != nil {
			return err
		}
	}
	if next.Spec.Linux.Seccomp != v.Config.Spec.Linux.Seccomp {
		if _, err := filter(next); err != nil {
			return err
		}
	}
	if next.Image() == "" && next.Rootfs() != v.Config.Rootfs() {
		if err := c.e.roots.Check(next.Rootfs()); err != nil {
			return err
		}
	}
	if next.RootSize() != v.Config.RootSize() && next.RootMode() == engine.RootOverlay {
		if err := c.e.roots.CheckSize(c.id, layerSize(next)); err != nil {
			return err
		}
	}
	for _, file := range engine.Pressures {
		if trigger := next.Pressure(file); trigger != "" && trigger != v.Config.Pressure(file) {
			if err := c.e.groups.CheckPressure(file, trigger); err != nil {
				return err
			}
		}
	}
	if err := c.e.expressible(v.Config, next); err != nil {
		return err
	}
	admitted, err := c.e.networks.admit(v.Config, next)
	if err != nil {
		return err
	}
	defer admitted()
	back, err := c.rewire(v.Config, next)
	if err != nil {
		return err
	}
	opened, err := c.input().reopen(v, next, c.readsInput())
	if err != nil {
		back()
		return err
	}
	if next.Rootfs() != v.Config.Rootfs() || next.Extension.Image != v.Config.Extension.Image || next.RootMode() != v.Config.RootMode() || next.RootSize() != v.Config.RootSize() {
		c.e.looks.drop(c)
	}
	if err := c.commit(v.Config, next); err != nil {
		back()
		if opened {
			c.input().finish()
		}
		return err
	}
	c.resize(v.Config, next)
	c.input().change(v, next)
	c.rewatch(v.Config, next)
	if !sameNamespaces(next, v.Config) || next.Net() != v.Config.Net() {
		c.unpin()
	}
	if old := v.Config.Extension.Image; old != nil && old != next.Extension.Image {
		c.e.images.collect()
	}
	c.lookAnew(v.Config, next)
	c.tireAnew(v.Config, next)
	if v.Config.LogMax() != next.LogMax() {
		c.boundLog()
	}
	return c.reconsider(v.Config, next)
}

// commit applies a configuration to the groups, keeps it, and takes it. What was applied is taken back when it cannot be
// kept.
func (c *container) commit(old, next *engine.Config) error {
	c.mu.Lock()
	group := c.group
	c.mu.Unlock()
	if group != nil {
		err := group.Apply(next.Spec.Linux.Resources)
		if errno := engine.Errno(err); (errno == syscall.EBUSY || errno == syscall.EPERM) && !c.View().State.Active() {
			// What is left of the last run may not fit into the new limit, nor new devices into those of the group above. If nothing lives there, the next start does without
			// that group anyway.
			c.freshGroup()
			c.mu.Lock()
			if c.group == nil {
				group, err = nil, nil
			}
			c.mu.Unlock()
		}
		if err != nil {
			return err
		}
	}
	moved := c.View().State.Alive() && !slices.Equal(old.Mounts(), next.Mounts())
	if moved {
		if err := c.remount(next, old.AdditionalMounts(), next.AdditionalMounts()); err != nil {
			return err
		}
	}
	err := c.amend(func(r *record) { r.Config = next })
	if err != nil && moved {
		if undo := c.remount(old, next.AdditionalMounts(), old.AdditionalMounts()); undo != nil {
			c.e.log.Error("mounts are not what the configuration says", "container", c.id, "err", undo)
		}
	}
	if err != nil && group != nil {
		if undo := group.Apply(old.Spec.Linux.Resources); undo != nil {
			c.e.log.Error("limits are not what the configuration says", "container", c.id, "err", undo)
		}
	}
	if err == nil && old.DeviceList() != next.DeviceList() {
		c.renewDevices()
	}
	return err
}

// rootOnly refuses everybody but root.
func rootOnly(by engine.Caller, op, file string) error {
	if by.UID == 0 {
		return nil
	}
	return &engine.Error{Op: op, File: file, Errno: syscall.EPERM, Why: "only root may do that",
		Cure: "ask root to do it"}
}

// Wait implements [engine.Container].
func (c *container) Wait(ctx context.Context) (engine.Exit, error) {
	for {
		c.mu.Lock()
		active, exit, moved := c.state.Active() || !c.rec.RestartAt.IsZero(), c.rec.Exit, c.moved
		c.mu.Unlock()
		if !active {
			return exit, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return engine.Exit{}, ctx.Err()
		}
	}
}

// Package local is the engine of this machine: it keeps containers on disk, launches them through the keeper, and knows
// what became of them.
//
// # Model
//
// An [Engine] composes what does the work: engine/cgroup for groups, overlay for roots, engine/plan and engine/launch for
// the launch, engine/keeper for the processes. It alone decides about state. A container's record on disk is its
// configuration and its last exit; whether it runs is never written down, but asked of the keeper, who knows. Execs, further
// programs of a container (exec*.go), are kept in its directory, and launched by the keeper as containers are, by [plan.Enter].
//
// What nobody asks for begins with [Engine.Automate]: restarts that are due (restart.go) and the starts of a mount (autostart.go).
// While a container runs, its log is kept within bounds (logmax.go) and its health is looked after (health.go). One with net.listen is
// launched by what comes on its sockets (listen*.go).
//
// # Namespaces and ids
//
// A start takes a user namespace and a network namespace that it owns from a stock (stock.go), with a range of host ids that
// is the container's until it is removed (ids.go). The range is in its record from its first exit on; while it runs, its
// process tells. Namespaces that others enter are pinned (pins.go).
//
// # Failure
//
// A refused operation has changed nothing: what a start made is undone in reverse order. After a crash, [New] reads
// records and keeper, and removes groups and layers that belong to nobody. What outlived its keeper is adopted by the next one, and
// here is as after the death of a server, but that pins are made again and standard inputs are held again. So that each step of
// what lasts can be the last one in a test, it is followed by a [crash.Point].
//
// # Locks
//
// Outermost first: Engine.mu (names, parents, children), a container's action token (one change at a time), that of an exec,
// entering and then mu of a container's execs, a container's mu (its memory), an exec's mu, store.mu.
//
// Beside these, images.mu, an entry's mu, the lock of the store of images. Under that last one the collection of images takes Engine.mu and
// a container's mu: who holds one of those does not ask the store.
package local

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/cgroup"
	"github.com/ctrfs/ctrfs/engine/crash"
	"github.com/ctrfs/ctrfs/engine/keeper"
	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/overlay"
)

// Options are the places that an engine uses.
type Options struct {
	Mount string // where the tree will be mounted: what hooks are told
	State string // what lasts; made if missing
	Run   string // what lasts until the machine stops; made if missing
	Log   *slog.Logger
	Again bool // another engine has been here since the mount

	Cgroups  cgroup.Options // where groups are made
	CgroupV1 []string       // controllers to mount for them: [cgroup.Private]
}

// Engine implements [engine.Engine].
type Engine struct {
	log      *slog.Logger
	store    *store
	roots    *overlay.Store
	images   *images
	host     *cgroup.Host
	groups   *cgroup.Tree
	private  cgroup.Private
	ids      *ranges
	networks *networks
	stock    *stock
	rest     rest
	nodes    launch.Nodes
	keeper   *keeper.Client
	mountDir string   // immutable
	runDir   string   // immutable
	orphans  bool     // some that run have outlived their keeper; immutable
	broken   []string // containers whose records cannot be read; immutable
	watcher  *cgroup.Watcher
	facts    facts
	features func() []engine.Feature // found out when first asked for
	bus      engine.Bus
	warming  sync.WaitGroup

	automatic *automatic // restarts, and starts of a mount
	reapers   reapers
	bounds    *bounds // of logs
	ears      ears    // on sockets
	looks     looks   // at roots

	mu    sync.RWMutex
	top   map[string]*container // guarded by mu
	byID  map[string]*container // guarded by mu
	owner engine.Owner          // of the mount's own directory; guarded by mu
}

// New opens the engine: it reads the records and the keeper's account of what lives and what has exited, and brings the
// machine into agreement with that.
func New(o Options, client *keeper.Client, account keeper.Account) (*Engine, error) {
	e := &Engine{log: o.Log, keeper: client, mountDir: o.Mount, runDir: o.Run, watcher: cgroup.NewWatcher(), automatic: newAutomatic(), top: map[string]*container{}, byID: map[string]*container{}}
	crash.Points(o.Run)
	var err error
	if e.facts, err = learn(o.Run); err != nil {
		return nil, err
	}
	if e.store, err = openStore(o.State, o.Log); err != nil {
		return nil, err
	}
	if e.bounds, err = openBounds(o.Log); err != nil {
		return nil, err
	}
	if e.ears.bells, err = newBells(o.Log); err != nil {
		return nil, err
	}
	name, err := e.store.instance(func() string { return strings.ToLower(rand.Text()[:8]) })
	if err == nil {
		err = e.openGroups(o, "ctrfs-"+name)
	}
	if err == nil {
		e.roots, err = overlay.Open(o.State)
	}
	if err == nil {
		e.roots.Distrust(e.writable)
		e.roots.RunWith(e.runTool)
		err = e.openImages(o.State)
	}
	if err == nil {
		err = e.openNetworks(name)
	}
	if err == nil {
		err = e.recover(account)
	}
	if err == nil {
		err = e.noteMount(filepath.Join(o.Run, mountName), o.Again)
	}
	if err == nil {
		e.stock = newStock(stockLeast, e.furnished, e.unfurnish)
	}
	if err != nil {
		if e.images != nil {
			e.images.close()
		}
		if e.networks != nil {
			e.networks.close()
		}
		account.Claims.Close()
		e.watcher.Close()
		e.bounds.close()
		e.ears.bells.close()
		e.store.close()
		return nil, err
	}
	e.features = sync.OnceValue(e.probe)
	return e, nil
}

// Forbid tells the engine where it is mounted: a root there would make the server wait for itself.
func (e *Engine) Forbid(dir string, dev uint64) { e.roots.Forbid(dir, dev) }

// Warm begins to make what the first start would wait for.
func (e *Engine) Warm() {
	e.warming.Go(func() {
		if err := e.roots.Warm(); err != nil {
			e.log.Warn("the root called host", "err", err)
		}
	})
}

// flushLimit bounds how long an unmount waits for the layers of removed containers to be deleted.
const flushLimit = 5 * time.Second

// Close ends the engine. What runs goes on; what does not run leaves nothing on the machine but the state directory.
func (e *Engine) Close() {
	e.warming.Wait()
	e.automatic.close()
	e.networks.lifting.Wait()
	e.images.close()
	e.lookAway()
	e.looks.drop(nil)
	e.bounds.close()
	e.stock.close()
	e.nodes.Close()
	e.watcher.Close()
	e.mu.RLock()
	all := slices.Collect(maps.Values(e.byID))
	e.mu.RUnlock()
	slices.SortFunc(all, func(a, b *container) int { return len(b.groupPath()) - len(a.groupPath()) }) // children first
	for _, c := range all {
		c.greeted.Wait()
		c.settled.Wait()
		c.leftovers.Wait()
		c.looking.ends.Wait()
		c.execs.settle()
		c.deafen()
		if !c.View().State.Alive() {
			if err := c.dropGroup(); err != nil {
				e.log.Warn("a group stays behind", "container", c.id, "err", err)
			}
		}
	}
	e.networks.close()
	e.ears.bells.close()
	flushed, cancel := context.WithTimeout(context.Background(), flushLimit)
	defer cancel()
	if err := e.roots.Flush(flushed); err != nil {
		e.log.Warn("removed layers are left to the next mount", "err", err)
	}
	if err := e.groups.Remove(); err != nil && !errors.Is(err, syscall.EBUSY) {
		e.log.Warn("the group of all containers stays behind", "err", err)
	}
	e.removeInputs()
	e.closeGroups()
	if err := e.roots.Close(); err != nil {
		e.log.Warn("roots", "err", err)
	}
	e.store.close()
}

func (e *Engine) childrenOf(parent engine.Container) map[string]*container {
	if p, ok := parent.(*container); ok && p != nil {
		return p.children
	}
	return e.top
}

// Children implements [engine.Engine].
func (e *Engine) Children(parent engine.Container) []engine.Container {
	e.mu.RLock()
	defer e.mu.RUnlock()
	children := e.childrenOf(parent)
	out := make([]engine.Container, 0, len(children))
	for _, name := range slices.Sorted(maps.Keys(children)) {
		out = append(out, children[name])
	}
	return out
}

// Child implements [engine.Engine].
func (e *Engine) Child(parent engine.Container, name string) (engine.Container, bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	c, ok := e.childrenOf(parent)[name]
	return c, ok
}

// Create implements [engine.Engine].
func (e *Engine) Create(by engine.Caller, parent engine.Container, name string, owner engine.Owner) (engine.Container, error) {
	if err := e.mayCreate(by, name); err != nil {
		return nil, err
	}
	if err := engine.ValidateName(name); err != nil {
		return nil, err
	}
	r := record{ID: strings.ToLower(rand.Text()[:16]), Name: name, Config: engine.NewConfig(), Owner: owner}
	p, _ := parent.(*container)
	if p != nil {
		r.Parent = p.id
	}
	c := newContainer(e, r)
	err := e.roots.MakeHome(r.ID)
	if err == nil {
		err = e.store.save(&r)
	}
	if err == nil {
		err = e.place(c, p)
	}
	if err != nil {
		return nil, &engine.Error{Op: "mkdir", File: name, Errno: engine.Errno(err), Err: errors.Join(err, e.roots.Remove(c.id))}
	}
	e.store.touch(e.store.path(c.id))
	return c, nil
}

// place puts a new container where it belongs, unless the name is taken or the container around it is gone.
func (e *Engine) place(c, parent *container) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if parent != nil && parent.removed {
		return syscall.ENOENT
	}
	if _, taken := e.childrenOf(asContainer(parent))[c.name]; taken {
		return syscall.EEXIST
	}
	e.adopt(c, parent)
	c.tellAlone(engine.EventCreate)
	return nil
}

// adopt puts a container into its place. e.mu is held.
func (e *Engine) adopt(c, parent *container) {
	c.parent = parent
	e.byID[c.id] = c
	if parent == nil {
		e.top[c.name] = c
	} else {
		parent.children[c.name] = c
	}
	c.repath()
}

// repath recomputes the path of a container and of all below it. Engine.mu is held.
func (c *container) repath() {
	c.mu.Lock()
	c.path, c.within = c.name, nil
	if p := c.parent; p != nil {
		c.path, c.within = p.path+"/"+c.name, append([]string{p.id}, p.within...)
	}
	c.touched()
	for _, w := range c.wires {
		w.n.zone.stale.Store(true)
	}
	c.mu.Unlock()
	for _, child := range c.children {
		child.repath()
	}
}

// Remove implements [engine.Engine].
func (e *Engine) Remove(by engine.Caller, ec engine.Container) error {
	c, ok := ec.(*container)
	if !ok {
		return syscall.EINVAL
	}
	v := c.View()
	end, err := c.begin("rmdir")
	if err != nil {
		return err
	}
	defer end()
	if err := e.condemn(c); err != nil {
		return err
	}
	err = c.discard()
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		c.removed = false
		return &engine.Error{Op: "rmdir", File: v.Path, Errno: engine.Errno(err), Err: err}
	}
	delete(e.byID, c.id)
	delete(e.childrenOf(asContainer(c.parent)), c.name)
	c.tellAlone(engine.EventRemove)
	if v.Config.Image() != "" {
		e.images.collect()
	}
	return nil
}

// condemn marks a container as on its way out, so that nobody puts anything into it, or says why it has to stay.
func (e *Engine) condemn(c *container) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	busy := func(why, cure string) error {
		return &engine.Error{Op: "rmdir", File: c.path, Errno: syscall.EBUSY, Why: why, Cure: cure}
	}
	switch state := c.View().State; {
	case c.removed:
		return &engine.Error{Op: "rmdir", File: c.path, Errno: syscall.ENOENT}
	case len(c.children) > 0:
		return busy("there are containers in it", "remove them first")
	case state.Active():
		return busy("it is "+string(state), "stop it first: echo 1 > stop; cat wait")
	}
	if guest := e.guest(c); guest != "" {
		return busy(guest+" runs with its user ids", "stop that first, or give it ids of its own: echo 'user new' > namespaces")
	}
	if tenant := e.tenant(c); tenant != "" {
		return busy(tenant+" runs in its mounts", "stop that first")
	}
	c.removed = true
	return nil
}

// asContainer avoids an interface that holds a nil pointer.
func asContainer(c *container) engine.Container {
	if c == nil {
		return nil
	}
	return c
}

// discard gives back everything that a container owned. A crash in between is harmless: until its directory is moved away
// the container is there, without a group.
func (c *container) discard() error {
	c.leftovers.Wait()
	if c.View().Config.RootMode() == engine.RootDirect {
		c.settled.Wait() // a file that it has written to is unmounted then, and can be copied
	}
	if err := c.dropGroup(); err != nil {
		return err
	}
	c.unpin()
	c.e.looks.drop(c)
	c.execs.settle()
	c.disarm()
	c.saving.Lock()
	defer c.saving.Unlock()
	err := c.e.roots.Remove(c.id)
	if err == nil {
		c.input().drop()
		for _, x := range c.execs.list() {
			x.input().drop()
		}
		c.unkept = true
		c.mu.Lock()
		c.e.ids.give(c.rec.First)
		c.giveLeases()
		c.callOff()
		c.mu.Unlock()
		c.e.store.touch(c.e.store.path(c.id)) // that it is gone
	}
	return err
}

package local

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// execs are the further programs of a container.
type execs struct {
	// entering is held while a program is on its way into the container, and taken for a freeze: what is frozen there does not
	// get any further, and on v1 it cannot even be killed. Nobody waits for it, see [container.holdExecs].
	entering sync.RWMutex

	mu     sync.RWMutex
	byName map[string]*exec // guarded by mu
}

// list returns them by name.
func (s *execs) list() []*exec {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]*exec, 0, len(s.byName))
	for _, name := range slices.Sorted(maps.Keys(s.byName)) {
		all = append(all, s.byName[name])
	}
	return all
}

// settle waits for what follows exits.
func (s *execs) settle() {
	for _, x := range s.list() {
		x.settled.Wait()
	}
}

// exec is one of them. Whether it runs is never written down, but asked of the keeper, as of containers.
type exec struct {
	c  *container
	id string // immutable

	action     chan struct{} // as a container's
	generation atomic.Uint64

	mu      sync.Mutex
	rec     execRecord    // guarded by mu
	state   engine.State  // guarded by mu; whether it is frozen is for the container to say
	pid     int           // guarded by mu
	pidfd   *os.File      // guarded by mu; nil when it does not run
	started time.Time     // guarded by mu; of the present run
	failure string        // guarded by mu
	changed time.Time     // guarded by mu
	moved   chan struct{} // guarded by mu; closed and replaced when the state changes
	plan    string        // guarded by mu; of the present run
	reads   bool          // guarded by mu; it was given a standard input
	console int           // guarded by mu; as a container's

	saving  sync.Mutex // one writer of the record at a time; taken after the action token, before mu
	unkept  bool       // the record is removed for good; guarded by saving
	settled background // what follows an exit
}

func newExec(c *container, r execRecord) *exec {
	x := &exec{c: c, id: r.ID, action: make(chan struct{}, 1), rec: r, state: engine.Created, changed: time.Now(), moved: make(chan struct{})}
	if r.Exit.Happened() {
		x.state = engine.Exited
	}
	return x
}

// key is how the keeper knows it.
func (x *exec) key() string { return x.c.id + "/" + x.id }

// execOf finds the exec that the keeper speaks of. An id with a slash in it is none of a container's.
func (e *Engine) execOf(key string) (x *exec, is bool) {
	id, rest, is := strings.Cut(key, "/")
	if !is {
		return nil, false
	}
	e.mu.RLock()
	c := e.byID[id]
	e.mu.RUnlock()
	if c == nil {
		return nil, true
	}
	c.execs.mu.RLock()
	defer c.execs.mu.RUnlock()
	for _, x := range c.execs.byName {
		if x.id == rest {
			return x, true
		}
	}
	return nil, true
}

// Execs implements [engine.Container].
func (c *container) Execs() []engine.Exec {
	var out []engine.Exec
	for _, x := range c.execs.list() {
		out = append(out, x)
	}
	return out
}

// Exec implements [engine.Container].
func (c *container) Exec(name string) (engine.Exec, bool) {
	c.execs.mu.RLock()
	defer c.execs.mu.RUnlock()
	x, ok := c.execs.byName[name]
	return x, ok
}

// AddExec implements [engine.Container]. The container need not run: what is prepared is started when it does.
func (c *container) AddExec(by engine.Caller, name string, owner engine.Owner) (engine.Exec, error) {
	if err := engine.ValidateName(name); err != nil {
		return nil, err
	}
	refuse := func(errno syscall.Errno, err error) error {
		return &engine.Error{Op: "mkdir", File: c.View().Path + "/exec/" + name, Errno: errno, Err: err}
	}
	x := newExec(c, execRecord{ID: strings.ToLower(rand.Text()[:12]), Name: name, Owner: owner})
	c.e.mu.RLock() // nobody removes the container meanwhile
	defer c.e.mu.RUnlock()
	c.execs.mu.Lock()
	defer c.execs.mu.Unlock()
	switch {
	case c.removed:
		return nil, refuse(syscall.ENOENT, nil)
	case c.execs.byName[name] != nil:
		return nil, refuse(syscall.EEXIST, nil)
	}
	if err := c.e.store.saveExec(c.id, &x.rec); err != nil {
		return nil, refuse(engine.Errno(err), err)
	}
	if c.execs.byName == nil {
		c.execs.byName = map[string]*exec{}
	}
	c.execs.byName[name] = x
	return x, nil
}

// RemoveExec implements [engine.Container].
func (c *container) RemoveExec(by engine.Caller, ex engine.Exec) error {
	x, ok := ex.(*exec)
	if !ok || x.c != c {
		return syscall.EINVAL
	}
	end, err := x.begin("rmdir")
	if err != nil {
		return err
	}
	defer end()
	v := x.View()
	if v.State.Active() {
		return &engine.Error{Op: "rmdir", File: v.Path, Errno: syscall.EBUSY, Why: "it is " + string(v.State), Cure: "end it first: echo KILL > kill; cat wait"}
	}
	if err := x.forget(); err != nil {
		return &engine.Error{Op: "rmdir", File: v.Path, Errno: engine.Errno(err), Err: err}
	}
	c.execs.mu.Lock()
	defer c.execs.mu.Unlock()
	delete(c.execs.byName, v.Name)
	return nil
}

// forget removes what is on disk, which nothing writes any more afterwards.
func (x *exec) forget() error {
	x.settled.Wait()
	x.saving.Lock()
	defer x.saving.Unlock()
	if x.unkept {
		return &engine.Error{Op: "rmdir", File: x.rec.Name, Errno: syscall.ENOENT}
	}
	if err := x.c.e.store.removeExec(x.c.id, x.id); err != nil {
		return err
	}
	x.input().drop()
	x.unkept = true
	return nil
}

// begin takes the action token; the result gives it back.
func (x *exec) begin(op string) (end func(), err error) {
	return begin(x.action, op, func() string { return x.View().Path })
}

// View implements [engine.Program].
func (x *exec) View() *engine.View {
	around := x.c.View()
	x.mu.Lock()
	defer x.mu.Unlock()
	v := &engine.View{ID: x.id, Name: x.rec.Name, Path: around.Path + "/exec/" + x.rec.Name, Config: x.rec.over(around.Config), State: x.state,
		PID: x.pid, Started: x.started, Exit: x.rec.Exit, Failure: x.failure, Changed: x.changed}
	if v.State == engine.Running && around.State == engine.Paused {
		v.State = engine.Paused
	}
	return v
}

// Inherited implements [engine.Exec].
func (x *exec) Inherited() *engine.Config { return (&execRecord{}).over(x.c.View().Config) }

// Generation implements [engine.Program]. What the container changes, the exec inherits.
func (x *exec) Generation() uint64 { return x.generation.Load() + x.c.Generation() }

// touched notes a change. x.mu is held.
func (x *exec) touched() {
	x.generation.Add(1)
	x.changed = time.Now()
}

// enter changes the state and wakes whoever waits for that. x.mu is held.
func (x *exec) enter(s engine.State) {
	x.state = s
	x.touched()
	close(x.moved)
	x.moved = make(chan struct{})
}

// Owner implements [engine.Program].
func (x *exec) Owner(file string) (engine.Owner, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return ownerIn(x.rec.Owner, x.rec.Owners, file)
}

// SetOwner implements [engine.Program].
func (x *exec) SetOwner(file string, o engine.Owner) error {
	end, err := x.begin("chown")
	if err != nil {
		return err
	}
	defer end()
	return x.amend(func(r *execRecord) { setOwner(&r.Owner, &r.Owners, file, o) })
}

// Fail implements [engine.Program].
func (x *exec) Fail(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.failure = err.Error()
	x.touched()
}

// Update implements [engine.Program]. Of what change makes of the configuration, only the process is the exec's.
func (x *exec) Update(by engine.Caller, file string, live bool, change func(*engine.Config) error) error {
	end, err := x.begin("write")
	if err != nil {
		return err
	}
	defer end()
	v := x.View()
	busy := func(why string) error {
		return &engine.Error{Op: "write", File: file, Errno: syscall.EBUSY, Why: why, Cure: "end it first: echo KILL > kill; cat wait"}
	}
	if v.State.Active() && !live {
		return busy("it cannot change while the exec is " + string(v.State))
	}
	next := v.Config.Clone()
	if err := change(next); err != nil {
		return err
	}
	if v.State.Active() && next.Spec.Process.Terminal != v.Config.Spec.Process.Terminal {
		return busy("a program gets its terminal when it starts")
	}
	if err := next.Validate(); err != nil {
		return err
	}
	opened, err := x.input().reopen(v, next, x.readsInput())
	if err != nil {
		return err
	}
	base := x.c.View().Config
	if err := x.amend(func(r *execRecord) { r.take(next, base) }); err != nil {
		if opened {
			x.input().finish()
		}
		return err
	}
	x.input().change(v, next)
	if v.State.Active() {
		x.c.e.resize(x.key(), v.Config, next)
	}
	return nil
}

// Kill implements [engine.Program].
func (x *exec) Kill(by engine.Caller, sig syscall.Signal) error {
	path := x.View().Path
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.pidfd == nil {
		return &engine.Error{Op: "kill", File: path, Errno: syscall.EBUSY, Why: "it does not run", Cure: "start it first: echo 1 > start"}
	}
	err := unix.PidfdSendSignal(int(x.pidfd.Fd()), sig, nil, 0)
	if err != nil && err != unix.ESRCH { // it is just exiting
		return &engine.Error{Op: "kill", File: path, Value: engine.SignalName(sig), Errno: engine.Errno(err)}
	}
	return nil
}

// Wait implements [engine.Program].
func (x *exec) Wait(ctx context.Context) (engine.Exit, error) {
	for {
		x.mu.Lock()
		active, exit, moved := x.state.Active(), x.rec.Exit, x.moved
		x.mu.Unlock()
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

// Log implements [engine.Program].
func (x *exec) Log() (engine.Log, error) { return &logReader{name: x.logPath()}, nil }

func (x *exec) logPath() string { return x.c.e.store.execPath(x.c.id, x.id, execLog) }

// amend changes the record: on disk first, then in memory. The action token is held.
func (x *exec) amend(change func(*execRecord)) error {
	x.saving.Lock()
	defer x.saving.Unlock()
	x.mu.Lock()
	next := x.rec
	x.mu.Unlock()
	change(&next)
	if x.unkept {
		return &engine.Error{Op: "write", File: next.Name, Errno: syscall.ENOENT}
	}
	if err := x.c.e.store.saveExec(x.c.id, &next); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	next.Exit, next.Begun = x.rec.Exit, x.rec.Begun // an exit may have come meanwhile; it has its own way to the disk, behind this one
	x.rec = next
	x.touched()
	return nil
}

// save puts on disk what the record says, unless it is removed, and says whether it is there.
func (x *exec) save() bool {
	x.saving.Lock()
	defer x.saving.Unlock()
	x.mu.Lock()
	rec := x.rec
	x.mu.Unlock()
	if x.unkept {
		return true
	}
	if err := x.c.e.store.saveExec(x.c.id, &rec); err != nil && !errors.Is(err, syscall.ENOENT) {
		x.c.e.log.Error("what became of an exec is not on disk", "container", x.c.id, "exec", x.id, "err", err)
		return false
	}
	return true
}

package fs

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
)

// memEngine is an engine without a kernel: containers that start and exit when a test says so. It keeps the contract's
// rules of state, so that the tree is tested against what a real engine would refuse.
type memEngine struct {
	mu    sync.Mutex
	top   map[string]*memContainer
	owner engine.Owner
	next  int
	bus   engine.Bus
	open  atomic.Int64 // streams of events that are open
	quiet atomic.Bool  // they have ended before they begin

	images   map[string]*memImage
	networks map[string]*memNetwork
}

func (e *memEngine) Events(of engine.Container) engine.Events {
	in := ""
	if of != nil {
		in = of.View().ID
	}
	s := e.bus.Subscribe(in)
	if e.quiet.Load() {
		s.Close()
	}
	e.open.Add(1)
	return memEvents{s, sync.OnceFunc(func() { e.open.Add(-1) })}
}

// memEvents counts what is open.
type memEvents struct {
	engine.Events
	closed func()
}

func (m memEvents) Close() {
	m.closed()
	m.Events.Close()
}

// tell publishes an event of a container.
func (e *memEngine) tell(c *memContainer, name string, fields ...engine.Field) {
	ev := &engine.Event{Container: c.View().Path, ID: c.View().ID, Name: name, Fields: fields}
	for p := c.parent; p != nil; p = p.parent {
		ev.Within = append(ev.Within, p.view.ID)
	}
	e.bus.Publish(ev)
}

type memContainer struct {
	e        *memEngine // its mutex guards everything below
	parent   *memContainer
	children map[string]*memContainer
	view     engine.View
	owners   map[string]engine.Owner
	execs    map[string]*memExec
	controls map[string]string
	log      []byte
	removed  bool
	changed  chan struct{} // closed at each change of state
	gen      atomic.Uint64
	last     engine.Caller // of the last operation
	reads    atomic.Int64  // of memory.current
	logs     atomic.Int64  // that are open
	odd      error         // what Stop fails with
}

func newMemEngine() *memEngine {
	return &memEngine{top: map[string]*memContainer{}, images: map[string]*memImage{}, networks: map[string]*memNetwork{}, owner: engine.Owner{Mode: 0o755}}
}

func busy(op, name string, s engine.State) error {
	return &engine.Error{Op: op, File: name, Errno: syscall.EBUSY, Why: "the container is " + string(s), Cure: "stop it first"}
}

func (e *memEngine) below(parent engine.Container) map[string]*memContainer {
	if parent == nil {
		return e.top
	}
	return parent.(*memContainer).children
}

func (e *memEngine) Children(parent engine.Container) []engine.Container {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []engine.Container
	for _, name := range slices.Sorted(maps.Keys(e.below(parent))) {
		out = append(out, e.below(parent)[name])
	}
	return out
}

func (e *memEngine) Child(parent engine.Container, name string) (engine.Container, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, ok := e.below(parent)[name]
	return c, ok
}

func (e *memEngine) Create(by engine.Caller, parent engine.Container, name string, o engine.Owner) (engine.Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.next++
	c := &memContainer{e: e, children: map[string]*memContainer{}, owners: map[string]engine.Owner{"": o},
		controls: map[string]string{"memory.peak": "8192\n", "cpu.stat": "usage_usec 12\nuser_usec 5\n",
			"pids.current": "1\n", "cgroup.procs": "", "cgroup.freeze": "0\n"},
		changed: make(chan struct{}), last: by}
	if parent != nil {
		c.parent = parent.(*memContainer)
	}
	c.view = engine.View{ID: fmt.Sprintf("c%06d", e.next), Name: name, Config: engine.NewConfig(),
		State: engine.Created, Changed: time.Now()}
	e.below(parent)[name] = c
	return c, nil
}

func (e *memEngine) Remove(by engine.Caller, c engine.Container) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := c.(*memContainer)
	if m.view.State.Active() || len(m.children) > 0 {
		return busy("rmdir", m.view.Name, m.view.State)
	}
	delete(m.siblings(), m.view.Name)
	m.removed = true
	return nil
}

func (c *memContainer) siblings() map[string]*memContainer {
	if c.parent == nil {
		return c.e.top
	}
	return c.parent.children
}

func (e *memEngine) Rename(by engine.Caller, c engine.Container, parent engine.Container, name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := c.(*memContainer)
	if e.below(parent)[name] != nil {
		return &engine.Error{Op: "rename", File: name, Errno: syscall.EEXIST, Why: "the name is taken", Cure: "take another name"}
	}
	delete(m.siblings(), m.view.Name)
	m.parent, _ = parent.(*memContainer)
	m.view.Name = name
	m.siblings()[name] = m
	m.gen.Add(1)
	return nil
}

func (e *memEngine) RootOwner() engine.Owner {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.owner
}

func (e *memEngine) SetRootOwner(o engine.Owner) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.owner = o
	return nil
}

func (e *memEngine) Features() []engine.Feature {
	return []engine.Feature{{Name: "cgroup", Value: "hybrid"}, {Name: "nftables", Value: "no", Reason: "modprobe nf_tables"}}
}

// get finds a container by its path, for tests.
func (e *memEngine) get(path string) *memContainer {
	e.mu.Lock()
	defer e.mu.Unlock()
	in := e.top
	var c *memContainer
	for name := range strings.SplitSeq(path, "/") {
		if c = in[name]; c == nil {
			return nil
		}
		in = c.children
	}
	return c
}

func (c *memContainer) View() *engine.View {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	v := c.view
	v.Path = v.Name
	for p := c.parent; p != nil; p = p.parent {
		v.Path = p.view.Name + "/" + v.Path
	}
	return &v
}

func (c *memContainer) Generation() uint64 { return c.gen.Load() }

func (c *memContainer) Owner(file string) (engine.Owner, bool) {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	o, ok := c.owners[file]
	return o, ok
}

func (c *memContainer) SetOwner(file string, o engine.Owner) error {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	c.owners[file] = o
	return nil
}

func (c *memContainer) Update(by engine.Caller, file string, live bool, change func(*engine.Config) error) error {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	c.last = by
	if c.view.State.Active() && !live {
		return busy("write", file, c.view.State)
	}
	cfg := c.view.Config.Clone()
	if err := change(cfg); err != nil {
		return err
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	c.view.Config = cfg
	c.gen.Add(1)
	return nil
}

func (c *memContainer) Automatic() (engine.Automatic, error) {
	return engine.Automatic{Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActLog}}, nil
}

func (c *memContainer) Fail(err error) {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	c.view.Failure = err.Error()
	c.gen.Add(1)
}

// to changes the state and wakes who waits for it.
func (c *memContainer) to(s engine.State, more func(*engine.View)) {
	c.view.State = s
	more(&c.view)
	c.gen.Add(1)
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *memContainer) Start(by engine.Caller) error {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	c.last = by
	if c.view.State.Active() {
		return busy("start", c.view.Name, c.view.State)
	}
	if c.view.Config.Cmd() == "" {
		return &engine.Error{Op: "start", File: "cmd", Errno: syscall.EINVAL, Why: "no program", Cure: "write one into cmd"}
	}
	c.log = nil
	if len(c.view.Config.Listeners()) > 0 {
		c.to(engine.Listening, func(v *engine.View) { v.Failure = "" })
		return nil
	}
	c.to(engine.Running, func(v *engine.View) { v.PID, v.Failure, v.Started = 4711, "", time.Now() })
	return nil
}

// exit ends the program, as the kernel would tell it.
func (c *memContainer) exit(status syscall.WaitStatus) {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	c.to(engine.Exited, func(v *engine.View) { v.PID, v.Exit = 0, engine.Exit{Status: status, Finished: time.Now()} })
}

func (c *memContainer) Stop(by engine.Caller, back bool) error {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	if c.odd != nil {
		return c.odd
	}
	if !c.view.State.Active() {
		return busy("stop", c.view.Name, c.view.State)
	}
	if c.view.State == engine.Listening {
		c.to(engine.Created, func(*engine.View) {})
		return nil
	}
	c.to(engine.Stopping, func(*engine.View) {})
	return nil
}

// caller tells who did the last operation.
func (c *memContainer) caller() engine.Caller {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	return c.last
}

// lack makes a host that has no such counter.
func (c *memContainer) lack(file string) {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	delete(c.controls, file)
}

// breakStop makes Stop fail.
func (c *memContainer) breakStop(err error) {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	c.odd = err
}

func (c *memContainer) Kill(by engine.Caller, sig syscall.Signal) error {
	if !c.View().State.Active() {
		return busy("kill", c.View().Name, c.View().State)
	}
	c.exit(syscall.WaitStatus(sig))
	return nil
}

func (c *memContainer) Wait(ctx context.Context) (engine.Exit, error) {
	for {
		c.e.mu.Lock()
		v, changed := c.view, c.changed
		c.e.mu.Unlock()
		if !v.State.Active() {
			return v.Exit, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return engine.Exit{}, ctx.Err()
		}
	}
}

// ReadControl counts its calls in memory.current, a number of growing length.
func (c *memContainer) ReadControl(file string) (string, error) {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	if file == "memory.current" {
		return fmt.Sprintln(c.reads.Add(1)), nil
	}
	text, ok := c.controls[file]
	if !ok && file != "memory.peak" {
		return "some 0\n", nil // what any other counter says does not matter here
	}
	if !ok {
		return "", &engine.Error{Op: "read", File: file, Errno: syscall.EOPNOTSUPP, Why: "this host has no such counter", Cure: "see host"}
	}
	return text, nil
}

func (c *memContainer) WriteControl(by engine.Caller, file, value string) error {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	c.last = by
	if file == "cgroup.freeze" && value != "0" && value != "1" {
		return engine.Invalid(file, value, "neither 0 nor 1", "write 1 to pause, 0 to resume")
	}
	if file == "cgroup.procs" {
		value = c.controls[file] + value
	}
	c.controls[file] = value + "\n"
	return nil
}

func (c *memContainer) Stats() []engine.Stat {
	return []engine.Stat{{Name: "cpu.usage_usec", Value: 12}, {Name: "memory.current", Value: 4096}, {Name: "pids.current", Value: 1}}
}

func (c *memContainer) Processes() ([]engine.Process, error) {
	v := c.View()
	var out []engine.Process
	if v.PID != 0 {
		out = append(out, engine.Process{Container: v.Path, PID: v.PID, Inner: 1, User: "0", State: "S", RSS: 8192,
			CPU: 1500 * time.Millisecond, Command: "evil\nname\t" + v.Config.Cmd()})
	}
	for _, child := range c.e.Children(c) {
		procs, _ := child.Processes()
		out = append(out, procs...)
	}
	return out, nil
}

// Console is never there.
func (c *memContainer) Console() (string, bool) { return "", false }

// Input leads to a file that is not there.
func (c *memContainer) Input() (string, bool) {
	return "/run/stdin/" + c.View().ID, c.View().Config.Extension.StdinOpen
}

// Changes is what the log is.
func (c *memContainer) Changes() (engine.Log, error) { return c.Log() }

func (c *memContainer) ChangesSize() (int64, error) { return memLog{c}.Size() }

// Root is never there: tools follow links.
func (c *memContainer) Root() (string, bool) { return "", false }

func (c *memContainer) OpenRoot() (string, error) { return "", syscall.ENOENT }

// NamespaceLink leads to this process's own namespaces while the container runs.
func (c *memContainer) NamespaceLink(name string) (string, bool) {
	return "/proc/self/ns/" + name, c.View().PID != 0
}

func (c *memContainer) Plan() (string, error) {
	return "clone pid mnt\nexec " + c.View().Config.Cmd() + "\n", nil
}

func (c *memContainer) Log() (engine.Log, error) {
	c.logs.Add(1)
	return memLog{c}, nil
}

// say appends to the log.
func (c *memContainer) say(text string) {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	c.log = append(c.log, text...)
}

type memLog struct{ c *memContainer }

func (l memLog) ReadPage(p []byte, off int64) (int, error) { return l.ReadAt(p, off) }

func (l memLog) ReadAt(p []byte, off int64) (int, error) {
	l.c.e.mu.Lock()
	defer l.c.e.mu.Unlock()
	n := copy(p, l.c.log[min(off, int64(len(l.c.log))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (l memLog) Size() (int64, error) {
	l.c.e.mu.Lock()
	defer l.c.e.mu.Unlock()
	return int64(len(l.c.log)), nil
}

func (l memLog) Close() error {
	l.c.logs.Add(-1)
	return nil
}

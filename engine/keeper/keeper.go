package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/launch"
)

// launchLimit is how long a child may take to reach its program. It is far beyond any healthy start and bounds what a
// program on a dead file server costs.
const launchLimit = 20 * time.Second

// Keeper is the parent of every container of one mount.
type Keeper struct {
	log     *slog.Logger
	journal *journal
	spawn   func(server *os.File, r Request) (pid int, err error)
	claims  *os.File // what containers hold on this machine, whoever serves them

	mu         sync.Mutex
	children   map[int]*child              // by pid; guarded by mu
	launching  map[*child]bool             // on their way to their program; guarded by mu
	exits      map[exitKey]message         // journalled and not acknowledged; guarded by mu
	pins       map[[idSize]byte][]*os.File // namespaces held for a container; guarded by mu
	inputs     map[[idSize]byte][]*os.File // the writing end of a container's standard input; guarded by mu
	server     *server                     // nil while none runs; guarded by mu
	restarting bool                        // a server died and its successor is on its way; guarded by mu
	ending     bool                        // nobody wants a server any more; guarded by mu
	last       Request                     // how the server was last asked for; guarded by mu
	emptying   int                         // terminals of those that have exited; guarded by mu
	dog        watchdog                    // guarded by mu
	later      chan func()                 // work that nobody waits for
	done       chan struct{}               // closed when there is nothing left to keep
	wake       chan struct{}               // a child was made: the reaper has something to wait for
}

// exitKey tells one exit of a container from the next.
type exitKey struct {
	id      [idSize]byte
	started int64
}

// child is one forked container.
type child struct {
	id       [idSize]byte
	image    *launch.Image // what it runs until it has executed its program
	pid      int           // known once that is over, and pidfd and started too
	pidfd    *os.File
	started  time.Time
	executed bool                // its program runs; guarded by Keeper.mu
	exited   *syscall.WaitStatus // it exited before that was known; guarded by Keeper.mu
	reaped   chan struct{}       // closed when it has been waited for
	terminal *terminal           // of one that has one
}

// server is one incarnation of the server.
type server struct {
	pid     int
	link    *link
	out     *outbox
	started time.Time
	answer  chan error // what becomes of the mount, once
	ready   bool       // guarded by Keeper.mu
}

// settle says what became of the mount; only the first word counts.
func (s *server) settle(err error) {
	select {
	case s.answer <- err:
	default:
	}
}

// New makes a keeper whose journal is in state. claims is the open [ClaimsFile]. spawn starts a server that speaks through
// the given socket.
func New(log *slog.Logger, state string, claims *os.File, spawn func(*os.File, Request) (int, error)) (*Keeper, error) {
	j, exits, err := openJournal(state)
	if err != nil {
		return nil, err
	}
	k := &Keeper{log: log, journal: j, spawn: spawn, claims: claims, children: map[int]*child{}, launching: map[*child]bool{}, exits: map[exitKey]message{},
		pins: map[[idSize]byte][]*os.File{}, inputs: map[[idSize]byte][]*os.File{}, later: make(chan func(), 64),
		done: make(chan struct{}), wake: make(chan struct{}, 1)}
	for _, m := range exits {
		k.exits[exitKey{m.ID, m.Started}] = m
	}
	go k.reap()
	go k.takeTime()
	return k, nil
}

// Done is closed when the server has unmounted and no container lives: the keeper's work is over.
func (k *Keeper) Done() <-chan struct{} { return k.done }

// reap waits for children, all of them, forever. It first only looks: the server that another goroutine is just starting
// is known once mu is free.
func (k *Keeper) reap() {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT, nil)
		switch err {
		case nil:
		case unix.ECHILD:
			<-k.wake
			continue
		default:
			continue // EINTR
		}
		k.mu.Lock()
		pid, status, err := take(&info)
		if err == nil && pid > 0 {
			k.exited(pid, status)
		}
		k.mu.Unlock()
	}
}

// woken tells the reaper that there is a child again.
func (k *Keeper) woken() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// exited records that a child is gone. k.mu is held.
func (k *Keeper) exited(pid int, status syscall.WaitStatus) {
	if s := k.server; s != nil && s.pid == pid {
		go k.serverExited(s, status)
		return
	}
	c := k.child(pid)
	if c == nil {
		return
	}
	close(c.reaped)
	if !c.executed {
		c.exited = &status
		return
	}
	k.record(c, status)
}

// child finds a child by its pid, also one that has not executed its program yet. k.mu is held.
func (k *Keeper) child(pid int) *child {
	if c := k.children[pid]; c != nil {
		return c
	}
	for c := range k.launching {
		if c.image.PID() == pid {
			return c
		}
	}
	return nil
}

// record journals an exit and tells the server. k.mu is held.
func (k *Keeper) record(c *child, status syscall.WaitStatus) {
	delete(k.children, c.pid)
	c.pidfd.Close()
	k.endInput(c.id)
	m := message{Kind: kindExit, ID: c.id, PID: int32(c.pid), Status: uint32(status), Started: c.started.UnixNano(), Finished: time.Now().UnixNano()}
	k.exits[exitKey{m.ID, m.Started}] = m
	if err := k.journal.add(m); err != nil {
		k.log.Error("an exit is not in the journal; it is lost if the keeper dies", "id", m.id(), "err", err)
	}
	k.report(c, m)
}

// over reports whether the keeper's work has ended: the process is about to exit.
func (k *Keeper) over() bool {
	select {
	case <-k.done:
		return true
	default:
		return false
	}
}

// endIfIdle ends the keeper's work when no server and no container is left. k.mu is held.
func (k *Keeper) endIfIdle() {
	if k.server == nil && !k.restarting && len(k.children)+len(k.launching)+k.emptying == 0 {
		if !k.over() {
			close(k.done)
		}
	}
}

// Request asks for a mount: what the command line sends, and what the server is started with. With End it asks for the
// opposite: the tree has been unmounted, and no server shall be started again.
type Request struct {
	End        bool   `json:"end,omitempty"`
	Dir        string `json:"dir"`
	State      string `json:"state"`
	Run        string `json:"run"`
	CgroupRoot string `json:"cgroup_root,omitempty"`
	CgroupV1   string `json:"cgroup_v1,omitempty"` // names, with commas
	LogLevel   string `json:"log_level"`
	Again      bool   `json:"again,omitempty"` // in place of a server that has died: this is no mount
	Service           // who is told that it answers
}

// Mount starts a server unless one runs, and returns when the mount answers or never will.
func (k *Keeper) Mount(ctx context.Context, r Request) error {
	k.mu.Lock()
	if k.server != nil {
		dir := k.last.Dir
		k.mu.Unlock()
		return fmt.Errorf("%s is mounted already: %w", dir, syscall.EBUSY)
	}
	if k.restarting && k.ending || k.over() {
		k.mu.Unlock()
		return errEnding
	}
	k.last, k.ending = r, false
	s, err := k.startServer(r)
	k.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case err := <-s.answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the server does not answer: %w", syscall.ETIMEDOUT)
	}
}

// errEnding is why a server that died is not followed by another.
var errEnding = errors.New("the tree has been unmounted")

// startServer starts a server and tells it what lives. k.mu is held.
func (k *Keeper) startServer(r Request) (*server, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "server")
	defer theirs.Close()
	l, err := newLink(os.NewFile(uintptr(pair[0]), "keeper"))
	if err != nil {
		return nil, err
	}
	pid, err := k.spawn(theirs, r)
	if err != nil {
		l.close()
		return nil, err
	}
	s := &server{pid: pid, link: l, out: newOutbox(l), started: time.Now(), answer: make(chan error, 1)}
	k.server = s
	for _, c := range k.children {
		if c.executed {
			k.announce(s, c)
		}
	}
	for _, m := range k.exits {
		s.out.put(m)
	}
	for id, files := range k.pins {
		k.lendPins(s, id, files)
	}
	if err := k.lendClaims(s); err != nil {
		k.log.Error("a server gets no file of claims", "err", err) // it will say so, and end
		s.out.put(message{Kind: kindListed})
	}
	k.woken()
	go k.serve(s)
	return s, nil
}

// announce tells a server of a container that lives. k.mu is held.
func (k *Keeper) announce(s *server, c *child) {
	pidfd, err := dup(c.pidfd)
	if err != nil {
		k.log.Error("no descriptor for a running container", "pid", c.pid, "err", err)
		return
	}
	s.out.put(message{Kind: kindRunning, ID: c.id, PID: int32(c.pid), Started: c.started.UnixNano(), Finished: c.terminal.name()}, pidfd)
}

// ClaimsFile is where all the ctrfs of a machine agree on who has which ids: a container holds its range by a lock on one
// byte, F_OFD_SETLK of fcntl(2). The lock belongs to the open file, which the keeper has and lends to each server, so that
// ranges stay held while a server is restarted, and are free when the keeper has gone.
const ClaimsFile = "/run/ctrfs.claims"

// lendClaims ends the account with the file of claims.
func (k *Keeper) lendClaims(s *server) error {
	claims, err := dup(k.claims)
	if err == nil {
		s.out.put(message{Kind: kindListed}, claims)
	}
	return err
}

// serve handles what one server asks for, until it is gone.
func (k *Keeper) serve(s *server) {
	for {
		var m message
		text, fds, err := s.link.receive(&m)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
				k.log.Error("the server's socket failed", "err", err)
			}
			return // its exit is reported by the reaper
		}
		switch m.Kind {
		case kindStart:
			go k.start(s, m, fds)
			continue
		case kindNamespaces:
			if m.PID == 0 {
				go k.namespaces(s, m, text)
				break
			}
			k.later <- func() { k.namespaces(s, m, text) }
		case kindPerform:
			go k.runInside(s, m, fds)
			continue
		case kindResize:
			k.resize(s, m)
		case kindRun:
			go k.run(s, m, fds)
			continue
		case kindInput:
			k.holdInput(m.ID, filesOf(fds))
			continue
		case kindPin:
			k.pin(m, filesOf(fds))
			continue
		case kindUnpin:
			k.pin(m, nil)
		case kindReady:
			k.answered(s)
		case kindFailed:
			s.settle(errors.New(text))
		case kindAck:
			k.acknowledged(m)
		}
		closeAll(fds)
	}
}

// acknowledged forgets an exit that the server has recorded.
func (k *Keeper) acknowledged(m message) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.exits, exitKey{m.ID, m.Started})
	if err := k.journal.done(m, len(k.exits) == 0); err != nil {
		k.log.Error("the journal does not say that an exit is recorded; it is told again after the keeper's death", "err", err)
	}
}

// start launches a container. The first descriptor is the program, the others are what it uses.
func (k *Keeper) start(s *server, m message, fds []int) {
	defer closeAll(fds)
	reply := message{Kind: kindStarted, Seq: m.Seq, ID: m.ID}
	rest, from := terminalOf(m, fds)
	img, err := program(rest)
	var c *child
	if err == nil {
		defer img.Close() // after the answer: the other processors take part in it
		c, err = k.launch(m, img, from)
	}
	if err != nil {
		reply.fail(err)
		s.out.put(reply)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	c.executed = true
	reply.PID, reply.Started, reply.Finished = int32(c.pid), c.started.UnixNano(), c.terminal.name()
	if pidfd, err := dup(c.pidfd); err == nil {
		s.out.put(reply, pidfd)
	} else {
		s.out.put(reply)
	}
	if k.server != s && k.server != nil {
		k.announce(k.server, c) // the server that asked is gone; its successor has not heard of this one
	}
	if c.exited != nil {
		k.record(c, *c.exited)
	}
}

// program maps the program that came first among the descriptors; the others are those that it uses.
func program(fds []int) (*launch.Image, error) {
	if len(fds) == 0 {
		return nil, fmt.Errorf("a message without a program: %w", syscall.EINVAL)
	}
	return launch.Load(fds[0], fds[1:])
}

// takeTime does what nobody waits for, on a thread of the lowest priority: on a machine with few processors it would otherwise
// be done instead of the launches that it is for.
func (k *Keeper) takeTime() {
	runtime.LockOSThread()
	unix.Setpriority(unix.PRIO_PROCESS, 0, 19)
	for do := range k.later {
		do()
	}
}

// namespaces makes a pair of namespaces for the server.
func (k *Keeper) namespaces(s *server, m message, text string) {
	reply := message{Kind: kindNamespacesMade, Seq: m.Seq}
	uidMap, gidMap, _ := strings.Cut(text, "\x00")
	made, err := launch.Namespaces(min(int(m.Status), len(launch.Kinds)), uidMap, gidMap)
	if err != nil {
		reply.fail(err)
		reply.Step = -1 // of a program that the server does not know
		s.out.put(reply)
		return
	}
	s.out.put(reply, made...)
}

// runInside runs a program that executes nothing.
func (k *Keeper) runInside(s *server, m message, fds []int) {
	defer closeAll(fds)
	reply := message{Kind: kindPerformed, Seq: m.Seq}
	img, err := program(fds)
	if err == nil {
		err = img.Perform(launchLimit)
		img.Close()
	}
	if err != nil {
		reply.fail(err)
	}
	s.out.put(reply)
}

// pin holds files for a container in place of what was held before.
func (k *Keeper) pin(m message, files []*os.File) {
	k.mu.Lock()
	defer k.mu.Unlock()
	closeFiles(k.pins[m.ID])
	delete(k.pins, m.ID)
	if len(files) > 0 {
		k.pins[m.ID] = files
	}
}

// lendPins tells a server what is held for a container. k.mu is held.
func (k *Keeper) lendPins(s *server, id [idSize]byte, files []*os.File) {
	var lent []*os.File
	for _, f := range files {
		d, err := dup(f)
		if err != nil {
			k.log.Error("no descriptor for a pinned namespace", "err", err)
			closeFiles(lent)
			return
		}
		lent = append(lent, d)
	}
	s.out.put(message{Kind: kindPinned, ID: id}, lent...)
}

// launch forks the child and waits until it has executed its program. A child that failed has been waited for when launch
// returns, so that its groups are empty.
func (k *Keeper) launch(m message, img *launch.Image, from *lent) (*child, error) {
	c := &child{id: m.ID, image: img, reaped: make(chan struct{})}
	k.mu.Lock()
	k.launching[c] = true
	k.mu.Unlock()
	launched, err := img.Launch(launchLimit + time.Duration(m.Started))
	k.woken()
	if launched.PidFD >= 0 {
		c.pid, c.pidfd, c.started = launched.PID, os.NewFile(uintptr(launched.PidFD), "pidfd"), time.Now()
	}
	if err == nil && from != nil {
		c.terminal = k.openTerminal(m, from)
	}
	if err != nil && c.pidfd != nil {
		<-c.reaped
		c.pidfd.Close()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.launching, c)
	if err != nil {
		k.endIfIdle()
		return nil, err
	}
	k.children[c.pid] = c
	return c, nil
}

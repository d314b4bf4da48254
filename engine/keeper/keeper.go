package keeper

import (
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/launch"
)

// Keeper is the parent of every container of one mount.
type Keeper struct {
	log     *slog.Logger
	journal *journal
	dir     string // the state directory
	boot    string // which boot of the machine this is
	spawn   func(server *os.File, r Request) (pid int, err error)
	claims  *os.File // what containers hold on this machine, whoever serves them
	held    []int    // descriptors that another program gets, too, see [Keeper.Hold]
	execute func(program *os.File, state int, level string) error

	mu         sync.Mutex
	children   map[int]*child              // by pid; guarded by mu
	adopted    map[*child]bool             // whose parent was a keeper that died; guarded by mu
	launching  map[*child]bool             // on their way to their program; guarded by mu
	exits      map[exitKey]message         // journalled and not acknowledged; guarded by mu
	pins       map[[idSize]byte][]*os.File // namespaces held for a container; guarded by mu
	inputs     map[[idSize]byte][]*os.File // the writing end of a container's standard input; guarded by mu
	sockets    map[[idSize]byte][]*os.File // that a container listens on; guarded by mu
	waits      [][]*os.File                // of a server that an upgrade has ended, for the next one; guarded by mu
	server     *server                     // nil while none runs; guarded by mu
	restarting bool                        // a server died and its successor is on its way; guarded by mu
	ending     bool                        // nobody wants a server any more; guarded by mu
	last       Request                     // how the server was last asked for; guarded by mu
	emptying   int                         // terminals of those that have exited; guarded by mu
	dog        watchdog                    // guarded by mu
	awaited    bool                        // nobody has asked for a mount yet; guarded by mu
	upgrading  bool                        // another program is about to take over; guarded by mu
	busy       int                         // requests of servers on their way; guarded by mu
	answering  int                         // requests of the command line on their way; guarded by mu
	opened     sync.Cond                   // of mu: requests are let in again
	shut       bool                        // no request is let in; guarded by mu
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
	wanted   *server       // who has asked for it; nil for what is only waited for
	pid      int           // known once that is over, and pidfd, started and mark too
	pidfd    *os.File
	started  time.Time
	mark     string              // see [run]
	adopted  bool                // it has another parent, to whom the kernel tells its exit
	executed bool                // its program runs; guarded by Keeper.mu
	exited   *syscall.WaitStatus // it exited before that was known; guarded by Keeper.mu
	reaped   chan struct{}       // closed when it has been waited for
	terminal *terminal           // of one that has one
}

// New makes a keeper whose journal is in state, and has it adopt what a keeper that died has left running. claims is the open
// [ClaimsFile]. spawn starts a server that speaks through the given socket.
func New(log *slog.Logger, state string, claims *os.File, spawn func(*os.File, Request) (int, error)) (*Keeper, error) {
	return newKeeper(log, state, claims, spawn, func(_ *Keeper, runs []run) []run { return runs })
}

// newKeeper makes a keeper. restore takes what is known of the runs in the journal, and returns those that are to be adopted.
func newKeeper(log *slog.Logger, state string, claims *os.File, spawn func(*os.File, Request) (int, error), restore func(*Keeper, []run) []run) (*Keeper, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	j, exits, runs, err := openJournal(state)
	if err != nil {
		return nil, err
	}
	k := &Keeper{log: log, journal: j, dir: state, boot: boot, awaited: true, spawn: spawn, claims: claims,
		children: map[int]*child{}, adopted: map[*child]bool{}, launching: map[*child]bool{}, exits: map[exitKey]message{},
		pins: map[[idSize]byte][]*os.File{}, inputs: map[[idSize]byte][]*os.File{}, sockets: map[[idSize]byte][]*os.File{}, later: make(chan func(), 64),
		done: make(chan struct{}), wake: make(chan struct{}, 1)}
	for _, m := range exits {
		k.exits[exitKey{m.ID, m.Started}] = m
	}
	k.opened.L = &k.mu
	k.mu.Lock() // what has been adopted may end at once
	defer k.mu.Unlock()
	for _, r := range restore(k, runs) {
		if err := k.adopt(r); err != nil {
			return nil, fmt.Errorf("adopt a program that runs, pid %d: %w", r.pid, err)
		}
	}
	go k.reap()
	go k.takeTime()
	return k, nil
}

// Hold names what the process has open for as long as there is a keeper, and how it executes another program, which calls [Resume]
// with that descriptor and logs at that level. It is called before [Keeper.Serve].
func (k *Keeper) Hold(fds []int, execute func(program *os.File, state int, level string) error) {
	k.held, k.execute = fds, execute
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
	if s := k.server; s != nil && s.pid == pid && !s.reaped {
		s.reaped = true
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
		if k.children[pid] == c {
			delete(k.children, pid) // the number is free
		}
		return
	}
	k.record(c, message{Status: uint32(status)})
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

// record journals an exit, of which m has the status, and tells the server. k.mu is held.
func (k *Keeper) record(c *child, m message) {
	if c.adopted {
		delete(k.adopted, c)
	} else {
		delete(k.children, c.pid)
	}
	c.pidfd.Close()
	k.endInput(c.id)
	if k.server == nil && !k.restarting && !k.upgrading {
		k.unlisten(c.id)
	}
	m.Kind, m.ID, m.PID, m.Started, m.Finished = kindExit, c.id, int32(c.pid), c.started.UnixNano(), time.Now().UnixNano()
	k.note(m)
	k.report(c, m)
}

// note journals an exit. k.mu is held.
func (k *Keeper) note(m message) {
	k.exits[exitKey{m.ID, m.Started}] = m
	if err := k.journal.add(m); err != nil {
		k.log.Error("an exit is not in the journal; it is lost if the keeper dies", "id", m.id(), "err", err)
	}
}

// living are those that have executed their program. k.mu is held.
func (k *Keeper) living(yield func(*child) bool) {
	for c := range k.adopted {
		if !yield(c) {
			return
		}
	}
	for _, c := range k.children {
		if c.executed && !yield(c) {
			return
		}
	}
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
	if k.server == nil && !k.restarting && !k.awaited && !k.upgrading && len(k.children)+len(k.adopted)+len(k.launching)+k.emptying == 0 {
		if !k.over() {
			close(k.done)
		}
	}
}

// acknowledged forgets an exit that the server has recorded.
func (k *Keeper) acknowledged(m message) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.exits, exitKey{m.ID, m.Started})
	if err := k.journal.done(m, len(k.exits) == 0, k.runs); err != nil {
		k.log.Error("the journal does not say that an exit is recorded; it is told again after the keeper's death", "err", err)
	}
}

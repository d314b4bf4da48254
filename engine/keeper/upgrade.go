package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An upgrade replaces the program of the keeper under the containers. The keeper executes the new one, and so keeps its pid, its
// children, the locks of its directories and all that it holds; what it knows goes along as text (state.go):
//
//	command                        keeper                                 server
//	Request, program ─────────►    is the program sealed, does it read
//	                               what is here? Else: error
//	                               new starts wait, those on their way end
//	                               ── kindLinger ───────────────────────►  who is blocked in wait?
//	                               ◄──────────────────────── kindWaits ──  their connection stays open, for the next server
//	                               ── SIGKILL ──────────────────────────►  dies as it may at any moment
//	                               copying stands still, state is written
//	                               execve(2) of the program
//	                               ─ ─ the new program ─ ─
//	                               state is read, copying goes on
//	                               ── fork ─────────────────────────────►  the next one
//	        ◄───────── ok ─────    when that answers
//
// Until the execve nothing is given up but the server: what fails is answered, and a server of the old program follows. An exit in
// between waits as a zombie. The server is killed rather than asked to unmount, so that nobody finds the empty directory below
// the mount in between and takes it for the tree.

// Reads is what a program that shall take over can read: versions of the state of keepers, and of the state directory.
type Reads struct {
	Keepers []int    `json:"keepers"`
	Stores  []string `json:"stores"`
	Sockets bool     `json:"sockets,omitempty"` // on which containers listen; likewise
	Waits   bool     `json:"waits,omitempty"`   // of whom is blocked in wait; a program that does not would hold them for ever
}

// Times of an upgrade.
const (
	drainLimit   = 25 * time.Second // for what is on its way, which is bounded by launchLimit but for hooks
	lingerLimit  = time.Second      // for a server that does not say who waits
	stopLimit    = 5 * time.Second  // for a server, or a log, on a disk that does not answer
	upgradeLimit = drainLimit + lingerLimit + 2*stopLimit + mountLimit
	drainPause   = 2 * time.Millisecond
)

var errUpgrading = errors.New("an upgrade has ended the server")

// Upgrade has the keeper of a run directory execute another program, and returns when the mount answers again. program is a sealed
// memfd.
func Upgrade(run string, program *os.File, stores []string) error {
	return ask(Request{Run: run, Upgrade: &Reads{Keepers: stateReads, Stores: stores, Waits: true, Sockets: true}}, program, upgradeLimit+2*time.Second)
}

// count counts what is on its way.
func (k *Keeper) count(what *int, more int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	*what += more
}

// admit does what a server has asked for, but not on the eve of an upgrade: then it waits, and is forgotten with its server.
func (k *Keeper) admit(s *server, fds []int, do func()) {
	k.mu.Lock()
	waited := k.shut
	for k.shut {
		k.opened.Wait()
	}
	if waited && k.server != s {
		k.mu.Unlock()
		closeAll(fds)
		return
	}
	k.busy++
	k.mu.Unlock()
	defer k.count(&k.busy, -1)
	do()
}

// upgrade does all of that. It returns when it has failed; then everything is as before, but that another server may be on its way.
func (k *Keeper) upgrade(r Request, program *os.File, l *net.UnixListener, asker *net.UnixConn) error {
	if err := k.acceptable(r, program); err != nil {
		return err
	}
	s, err := k.shutOut()
	if err != nil {
		return err
	}
	if err = k.drain(); err == nil {
		err = k.endServer(s, r.Upgrade.Waits)
	}
	if err == nil {
		err = k.drain()
	}
	if err == nil {
		err = k.replace(program, l, asker, r.Upgrade.Sockets)
	}
	k.log.Error("the upgrade has failed; going on with the old program", "err", err)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.letIn()
	request := k.last
	request.Again = true
	if k.server == nil && !k.ending && !errors.Is(err, errEnding) {
		k.restarting = true
		go k.restart(request, func(error) {})
	} else {
		k.dropWaits()
	}
	k.endIfIdle()
	return err
}

// endServer kills the server, if there is one, and waits until all that it has sent has been heard. With waits it is asked before who is
// blocked in wait.
func (k *Keeper) endServer(s *server, waits bool) error {
	if s == nil {
		return nil
	}
	if waits {
		s.out.put(message{Kind: kindLinger})
		select {
		case <-s.lingers:
		case <-s.heard: // it has just died
		case <-time.After(lingerLimit):
			k.log.Warn("the server does not say who is blocked in wait; they get an error")
		}
	}
	k.mu.Lock()
	k.signal(s, syscall.SIGKILL)
	k.mu.Unlock()
	var status syscall.WaitStatus
	late := time.After(stopLimit)
	select {
	case status = <-s.gone:
	case <-late:
		return fmt.Errorf("the server does not end; it is in a system call, see its stack in /proc/%d: %w", s.pid, syscall.EBUSY)
	}
	select {
	case <-s.heard:
	case <-late: // there is much that waits for the upgrade to be over
		return fmt.Errorf("too much is on its way; try again: %w", syscall.EBUSY)
	}
	if status.Exited() && status.ExitStatus() == 0 {
		return errEnding
	}
	return nil
}

// holdWaits keeps what the server has handed over until there is another one. Meanwhile nobody answers on that connection, nor refuses.
func (k *Keeper) holdWaits(files []*os.File) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.waits = append(k.waits, files)
}

// dropWaits lets go of that when there will be no other server soon: then they get an error. k.mu is held.
func (k *Keeper) dropWaits() {
	for _, files := range k.waits {
		closeFiles(files)
	}
	k.waits = nil
}

// acceptable says why a program shall not take over.
func (k *Keeper) acceptable(r Request, program *os.File) error {
	const wanted = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if seals, err := unix.FcntlInt(program.Fd(), unix.F_GET_SEALS, 0); err != nil || seals&wanted != wanted {
		return fmt.Errorf("the program is not sealed, so somebody might change it: %w", syscall.EPERM)
	}
	if r.Upgrade == nil || !slices.Contains(r.Upgrade.Keepers, stateVersion) {
		return fmt.Errorf("that program does not read what this keeper hands over, version %d; use another version, or stop what runs and mount anew: %w",
			stateVersion, syscall.EOPNOTSUPP)
	}
	version, err := os.ReadFile(filepath.Join(k.dir, "version"))
	if err != nil || !slices.Contains(r.Upgrade.Stores, string(version)) {
		return fmt.Errorf("that program does not read the state directory %s, version %q; use another version: %w", k.dir, strings.TrimSpace(string(version)), syscall.EOPNOTSUPP)
	}
	return nil
}

// shutOut has new requests wait, and returns the server whose they are, or nil where one server after the other does not come up:
// another program may be the cure.
func (k *Keeper) shutOut() (*server, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch s := k.server; {
	case k.upgrading:
		return nil, fmt.Errorf("another upgrade is under way: %w", syscall.EBUSY)
	case k.ending || k.over() || s == nil && !k.restarting || s != nil && !s.ready:
		return nil, fmt.Errorf("the tree is being mounted or unmounted; try again when it answers: %w", syscall.EBUSY)
	default:
		k.upgrading, k.shut = true, true
		return s, nil
	}
}

// letIn takes that back. k.mu is held.
func (k *Keeper) letIn() {
	k.upgrading, k.shut = false, false
	k.opened.Broadcast()
}

// drain waits until nothing is on its way.
func (k *Keeper) drain() error {
	for end := time.Now().Add(drainLimit); !k.idle(); time.Sleep(drainPause) {
		if time.Now().After(end) {
			return fmt.Errorf("a start or a hook is on its way and does not end; try again: %w", syscall.EBUSY)
		}
	}
	return nil
}

func (k *Keeper) idle() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.quiet()
}

// quiet reports whether nothing is on its way: no launch, no terminal of one that has exited, and no request but this one, whose
// asker would take the end of the connection for that of the keeper. k.mu is held.
func (k *Keeper) quiet() bool {
	consoles := 0
	for c := range k.living {
		if c.terminal != nil && c.terminal.console != nil {
			consoles++
		}
	}
	return k.busy+len(k.launching)+k.emptying == 0 && k.answering == 1 && consoleReaders.are(consoles)
}

// replace executes the program. It returns when it has failed, and then everything goes on.
func (k *Keeper) replace(program *os.File, l *net.UnixListener, asker *net.UnixConn, sockets bool) error {
	k.mu.Lock() // the reaper waits for nobody from here on
	defer k.mu.Unlock()
	if k.ending || k.over() {
		return errEnding
	}
	if !k.quiet() {
		return fmt.Errorf("a program with a terminal has just ended; try again: %w", syscall.EBUSY)
	}
	release, err := k.stopCopying()
	defer release()
	if err != nil {
		return err
	}
	consoleReaders.mu.Lock()
	defer consoleReaders.mu.Unlock()
	s, fds, err := k.save(l, asker, sockets)
	if err != nil {
		return err
	}
	text, err := s.write()
	if err != nil {
		return err
	}
	defer text.Close()
	k.log.Info("executing another program", "containers", len(s.Children))
	fds = append(fds, int(text.Fd()))
	fds = append(fds, k.held...)
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			closeOnExec(fds)
			return os.NewSyscallError("fcntl", err)
		}
	}
	err = k.execute(program, int(text.Fd()), k.last.LogLevel)
	closeOnExec(fds)
	return fmt.Errorf("execute the program: %w", err)
}

func closeOnExec(fds []int) {
	for _, fd := range fds {
		syscall.CloseOnExec(fd)
	}
}

// stopCopying stops what is copied between terminals, logs and consoles, with nothing on its way. k.mu is held.
func (k *Keeper) stopCopying() (release func(), err error) {
	var locked []interface{ Unlock() }
	release = func() {
		for _, l := range locked {
			l.Unlock()
		}
	}
	end := time.Now().Add(stopLimit)
	for c := range k.living {
		if c.terminal == nil {
			continue
		}
		for _, l := range []interface {
			TryLock() bool
			Unlock()
		}{&c.terminal.copying, &c.terminal.typing} {
			for !l.TryLock() {
				if time.Now().After(end) {
					return release, fmt.Errorf("a log does not take what is written on a terminal: %w", syscall.EBUSY)
				}
				time.Sleep(drainPause)
			}
			locked = append(locked, l)
		}
	}
	return release, nil
}

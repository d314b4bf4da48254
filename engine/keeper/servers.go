package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// server is one incarnation of the server.
type server struct {
	pid     int
	link    *link
	out     *outbox
	started time.Time
	answer  chan error              // what becomes of the mount, once
	ready   bool                    // guarded by Keeper.mu
	reaped  bool                    // its pid may be another process's; guarded by Keeper.mu
	starts  sync.WaitGroup          // launches that it has asked for
	heard   chan struct{}           // closed when all is heard that it has said
	lingers chan struct{}           // it has handed over who waits
	gone    chan syscall.WaitStatus // its exit, when an upgrade waits for that
}

// settle says what became of the mount; only the first word counts.
func (s *server) settle(err error) {
	select {
	case s.answer <- err:
	default:
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

	Upgrade *Reads `json:"upgrade,omitempty"` // with a program that shall take over
}

// Mount starts a server unless one runs, and returns when the mount answers or never will.
func (k *Keeper) Mount(ctx context.Context, r Request) error {
	k.mu.Lock()
	if k.server != nil {
		dir := k.last.Dir
		k.mu.Unlock()
		return fmt.Errorf("%s is mounted already: %w", dir, syscall.EBUSY)
	}
	if k.upgrading {
		k.mu.Unlock()
		return fmt.Errorf("an upgrade is under way; try again: %w", syscall.EBUSY)
	}
	if k.restarting && k.ending || k.over() {
		k.mu.Unlock()
		return errEnding
	}
	k.last, k.ending, k.awaited = r, false, false
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
	s := &server{pid: pid, link: l, out: newOutbox(l), started: time.Now(), answer: make(chan error, 1),
		heard: make(chan struct{}), lingers: make(chan struct{}, 1), gone: make(chan syscall.WaitStatus, 1)}
	k.server = s
	for c := range k.living {
		k.announce(s, c)
	}
	for _, m := range k.exits {
		s.out.put(m)
	}
	for id, files := range k.pins {
		k.lend(s, kindPinned, id, files)
	}
	for id, files := range k.sockets {
		k.lend(s, kindListens, id, files)
	}
	for _, files := range k.waits {
		s.out.put(message{Kind: kindWaits}, files...)
	}
	k.waits = nil // they end with this server
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
	m := message{Kind: kindRunning, ID: c.id, PID: int32(c.pid), Started: c.started.UnixNano(), Finished: c.terminal.name()}
	if c.adopted {
		m.Status = isAdopted
	}
	s.out.put(m, pidfd)
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
	defer close(s.heard)
	for {
		var m message
		text, fds, err := s.link.receive(&m)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				k.log.Error("the server's socket failed", "err", err)
			}
			return // its exit is reported by the reaper
		}
		switch m.Kind {
		case kindStart:
			s.starts.Go(func() { k.admit(s, fds, func() { k.start(s, m, fds) }) })
			continue
		case kindNamespaces:
			make := func() { k.admit(s, nil, func() { k.namespaces(s, m, text) }) }
			if m.PID == 0 {
				go make()
				break
			}
			k.later <- make
		case kindPerform:
			go k.admit(s, fds, func() { k.runInside(s, m, fds) })
			continue
		case kindResize:
			k.resize(s, m)
		case kindRun:
			if m.Status == onLeash {
				go k.runOnLeash(s, m, fds)
				continue
			}
			k.count(&k.busy, 1) // at once: a start that is let in waits for it
			go func() {
				defer k.count(&k.busy, -1)
				k.run(s, m, fds)
			}()
			continue
		case kindAccept:
			s.starts.Go(func() { k.admit(s, fds, func() { k.accept(s, m, text, fds) }) })
			continue
		case kindListen:
			k.listen(s, m, filesOf(fds))
			continue
		case kindInput:
			k.holdInput(m.ID, filesOf(fds))
			continue
		case kindPin:
			k.pin(m, filesOf(fds))
			continue
		case kindUnpin:
			k.pin(m, nil)
		case kindWaits:
			k.holdWaits(filesOf(fds))
			continue
		case kindLingers:
			select {
			case s.lingers <- struct{}{}:
			default:
			}
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

package keeper

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/ctrfs/ctrfs/engine/launch"
)

// Running is a container that lives.
type Running struct {
	ID      string
	PID     int
	PidFD   *os.File // the receiver's to close; nil when there was none to be had
	Started time.Time
	Console int  // the number in /dev/pts of its terminal's console, and one more; 0 without
	Adopted bool // a keeper that died has started it: what that one held of it is gone
}

// Exit is a container's PID 1 that is gone. It is told again after a restart of the server until it is acknowledged.
type Exit struct {
	ID       string
	PID      int
	Status   syscall.WaitStatus
	Started  time.Time
	Finished time.Time

	Unknown bool // nobody knows the status, nor when it was: Finished is when that was noticed
	Off     bool // likewise, since the machine was switched off meanwhile
}

// Client is the server's end.
type Client struct {
	link *link

	mu      sync.Mutex
	seq     uint32              // guarded by mu
	waiting map[uint32]*request // guarded by mu; nil once the keeper is gone
	give    func() [][]*os.File // see [Client.HandOver]; guarded by mu
	gone    chan struct{}
}

// request is what waits for its answer. took gets the descriptors that come with a good one, from the goroutine that reads.
type request struct {
	took   func(m *message, fds []int)
	answer chan message
}

// Account is what lived and what had exited, unacknowledged, when the keeper started a server.
type Account struct {
	Running []Running
	Exits   []Exit
	Pinned  map[string][]*os.File // by container, as [Client.Pin] got them
	Claims  *os.File              // the file of claims, see [ClaimsFile]; the receiver's to close
	Sockets map[string][]*os.File // by container, as [Client.Listen] got them
	Waits   [][]*os.File          // what the server before has handed over, see [Client.HandOver]; likewise
}

// Dial takes over the socket that the keeper gave to the server. What happens after the account waits for [Client.Serve].
func Dial(socket *os.File) (*Client, Account, error) {
	a := Account{Pinned: map[string][]*os.File{}, Sockets: map[string][]*os.File{}}
	l, err := newLink(socket)
	if err != nil {
		return nil, a, err
	}
	c := &Client{link: l, waiting: map[uint32]*request{}, gone: make(chan struct{})}
	for {
		var m message
		_, fds, err := l.receive(&m)
		if err != nil {
			l.close()
			return nil, a, err
		}
		switch m.Kind {
		case kindRunning:
			a.Running = append(a.Running, runningOf(&m, fds))
		case kindExit:
			a.Exits = append(a.Exits, exitOf(&m))
		case kindPinned:
			a.Pinned[m.id()] = filesOf(fds)
		case kindListens:
			a.Sockets[m.id()] = filesOf(fds)
		case kindWaits:
			a.Waits = append(a.Waits, filesOf(fds))
		case kindListed:
			if a.Claims = fileOf(fds); a.Claims == nil {
				l.close()
				return nil, a, fmt.Errorf("the keeper has no file of claims: %w", syscall.EBADMSG)
			}
			return c, a, nil
		}
	}
}

// fileOf keeps the first descriptor of a packet.
func fileOf(fds []int) *os.File {
	if len(fds) == 0 {
		return nil
	}
	closeAll(fds[1:])
	return os.NewFile(uintptr(fds[0]), "pidfd")
}

func runningOf(m *message, fds []int) Running {
	return Running{ID: m.id(), PID: int(m.PID), PidFD: fileOf(fds), Started: time.Unix(0, m.Started), Console: int(m.Finished),
		Adopted: m.Status == isAdopted}
}

func exitOf(m *message) Exit {
	return Exit{ID: m.id(), PID: int(m.PID), Status: syscall.WaitStatus(m.Status), Started: time.Unix(0, m.Started), Finished: time.Unix(0, m.Finished),
		Unknown: m.Errno != 0, Off: m.Errno == uint32(syscall.ESHUTDOWN)}
}

// Serve hands out what the keeper says, until it is gone: it calls exited for each exit, in order.
func (c *Client) Serve(exited func(Exit)) {
	for {
		var m message
		_, fds, err := c.link.receive(&m)
		if err != nil {
			c.mu.Lock()
			for _, w := range c.waiting {
				close(w.answer)
			}
			c.waiting = nil
			c.mu.Unlock()
			close(c.gone)
			return
		}
		switch m.Kind {
		case kindExit:
			exited(exitOf(&m))
		case kindReady:
			if err := c.Ready(); err != nil {
				continue // the next packet does not come, either
			}
		case kindLinger:
			c.linger()
		case kindStarted, kindNamespacesMade, kindPerformed, kindRan, kindResized, kindListening:
			c.mu.Lock()
			w, ok := c.waiting[m.Seq]
			delete(c.waiting, m.Seq)
			c.mu.Unlock()
			if ok {
				if m.Errno == 0 {
					w.took(&m, fds)
					fds = nil
				}
				w.answer <- m
			}
		}
		closeAll(fds)
	}
}

// HandOver has give called when an upgrade is about to end the server, for what the next one gets in its account: files of those who
// are blocked in wait, which stay the server's.
func (c *Client) HandOver(give func() [][]*os.File) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.give = give
}

// linger tells the keeper who waits. What it does not learn costs those an error, as the death of a server does.
func (c *Client) linger() {
	c.mu.Lock()
	give := c.give
	c.mu.Unlock()
	if give != nil {
		for _, files := range give() {
			_ = c.link.send(&message{Kind: kindWaits}, "", files) // a connection may have ended just now
		}
	}
	_ = c.link.send(&message{Kind: kindLingers}, "", nil) // the keeper does not wait for long
}

// Gone is closed when the keeper is no more.
func (c *Client) Gone() <-chan struct{} { return c.gone }

// Start launches a program and returns once it has been executed. hooks is how long those may take that it waits for on the way,
// beyond the limit of any launch. begun is called then, before the exit of that
// container can be reported, from the goroutine that reports exits. The error is a [*launch.Failure] when a call of the
// program failed. The descriptors stay the caller's.
func (c *Client) Start(id string, program *launch.Program, hooks time.Duration, begun func(Running)) error {
	return c.start(message{ID: idBytes(id), Started: int64(hooks)}, program, nil, begun)
}

// start sends a start with what comes after the program's files.
func (c *Client) start(m message, program *launch.Program, more []*os.File, begun func(Running)) error {
	m.Kind = kindStart
	return c.startWith(m, "", program, more, begun)
}

// startWith is start for another kind of message, with a text.
func (c *Client) startWith(m message, text string, program *launch.Program, more []*os.File, begun func(Running)) error {
	image, err := program.Encode()
	if err != nil {
		return err
	}
	defer image.Close()
	took := func(m *message, fds []int) { begun(runningOf(m, fds)) }
	return c.ask(m, text, slices.Concat([]*os.File{image}, program.Files(), more), took)
}

// Namespaces has the keeper make n namespaces, see [launch.Namespaces]. Errors: the same, and E2BIG for mappings of more than
// some hundred lines. Patient ones are made when the machine has nothing better to do.
func (c *Client) Namespaces(n int, uidMap, gidMap string, patient bool) (made []*os.File, err error) {
	text := uidMap + "\x00" + gidMap
	if len(text) > maxText {
		return nil, fmt.Errorf("mappings of %d bytes: %w", len(text), syscall.E2BIG)
	}
	m := message{Kind: kindNamespaces, Status: uint32(n)}
	if patient {
		m.PID = 1
	}
	err = c.ask(m, text, nil, func(_ *message, fds []int) { made = filesOf(fds) })
	if err == nil && len(made) != n {
		closeFiles(made)
		return nil, fmt.Errorf("an answer with %d namespaces: %w", len(made), syscall.EBADMSG)
	}
	return made, err
}

// Perform has the keeper run a program that executes nothing. Errors: as [Client.Start].
func (c *Client) Perform(program *launch.Program) error {
	image, err := program.Encode()
	if err != nil {
		return err
	}
	defer image.Close()
	return c.ask(message{Kind: kindPerform}, "", append([]*os.File{image}, program.Files()...), func(_ *message, fds []int) { closeAll(fds) })
}

// Run has the keeper run a program to its end, and returns its wait status. One that takes longer than the limit is killed with
// its process group, and the error is ETIMEDOUT. Other errors: as [Client.Start].
func (c *Client) Run(program *launch.Program, limit time.Duration) (status syscall.WaitStatus, err error) {
	image, err := program.Encode()
	if err != nil {
		return 0, err
	}
	defer image.Close()
	took := func(m *message, fds []int) {
		status = syscall.WaitStatus(m.Status)
		closeAll(fds)
	}
	err = c.ask(message{Kind: kindRun, Started: int64(limit)}, "", append([]*os.File{image}, program.Files()...), took)
	return status, err
}

// RunOnLeash is Run for a program that may take as long as it likes: it is killed, with its process group, when the other end of
// the pipe leash is closed, as it is when this process dies. Nothing waits for it: an upgrade ends it.
func (c *Client) RunOnLeash(program *launch.Program, leash *os.File) (status syscall.WaitStatus, err error) {
	image, err := program.Encode()
	if err != nil {
		return 0, err
	}
	defer image.Close()
	took := func(m *message, fds []int) {
		status = syscall.WaitStatus(m.Status)
		closeAll(fds)
	}
	err = c.ask(message{Kind: kindRun, Status: onLeash}, "", slices.Concat([]*os.File{image}, program.Files(), []*os.File{leash}), took)
	return status, err
}

// Pin has the keeper hold namespaces of a container, in place of those that it held before: they last until [Client.Unpin],
// or until there is neither a server nor a container. The files stay the caller's.
func (c *Client) Pin(id string, files []*os.File) error {
	return c.link.send(&message{Kind: kindPin, ID: idBytes(id)}, "", files)
}

// Unpin lets go of them.
func (c *Client) Unpin(id string) error {
	return c.link.send(&message{Kind: kindUnpin, ID: idBytes(id)}, "", nil)
}

func filesOf(fds []int) []*os.File {
	files := make([]*os.File, len(fds))
	for i, fd := range fds {
		files[i] = os.NewFile(uintptr(fd), "namespace")
	}
	return files
}

// ask sends a request and waits for its answer.
func (c *Client) ask(m message, text string, files []*os.File, took func(*message, []int)) error {
	w := &request{took, make(chan message, 1)}
	c.mu.Lock()
	if c.waiting == nil {
		c.mu.Unlock()
		return errKeeperGone
	}
	c.seq++
	m.Seq = c.seq
	c.waiting[m.Seq] = w
	c.mu.Unlock()
	if err := c.link.send(&m, text, files); err != nil {
		c.mu.Lock()
		delete(c.waiting, m.Seq)
		c.mu.Unlock()
		return err
	}
	answer, ok := <-w.answer
	switch {
	case !ok:
		return errKeeperGone
	case answer.Errno != 0 && answer.Step >= 0:
		return &launch.Failure{Step: int(answer.Step), Errno: syscall.Errno(answer.Errno), Status: syscall.WaitStatus(answer.Status)}
	case answer.Errno != 0:
		return syscall.Errno(answer.Errno)
	}
	return nil
}

// errKeeperGone is the answer to whatever is asked of a keeper that has died.
var errKeeperGone = fmt.Errorf("the keeper has died: %w", syscall.EIO)

// Acknowledge tells the keeper that an exit has been recorded for good.
func (c *Client) Acknowledge(e Exit) error {
	m := message{Kind: kindAck, ID: idBytes(e.ID), Started: e.Started.UnixNano()}
	return c.link.send(&m, "", nil)
}

// Ready tells the keeper that the mount answers.
func (c *Client) Ready() error { return c.link.send(&message{Kind: kindReady}, "", nil) }

// Failed tells the keeper why it never will.
func (c *Client) Failed(why error) error {
	return c.link.send(&message{Kind: kindFailed}, why.Error(), nil)
}

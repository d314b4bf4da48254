package keeper

import (
	"errors"
	"fmt"
	"os"
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
}

// Exit is a container's PID 1 that is gone. It is told again after a restart of the server until it is acknowledged.
type Exit struct {
	ID       string
	PID      int
	Status   syscall.WaitStatus
	Started  time.Time
	Finished time.Time
}

// Client is the server's end.
type Client struct {
	link *link

	mu      sync.Mutex
	seq     uint32              // guarded by mu
	waiting map[uint32]*request // guarded by mu; nil once the keeper is gone
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
	Claims  *os.File // the file of claims, see [ClaimsFile]; the receiver's to close
}

// Dial takes over the socket that the keeper gave to the server. What happens after the account waits for [Client.Serve].
func Dial(socket *os.File) (*Client, Account, error) {
	var a Account
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
	return Running{ID: m.id(), PID: int(m.PID), PidFD: fileOf(fds), Started: time.Unix(0, m.Started)}
}

func exitOf(m *message) Exit {
	return Exit{ID: m.id(), PID: int(m.PID), Status: syscall.WaitStatus(m.Status), Started: time.Unix(0, m.Started), Finished: time.Unix(0, m.Finished)}
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
		case kindStarted, kindNamespacesMade:
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

// Gone is closed when the keeper is no more.
func (c *Client) Gone() <-chan struct{} { return c.gone }

// Start launches a program and returns once it has been executed. begun is called then, before the exit of that
// container can be reported, from the goroutine that reports exits. The error is a [*launch.Failure] when a call of the
// program failed. The descriptors stay the caller's.
func (c *Client) Start(id string, program *launch.Program, begun func(Running)) error {
	image, err := program.Encode()
	if err != nil {
		return err
	}
	defer image.Close()
	took := func(m *message, fds []int) { begun(runningOf(m, fds)) }
	return c.ask(message{Kind: kindStart, ID: idBytes(id)}, "", append([]*os.File{image}, program.Files()...), took)
}

// Namespaces has the keeper make a user namespace with these mappings, in the format of /proc/PID/uid_map, and a network
// namespace that it owns. Errors: as [launch.Namespaces], and E2BIG for mappings of more than some hundred lines.
func (c *Client) Namespaces(uidMap, gidMap string) (user, net *os.File, err error) {
	text := uidMap + "\x00" + gidMap
	if len(text) > maxText {
		return nil, nil, fmt.Errorf("mappings of %d bytes: %w", len(text), syscall.E2BIG)
	}
	err = c.ask(message{Kind: kindNamespaces}, text, nil, func(_ *message, fds []int) {
		if len(fds) == 2 {
			user, net = os.NewFile(uintptr(fds[0]), "user"), os.NewFile(uintptr(fds[1]), "net")
			return
		}
		closeAll(fds)
	})
	if err == nil && user == nil {
		err = fmt.Errorf("an answer without namespaces: %w", syscall.EBADMSG)
	}
	return user, net, err
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
		return &launch.Failure{Step: int(answer.Step), Errno: syscall.Errno(answer.Errno)}
	case answer.Errno != 0:
		return syscall.Errno(answer.Errno)
	}
	return nil
}

// errKeeperGone is the answer to whatever is asked of a keeper that has died.
var errKeeperGone = errors.New("the keeper has died")

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

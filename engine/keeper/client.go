package keeper

import (
	"errors"
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
	seq     uint32                // guarded by mu
	waiting map[uint32]*launching // guarded by mu; nil once the keeper is gone
	gone    chan struct{}
}

// launching is a Start that waits for its answer.
type launching struct {
	begun  func(Running)
	answer chan message
}

// Account is what lived and what had exited, unacknowledged, when the keeper started a server.
type Account struct {
	Running []Running
	Exits   []Exit
}

// Dial takes over the socket that the keeper gave to the server. What happens after the account waits for [Client.Serve].
func Dial(socket *os.File) (*Client, Account, error) {
	var a Account
	l, err := newLink(socket)
	if err != nil {
		return nil, a, err
	}
	c := &Client{link: l, waiting: map[uint32]*launching{}, gone: make(chan struct{})}
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
		case kindStarted:
			c.mu.Lock()
			w, ok := c.waiting[m.Seq]
			delete(c.waiting, m.Seq)
			c.mu.Unlock()
			if ok {
				if m.Errno == 0 {
					w.begun(runningOf(&m, fds))
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
	w := &launching{begun, make(chan message, 1)}
	c.mu.Lock()
	if c.waiting == nil {
		c.mu.Unlock()
		return errKeeperGone
	}
	c.seq++
	seq := c.seq
	c.waiting[seq] = w
	c.mu.Unlock()
	m := message{Kind: kindStart, Seq: seq, ID: idBytes(id)}
	if err := c.link.send(&m, "", append([]*os.File{image}, program.Files()...)); err != nil {
		c.mu.Lock()
		delete(c.waiting, seq)
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

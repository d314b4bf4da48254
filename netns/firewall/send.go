package firewall

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// patience bounds how long the kernel may take to answer. It answers before sendmsg(2) returns, so it never does.
const patience = 10 * time.Second

// buffers is for the largest transaction, thousands of published ports: sendmsg(2) takes all of it or nothing.
const buffers = 8 << 20

// wire is the socket on which transactions are sent. It stays, because what the kernel tells of a transaction names its socket.
type wire struct {
	ns   int // of another namespace than the process's, or 0
	conn *netlink.Conn
	port atomic.Uint32 // the socket's number, by which the watch knows our own changes, without the table's lock
}

var errBuilt = errors.New("built, not sent")

// build has the library write the messages of a transaction. It does not send them: it would ask for an acknowledgement of each and an
// echo of each rule, and wait for all of those without a limit.
func build(fill func(c *nftables.Conn) error) ([]netlink.Message, error) {
	var messages []netlink.Message
	c, err := nftables.New(nftables.WithTestDial(func(req []netlink.Message) ([]netlink.Message, error) {
		messages = append(messages, req...)
		return nil, errBuilt
	}))
	if err != nil {
		return nil, err
	}
	if err := fill(c); err != nil {
		return nil, err
	}
	if err := c.Flush(); err != nil && !errors.Is(err, errBuilt) {
		return nil, err
	}
	return messages, nil
}

// send sends one transaction, with its first and last message, and returns whether the kernel has taken it. It has taken all of it or
// nothing.
func (w *wire) send(messages []netlink.Message) error {
	if len(messages) < 3 {
		return nil
	}
	last := len(messages) - 2
	for i := range messages {
		h := &messages[i].Header
		h.Sequence, h.PID = 0, 0 // the socket's own
		if i > 0 && i <= last {
			h.Flags &^= unix.NLM_F_ECHO | netlink.Acknowledge
		}
	}
	messages[last].Header.Flags |= netlink.Acknowledge
	if err := w.dial(); err != nil {
		return err
	}
	if err := w.exchange(messages, last); err != nil {
		w.close() // it may hold more answers
		return err
	}
	return nil
}

// exchange waits for one answer: errors come in the order of the messages, and the last one alone is acknowledged.
func (w *wire) exchange(messages []netlink.Message, last int) error {
	if err := w.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	sent, err := w.conn.SendMessages(messages)
	if err != nil {
		return err
	}
	answer, err := w.conn.Receive()
	if err != nil {
		return err
	}
	if len(answer) != 1 || answer[0].Header.Sequence != sent[last].Header.Sequence {
		return fmt.Errorf("an answer to something else: %w", unix.EPROTO)
	}
	return nil
}

func (w *wire) dial() error {
	if w.conn != nil {
		return nil
	}
	conn, err := dial(w.ns)
	if err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return err
	}
	err = raw.Control(func(fd uintptr) {
		if a, e := unix.Getsockname(int(fd)); e == nil {
			w.port.Store(a.(*unix.SockaddrNetlink).Pid)
		}
	})
	if err != nil {
		conn.Close()
		return err
	}
	w.conn = conn
	return nil
}

func (w *wire) close() {
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}

// dial opens a socket with room.
func dial(ns int) (*netlink.Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: ns})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(conn.SetReadBuffer(buffers), conn.SetWriteBuffer(buffers)); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

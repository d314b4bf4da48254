package keeper

import (
	"fmt"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/launch"
)

// Sockets that wait for the first connection have to outlive every server: what has connected and is not accepted is in them. The
// server opens them, watches them, and lets go of them; the keeper holds them, and accepts what is to have a program of its own, in
// one step with its launch. So a connection is either still in the socket or in the hands of the program, and no server takes one along.

// Listen has the keeper hold sockets of a container in place of those that it held before, or none. They are held, or closed, when it
// returns. The files stay the caller's.
func (c *Client) Listen(id string, sockets []*os.File) error {
	return c.ask(message{Kind: kindListen, ID: idBytes(id)}, "", sockets, func(_ *message, fds []int) { closeAll(fds) })
}

// Connection says which connection a program gets.
type Connection struct {
	Of     string // the container that the keeper holds sockets of
	Socket int    // which of them
	Place  *os.File
}

// StartOn is [Client.Start] for a program that gets the next connection on a socket, wherever it uses the file Place. Errors also:
// EAGAIN when there is none. When the launch fails, the connection is closed.
func (c *Client) StartOn(id string, program *launch.Program, conn Connection, begun func(Running)) error {
	at := slices.Index(program.Files(), conn.Place)
	if at < 0 {
		return fmt.Errorf("a program that does not use its connection: %w", syscall.EINVAL)
	}
	m := message{Kind: kindAccept, ID: idBytes(id), PID: int32(conn.Socket), Status: uint32(at)}
	return c.startWith(m, conn.Of, program, nil, begun)
}

// listen holds sockets for a container, or none.
func (k *Keeper) listen(s *server, m message, files []*os.File) {
	k.mu.Lock()
	k.unlisten(m.ID)
	if len(files) > 0 {
		k.sockets[m.ID] = files
	}
	k.mu.Unlock()
	s.out.put(message{Kind: kindListening, Seq: m.Seq})
}

// unlisten closes what is held for a container. k.mu is held.
func (k *Keeper) unlisten(id [idSize]byte) {
	closeFiles(k.sockets[id])
	delete(k.sockets, id)
}

// deaf closes the sockets of all that do not run, once there is no server that would launch them. k.mu is held.
func (k *Keeper) deaf() {
	lives := map[[idSize]byte]bool{}
	for c := range k.living {
		lives[c.id] = true
	}
	for id := range k.sockets {
		if !lives[id] {
			k.unlisten(id)
		}
	}
}

// accept launches a program with the next connection on a socket. The first descriptor is the program, the others are what it uses.
func (k *Keeper) accept(s *server, m message, of string, fds []int) {
	at := 1 + int(m.Status)
	conn, err := -1, error(syscall.EINVAL)
	if at < len(fds) {
		conn, err = k.connection(idBytes(of), int(m.PID))
	}
	if err != nil {
		closeAll(fds)
		reply := message{Kind: kindStarted, Seq: m.Seq, ID: m.ID}
		reply.fail(err)
		s.out.put(reply)
		return
	}
	unix.Close(fds[at])
	fds[at] = conn // the start closes it with the others
	m.Status, m.PID = 0, 0
	k.start(s, m, fds)
}

// connection accepts one.
func (k *Keeper) connection(of [idSize]byte, socket int) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	sockets := k.sockets[of]
	if socket < 0 || socket >= len(sockets) {
		return -1, syscall.EBADF
	}
	fd := int(sockets[socket].Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		return -1, err
	}
	conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
	return conn, err
}

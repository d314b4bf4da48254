package keeper

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// controlName is the socket in the run directory by which the command line reaches the keeper. The directory is root's
// alone, and so is the socket: it grants nothing that root does not have.
const controlName = "control"

// mountLimit is how long a mount may take to answer.
const mountLimit = 30 * time.Second

var noDeadline = context.Background()

// Listen makes the control socket in the run directory, in place of one that a dead keeper left.
func Listen(run string) (*net.UnixListener, error) {
	name := filepath.Join(run, controlName)
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the keeper that inherits it removes it
	if err := os.Chmod(name, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Serve answers the command line until the listener is closed.
func (k *Keeper) Serve(l *net.UnixListener) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		go k.answer(conn, l)
	}
}

func (k *Keeper) answer(conn *net.UnixConn, l *net.UnixListener) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(upgradeLimit))
	r, program, err := receiveRequest(conn)
	if err != nil {
		return
	}
	k.count(&k.answering, 1)
	if program != nil || r.Upgrade != nil {
		err = k.upgrade(r, program, l, conn)
		program.Close()
	} else {
		err = k.perform(r)
	}
	reply(conn, err)
	k.count(&k.answering, -1)
}

// reply is the one line that a request is answered with.
func reply(conn io.Writer, err error) {
	text := "ok"
	if err != nil {
		text = "error: " + err.Error()
	}
	fmt.Fprintln(conn, strings.ReplaceAll(text, "\n", " "))
}

// receiveRequest reads a request, and the descriptor that may come with its first byte.
func receiveRequest(conn *net.UnixConn) (r Request, program *os.File, err error) {
	text, oob := make([]byte, maxText), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(text, oob)
	if err != nil {
		return r, nil, err
	}
	fds, err := passed(oob[:oobn])
	if err != nil {
		return r, nil, err
	}
	program = fileOf(fds)
	if err = json.NewDecoder(io.MultiReader(bytes.NewReader(text[:n]), conn)).Decode(&r); err != nil && program != nil {
		program.Close()
	}
	return r, program, err
}

// perform does what one request asks for.
func (k *Keeper) perform(r Request) error {
	if r.End {
		k.End()
		return nil
	}
	ctx, cancel := context.WithTimeout(noDeadline, mountLimit)
	defer cancel()
	if err := k.Mount(ctx, r); err != nil {
		return err
	}
	k.attend(r.Service)
	return nil
}

// Ask sends a request to the keeper of a run directory and returns when the mount answers, or why it does not.
func Ask(r Request) error { return ask(r, nil, mountLimit+2*time.Second) }

// ask sends a request, and a descriptor with it.
func ask(r Request, program *os.File, limit time.Duration) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(r.Run, controlName), Net: "unix"})
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(limit))
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var rights []byte
	if program != nil {
		rights = unix.UnixRights(int(program.Fd()))
	}
	switch _, _, err := conn.WriteMsgUnix(append(text, '\n'), rights, nil); {
	case errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET): // it ended between the two calls
		return ErrNoAnswer
	case err != nil:
		return err
	}
	var b [maxText]byte
	n := 0
	for n < len(b) {
		m, err := conn.Read(b[n:])
		n += m
		if err != nil {
			break
		}
	}
	reply := strings.TrimSpace(string(b[:n]))
	switch {
	case reply == "ok":
		return nil
	case strings.HasPrefix(reply, "error: "):
		return errors.New(strings.TrimPrefix(reply, "error: "))
	}
	return ErrNoAnswer
}

// ErrNoAnswer is the error of a keeper that ended before it could answer.
var ErrNoAnswer = errors.New("the keeper ended without an answer")

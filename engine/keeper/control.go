package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
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
func (k *Keeper) Serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go k.answer(conn)
	}
}

func (k *Keeper) answer(conn net.Conn) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(mountLimit + time.Second))
	var r Request
	if err := json.NewDecoder(conn).Decode(&r); err != nil {
		return
	}
	reply := "ok"
	if err := k.perform(r); err != nil {
		reply = "error: " + err.Error()
	}
	fmt.Fprintln(conn, strings.ReplaceAll(reply, "\n", " "))
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
func Ask(r Request) error {
	conn, err := net.Dial("unix", filepath.Join(r.Run, controlName))
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(mountLimit + 2*time.Second))
	switch err := json.NewEncoder(conn).Encode(r); {
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

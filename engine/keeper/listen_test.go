package keeper

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/engine/plan"
)

// TestListenAndAccept: the keeper holds a socket, and a program gets the connections on it, one each.
func TestListenAndAccept(t *testing.T) {
	client, _ := dialNew(t, t.TempDir())
	exits := make(chan Exit, 4)
	go client.Serve(func(x Exit) { exits <- x })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socket, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Listen("web", []*os.File{socket}); err != nil {
		t.Fatal(err)
	}
	l.Close() // the keeper has it
	start := func() error {
		return client.StartOn("web/=1", onConnection(t, socket), Connection{Of: "web", Socket: 0, Place: socket}, func(r Running) { r.PidFD.Close() })
	}
	if err := start(); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("without a connection: %v", err)
	}
	for range 2 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := start(); err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if text, err := io.ReadAll(c); err != nil || string(text) != "hello\n" {
			t.Errorf("%q (%v)", text, err)
		}
		if x := <-exits; x.ID != "web/=1" || x.Status != 0 {
			t.Errorf("%+v", x)
		}
	}
	if err := client.StartOn("web/=1", onConnection(t, socket), Connection{Of: "other", Place: socket}, nil); !errors.Is(err, syscall.EBADF) {
		t.Errorf("of a container that does not listen: %v", err)
	}
	socket.Close()
	if err := client.Listen("web", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("afterwards: %v", err)
	}
}

// onConnection says hello on what the keeper puts in the socket's place.
func onConnection(t *testing.T, socket *os.File) *launch.Program {
	t.Helper()
	log, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	program, err := launch.Assemble([]plan.Step{plan.Clone{}, plan.Stdio{Connection: true}, plan.CloseRest{},
		plan.Exec{Candidates: []string{"/bin/sh"}, Args: []string{"sh", "-c", "echo hello"}}}, launch.Files{Null: log, Log: log, Connection: socket})
	if err != nil {
		t.Fatal(err)
	}
	return program
}

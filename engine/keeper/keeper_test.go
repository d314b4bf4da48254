package keeper

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/engine/plan"
)

// pair returns both ends of a link.
func pair(t *testing.T) (a, b *link) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := [2]*link{}
	for i, fd := range fds {
		if ends[i], err = newLink(os.NewFile(uintptr(fd), "end")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ends[i].close() })
	}
	return ends[0], ends[1]
}

func TestLinkCarriesMessagesAndDescriptors(t *testing.T) {
	a, b := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	sent := message{Kind: kindStart, Seq: 7, ID: idBytes("web"), PID: 42, Status: 9, Errno: 2, Step: -1, Started: 1, Finished: 2}
	if err := a.send(&sent, "a text", []*os.File{w}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var got message
	text, fds, err := b.receive(&got)
	if err != nil || got != sent || text != "a text" || len(fds) != 1 || got.id() != "web" {
		t.Fatalf("got %+v %q %v (%v)", got, text, fds, err)
	}
	if flags, err := unix.FcntlInt(uintptr(fds[0]), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("the descriptor would be inherited (%v)", err)
	}
	unix.Write(fds[0], []byte("x"))
	closeAll(fds)
	if b, err := io.ReadAll(r); err != nil || string(b) != "x" {
		t.Errorf("through the descriptor came %q (%v)", b, err)
	}
	a.close()
	if _, _, err := b.receive(&got); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

// TestOutboxKeepsOrder: a receiver that does not read makes nobody wait, and gets everything in order when it does.
func TestOutboxKeepsOrder(t *testing.T) {
	a, b := pair(t)
	o := newOutbox(a)
	const n = 5000
	for i := range n {
		o.put(message{Kind: kindExit, Seq: uint32(i)})
	}
	for i := range n {
		var m message
		if _, _, err := b.receive(&m); err != nil || m.Seq != uint32(i) {
			t.Fatalf("message %d is number %d (%v)", i, m.Seq, err)
		}
	}
	o.close()
	o.put(message{Kind: kindExit}) // after the end: dropped
}

func TestJournalKeepsWholeLines(t *testing.T) {
	dir := t.TempDir()
	j, exits, _, err := openJournal(dir)
	if err != nil || len(exits) != 0 {
		t.Fatal(exits, err)
	}
	want := message{Kind: kindExit, ID: idBytes("abc"), PID: 5, Status: 0x0700, Started: 10, Finished: 20}
	if err := j.add(want); err != nil {
		t.Fatal(err)
	}
	// A torn line, as a power cut may leave.
	if err := os.WriteFile(filepath.Join(dir, "torn"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := j.file.WriteString("exit 61 9 1"); err != nil {
		t.Fatal(err)
	}
	j.file.Close()
	j, exits, _, err = openJournal(dir)
	if err != nil || len(exits) != 1 || exits[0] != want {
		t.Errorf("got %+v (%v), want %+v", exits, err, want)
	}
	other := message{Kind: kindExit, ID: idBytes("abc"), PID: 6, Started: 11, Finished: 20}
	if err := errors.Join(j.add(other), j.done(want, false, noRuns)); err != nil {
		t.Fatal(err)
	}
	j.file.Close()
	if j, exits, _, err = openJournal(dir); err != nil || len(exits) != 1 || exits[0] != other {
		t.Errorf("after one of two is done: %+v (%v), want %+v", exits, err, other)
	}
	// A long journal with nothing left in it is emptied.
	j.size = journalMax + 1
	if err := j.done(other, true, noRuns); err != nil {
		t.Fatal(err)
	}
	j.file.Close()
	if info, err := os.Stat(filepath.Join(dir, journalName)); err != nil || info.Size() != 0 {
		t.Errorf("%d bytes stay in a journal that says nothing (%v)", info.Size(), err)
	}
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte("exit 616263 5 1792 10 20\n"))
	f.Add([]byte("exit 61 9 1\nexit x\n"))
	f.Add([]byte("live 61 9 1 inode:5 b\nexit 61 9 lost 1 2\nlive 61 10 2 ticks:7 b\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		exits, runs, err := parseJournal(bytes.NewReader(data))
		if err != nil {
			return
		}
		seen := map[[idSize]byte]bool{}
		for _, r := range runs {
			if seen[r.id] {
				t.Errorf("%q gives two runs of one id", data)
			}
			seen[r.id] = true
		}
		for _, m := range exits {
			if m.Kind != kindExit || m.Finished < m.Started {
				t.Errorf("%q gives %+v", data, m)
			}
		}
	})
}

// TestKeeperOutlivesServers plays the server's part over a real socket pair: a container launched for one server is
// announced to the next, its exit is journalled and told until acknowledged.
func TestKeeperOutlivesServers(t *testing.T) {
	state := t.TempDir()
	sockets, servers := make(chan *os.File, 4), make(chan int, 4)
	var over atomic.Bool
	spawn := func(socket *os.File, _ Request) (int, error) {
		if over.Load() {
			return 0, syscall.ECANCELED
		}
		own, err := dup(socket)
		if err != nil {
			return 0, err
		}
		pid, err := syscall.ForkExec("/bin/sleep", []string{"sleep", "60"}, &syscall.ProcAttr{})
		sockets <- own
		servers <- pid
		return pid, err
	}
	claims, err := os.Create(filepath.Join(t.TempDir(), "claims"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := New(slog.New(slog.DiscardHandler), state, claims, spawn)
	if err != nil {
		t.Fatal(err)
	}
	answer := make(chan error, 1)
	go func() { answer <- k.Mount(context.Background(), Request{Dir: "/x"}) }()
	first, account, err := Dial(<-sockets)
	if err != nil || len(account.Running)+len(account.Exits) != 0 {
		t.Fatal(account, err)
	}
	go first.Serve(func(Exit) {})
	if err := first.Ready(); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil {
		t.Fatal(err)
	}

	program, err := launch.Assemble([]plan.Step{plan.Clone{}, plan.Exec{Candidates: []string{"/bin/sh"}, Args: []string{"sh", "-c", "sleep 0.5; exit 7"}}}, launch.Files{})
	if err != nil {
		t.Fatal(err)
	}
	var begun Running
	if err := first.Start("web", program, 0, func(r Running) { begun = r }); err != nil {
		t.Fatal(err)
	}
	defer begun.PidFD.Close()
	first.link.close() // as the server's descriptors are
	syscall.Kill(<-servers, syscall.SIGKILL)

	second, account, err := Dial(<-sockets)
	if err != nil || len(account.Running) != 1 || account.Running[0].PID != begun.PID || account.Running[0].ID != "web" {
		t.Fatalf("the second server hears of %+v (%v), want %+v", account, err, begun)
	}
	account.Running[0].PidFD.Close()
	exits := make(chan Exit, 1)
	go second.Serve(func(x Exit) { exits <- x })
	second.Ready()
	x := <-exits
	if x.ID != "web" || x.Status.ExitStatus() != 7 || !x.Started.Equal(begun.Started) {
		t.Errorf("got %+v", x)
	}
	text, err := os.ReadFile(filepath.Join(state, journalName))
	if err != nil || !strings.HasPrefix(string(text), "live 776562 ") || !strings.Contains(string(text), "\nexit 776562 ") {
		t.Errorf("the journal says %q (%v)", text, err)
	}
	if err := second.Acknowledge(x); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if text, _ = os.ReadFile(filepath.Join(state, journalName)); strings.Contains(string(text), "\ndone 776562 ") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the journal does not say that an acknowledged exit is done: %q", text)
		}
	}
	over.Store(true)
	k.End() // the stand-in for a server dies of the signal
	select {
	case <-second.Gone():
	case <-time.After(5 * time.Second):
		t.Error("the second server was not asked to end")
		syscall.Kill(<-servers, syscall.SIGKILL)
	}
}

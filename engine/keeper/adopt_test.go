package keeper

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func noRuns() []run { return nil }

// TestJournalKeepsRuns: what runs is in a journal that was emptied, too, and what has ended is not.
func TestJournalKeepsRuns(t *testing.T) {
	dir := t.TempDir()
	j, _, _, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	one := run{idBytes("one"), 5, 10, "inode:1", "b"}
	two := run{idBytes("two"), 6, 11, "ticks:2", "b"}
	again := run{idBytes("two"), 7, 12, "ticks:3", "b"} // of two no exit is told
	x := message{Kind: kindExit, ID: idBytes("one"), PID: 5, Errno: uint32(syscall.ECHILD), Started: 10, Finished: 20}
	check := func(wantExits []message, wantRuns []run) {
		t.Helper()
		j.file.Close()
		var exits []message
		var runs []run
		if j, exits, runs, err = openJournal(dir); err != nil || !slices.Equal(exits, wantExits) || !slices.Equal(runs, wantRuns) {
			t.Errorf("got %+v and %+v (%v), want %+v and %+v", exits, runs, err, wantExits, wantRuns)
		}
	}
	if err := errors.Join(j.begin(one), j.begin(two), j.begin(again)); err != nil {
		t.Fatal(err)
	}
	check(nil, []run{one, again})
	if err := j.add(x); err != nil {
		t.Fatal(err)
	}
	check([]message{x}, []run{again})
	j.size = journalMax + 1
	if err := j.done(x, true, func() []run { return []run{again} }); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, journalName)); err != nil || info.Size() != int64(len(again.line())) {
		t.Errorf("the journal has %d bytes (%v), not one line of %d", info.Size(), err, len(again.line()))
	}
	check(nil, []run{again})
}

// orphan starts a program whose parent has exited, and returns its pid.
func orphan(t *testing.T, script string) int {
	t.Helper()
	dir := t.TempDir()
	if err := exec.Command("setsid", "sh", "-c", `sh -c "$0" > /dev/null 2>&1 & echo $! > "$1/new"; mv "$1/new" "$1/pid"`, script, dir).Run(); err != nil && !errors.Is(err, syscall.ECHILD) { // the keeper of another test reaps, too
		t.Fatal(err)
	}
	text, err := os.ReadFile(dir + "/pid")
	if err != nil {
		t.Fatal(err)
	}
	pid := 0
	for _, d := range strings.TrimSpace(string(text)) {
		pid = pid*10 + int(d-'0')
	}
	return pid
}

// runOfPid is what the journal would say of a process.
func runOfPid(t *testing.T, id string, pid int) run {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	mark, err := markOf(fd, pid)
	if err != nil {
		t.Fatal(err)
	}
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	return run{idBytes(id), pid, time.Now().UnixNano(), mark, boot}
}

// TestAdopt: a keeper finds in the journal what lives without a parent, tells it from others that have the pid, and learns how it
// ended, as far as the kernel tells.
func TestAdopt(t *testing.T) {
	dir := t.TempDir()
	j, _, _, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	exits7, killed := orphan(t, "read x < "+fifo(t, dir+"/go")+"; exit 7"), orphan(t, "sleep 1000")
	seven, killedRun := runOfPid(t, "seven", exits7), runOfPid(t, "killed", killed)
	other := seven // another one that has got the pid
	other.id, other.mark = idBytes("other"), "inode:1"
	off := killedRun
	off.id, off.boot = idBytes("off"), "another-boot"
	for _, r := range []run{seven, killedRun, other, off} {
		if err := j.begin(r); err != nil {
			t.Fatal(err)
		}
	}
	j.file.Close()

	client, account := dialNew(t, dir)
	var names []string
	for _, r := range account.Running {
		names = append(names, r.ID)
		if !r.Adopted || r.PidFD == nil {
			t.Errorf("it is told as %+v", r)
		}
		r.PidFD.Close()
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"killed", "seven"}) {
		t.Errorf("adopted are %v", names)
	}
	for _, x := range account.Exits {
		if !x.Unknown || x.Off != (x.ID == "off") || x.ID != "other" && x.ID != "off" {
			t.Errorf("an exit is told as %+v", x)
		}
	}
	if len(account.Exits) != 2 {
		t.Errorf("%d exits, wanted 2", len(account.Exits))
	}
	got := make(chan Exit, 2)
	go client.Serve(func(x Exit) { got <- x })
	if err := os.WriteFile(dir+"/go", []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(killed, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		select {
		case x := <-got:
			if x.Unknown {
				if keepsExits(t) {
					t.Errorf("%s: nobody knows how it has ended", x.ID)
				}
			} else if x.ID == "seven" && x.Status.ExitStatus() != 7 || x.ID == "killed" && x.Status.Signal() != syscall.SIGKILL {
				t.Errorf("%+v", x)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("an exit is not told")
		}
	}
}

// keepsExits reports whether this kernel keeps the status of an exit for whoever has the process open, as Linux does from 6.15 on.
func keepsExits(t *testing.T) bool {
	t.Helper()
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	cmd.Wait()
	_, ok := exitInfo(fd)
	return ok
}

func fifo(t *testing.T, name string) string {
	t.Helper()
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestAdoptIsNotIdle: a keeper whose adopted program ends before anybody has asked for a mount goes on.
func TestAdoptIsNotIdle(t *testing.T) {
	dir := t.TempDir()
	j, _, _, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := runOfPid(t, "c", orphan(t, "read x < "+fifo(t, dir+"/go")))
	if err := j.begin(r); err != nil {
		t.Fatal(err)
	}
	claims, err := os.Create(filepath.Join(t.TempDir(), "claims"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := New(slog.New(slog.DiscardHandler), dir, claims, func(*os.File, Request) (int, error) { return 0, syscall.ECANCELED })
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/go", []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		k.mu.Lock()
		n := len(k.exits)
		k.mu.Unlock()
		if n == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the exit is not noticed")
		}
	}
	if k.over() {
		t.Error("it has ended before it was asked for a mount")
	}
	k.End()
	if !k.over() {
		t.Error("it does not end when it is asked to")
	}
}

// dialNew makes a keeper and plays its server.
func dialNew(t *testing.T, state string) (*Client, Account) {
	t.Helper()
	claims, err := os.Create(filepath.Join(t.TempDir(), "claims"))
	if err != nil {
		t.Fatal(err)
	}
	sockets := make(chan *os.File, 1)
	spawn := func(socket *os.File, _ Request) (int, error) {
		own, err := dup(socket)
		if err != nil {
			return 0, err
		}
		pid, err := syscall.ForkExec("/bin/sleep", []string{"sleep", "60"}, &syscall.ProcAttr{})
		t.Cleanup(func() { syscall.Kill(pid, syscall.SIGKILL) })
		sockets <- own
		return pid, err
	}
	k, err := New(slog.New(slog.NewTextHandler(io.Discard, nil)), state, claims, spawn)
	if err != nil {
		t.Fatal(err)
	}
	go k.Mount(context.Background(), Request{Dir: "/x"})
	client, account, err := Dial(<-sockets)
	if err != nil {
		t.Fatal(err)
	}
	return client, account
}

// TestEnded: of a process that has ended the status is known before and, where the kernel keeps it, after somebody has waited for it.
func TestEnded(t *testing.T) {
	for _, c := range []struct {
		script string
		want   syscall.WaitStatus
	}{{"exit 7", 7 << 8}, {"kill -9 $$", 9}, {"exit 200", 200 << 8}} {
		cmd := exec.Command("sh", "-c", c.script)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10000); err != nil {
			t.Fatal(err)
		}
		if status, ok := ended(fd, cmd.Process.Pid); !ok || status != c.want {
			t.Errorf("%s: a zombie has status %#x, %v", c.script, status, ok)
		}
		_, before := exitInfo(fd)
		cmd.Wait()
		status, ok := ended(fd, cmd.Process.Pid)
		if before || ok && status != c.want {
			t.Errorf("%s: status %#x, %v; before it was waited for, %v", c.script, status, ok, before)
		}
		if !ok {
			t.Log("this kernel forgets the status of whom somebody has waited for")
		}
	}
}

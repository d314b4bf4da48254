package test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// killServer kills the server and waits until another one answers. It returns how long the mount was away.
func (m *Tree) killServer() time.Duration {
	m.T.Helper()
	_, server, err := m.Processes()
	if err != nil {
		m.T.Fatal(err)
	}
	begin := time.Now()
	if err := syscall.Kill(server, syscall.SIGKILL); err != nil {
		m.T.Fatal(err)
	}
	Eventually(m.T, "another server answers", 5*time.Second, func() bool {
		_, now, err := m.Processes()
		return err == nil && now != server && m.Mounted()
	})
	away := time.Since(begin)
	if n := m.mounts(); n != 1 {
		m.T.Errorf("%d mounts on one directory: the dead one has to go", n)
	}
	return away
}

// Ten containers run while the server is killed. They notice nothing, the mount is back within a second, and everything
// that it then says of them is right, also of those that ended while there was no server.
func TestKillServer(t *testing.T) {
	m := MountFor(t)
	const count = 10
	var pids []string
	for i := range count {
		name := fmt.Sprintf("c%d", i)
		cmd := fmt.Sprintf(`sh -c 'trap "exit %d" TERM; echo up; i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done'`, i)
		m.Start(name, cmd, "memory.max", "64M")
		pids = append(pids, m.Read(name+"/pid"))
	}
	m.Start("short", "sh -c 'sleep 0.3; exit 42'")
	for i := range count {
		Eventually(t, "it is up", 5*time.Second, func() bool { return strings.HasPrefix(m.Read(fmt.Sprintf("c%d/log", i)), "up\n") })
	}

	away := m.killServer()
	t.Logf("the mount was away for %v", away)
	if away > time.Second {
		t.Errorf("the mount was away for %v", away)
	}
	for i, pid := range pids {
		name := fmt.Sprintf("c%d", i)
		if got := m.Read(name + "/state"); got != "running" {
			t.Errorf("%s: state %s", name, got)
		}
		if got := m.Read(name + "/pid"); got != pid {
			t.Errorf("%s: pid %s, was %s", name, got, pid)
		}
		if got := m.Read(name + "/memory.max"); got != "67108864" {
			t.Errorf("%s: memory.max %s", name, got)
		}
		before := m.Read(name + "/log")
		Eventually(t, name+" goes on writing its log", 5*time.Second, func() bool { return len(m.Read(name+"/log")) > len(before) })
	}
	if got := m.Read("short/wait"); got != "42" {
		t.Errorf("short: exit %s, wanted 42", got)
	}
	for i := range count {
		name := fmt.Sprintf("c%d", i)
		m.Write(name+"/stop", "1")
		if got := m.Read(name + "/wait"); got != fmt.Sprint(i) {
			t.Errorf("%s: exit %s, wanted %d", name, got, i)
		}
		if err := os.Remove(m.Dir + "/" + name); err != nil {
			t.Error(err)
		}
	}
	if got := m.Read("ps"); strings.Count(got, "\n") != 0 {
		t.Errorf("ps after everything: %s", got)
	}
}

// The server is killed between any two operations of a container's life. Whatever had succeeded before still holds.
func TestKillServerBetween(t *testing.T) {
	m := MountFor(t)
	root := m.Root()
	steps := []struct {
		do   string // shell text in the mount
		then string // what must still print the same once the server was killed and is back
		want string
	}{
		{"mkdir c", "cat c/state; ls -d c", "created\nc\n"},
		{"echo " + root + " > c/rootfs", "cat c/rootfs", root + "\n"},
		{"echo A=1 > c/env; echo B=2 >> c/env", "cat c/env", "A=1\nB=2\n"},
		{`echo 'sh -c "echo $A; sleep 1000"' > c/cmd`, "cat c/cmd c/error", "sh -c 'echo $A; sleep 1000'\n"},
		{"echo 64M > c/memory.max; chmod 600 c/log", "cat c/memory.max; stat -c %a c/log", "67108864\n600\n"},
		{"echo 12x > c/memory.max || true", "cat c/memory.max", "67108864\n"},
		{"echo 1 > c/start", "cat c/state", "running\n"},
		{"mv c d", "ls -d c d 2>/dev/null; cat d/state d/log", "d\nrunning\n1\n"},
		{"mkdir d/child", "ls -d d/*/ | grep -v root", "d/child/\nd/exec/\nd/ns/\n"},
		{"echo 1 > d/cgroup.freeze", "cat d/state", "paused\n"},
		{"echo 0 > d/cgroup.freeze", "cat d/state", "running\n"},
		{"echo KILL > d/kill; cat d/wait > /dev/null", "cat d/state d/exit d/log", "exited\n137\n1\n"},
		{"rmdir d/child", "ls -d d/*/ | grep -v root", "d/exec/\nd/ns/\n"},
		{"echo 1 > d/start", "cat d/state", "running\n"},
		{"echo 1 > d/cgroup.kill; cat d/wait > /dev/null", "cat d/exit", "137\n"},
		{"rmdir d", "ls -d d 2>/dev/null || echo none", "none\n"},
	}
	for _, s := range steps {
		m.Sh("%s", s.do)
		m.killServer()
		if got := m.Sh("%s\ntrue", s.then); got != s.want {
			t.Errorf("after %q and a killed server:\n$ %s\n%swanted\n%s", s.do, s.then, got, s.want)
		}
	}
}

// A reader that waits while the server dies gets an error or the truth, and does not hang.
func TestKillServerWhileWaiting(t *testing.T) {
	m := MountFor(t)
	m.Start("c", "sleep 1000")
	answer := make(chan string, 1)
	go func() {
		text, err := os.ReadFile(m.Dir + "/c/wait")
		answer <- fmt.Sprint(string(text), err)
	}()
	time.Sleep(100 * time.Millisecond)
	m.killServer()
	m.Write("c/kill", "KILL")
	select {
	case got := <-answer:
		t.Log("the reader got", got)
	case <-time.After(5 * time.Second):
		t.Error("the reader of wait hangs")
	}
	if got := m.Read("c/wait"); got != "137" {
		t.Errorf("exit %s", got)
	}
}

// fill writes to a file until the last byte of the disk is taken.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
}

// A state directory on a full disk: each operation either works or is refused with ENOSPC, changing nothing. When there is
// space again, everything goes on.
func TestFullDisk(t *testing.T) {
	RequireRoot(t)
	i, err := NewInstance()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", i.State, "tmpfs", 0, "size=32m,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Umount("--stop"); err != nil {
			t.Error(err)
		}
		if err := syscall.Unmount(i.State, 0); err != nil {
			t.Error(err)
		}
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := i.Mount(); err != nil {
		t.Fatal(err)
	}
	m := &Tree{i, t}
	m.Start("before", "sleep 1000", "memory.max", "64M")
	Eventually(t, "what the root called host needs is on the disk, and takes no more of it", 10*time.Second, func() bool {
		made, err := filepath.Glob(i.State + "/host/*-*")
		return err == nil && len(made) == 1
	})
	filler := i.State + "/filler"
	fill(t, filler)

	if err := os.Mkdir(m.Dir+"/new", 0o755); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("mkdir on a full disk: %v", err)
	}
	if _, err := os.Stat(m.Dir + "/new"); err == nil {
		t.Error("a container that could not be kept is there")
	}
	wanted := "67108864"
	err = os.WriteFile(m.Dir+"/before/memory.max", []byte("32M\n"), 0)
	switch {
	case err == nil:
		wanted = "33554432"
	case !errors.Is(err, syscall.ENOSPC):
		t.Errorf("a setting on a full disk: %v", err)
	}
	m.killServer()
	if got := m.Read("before/memory.max"); got != wanted {
		t.Errorf("memory.max is %s after its write returned %v and a restart", got, err)
	}
	// Stopping needs no space: that is how one gets out of this.
	m.Write("before/kill", "KILL")
	if got := m.Read("before/wait"); got != "137" {
		t.Errorf("exit %s", got)
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	m.Write("before/memory.max", "32M")
	m.Start("new", "true")
	if got := m.Read("new/wait"); got != "0" {
		t.Errorf("exit %s", got)
	}
	m.killServer()
	if got := []string{m.Read("before/memory.max"), m.Read("before/exit"), m.Read("new/exit")}; !slices.Equal(got, []string{"33554432", "137", "0"}) {
		t.Errorf("after a restart: %q", got)
	}
}

// TestKillServerAtInput: the standard input of a program does not end with a server. The writer that has it open goes on, and
// so do those who come later; its end is the one that is asked for.
func TestKillServerAtInput(t *testing.T) {
	m := MountFor(t)
	m.Sh("mkdir c; echo 1 > c/stdin.open; echo cat > c/cmd; echo 1 > c/start")
	fifo, err := os.Readlink(filepath.Join(m.Dir, "c/stdin"))
	if err != nil {
		t.Fatal(err)
	}
	open, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(open, "before")
	m.killServer()
	fmt.Fprintln(open, "through")
	open.Close()
	m.Sh("echo after > c/stdin")
	Eventually(t, "all is read", 5*time.Second, func() bool { return m.Read("c/log") == "before\nthrough\nafter" })
	if got := m.Read("c/state"); got != "running" {
		t.Errorf("state %s: the input has ended by itself", got)
	}
	m.Write("c/stdin.open", "0")
	if got := m.Read("c/wait"); got != "0" {
		t.Errorf("exit %s", got)
	}
	if _, err := os.Lstat(fifo); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the FIFO is still there: %v", err)
	}
}

// TestKillServerAtConsole: whoever is at the console of a container does not notice that the server dies, and the next server
// knows the way there.
func TestKillServerAtConsole(t *testing.T) {
	m := MountFor(t)
	m.Sh("mkdir c; echo 1 > c/tty; echo sh > c/cmd; echo 1 > c/start")
	device, err := os.Readlink(filepath.Join(m.Dir, "c/console"))
	if err != nil {
		t.Fatal(err)
	}
	console, err := os.OpenFile(device, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	var seen lockedBuffer
	go io.Copy(&seen, console)
	shows := func(text string) {
		t.Helper()
		Eventually(t, "the console shows "+text, 5*time.Second, func() bool { return strings.Contains(seen.String(), text) })
	}
	fmt.Fprint(console, "echo $((1+1))before\r")
	shows("2before")
	m.killServer()
	fmt.Fprint(console, "echo $((2+2))after\r")
	shows("4after")
	if again, err := os.Readlink(filepath.Join(m.Dir, "c/console")); err != nil || again != device {
		t.Errorf("the console is %q now, %v", again, err)
	}
	fmt.Fprint(console, "exit 6\r")
	if got := m.Read("c/wait"); got != "6" {
		t.Errorf("exit %s", got)
	}
}

// lockedBuffer is a buffer for two goroutines.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

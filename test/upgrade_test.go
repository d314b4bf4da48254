package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// upgrade runs `ctrfs upgrade`, and checks that another program runs then in the same keeper, with another server.
func (m *Tree) upgrade() {
	m.T.Helper()
	keeper, server, err := m.Processes()
	if err != nil {
		m.T.Fatal(err)
	}
	before := exeOf(m.T, keeper)
	begin := time.Now()
	if err := m.Command("upgrade", m.Dir); err != nil {
		m.T.Fatal(err)
	}
	m.T.Logf("upgraded in %v", time.Since(begin))
	now, next, err := m.Processes()
	if err != nil || now != keeper || next == server {
		m.T.Fatalf("keeper and server are %d and %d after an upgrade (%v), before %d and %d", now, next, err, keeper, server)
	}
	if exeOf(m.T, keeper) == before {
		m.T.Error("the keeper runs the same program as before")
	}
	if n := m.mounts(); n != 1 {
		m.T.Errorf("%d mounts on one directory", n)
	}
}

// exeOf returns the inode of a process's program.
func exeOf(t testing.TB, pid int) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/exe", pid), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// fds counts the descriptors of a process.
func fds(t testing.TB, pid int) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// watchLocks tries to take the locks of the instance until it is told to stop, and fails the test when it gets one.
func (m *Tree) watchLocks() (stop func()) {
	over := make(chan struct{})
	var work sync.WaitGroup
	for _, name := range []string{m.Run + "/lock", m.State + "/lock"} {
		work.Go(func() {
			f, err := os.Open(name)
			if err != nil {
				m.T.Error(err)
				return
			}
			defer f.Close()
			for {
				if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
					m.T.Errorf("%s was free for a moment", name)
					return
				}
				select {
				case <-over:
					return
				case <-time.After(time.Millisecond):
				}
			}
		})
	}
	return func() {
		close(over)
		work.Wait()
	}
}

// consoleOf opens the console of a container. What it shows is collected.
func (m *Tree) consoleOf(name string) (console *os.File, seen *lockedBuffer) {
	m.T.Helper()
	device, err := os.Readlink(filepath.Join(m.Dir, name, "console"))
	if err == nil {
		console, err = os.OpenFile(device, os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		m.T.Fatal(err)
	}
	m.T.Cleanup(func() { console.Close() })
	seen = &lockedBuffer{}
	go io.Copy(seen, console)
	return console, seen
}

// Keeper and server are replaced under all kinds of containers, twice. None of them notices, nor who is at a console, feeds a standard
// input, or waits by `ctrfs exec`; and everything that is said of them afterwards is right.
func TestUpgrade(t *testing.T) {
	m := MountFor(t)
	for i := range 5 {
		m.Start(fmt.Sprintf("c%d", i), fmt.Sprintf(`sh -c 'trap "exit %d" TERM; while :; do sleep 0.05; done'`, i), "memory.max", "64M")
	}
	m.Start("c0/nested", "sleep 1000", "stop.timeout", "0")
	m.makeExec("c1/exec/x", `sh -c 'trap "exit 5" TERM; echo up; while :; do sleep 0.05; done'`)
	m.Write("c1/exec/x/start", "1")
	m.Start("fed", "cat", "stdin.open", "1")
	m.Start("typed", "sh", "tty", "90x20")
	m.Start("again", "sleep 1000", "restart", "on-failure:1", "stop.timeout", "0")
	m.Sh("mkdir pod; mkdir guest; printf 'user pod\nnet pod\n' > guest/namespaces; echo 'sleep 1000' > guest/cmd; echo 0 > guest/stop.timeout; echo 1 > guest/start || cat guest/error")
	pod := m.Sh("readlink /proc/$(cat guest/pid)/ns/net")
	Eventually(t, "all are up", 5*time.Second, func() bool { return m.Read("c1/exec/x/log") == "up" })
	console, seen := m.consoleOf("typed")
	fifo, err := os.Readlink(filepath.Join(m.Dir, "fed/stdin"))
	if err != nil {
		t.Fatal(err)
	}
	feed, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	waits := exec.Command(m.Binary, "exec", "--dir", m.Dir, "c2", "--", "sh", "-c", "trap 'exit 6' TERM; echo waits; while :; do sleep 0.05; done")
	var said lockedBuffer
	waits.Stdout = &said
	if err := waits.Start(); err != nil {
		t.Fatal(err)
	}
	defer waits.Process.Kill()
	blocked := make(chan string, 1)
	go func() {
		text, err := os.ReadFile(m.Dir + "/c3/wait")
		blocked <- fmt.Sprint(string(text), err)
	}()
	Eventually(t, "the exec runs", 5*time.Second, func() bool { return said.String() == "waits\n" })
	pids := m.Sh("cat */pid c0/nested/pid c1/exec/x/pid */state c0/memory.max")
	defer m.watchLocks()()
	keeper, _, _ := m.Processes()
	open := 0
	for round := range 2 {
		fmt.Fprintf(console, "echo $((%d+1))before\r", round)
		fmt.Fprintln(feed, "before", round)
		m.upgrade()
		if now := m.Sh("cat */pid c0/nested/pid c1/exec/x/pid */state c0/memory.max"); now != pids {
			t.Errorf("now it is\n%sbefore it was\n%s", now, pids)
		}
		fmt.Fprintf(console, "echo $((%d+1))after; stty size\r", round)
		fmt.Fprintln(feed, "after", round)
		Eventually(t, "the console goes on", 5*time.Second, func() bool {
			return strings.Contains(seen.String(), fmt.Sprintf("%dafter\r\n20 90", round+1)) && strings.Contains(seen.String(), fmt.Sprintf("%dbefore\r", round+1))
		})
		if n := fds(t, keeper); round > 0 && n > open+2 {
			t.Errorf("%d descriptors after another upgrade, before %d", n, open)
		}
		open = fds(t, keeper)
	}
	m.afterUpgrade(console, feed, waits, pod)
	select {
	case got := <-blocked:
		if got != "3\n<nil>" && resends(t) {
			t.Error("who was blocked in wait got", got)
		}
	case <-time.After(Patiently(5 * time.Second)):
		t.Error("who was blocked in wait hangs")
	}
}

// afterUpgrade ends what TestUpgrade has begun.
func (m *Tree) afterUpgrade(console, feed *os.File, waits *exec.Cmd, pod string) {
	t := m.T
	if got := m.Read("fed/log"); got != "before 0\nafter 0\nbefore 1\nafter 1" {
		Eventually(t, "all that was fed is read", 5*time.Second, func() bool { return m.Read("fed/log") == "before 0\nafter 0\nbefore 1\nafter 1" })
	}
	feed.Close()
	time.Sleep(200 * time.Millisecond) // it would end, if it could
	if got := m.Read("fed/state"); got != "running" {
		t.Errorf("fed: %s, although its input has not ended", got)
	}
	m.Write("fed/stdin.open", "0")
	m.Write("typed/tty", "70x10")
	fmt.Fprint(console, "stty size; exit 9\r")
	if err := waits.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := waits.Wait(); waits.ProcessState.ExitCode() != 6 {
		t.Errorf("the exec ends with %v", err)
	}
	m.Sh("echo TERM > c1/exec/x/kill; echo KILL > c0/nested/kill; cat c0/nested/wait; for i in 0 1 2 3 4; do echo 1 > c$i/stop; done; echo KILL > again/kill")
	for name, want := range map[string]string{"fed": "0", "typed": "9", "c1/exec/x": "5", "c0": "0", "c1": "1", "c2": "2", "c3": "3", "c4": "4"} {
		if got := m.Read(name + "/wait"); got != want && (name != "c1/exec/x" || got != "137") {
			t.Errorf("%s: exit %s, wanted %s", name, got, want)
		}
	}
	if log := m.Read("typed/log"); !strings.Contains(log, "10 70") {
		t.Errorf("the size of a terminal was not changed: %q", log)
	}
	Eventually(t, "again runs again", 5*time.Second, func() bool { return m.status("again", "restarts") == "1" && m.Read("again/state") == "running" })
	m.Sh("mkdir late; printf 'user pod\nnet pod\n' > late/namespaces; echo 'readlink /proc/self/ns/net' > late/cmd; echo 1 > late/start; cat late/wait")
	if got := m.Sh("cat late/log"); got != pod {
		t.Errorf("whoever enters the pod is in %q, before it was %q", got, pod)
	}
}

// What is written on a terminal and what is typed there comes through whole, however often the programs are replaced meanwhile.
func TestUpgradeLosesNothing(t *testing.T) {
	m := MountFor(t)
	const lines = 500000
	m.Start("c", fmt.Sprintf(`sh -c 'stty raw -echo; echo ready; seq %d; head -c 60000 | md5sum; exit 3'`, lines), "tty", "1")
	console, seen := m.consoleOf("c")
	Eventually(t, "it is ready", 5*time.Second, func() bool { return strings.Contains(m.Read("c/log"), "ready\n1\n") })
	typed := bytes.Repeat([]byte("0123456789abcde\n"), 60000/16)
	go console.Write(typed)
	end := time.Now().Add(Patiently(time.Minute))
	for writing := true; writing; {
		m.upgrade()
		info, err := os.Stat(m.Dir + "/c/log")
		if err != nil {
			t.Fatal(err)
		}
		writing = info.Size() < lines*6
		if writing && time.Now().After(end) {
			t.Fatalf("the log stays at %d bytes, the container is %s", info.Size(), m.Read("c/state"))
		}
	}
	Eventually(t, "all that was typed is read", 20*time.Second, func() bool { return m.Read("c/state") == "exited" })
	if got := m.Read("c/exit"); got != "3" {
		t.Errorf("exit %s", got)
	}
	var want strings.Builder
	want.WriteString("ready\n")
	for i := range lines {
		fmt.Fprintln(&want, i+1)
	}
	sum, err := exec.Command("sh", "-c", "yes 0123456789abcde | head -n 3750 | md5sum").Output()
	if err != nil {
		t.Fatal(err)
	}
	want.Write(sum)
	if got := m.Read("c/log") + "\n"; got != want.String() {
		t.Errorf("the log differs: %d bytes instead of %d, it ends with %q", len(got), want.Len(), got[max(0, len(got)-80):])
	}
	Eventually(t, "the console has shown it all", 5*time.Second, func() bool { return strings.HasSuffix(seen.String(), string(sum)) })
	if !strings.HasSuffix(want.String(), seen.String()) {
		t.Error("the console has not shown what is in the log")
	}
}

// Programs are started while keeper and server are replaced again and again. Each start succeeds or fails; each exit is right, and told.
func TestUpgradeUnderLoad(t *testing.T) {
	m := MountFor(t)
	var over atomic.Bool
	var ran, failed atomic.Int64
	var work sync.WaitGroup
	for i := range 4 {
		name := fmt.Sprintf("c%d", i)
		m.Sh("mkdir %s; echo %s > %s/rootfs; echo 'sh -c \"exit %d\"' > %s/cmd", name, m.Root(), name, i+1, name)
		work.Go(func() {
			for !over.Load() {
				if err := os.WriteFile(filepath.Join(m.Dir, name, "start"), []byte("1"), 0); err != nil {
					failed.Add(1)
					time.Sleep(time.Millisecond)
					continue
				}
				ran.Add(1)
				for {
					text, err := os.ReadFile(filepath.Join(m.Dir, name, "wait"))
					if err == nil {
						if string(text) != strconv.Itoa(i+1)+"\n" {
							t.Errorf("%s: exit %q", name, text)
						}
						break
					}
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	for range 10 {
		before := ran.Load()
		Eventually(t, "programs are started", 5*time.Second, func() bool { return ran.Load() > before+5 })
		m.upgrade()
	}
	over.Store(true)
	work.Wait()
	t.Logf("%d ran, %d starts failed", ran.Load(), failed.Load())
	if got := m.Sh("cat */state; cat ps | wc -l"); got != "exited\nexited\nexited\nexited\n1\n" {
		t.Errorf("left is\n%s", got)
	}
}

// ask sends the keeper a request for an upgrade as the command does, and returns the answer.
func (m *Tree) ask(request map[string]any, program *os.File) string {
	m.T.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: m.Run + "/control", Net: "unix"})
	if err != nil {
		m.T.Fatal(err)
	}
	defer conn.Close()
	text, err := json.Marshal(map[string]any{"upgrade": request})
	if err != nil {
		m.T.Fatal(err)
	}
	if _, _, err := conn.WriteMsgUnix(append(text, '\n'), unix.UnixRights(int(program.Fd())), nil); err != nil {
		m.T.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		m.T.Fatal(err)
	}
	return string(answer)
}

// memfd makes a program that is none, sealed or not.
func memfd(t *testing.T, sealed bool) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("none", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "none")
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString("no program"); err != nil {
		t.Fatal(err)
	}
	if sealed {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// What cannot take over is refused before anything happens; what turns out not to be a program leaves everything as it was, but for another
// server.
func TestUpgradeRefused(t *testing.T) {
	m := MountFor(t)
	m.Start("c", `sh -c 'trap "exit 7" TERM; while :; do sleep 0.05; done'`)
	m.Start("typed", "sh", "tty", "1", "stop.timeout", "0")
	store, err := os.ReadFile(m.State + "/version")
	if err != nil {
		t.Fatal(err)
	}
	keeper, server, err := m.Processes()
	if err != nil {
		t.Fatal(err)
	}
	good, stores := []int{1}, []string{string(store)}
	for _, c := range []struct {
		request map[string]any
		sealed  bool
		want    string
	}{
		{map[string]any{"keepers": good, "stores": stores}, false, "sealed"},
		{map[string]any{"keepers": []int{}, "stores": stores}, true, "does not read what this keeper hands over"},
		{map[string]any{"keepers": good, "stores": []string{"0\n"}}, true, "does not read the state directory"},
	} {
		if got := m.ask(c.request, memfd(t, c.sealed)); !strings.HasPrefix(got, "error: ") || !strings.Contains(got, c.want) {
			t.Errorf("the answer is %q, wanted %q", got, c.want)
		}
	}
	if k, s, err := m.Processes(); err != nil || k != keeper || s != server {
		t.Errorf("keeper and server are %d and %d (%v), before %d and %d", k, s, err, keeper, server)
	}
	console, seen := m.consoleOf("typed")
	if got := m.ask(map[string]any{"keepers": good, "stores": stores}, memfd(t, true)); !strings.HasPrefix(got, "error: execute the program") {
		t.Errorf("the answer is %q", got)
	}
	Eventually(t, "another server answers", 5*time.Second, func() bool {
		k, s, err := m.Processes()
		return err == nil && k == keeper && s != server && m.Mounted()
	})
	fmt.Fprint(console, "echo $((1+1))after\r")
	Eventually(t, "the console goes on", 5*time.Second, func() bool { return strings.Contains(seen.String(), "2after") })
	m.Write("c/stop", "1")
	if got := m.Read("c/wait"); got != "7" {
		t.Errorf("exit %s", got)
	}
	m.upgrade() // and a good one is still taken
	if err := m.Command("upgrade", m.Tmp); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("an upgrade of what is no mount: %v", err)
	}
}

// A program whose servers die before they answer has taken over from a good one. Containers go on, consoles too, and the good one comes back.
func TestUpgradeAndBack(t *testing.T) {
	m := MountFor(t)
	m.Start("c", `sh -c 'trap "exit 7" TERM; while :; do sleep 0.05; done'`)
	m.Start("again", "sleep 1000", "restart", "on-failure:1", "stop.timeout", "0")
	m.Start("typed", "sh", "tty", "1")
	console, seen := m.consoleOf("typed")
	pids := m.Sh("cat */pid */state")
	bad, err := CrashBinary()
	if err != nil {
		t.Fatal(err)
	}
	good := m.Binary
	stop := m.dieAt("note the root of the groups")
	defer stop()
	m.Binary = bad
	err = m.Command("upgrade", m.Dir)
	m.Binary = good
	if err == nil || !strings.Contains(err.Error(), "the server ended before the mount answered") {
		t.Fatalf("the upgrade ends with %v", err)
	}
	fmt.Fprint(console, "echo $((1+1))without\r")
	Eventually(t, "the console goes on", 5*time.Second, func() bool { return strings.Contains(seen.String(), "2without") })
	if err := exec.Command("sh", "-c", "kill -KILL "+strings.Fields(pids)[0]).Run(); err != nil { // of again: nobody is there to see it
		t.Error(err)
	}
	var refused error
	Eventually(t, "the good program is back", 10*time.Second, func() bool {
		refused = m.Command("upgrade", m.Dir) // busy while one of the bad ones has not died yet
		return refused == nil || !strings.Contains(refused.Error(), "try again")
	})
	if refused != nil {
		t.Fatal(refused)
	}
	stop()
	Eventually(t, "it has seen the exit", 5*time.Second, func() bool { return m.status("again", "restarts") == "1" && m.Read("again/state") == "running" })
	if now := m.Sh("cat */pid */state"); strings.SplitN(now, "\n", 2)[1] != strings.SplitN(pids, "\n", 2)[1] {
		t.Errorf("now it is\n%sbefore it was\n%s", now, pids)
	}
	fmt.Fprint(console, "echo $((2+1))after; exit 9\r")
	m.Write("c/stop", "1")
	if got := m.Read("c/wait") + m.Read("typed/wait"); got != "79" {
		t.Errorf("the exits are %s", got)
	}
	m.upgrade()
}

// dieAt has each server of the program with crash points die at that one, until it is told to stop.
func (m *Tree) dieAt(point string) (stop func()) {
	m.T.Helper()
	dir := m.Run + "/crashpoints"
	over := make(chan struct{})
	set := func() {
		if _, err := os.Stat(dir + "/at"); err == nil {
			return
		}
		if err := errors.Join(os.WriteFile(dir+"/passed", nil, 0o644), os.WriteFile(dir+"/new", []byte("1 "+point), 0o644), os.Rename(dir+"/new", dir+"/at")); err != nil {
			m.T.Error(err)
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		m.T.Fatal(err)
	}
	set()
	var work sync.WaitGroup
	work.Go(func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(time.Millisecond):
				set()
			}
		}
	})
	return sync.OnceFunc(func() {
		close(over)
		work.Wait()
	})
}

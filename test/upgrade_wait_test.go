package test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// resends reports whether the kernel sends requests of a dead server to the next one, which answers who waits: Linux 6.9.
func resends(t testing.TB) bool {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major > 6 || major == 6 && minor >= 9
}

// waiter is a program that reads a wait file.
type waiter struct {
	*exec.Cmd
	out   lockedBuffer
	ended chan error
}

// waiter starts a program, by default cat(1), on a file of the tree.
func (m *Tree) waiter(file string, argv ...string) *waiter {
	m.T.Helper()
	if len(argv) == 0 {
		argv = []string{"cat"}
	}
	in, err := os.Open(filepath.Join(m.Dir, file))
	if err != nil {
		m.T.Fatal(err)
	}
	defer in.Close()
	w := &waiter{Cmd: exec.Command(argv[0], argv[1:]...), ended: make(chan error, 1)}
	w.Stdin, w.Stdout, w.Stderr = in, &w.out, &w.out
	if err := w.Start(); err != nil {
		m.T.Fatal(err)
	}
	m.T.Cleanup(func() { w.Process.Kill() })
	go func() { w.ended <- w.Wait() }()
	blocks := func() bool {
		call, _ := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", w.Process.Pid))
		return strings.HasPrefix(string(call), fmt.Sprintf("%d 0x0 ", unix.SYS_READ))
	}
	Eventually(m.T, "it reads", 5*time.Second, blocks)
	return w
}

// wants checks what the program has printed, and how it has ended.
func (w *waiter) wants(t testing.TB, who, out string, status int) {
	t.Helper()
	select {
	case <-w.ended:
	case <-time.After(Patiently(5 * time.Second)):
		t.Errorf("%s hangs", who)
		return
	}
	if got := w.out.String(); got != out || w.ProcessState.ExitCode() != status {
		t.Errorf("%s printed %q and ended with %d, wanted %q and %d", who, got, w.ProcessState.ExitCode(), out, status)
	}
}

// connections counts the connections to the kernel that a server has open.
func connections(t testing.TB, server int) (n int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", server))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if name, _ := os.Readlink(f); name == "/dev/fuse" {
			n++
		}
	}
	return n
}

const ends7 = `sh -c 'trap "exit 7" TERM; echo up; while :; do sleep 0.05; done'`

// Who is blocked in wait is answered by a server that came one or more upgrades later, wherever the container is by then; who is
// interrupted meanwhile ends; and everything else that is open ends as with the death of a server.
func TestUpgradeAnswersWait(t *testing.T) {
	m := MountFor(t)
	if !resends(t) {
		t.Skip("the kernel does not send requests again")
	}
	m.Start("c", ends7)
	m.makeExec("c/exec/x", "sleep 1000")
	m.Write("c/exec/x/start", "1")
	Eventually(t, "it is up", 5*time.Second, func() bool { return m.Read("c/log") == "up" })
	_, server, err := m.Processes()
	if err != nil {
		t.Fatal(err)
	}
	usual := connections(t, server)
	plain, enter, byByte := m.waiter("c/wait"), m.waiter("c/exec/x/wait"), m.waiter("c/wait", "dd", "bs=1", "status=none")
	interrupted, killed, events := m.waiter("c/wait"), m.waiter("c/wait"), m.waiter("c/events")
	state, err := os.Open(m.Dir + "/c/state")
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	m.upgrade()
	if _, err := state.Read(make([]byte, 9)); !errors.Is(err, syscall.ENOTCONN) {
		t.Errorf("an old descriptor reads with %v", err)
	}
	events.wants(t, "who read events", "cat: -: Software caused connection abort\n", 1)
	second := m.waiter("c/wait")
	interrupted.Process.Signal(os.Interrupt)
	interrupted.wants(t, "who was interrupted", "", -1)
	m.upgrade()
	killed.Process.Kill()
	killed.wants(t, "who was killed", "", -1)
	m.upgrade()
	_, server, _ = m.Processes()
	if n := connections(t, server); n != usual+2 {
		t.Errorf("%d connections with readers on two old ones, before %d", n, usual)
	}
	m.Sh("mkdir in; mv c d; echo KILL > d/exec/x/kill")
	enter.wants(t, "who waited for the exec", "137\n", 0)
	m.Write("d/stop", "1")
	plain.wants(t, "who waited", "7\n", 0)
	byByte.wants(t, "who read bytes", "7\n", 0)
	second.wants(t, "who has waited since the first upgrade", "7\n", 0)
	Eventually(t, "old connections are closed", 5*time.Second, func() bool { return connections(t, server) == usual })
}

// Requests come in all the time, also through what is open on the old mount: none hangs, though some who wait keep that connection open.
func TestUpgradeStopsNobody(t *testing.T) {
	m := MountFor(t)
	m.Start("c", ends7)
	waits := m.waiter("c/wait")
	var over atomic.Bool
	var done, cut atomic.Int64
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			for !over.Load() {
				root, err := os.OpenRoot(m.Dir)
				for err == nil && !over.Load() {
					var f *os.File
					if f, err = root.Open("c/status"); err == nil {
						_, err = io.ReadAll(f)
						f.Close()
						done.Add(1)
					}
				}
				if err != nil {
					cut.Add(1)
					time.Sleep(time.Millisecond)
					if errno, _ := errors.AsType[syscall.Errno](err); !slices.Contains(dead, errno) {
						t.Error(err)
					}
				}
				if root != nil {
					root.Close()
				}
			}
		})
	}
	for range 10 {
		m.upgrade()
		before := done.Load()
		Eventually(t, "operations are done", 5*time.Second, func() bool { return done.Load() > before+100 })
	}
	over.Store(true)
	ended := make(chan struct{})
	go func() {
		work.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(Patiently(5 * time.Second)):
		t.Fatal("an operation hangs")
	}
	t.Logf("%d operations, %d cut off", done.Load(), cut.Load())
	m.Write("c/stop", "1")
	if resends(t) {
		waits.wants(t, "who waited", "7\n", 0)
	}
}

// Who has waited since before an upgrade is not forgotten by one that fails, and hangs neither when the server dies nor when the tree goes.
func TestUpgradeThenDeath(t *testing.T) {
	m := MountFor(t)
	if !resends(t) {
		t.Skip("the kernel does not send requests again")
	}
	store, err := os.ReadFile(m.State + "/version")
	if err != nil {
		t.Fatal(err)
	}
	m.Start("c", "sleep 1000", "stop.timeout", "0")
	failed := m.waiter("c/wait")
	_, server, err := m.Processes()
	if err != nil {
		t.Fatal(err)
	}
	if got := m.ask(map[string]any{"keepers": []int{1}, "stores": []string{string(store)}, "waits": true}, memfd(t, true)); !strings.HasPrefix(got, "error: execute the program") {
		t.Fatalf("the answer is %q", got)
	}
	Eventually(t, "another server answers", 5*time.Second, func() bool {
		_, now, err := m.Processes()
		return err == nil && now != server && m.Mounted()
	})
	m.Write("c/kill", "KILL")
	failed.wants(t, "who waited when an upgrade failed", "137\n", 0)

	for what, end := range map[string]func(){
		"the server has died": func() {
			_, server, err := m.Processes()
			if err != nil || syscall.Kill(server, syscall.SIGKILL) != nil {
				t.Fatal(err)
			}
		},
		"a program has taken over that does not know them": func() {
			m.ask(map[string]any{"keepers": []int{1}, "stores": []string{string(store)}}, memfd(t, true))
		},
		"the tree is gone": func() {
			if err := errors.Join(m.Umount("--keep"), m.Mount()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		Eventually(t, "a server answers", 5*time.Second, m.Mounted)
		if m.Read("c/state") == "exited" {
			m.Write("c/start", "1")
		}
		w := m.waiter("c/wait")
		Eventually(t, "an upgrade", 5*time.Second, func() bool { return m.Command("upgrade", m.Dir) == nil }) // not before the keeper has heard of that server
		end()
		select {
		case err := <-w.ended:
			if err == nil || !strings.HasPrefix(w.out.String(), "cat: -: ") {
				t.Errorf("when %s, who waited ends with %v, and printed %q", what, err, w.out.String())
			}
		case <-time.After(Patiently(5 * time.Second)):
			t.Errorf("when %s, who waited hangs", what)
		}
	}
	Eventually(t, "a server answers", 5*time.Second, m.Mounted)
	if got := m.Read("c/state"); got != "running" {
		t.Errorf("the container is %s", got)
	}
}

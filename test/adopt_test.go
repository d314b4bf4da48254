package test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// killKeeper kills keeper and server, and waits until both are gone.
func (m *Tree) killKeeper() {
	m.T.Helper()
	keeper, server, err := m.Processes()
	if err != nil {
		m.T.Fatal(err)
	}
	for _, pid := range []int{keeper, server} {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			m.T.Fatal(err)
		}
	}
	Eventually(m.T, "both are gone", 5*time.Second, func() bool { return len(m.own()) == 0 })
}

// killKeeperAlone kills the keeper, upon which the server ends by itself, and mounts again at once.
func (m *Tree) killKeeperAlone() {
	m.T.Helper()
	keeper, _, err := m.Processes()
	if err != nil {
		m.T.Fatal(err)
	}
	if err := syscall.Kill(keeper, syscall.SIGKILL); err != nil {
		m.T.Fatal(err)
	}
	Eventually(m.T, "the keeper is gone", 5*time.Second, func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d", keeper))
		return err != nil
	})
	if err := m.Mount(); err != nil {
		m.T.Fatal(err)
	}
}

// adoptedExits says whether this kernel (Linux 6.15 or later) keeps the status of an exit for whoever has the process open. Before,
// it takes luck.
func adoptedExits() bool {
	var release [2]int
	text, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	fmt.Sscanf(string(text), "%d.%d", &release[0], &release[1])
	return release[0] > 6 || release[0] == 6 && release[1] >= 15
}

// wantExit compares the exit of what was adopted.
func (m *Tree) wantExit(name, want string) {
	m.T.Helper()
	if got := m.Read(name + "/wait"); got != want && (adoptedExits() || got != "unknown") {
		m.T.Errorf("%s: exit %s, wanted %s", name, got, want)
	}
}

// The keeper is killed. What runs goes on without it, and the next one adopts it: nothing tells it from what a keeper has started
// itself, and the exit of everything that ends from then on is known.
func TestKillKeeper(t *testing.T) {
	m := MountFor(t)
	loop := "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
	m.Start("plain", `sh -c 'trap "exit 7" TERM; `+loop+`'`, "memory.max", "64M")
	m.Start("init", `sh -c 'kill -SEGV $$'`, "init", "1", "stop.timeout", "0")
	m.Read("init/wait")
	m.Write("init/cmd", "sleep 1000")
	m.Write("init/start", "1")
	m.Start("frozen", "sleep 1000", "stop.timeout", "0")
	m.Write("frozen/cgroup.freeze", "1")
	m.Start("again", `sh -c 'echo run; exec sleep 1000'`, "restart", "on-failure:1")
	m.Start("plain/nested", "sleep 1000", "stop.timeout", "0")
	m.makeExec("plain/exec/x", `sh -c 'trap "exit 5" TERM; echo up; while :; do sleep 0.05; done'`)
	m.Write("plain/exec/x/start", "1")
	Eventually(t, "all are up", 5*time.Second, func() bool {
		return m.Read("plain/log") != "" && m.Read("plain/exec/x/log") == "up" && m.Read("again/log") == "run"
	})
	before := m.Sh("cat */pid plain/nested/pid plain/exec/x/pid */state plain/memory.max")

	m.killKeeperAlone()
	if now := m.Sh("cat */pid plain/nested/pid plain/exec/x/pid */state plain/memory.max"); now != before {
		t.Errorf("now it is\n%sbefore it was\n%s", now, before)
	}
	log := m.Read("plain/log")
	Eventually(t, "it goes on writing its log", 5*time.Second, func() bool { return len(m.Read("plain/log")) > len(log) })
	m.Sh("grep -q sleep plain/ps; grep -q '^pids.current [1-9]' plain/stats")
	m.makeExec("plain/exec/y", "sh -c 'exit 4'")
	m.Write("plain/exec/y/start", "1")
	m.wantExit("plain/exec/y", "4")
	m.Write("plain/exec/x/kill", "TERM")
	m.wantExit("plain/exec/x", "5")
	m.Write("plain/mounts", "tmpfs /added tmpfs x-mount.mkdir 0 0")
	m.Write("plain/mounts", "")
	m.Write("frozen/cgroup.freeze", "0")
	if got := m.Read("frozen/state"); got != "running" {
		t.Errorf("state %s after a thaw", got)
	}
	m.Write("frozen/kill", "KILL")
	m.wantExit("frozen", "137")
	m.killServer() // whose successor is told of what was adopted as well, and so is another program
	m.upgrade()
	m.Write("plain/nested/stop", "1")
	m.wantExit("plain/nested", "137")
	m.Write("plain/stop", "1")
	m.wantExit("plain", "7")
	m.Write("init/kill", "SEGV")
	m.wantExit("init", "139")
	m.Write("again/kill", "KILL")
	Eventually(t, "it was started again, once", 5*time.Second, func() bool {
		return m.runs("again") == 2 && m.status("again", "restarts") == "1" && m.Read("again/state") == "running"
	})
	m.Sh("echo KILL > again/kill; cat again/wait; rmdir plain/nested")
	if got := m.Read("again/exit"); got != "137" {
		t.Errorf("exit %s", got)
	}
	m.Sh("rmdir plain init frozen again")
}

// What ends while there is no keeper has an exit that says so, and its policy holds.
func TestExitWithoutKeeper(t *testing.T) {
	m := MountFor(t)
	for _, name := range []string{"no", "on-failure", "always"} {
		m.Start(name, "sleep 1000", "restart", name, "stop.timeout", "0")
	}
	m.Start("shared", "sleep 1000", "namespaces", "pid host", "stop.timeout", "0")
	m.Start("lives", "sleep 1000", "stop.timeout", "0")
	m.makeExec("lives/exec/x", "sleep 1000")
	m.Write("lives/exec/x/start", "1")
	pids := strings.Fields(m.Sh("cat no/pid on-failure/pid always/pid lives/exec/x/pid shared/pid"))
	m.killKeeper()
	for _, pid := range pids {
		kill(t, pid)
	}
	Eventually(t, "all are gone", 5*time.Second, func() bool {
		for _, pid := range pids {
			if _, err := os.Stat("/proc/" + pid); err == nil {
				return false
			}
		}
		return true
	})
	if err := m.Mount(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"no", "shared", "lives/exec/x"} {
		if got := m.Read(name+"/state") + " " + m.Read(name+"/wait"); got != "exited unknown" {
			t.Errorf("%s: %s", name, got)
		}
	}
	for _, name := range []string{"on-failure", "always"} {
		Eventually(t, name+" was started again", 5*time.Second, func() bool {
			return m.Read(name+"/state") == "running" && m.status(name, "restarts") == "1"
		})
	}
	if got := m.Read("lives/state"); got != "running" {
		t.Errorf("lives: %s", got)
	}
	m.Write("no/start", "1")
}

// What the dead keeper held is gone: a terminal is hung up, and a standard input ends for who reads it at that time; who does not is
// fed again.
func TestKillKeeperAtInputs(t *testing.T) {
	m := MountFor(t)
	m.Start("reads", "cat", "stdin.open", "1")
	m.Start("sleeps", `sh -c 'trap go=1 USR1; until test $go; do sleep 0.05; done; cat'`, "stdin.open", "1")
	m.Start("tty", "cat", "tty", "1")
	m.Start("ignores", "sleep 1000", "tty", "1", "stop.timeout", "0")
	pids := strings.Fields(m.Sh("cat reads/pid tty/pid"))
	m.killKeeper()
	Eventually(t, "who reads has found the end, and who reads a terminal too", 5*time.Second, func() bool {
		for _, pid := range pids {
			if _, err := os.Stat("/proc/" + pid); err == nil {
				return false
			}
		}
		return true
	})
	if err := m.Mount(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"reads", "tty"} {
		if got := m.Read(name + "/wait"); got != "unknown" {
			t.Errorf("%s: exit %s", name, got)
		}
	}
	if got := m.Read("ignores/state"); got != "running" {
		t.Errorf("ignores: %s", got)
	}
	if _, err := os.Lstat(filepath.Join(m.Dir, "ignores/console")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a console that nobody holds: %v", err)
	}
	if got := m.Read("ignores/error"); !strings.Contains(got, "hung up") {
		t.Errorf("error says %q", got)
	}
	m.Sh("echo fed > sleeps/stdin; echo USR1 > sleeps/kill")
	Eventually(t, "it is fed", 5*time.Second, func() bool { return m.Read("sleeps/log") == "fed" })
	time.Sleep(200 * time.Millisecond) // it would end, if it could
	if got := m.Read("sleeps/state"); got != "running" {
		t.Errorf("sleeps: %s, although its input has not ended", got)
	}
	m.Write("sleeps/stdin.open", "0")
	m.wantExit("sleeps", "0")
}

// A pid that has become another process's is nobody's: what the journal says of it is checked.
func TestAdoptNobodyElse(t *testing.T) {
	m := MountFor(t)
	m.Start("c", "sleep 1000", "stop.timeout", "0")
	time.Sleep(50 * time.Millisecond) // before Linux 6.9 their starts tell them apart, in hundredths of a second
	m.Start("other", "sleep 1000", "stop.timeout", "0")
	pid, other := m.Read("c/pid"), m.Read("other/pid")
	m.killKeeper()
	name := filepath.Join(m.State, "journal")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	// As if c's pid had become the other one's.
	changed := strings.Replace(string(text), " "+pid+" ", " "+other+" ", 1)
	if err := os.WriteFile(name, []byte(changed), 0o600); err != nil || changed == string(text) {
		t.Fatal(err, string(text))
	}
	if err := m.Mount(); err != nil {
		t.Fatal(err)
	}
	if got := m.Sh("cat c/state c/exit other/state other/pid"); got != "exited\nunknown\nrunning\n"+other+"\n" {
		t.Errorf("they are\n%s", got)
	}
	Eventually(t, "what nobody knows is ended", 5*time.Second, func() bool { _, err := os.Stat("/proc/" + pid); return err != nil })
}

// kill kills a process of the host by its pid as the tree shows it.
func kill(t *testing.T, pid string) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err == nil {
		err = syscall.Kill(n, syscall.SIGKILL)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Whose namespaces others have entered keeps them, and its range of ids, when the keeper that held them has died.
func TestKillKeeperOfLenders(t *testing.T) {
	m := MountFor(t)
	m.Start("lender", "sleep 1000", "stop.timeout", "0")
	m.Sh("mkdir pod guest other; printf 'user lender\nnet lender\n' > guest/namespaces; printf 'user pod\nnet pod\n' > other/namespaces")
	m.Sh("for c in guest other; do echo 0 > $c/stop.timeout; echo 'sleep 1000' > $c/cmd; echo 1 > $c/start; done")
	net := m.Sh("readlink /proc/$(cat lender/pid)/ns/net")
	m.killKeeperAlone()
	m.Sh("echo KILL > lender/kill; cat lender/wait; echo 1 > lender/start")
	for _, name := range []string{"lender", "guest"} {
		if got := m.Sh("readlink /proc/$(cat %s/pid)/ns/net", name); got != net {
			t.Errorf("%s is in %q, before it was %q", name, got, net)
		}
	}
	// The pod has no process: what it lent is its guest's alone, and its ids are taken as long as that runs.
	if err := os.Remove(m.Dir + "/pod"); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("rmdir of a pod whose ids are in use: %v", err)
	}
	m.Sh("for c in other guest lender; do echo KILL > $c/kill; cat $c/wait; done; rmdir other guest pod lender")
}

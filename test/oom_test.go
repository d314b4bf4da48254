package test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// event is a line of an events file.
type event struct {
	Time      time.Time
	Container string
	Event     string
	Action    string
	Trigger   string
	Kills     int
	at        time.Time // when it was read
}

// events reads the root's events in the background.
func (m *Tree) events() <-chan event {
	m.T.Helper()
	// Another process, for one that waits in a read can be killed.
	cat := exec.Command("cat", m.Dir+"/events")
	pipe, err := cat.StdoutPipe()
	if err == nil {
		err = cat.Start()
	}
	if err != nil {
		m.T.Fatal(err)
	}
	m.T.Cleanup(func() { cat.Process.Kill(); cat.Wait() })
	Eventually(m.T, "cat has opened it", 5*time.Second, func() bool {
		target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/3", cat.Process.Pid))
		return strings.HasSuffix(target, "/events")
	})
	out := make(chan event, 1000)
	go func() {
		defer close(out)
		for lines := bufio.NewScanner(pipe); lines.Scan(); {
			e := event{at: time.Now()}
			if json.Unmarshal(lines.Bytes(), &e) == nil {
				out <- e
			}
		}
	}()
	return out
}

// next returns the next event of a kind.
func (m *Tree) next(events <-chan event, kind string) event {
	m.T.Helper()
	overdue := time.After(10 * time.Second)
	for {
		select {
		case e, ok := <-events:
			if !ok {
				m.T.Fatalf("the events ended before %s", kind)
			}
			if e.Event == kind {
				return e
			}
		case <-overdue:
			m.T.Fatalf("no event %s", kind)
		}
	}
}

// greedy doubles a string in its own memory until it has 64 MiB: what a system call allocates fails with ENOMEM where the
// killer is held, instead of waiting.
const greedy = `awk "BEGIN { x = 1; while (length(x) < 67108864) x = x x; print length(x) }"`

// memoryGroup returns the directory of v1's memory controller for a container, or skips the test.
func (m *Tree) memoryGroup(id string) string {
	m.T.Helper()
	found, _ := filepath.Glob("/sys/fs/cgroup/memory/ctrfs-" + m.name() + "/" + id)
	if len(found) == 0 {
		m.T.Skip("memory is not v1's")
	}
	return found[0]
}

// TestOOMEvent measures from the kernel's kill to the line that a reader of events has: within 100 ms in the median. The
// victim is not the first process, so no exit tells of it, and is looked for in the kernel's own counter.
func TestOOMEvent(t *testing.T) {
	m := MountFor(t)
	events := m.events()
	var took []time.Duration
	for i := range 9 {
		name := fmt.Sprintf("c%d", i)
		m.Start(name, `sh -c 'sleep 0.3; `+greedy+`; sleep 1000'`, "memory.max", "16M")
		control := m.memoryGroup(m.Read(name+"/id")) + "/memory.oom_control"
		var killed time.Time
		for end := time.Now().Add(10 * time.Second); killed.IsZero() && time.Now().Before(end); time.Sleep(200 * time.Microsecond) {
			if text, err := os.ReadFile(control); err == nil && strings.Contains(string(text), "oom_kill 1\n") {
				killed = time.Now()
			}
		}
		e := m.next(events, "oom")
		if e.Container != name || e.Action != "kill" || e.Kills != 1 {
			t.Errorf("%+v", e)
		}
		took = append(took, e.at.Sub(killed))
		if got := m.Sh("cat %s/state; grep ^oom %s/status", name, name); got != "running\noom 1\n" {
			t.Errorf("%s is\n%s", name, got)
		}
		m.Write(name+"/kill", "KILL")
		m.Read(name + "/wait")
		if got := m.Sh("grep ^oom %s/status", name); got != "oom 1\n" {
			t.Errorf("after the exit: %s", got)
		}
	}
	slices.Sort(took)
	t.Logf("from the kill to the reader: %v", took)
	if median := took[len(took)/2]; median > 100*time.Millisecond {
		t.Errorf("%v in the median", median)
	}
}

// TestOOMUnseen: what happens while no server looks is in the counter, which is read once the next one watches.
func TestOOMUnseen(t *testing.T) {
	m := MountFor(t)
	m.Start("c", `sh -c 'trap go=1 USR1; echo up; until [ "$go" ]; do sleep 0.1; done; `+greedy+`; sleep 1000'`, "memory.max", "16M")
	Eventually(t, "it takes signals", patience, func() bool { return m.Read("c/log") == "up" })
	control := m.memoryGroup(m.Read("c/id")) + "/memory.oom_control"
	pid, err := strconv.Atoi(m.Read("c/pid"))
	if err != nil {
		t.Fatal(err)
	}
	_, server, err := m.Processes()
	if err != nil {
		t.Fatal(err)
	}
	syscall.Kill(server, syscall.SIGSTOP) // it gets no further, and the mount waits
	defer syscall.Kill(server, syscall.SIGCONT)
	syscall.Kill(pid, syscall.SIGUSR1)
	Eventually(t, "the kernel kills", 10*time.Second, func() bool {
		text, err := os.ReadFile(control)
		return err == nil && strings.Contains(string(text), "oom_kill 1\n")
	})
	m.killServer()
	Eventually(t, "the next server knows", 3*time.Second, func() bool { return strings.Contains(m.Read("c/status"), "oom 1") })
	m.Sh("echo KILL > c/kill; cat c/wait")
}

// TestOOMFreeze: a container that waits for memory can be looked at, goes on with more, and dies when it is told to. Around it
// nothing is paused. Where the kernel cannot wait, the setting is refused with the reason.
func TestOOMFreeze(t *testing.T) {
	m := MountFor(t)
	m.Start("pod", "sleep 1000", "memory.max", "200M")
	if _, err := os.Stat("/sys/fs/cgroup/memory/ctrfs-" + m.name()); err != nil {
		m.Sh("! echo freeze > pod/memory.oom 2> /dev/null; grep 'cannot be told to wait' pod/error; grep '^memory.oom no' host")
		t.Skip("memory is not v1's")
	}
	events := m.events()
	m.Start("pod/c", "sh -c '"+greedy+"'", "memory.max", "16M", "memory.oom", "freeze")
	if e := m.next(events, "oom"); e.Container != "pod/c" || e.Action != "freeze" {
		t.Errorf("%+v", e)
	}
	m.next(events, "freeze")
	look := "cat pod/state pod/c/state pod/c/cgroup.freeze; wc -l < pod/c/ps; sed -n 's/^oom //p' pod/status pod/c/status"
	if got := m.Sh("%s", look); got != "running\npaused\n1\n2\n0\n1\n" {
		t.Errorf("it is\n%s", got)
	}
	if got := m.Sh("echo 1 > pod/c/cgroup.freeze; echo 150M > pod/c/memory.max; cat pod/c/state; echo 0 > pod/c/cgroup.freeze; cat pod/c/wait pod/c/log"); got != "paused\n0\n67108864\n" {
		t.Errorf("with more memory\n%s", got)
	}
	m.Sh("echo 16M > pod/c/memory.max; echo 1 > pod/c/start")
	m.next(events, "freeze")
	if got := m.Sh("echo KILL > pod/c/kill; cat pod/c/wait; grep ^oom pod/c/status"); got != "137\noom 1\n" {
		t.Errorf("killed while it waits: %s", got)
	}
	// The pod's own limit: what waits is a child's, and all of the pod is paused.
	m.Sh("echo max > pod/c/memory.max; echo freeze > pod/memory.oom; echo 16M > pod/memory.max; echo 1 > pod/c/start")
	if e := m.next(events, "oom"); e.Container != "pod" || e.Action != "freeze" {
		t.Errorf("%+v", e)
	}
	m.next(events, "freeze")
	if got := m.Sh("cat pod/state; echo kill > pod/memory.oom; echo 0 > pod/cgroup.freeze; cat pod/c/wait; grep ^oom pod/c/status"); got != "paused\n137\noom 1\n" {
		t.Errorf("the kernel kills again: %s", got)
	}
	m.Sh("echo KILL > pod/kill; cat pod/wait; rmdir pod/c pod")
}

// TestOOMStop: it is asked to stop, and killed if what would obey waits for memory itself.
func TestOOMStop(t *testing.T) {
	m := MountFor(t)
	m.Start("pod", "sleep 1000")
	if _, err := os.Stat("/sys/fs/cgroup/memory/ctrfs-" + m.name()); err != nil {
		t.Skip("memory is not v1's")
	}
	events := m.events()
	m.Start("pod/c", `sh -c '`+greedy+`'`, "memory.max", "16M", "memory.oom", "stop", "stop.timeout", "1")
	if e := m.next(events, "oom"); e.Container != "pod/c" || e.Action != "stop" {
		t.Errorf("%+v", e)
	}
	asked := m.next(events, "stop")
	if e := m.next(events, "exit"); e.Time.Sub(asked.Time) < 900*time.Millisecond {
		t.Errorf("killed %v after it was asked", e.Time.Sub(asked.Time))
	}
	if got := m.Sh("cat pod/c/wait; grep ^oom pod/c/status; cat pod/state"); got != "137\noom 1\nrunning\n" {
		t.Error(got)
	}
	m.Sh("echo KILL > pod/kill; cat pod/wait; rmdir pod/c pod")
}

// TestOOMSurvivesServer: the server is killed while a container waits for memory, and while another one runs out of it.
// The next one knows, and watches on.
func TestOOMSurvivesServer(t *testing.T) {
	m := MountFor(t)
	m.Start("held", "sh -c '"+greedy+"'", "memory.max", "16M", "memory.oom", "freeze")
	m.memoryGroup(m.Read("held/id"))
	Eventually(t, "it is paused", 5*time.Second, func() bool { return m.Read("held/state") == "paused" })
	m.Start("early", `sh -c '`+greedy+`; sleep 1000'`, "memory.max", "16M")
	Eventually(t, "its memory has run out", 5*time.Second, func() bool { return strings.Contains(m.Read("early/status"), "oom 1") })
	m.Start("later", `sh -c 'trap go=1 USR1; until [ "$go" ]; do sleep 0.1; done; `+greedy+`; sleep 1000'`, "memory.max", "16M", "memory.oom", "freeze")

	m.killServer()
	if got := m.Sh("cat held/state; grep -h ^oom held/status early/status later/status"); got != "paused\noom 1\noom 1\noom 0\n" {
		t.Errorf("after the crash:\n%s", got)
	}
	events := m.events()
	m.Write("later/kill", "USR1")
	if e := m.next(events, "oom"); e.Container != "later" || e.Action != "freeze" {
		t.Errorf("%+v", e)
	}
	Eventually(t, "the later one is paused", 5*time.Second, func() bool { return m.Read("later/state") == "paused" })
	m.Sh("echo 200M > held/memory.max; echo 0 > held/cgroup.freeze")
	if got := m.Read("held/wait"); got != "0" {
		t.Errorf("with more memory it exits with %s", got)
	}
	m.Sh("for c in early later; do echo KILL > $c/kill; done")
	if got := m.Sh("cat early/wait later/wait; grep -h ^oom */status"); got != "137\n137\noom 1\noom 1\noom 1\n" {
		t.Errorf("in the end:\n%s", got)
	}
}

// TestLimitsRepaired: the groups are changed while no server looks, as by one that died between two controllers. The next
// one makes them what the configuration says, each by itself: what cannot be as it says does not keep the others from it.
func TestLimitsRepaired(t *testing.T) {
	m := MountFor(t)
	m.Start("c", "sleep 1000", "memory.max", "64M", "pids.max", "50", "cpu.weight", "200", "cpu.max", "50000 100000", "memory.oom", "freeze")
	m.Start("full", `sh -c 'x=$(head -c 20000000 /dev/zero | tr "\\0" x); echo up; sleep 1000; echo $x'`, "memory.max", "64M", "pids.max", "50")
	Eventually(t, "it has its memory", 10*time.Second, func() bool { return m.Read("full/log") == "up" })
	m.memoryGroup(m.Read("c/id"))
	group := func(name, file string) string {
		controller, _, _ := strings.Cut(file, ".")
		return "/sys/fs/cgroup/" + controller + "/ctrfs-" + m.name() + "/" + m.Read(name+"/id") + "/" + file
	}
	for _, x := range [][3]string{{"c", "memory.limit_in_bytes", "134217728"}, {"c", "memory.oom_control", "0"}, {"c", "cpu.shares", "77"},
		{"c", "cpu.cfs_quota_us", "-1"}, {"c", "pids.max", "max"}, {"full", "pids.max", "9"}} {
		if err := os.WriteFile(group(x[0], x[1]), []byte(x[2]), 0); err != nil {
			t.Fatal(err)
		}
	}
	// As if memory.max had been raised, used, and never written down: the record says less than what is in use.
	m.shrinkRecord("full", "67108864", "4194304")
	m.killServer()
	for _, x := range [][3]string{{"c", "memory.limit_in_bytes", "67108864"}, {"c", "memory.oom_control", "oom_kill_disable 1"},
		{"c", "cpu.shares", "2048"}, {"c", "cpu.cfs_quota_us", "50000"}, {"c", "pids.max", "50"}, {"full", "pids.max", "50"}} {
		text, err := os.ReadFile(group(x[0], x[1]))
		if first, _, _ := strings.Cut(string(text), "\n"); err != nil || first != x[2] {
			t.Errorf("%s of %s is %q, wanted %s (%v)", x[1], x[0], text, x[2], err)
		}
	}
	if got := m.Read("full/error"); !strings.Contains(got, "memory.max") || !strings.Contains(got, "more is in use") {
		t.Errorf("error of the one that is too full: %s", got)
	}
	m.Sh("for c in c full; do echo KILL > $c/kill; done; cat c/wait full/wait > /dev/null")
}

// shrinkRecord changes a number in a container's record on disk.
func (m *Tree) shrinkRecord(name, from, to string) {
	m.T.Helper()
	found, _ := filepath.Glob(m.State + "/containers/*/" + m.Read(name+"/id") + "/record")
	if len(found) != 1 {
		m.T.Fatalf("records: %v", found)
	}
	text, err := os.ReadFile(found[0])
	if err != nil || !strings.Contains(string(text), from) {
		m.T.Fatalf("%v: %s", err, text)
	}
	if err := os.WriteFile(found[0], []byte(strings.ReplaceAll(string(text), from, to)), 0o600); err != nil {
		m.T.Fatal(err)
	}
}

// TestPressureEvent: a trigger is armed at once, at a start, and by the next server, and an empty line takes it away.
func TestPressureEvent(t *testing.T) {
	m := MountFor(t)
	events := m.events()
	const busy = `sh -c 'for i in 1 2 3 4; do while :; do :; done & done; wait'`
	const trigger = "some 20000 2000000"
	m.Start("c", busy)
	if _, err := os.ReadFile(m.Dir + "/c/cpu.pressure"); err != nil {
		t.Skip(err)
	}
	m.Write("c/cpu.pressure", trigger)
	check := func(what string) {
		t.Helper()
		if e := m.next(events, "pressure"); e.Container != "c" || e.Trigger != trigger {
			t.Errorf("%s: %+v", what, e)
		}
	}
	check("live")
	m.Sh("echo KILL > c/kill; cat c/wait > /dev/null; echo 1 > c/start")
	check("at a start")
	m.killServer()
	events = m.events()
	check("by the next server")
	m.Sh("echo > c/cpu.pressure; ! grep pressure c/status")
	for len(events) > 0 {
		<-events
	}
	time.Sleep(2500 * time.Millisecond)
	for len(events) > 0 {
		if e := <-events; e.Event == "pressure" {
			t.Errorf("it was taken away: %+v", e)
		}
	}
	m.Sh("echo KILL > c/kill; cat c/wait > /dev/null")
}

package test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// status returns the value of a key of a container's status; empty when it is not there.
func (m *Tree) status(name, key string) string {
	m.T.Helper()
	for line := range strings.Lines(m.Read(name+"/status") + "\n") {
		if word, value, _ := strings.Cut(strings.TrimSpace(line), " "); word == key {
			return value
		}
	}
	return ""
}

// runs counts the lines "run" of a log: each run writes one.
func (m *Tree) runs(name string) int {
	m.T.Helper()
	return strings.Count(m.Read(name+"/log")+"\n", "run\n")
}

// The server is killed while a restart is due. The next one knows, and the restart takes place, once.
func TestRestartKillServerInPause(t *testing.T) {
	m := MountFor(t)
	m.Start("c", `sh -c 'echo run; exit 3'`, "restart", "on-failure:4")
	Eventually(t, "the pause before the fourth restart", 10*time.Second, func() bool {
		return m.status("c", "restarts") == "3" && m.status("c", "restart.at") != ""
	})
	due := m.status("c", "restart.at")
	// A server that is killed before that is on disk is told of the exit again, and the pause begins with that.
	Eventually(t, "it is on disk", 10*time.Second, func() bool {
		records, _ := filepath.Glob(m.State + "/containers/*/*/record")
		text, _ := os.ReadFile(strings.Join(records, ""))
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		return strings.Contains(lines[len(lines)-1], `"restarts":3`) && strings.Contains(lines[len(lines)-1], `"restart_at"`)
	})
	m.killServer()
	if got := m.status("c", "restart.at"); got != due && m.status("c", "restarts") != "4" {
		t.Errorf("restart.at %q after the death of the server, was %q", got, due)
	}
	if got := m.Read("c/wait"); got != "3" {
		t.Errorf("exit %s", got)
	}
	time.Sleep(300 * time.Millisecond)
	if n, restarts := m.runs("c"), m.status("c", "restarts"); n != 5 || restarts != "4" {
		t.Errorf("%d runs, restarts %s; wanted 5 and 4", n, restarts)
	}
}

// The program ends while there is no server: the exit that the keeper then reports is followed by one restart. That run was a
// restart itself, which is counted although no server has seen it begin and end.
func TestRestartKillServerInRun(t *testing.T) {
	m := MountFor(t)
	m.Start("c", `sh -c 'echo run; sleep 0.4; exit 3'`, "restart", "on-failure:3")
	for n := range 3 {
		Eventually(t, "a run", 10*time.Second, func() bool { return m.runs("c") == n+1 && m.Read("c/state") == "running" })
		m.killServer()
	}
	if got := m.Read("c/wait"); got != "3" {
		t.Errorf("exit %s", got)
	}
	if n, restarts := m.runs("c"), m.status("c", "restarts"); n != 4 || restarts != "3" {
		t.Errorf("%d runs, restarts %s; wanted 4 and 3", n, restarts)
	}
}

// The server is killed again and again at whatever moment, while a program ends again and again. Every run is counted, and
// none is doubled.
func TestRestartKillServerAnywhere(t *testing.T) {
	m := MountFor(t)
	m.Start("c", `sh -c 'echo run; exit 3'`, "restart", "on-failure:5")
	for i := range 12 {
		m.killServer()
		time.Sleep(time.Duration(i*7) * time.Millisecond)
	}
	if got := m.Read("c/wait"); got != "3" {
		t.Errorf("exit %s", got)
	}
	if n, restarts := m.runs("c"), m.status("c", "restarts"); fmt.Sprint(n-1) != restarts || n != 6 {
		t.Errorf("%d runs, restarts %s; wanted 6 and 5", n, restarts)
	}
}

// What the user has stopped stays so, also when the server is killed at once.
func TestRestartStopThenKillServer(t *testing.T) {
	m := MountFor(t)
	m.Start("c", "sleep 1000", "restart", "always", "stop.timeout", "1")
	m.Write("c/stop", "1")
	m.killServer()
	if got := m.Read("c/wait"); got != "137" {
		t.Errorf("exit %s", got)
	}
	time.Sleep(300 * time.Millisecond)
	if state, restarts := m.Read("c/state"), m.status("c", "restarts"); state != "exited" || restarts != "0" {
		t.Errorf("state %s, restarts %s", state, restarts)
	}
}

// A mount after which the machine was as good as switched off: keeper and server are killed with everything, and what the journal
// says of it is of another boot.
func (m *Tree) powerCut() {
	m.T.Helper()
	m.killKeeper()
	m.killContainers()
	name := filepath.Join(m.State, "journal")
	text, err := os.ReadFile(name)
	if err != nil {
		m.T.Fatal(err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		m.T.Fatal(err)
	}
	if err := os.WriteFile(name, bytes.ReplaceAll(text, bytes.TrimSpace(boot), []byte("another-boot")), 0o600); err != nil {
		m.T.Fatal(err)
	}
	if err := m.Mount(); err != nil {
		m.T.Fatal(err)
	}
}

// What a mount starts, after each way to end the one before.
func TestRestartAtMount(t *testing.T) {
	policies := []string{"no", "on-failure", "always", "unless-stopped"}
	m := MountFor(t)
	running := func(names ...string) (out []string) {
		for _, name := range names {
			if m.Read(name+"/state") == "running" {
				out = append(out, name)
			}
		}
		return out
	}
	for _, p := range policies {
		m.Start(p, "sleep 1000", "restart", p, "stop.timeout", "0")
		m.Sh("mkdir never-%s; echo %s > never-%s/rootfs; echo sleep 1000 > never-%s/cmd; echo %s > never-%s/restart", p, m.Root(), p, p, p, p)
	}
	var never []string
	for _, p := range policies {
		never = append(never, "never-"+p)
	}
	check := func(after string, want ...string) {
		t.Helper()
		Eventually(t, after+": "+strings.Join(want, " "), 10*time.Second, func() bool {
			return strings.Join(running(policies...), " ") == strings.Join(want, " ")
		})
		time.Sleep(200 * time.Millisecond)
		if got := running(policies...); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("after %s there run %v, wanted %v", after, got, want)
		}
		if got := running(never...); len(got) != 0 {
			t.Errorf("after %s there run %v, which nobody has started", after, got)
		}
	}
	again := func(flag string) {
		t.Helper()
		if err := m.Umount(flag); err != nil {
			t.Fatal(err)
		}
		if err := m.Mount(); err != nil {
			t.Fatal(err)
		}
	}
	pids := func() string { return m.Sh("cat */pid") }
	before := pids()
	again("--keep")
	check("umount --keep", policies...)
	if now := pids(); now != before {
		t.Errorf("after umount --keep others run: %q, before %q", now, before)
	}
	again("--stop")
	check("umount --stop", "always", "unless-stopped")
	m.powerCut()
	check("a power cut", "always", "unless-stopped")
	m.killServer()
	check("the death of the server", "always", "unless-stopped")
	for _, p := range policies[2:] {
		m.Write(p+"/stop", "1")
		m.Read(p + "/wait")
	}
	m.killServer()
	check("a stop and the death of the server")
	again("--stop")
	check("a stop and a mount", "always")
	again("--stop")
	check("another one", "always")
}

// A power cut in the first run of all, of which no exit has told yet.
func TestRestartFirstRunAtMount(t *testing.T) {
	m := MountFor(t)
	m.Start("c", "sleep 1000", "restart", "unless-stopped", "stop.timeout", "0")
	Eventually(t, "it is on record", 5*time.Second, func() bool {
		text, _ := os.ReadFile(filepath.Join(m.State, "containers", m.Read("c/id")[:1], m.Read("c/id"), "record"))
		return strings.Count(string(text), `"started":true`) > 0
	})
	m.powerCut()
	Eventually(t, "it runs again", 5*time.Second, func() bool { return m.Read("c/state") == "running" })
}

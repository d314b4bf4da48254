package test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// hook gives a container one hook at one point: a shell on the host.
func (m *Tree) hook(name, point, text string) {
	m.T.Helper()
	var spec map[string]any
	if err := json.Unmarshal([]byte(m.Read(name+"/config.json")), &spec); err != nil {
		m.T.Fatal(err)
	}
	spec["hooks"] = map[string]any{point: []any{map[string]any{"path": "/bin/sh", "args": []string{"sh", "-c", text}, "env": []string{"PATH=/usr/bin:/bin"}}}}
	out, err := json.Marshal(spec)
	if err != nil {
		m.T.Fatal(err)
	}
	m.Write(name+"/config.json", string(out))
}

func lines(name string) int {
	text, _ := os.ReadFile(name)
	return strings.Count(string(text), "\n")
}

// The server dies while a hook runs. Nobody answers the child then: it gives up instead of running its program behind
// everybody's back, and the container can be started again.
func TestKillServerDuringHook(t *testing.T) {
	m := MountFor(t)
	note := filepath.Join(m.Tmp, "note")
	m.Start("c", "true")
	m.Read("c/wait")
	m.hook("c", "createRuntime", "echo begun >> "+note+"; sleep 1")
	m.Write("c/cmd", "sh -c 'echo ran; sleep 0.5; exit 5'")
	go os.WriteFile(m.Dir+"/c/start", []byte("1\n"), 0) // fails with the mount
	Eventually(t, "the hook runs", 5*time.Second, func() bool { return lines(note) == 1 })
	m.killServer()
	time.Sleep(300 * time.Millisecond) // what should not run would be seen by now
	if state, log, exit := m.Read("c/state"), m.Read("c/log"), m.Read("c/wait"); state != "exited" || strings.Contains(log, "ran") || exit != "0" {
		t.Errorf("state %s, log %q, exit %s", state, log, exit)
	}
	Eventually(t, "its groups are empty", 5*time.Second, func() bool { return m.Read("c/cgroup.procs") == "" })
	m.Write("c/start", "1")
	if got := m.Read("c/wait"); got != "5" || m.Read("c/log") != "ran" || lines(note) != 2 {
		t.Errorf("exit %s, log %q, %d hooks", got, m.Read("c/log"), lines(note))
	}
}

// The server dies while a poststop hook runs: whether that has done its work nobody knows, so it runs again. Once it has ended it
// does not.
func TestPoststopAtLeastOnce(t *testing.T) {
	m := MountFor(t)
	note := filepath.Join(m.Tmp, "note")
	m.Start("c", "true")
	m.Read("c/wait")
	m.hook("c", "poststop", "echo begun >> "+note+"; sleep 1; echo ended >> "+note+".ended")
	m.Write("c/start", "1")
	if got := m.Read("c/wait"); got != "0" {
		t.Errorf("exit %s", got)
	}
	Eventually(t, "the hook runs", 5*time.Second, func() bool { return lines(note) == 1 })
	m.killServer()
	Eventually(t, "the hook runs again", 5*time.Second, func() bool { return lines(note) == 2 })
	Eventually(t, "both end", 5*time.Second, func() bool { return lines(note+".ended") == 2 })
	Eventually(t, "the exit is acknowledged", 5*time.Second, func() bool {
		journal, err := os.ReadFile(filepath.Join(m.State, "journal"))
		return err == nil && (len(journal) == 0 || strings.Count(string(journal), "exit ") == strings.Count(string(journal), "done "))
	})
	m.killServer()
	time.Sleep(300 * time.Millisecond)
	if n := lines(note); n != 2 {
		t.Errorf("it ran %d times", n)
	}
}

// A start with a hook lasts longer than any launch may without one.
func TestHookOutlastsLaunchLimit(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for longer than a launch may take")
	}
	m := MountFor(t)
	m.Start("c", "true")
	m.Read("c/wait")
	m.hook("c", "createContainer", "sleep 21")
	m.Write("c/start", "1")
	if got := m.Read("c/wait"); got != "0" {
		t.Errorf("exit %s", got)
	}
}

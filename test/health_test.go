package test

import (
	"testing"
	"time"
)

// A server that takes over goes on looking; a restart that the action has begun takes place although the server is killed while the
// program stops.
func TestHealthKillServer(t *testing.T) {
	m := MountFor(t)
	m.Start("c", `sh -c 'echo run; sleep 1000'`, "stop.timeout", "1", "health", "cmd test -e /tmp/well\ninterval 1\nretries 1\naction restart")
	m.killServer()
	if got := m.status("c", "health"); got != "starting" {
		t.Errorf("health %q after the death of the server", got)
	}
	Eventually(t, "the action stops it", 10*time.Second, func() bool { return m.Read("c/state") == "stopping" })
	m.killServer()
	Eventually(t, "it runs again", 10*time.Second, func() bool { return m.status("c", "restarts") == "1" && m.Read("c/state") == "running" })
	if n := m.runs("c"); n != 2 {
		t.Errorf("%d runs", n)
	}
	m.Write("c/health", "cmd true")
	Eventually(t, "it is healthy", 10*time.Second, func() bool { return m.status("c", "health") == "healthy" })
}

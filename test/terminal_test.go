package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A container on a terminal goes on logging while the server is killed, and while the tree is not mounted at all, and nothing of
// it is lost. Its terminal can be resized afterwards.
func TestKillServerTerminal(t *testing.T) {
	m := MountFor(t)
	const lines = 300
	m.Start("c", `sh -c 'trap "stty size; exit 0" WINCH; i=0; while test $i -lt 300; do i=$((i+1)); echo $i; sleep 0.01; done; while :; do sleep 0.05; done'`, "tty", "1")
	Eventually(t, "it is up", 5*time.Second, func() bool { return m.Read("c/log") != "" })
	m.killServer()
	m.killServer()
	if err := m.Umount("--keep"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	if err := m.Mount(); err != nil {
		t.Fatal(err)
	}
	Eventually(t, "all is logged", 30*time.Second, func() bool { return strings.Count(m.Read("c/log"), "\n") >= lines-1 })
	m.Write("c/tty", "101x31")
	if code := m.Read("c/wait"); code != "0" {
		t.Errorf("exit %s", code)
	}
	got := strings.Fields(m.Read("c/log"))
	if want := strings.Fields(m.Sh("seq %d; echo 31 101", lines)); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("the log is %v", got)
	}
}

// The server dies between the launch and what follows it: the log of a container on a terminal comes to its place all the same.
func TestKillServerTerminalLog(t *testing.T) {
	m := MountFor(t)
	m.Start("c", `sh -c 'echo one; read x'`, "tty", "1")
	Eventually(t, "it is up", 5*time.Second, func() bool { return m.Read("c/log") == "one\r" })
	logs, err := filepath.Glob(m.State + "/containers/*/" + m.Read("c/id") + "/log")
	if err != nil || len(logs) != 1 {
		t.Fatal(logs, err)
	}
	if err := os.Rename(logs[0], logs[0]+".new"); err != nil { // as the launch leaves it
		t.Fatal(err)
	}
	m.killServer()
	if got := m.Read("c/log"); got != "one\r" {
		t.Errorf("the log reads %q", got)
	}
	m.Write("c/kill", "KILL")
	m.Read("c/wait")
}

// However much a program writes, all of it comes through, and the keeper holds little of it.
func TestTerminalFlood(t *testing.T) {
	m := MountFor(t)
	keeper, _, err := m.Processes()
	if err != nil {
		t.Fatal(err)
	}
	before, err := RSS(keeper)
	if err != nil {
		t.Fatal(err)
	}
	m.Start("c", "sh -c 'seq 1 1000000; echo end'", "tty", "1") // 7.9 MB with carriage returns
	peak := int64(0)
	done := make(chan string, 1)
	go func() { done <- m.Read("c/wait") }()
	for code := ""; code == ""; {
		rss, err := RSS(keeper)
		if err != nil {
			t.Fatal(err)
		}
		peak = max(peak, rss)
		select {
		case code = <-done:
		case <-time.After(10 * time.Millisecond):
		}
	}
	log := m.Read("c/log")
	if n := strings.Count(log, "\r\n"); n != 1000000 || !strings.HasPrefix(log, "1\r\n2\r\n3\r\n") || !strings.HasSuffix(log, "999999\r\n1000000\r\nend\r") {
		t.Errorf("the log has %d lines and %d bytes, from %.20q to %.20q", n+1, len(log), log, log[max(0, len(log)-20):])
	}
	if t.Logf("the keeper takes up to %d KiB, before %d", peak>>10, before>>10); peak-before > 7<<20 {
		t.Error("that is what was written")
	}
}

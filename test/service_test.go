package test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// manager is what systemd is to a service: a socket that it is told things by.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
	env  []string
}

// newManager listens in the instance's scratch directory, with a watchdog of that time.
func newManager(t *testing.T, i *Instance, watchdog time.Duration) *manager {
	t.Helper()
	name := filepath.Join(i.Tmp, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &manager{t, conn, append(os.Environ(), "NOTIFY_SOCKET="+name, fmt.Sprintf("WATCHDOG_USEC=%d", watchdog.Microseconds()))}
}

// hears returns what it is told next, or "" if that is nothing for so long.
func (m *manager) hears(within time.Duration) string {
	m.t.Helper()
	m.conn.SetReadDeadline(time.Now().Add(within))
	b := make([]byte, 4096)
	n, err := m.conn.Read(b)
	if err != nil && !os.IsTimeout(err) {
		m.t.Fatal(err)
	}
	return string(b[:n])
}

// hearsOf waits for a word.
func (m *manager) hearsOf(word string) {
	m.t.Helper()
	Eventually(m.t, "the service manager hears "+word, 10*time.Second, func() bool { return m.hears(100*time.Millisecond) == word })
}

// A service manager is told when the mount answers, and whom to look after; then, again and again, that all is well: as long as
// the server answers the keeper, who puts another one in the place of one that does not.
func TestServiceManager(t *testing.T) {
	i, err := NewInstance()
	Require(t, err)
	defer func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	}()
	watchdog := Patiently(2 * time.Second)
	m := newManager(t, i, watchdog)
	cmd := exec.Command(i.Binary, "mount", i.Dir, "--state", i.State, "--run", i.Run)
	cmd.Env = m.env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	keeper, server, err := i.Processes()
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Split(m.hears(Patiently(5*time.Second)), "\n")
	if want := []string{"READY=1", fmt.Sprintf("MAINPID=%d", keeper)}; !slices.Equal(words, want) {
		t.Fatalf("it is told %q, wanted %q", words, want)
	}
	m.hearsOf("WATCHDOG=1")
	if err := syscall.Kill(server, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	heard := 0
	Eventually(t, "a server that stands still is followed by another", 20*time.Second, func() bool {
		if m.hears(time.Millisecond) != "" {
			heard++
		}
		_, now, err := i.Processes()
		return err == nil && now != server && i.Mounted()
	})
	if heard > 5 { // it takes two to notice, and some may be late
		t.Errorf("it is told %d times that all is well while the server stands still", heard)
	}
	m.hearsOf("WATCHDOG=1")
	if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", keeper)); err != nil || strings.Contains(string(env), "NOTIFY") {
		t.Errorf("the keeper's environment is %q, %v", env, err)
	}
}

// The init script does what it is told, and an order that has been carried out before succeeds.
func TestInitScript(t *testing.T) {
	i, err := NewInstance()
	Require(t, err)
	defer func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, step := range []struct {
		order, says string
		status      int
	}{
		{"status", "ctrfs is not mounted on " + i.Dir, 3}, {"start", "", 0}, {"start", "", 0}, {"status", "ctrfs is mounted on " + i.Dir, 0},
		{"restart", "", 0}, {"stop", "", 0}, {"stop", "", 0}, {"status", "ctrfs is not mounted on " + i.Dir, 3}, {"", "say ", 2},
	} {
		cmd := exec.Command("sh", "../examples/service/ctrfs.init", step.order)
		cmd.Env = append(os.Environ(), "CTRFS="+i.Binary, "DIR="+i.Dir, "OPTIONS=--state "+i.State+" --run "+i.Run)
		file, err := os.Create(i.Tmp + "/out") // not a pipe, which what it starts could keep open
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout, cmd.Stderr = file, file
		cmd.Run()
		file.Close()
		out, err := os.ReadFile(i.Tmp + "/out")
		if got := cmd.ProcessState.ExitCode(); got != step.status || !strings.HasPrefix(string(out), step.says) || step.says == "" && len(out) > 0 || err != nil {
			t.Fatalf("%q: exit status %d, wanted %d; it says %q, %v", step.order, got, step.status, out, err)
		}
	}
}

package test

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"
)

// namespace identifies what a link of ns/ leads to.
func (m *Tree) namespace(link string) uint64 {
	m.T.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(m.Dir+"/"+link, &st); err != nil {
		m.T.Fatal(link, err)
	}
	return st.Ino
}

// What others have entered outlives the server: the keeper holds it, also that of a pod without a program, whose namespaces
// nobody else holds at all.
func TestKillServerKeepsPins(t *testing.T) {
	m := MountFor(t)
	if err := os.Mkdir(m.Dir+"/pod", 0o755); err != nil {
		t.Fatal(err)
	}
	const join = "user ..\nnet ..\nipc .."
	m.Start("pod/a", "touch /dev/mqueue/kept", "namespaces", join)
	m.Read("pod/a/wait")
	m.Start("peer", "sleep 1000", "stop.timeout", "0")
	m.Start("joins", "sleep 1000", "namespaces", "ipc peer\nuser peer")
	kinds := []string{"pod/ns/user", "pod/ns/net", "pod/ns/ipc", "pod/ns/uts", "peer/ns/ipc"}
	before := map[string]uint64{}
	for _, kind := range kinds {
		before[kind] = m.namespace(kind)
	}
	m.killServer()
	for _, kind := range kinds {
		if after := m.namespace(kind); after != before[kind] {
			t.Errorf("%s was %d and is %d", kind, before[kind], after)
		}
	}
	m.Start("pod/b", "ls /dev/mqueue", "namespaces", join)
	if code, log := m.Read("pod/b/wait"), m.Read("pod/b/log"); code != "0" || log != "kept" {
		t.Errorf("the queue of before: exit %s, %s", code, log)
	}
	// The peer's next run is in what it lent, and removing it gives up what is pinned.
	m.Write("peer/kill", "KILL")
	m.Read("peer/wait")
	m.Write("peer/start", "1")
	if after := m.namespace("peer/ns/ipc"); after != before["peer/ns/ipc"] {
		t.Errorf("peer has another ipc namespace: %d, not %d", after, before["peer/ns/ipc"])
	}
	// Whoever has joined does not take the range of ids with it.
	m.Sh("echo KILL > joins/kill; cat joins/wait; rmdir joins pod/a pod/b pod")
	m.Sh(`[ $(awk -v i=$(stat -c %%i /run/ctrfs.claims) -v n=$(awk '{ print int($2 / 65536) }' /proc/$(cat peer/pid)/uid_map) \
		'$2 == "OFDLCK" { split($6, f, ":"); if (f[3] == i && $7 <= n && n <= $8) k++ } END { print k + 0 }' /proc/locks) = 1 ]`)
	keeper, _, err := m.Processes()
	if err != nil {
		t.Fatal(err)
	}
	Eventually(t, "the keeper has let go of the pod's namespaces", 2*time.Second, func() bool {
		return !holdsNamespace(t, keeper, before["pod/ns/net"])
	})
	if !holdsNamespace(t, keeper, before["peer/ns/ipc"]) {
		t.Error("the keeper does not hold the peer's ipc namespace: this test shows nothing")
	}
}

// Whoever runs in a container's mounts has its layer in use, also when the server that knew of it is gone; it was the server's
// successor that saw the lender end, or the lender had ended before.
func TestKillServerKeepsTenants(t *testing.T) {
	m := MountFor(t)
	for _, endsFirst := range []bool{false, true} {
		m.Start("lender", "sleep 1000", "stop.timeout", "0")
		m.Sh("mkdir -p guest; printf 'mnt lender\nuser lender\n' > guest/namespaces; echo 0 > guest/stop.timeout; echo 'sleep 1000' > guest/cmd; echo 1 > guest/start")
		end := func() { m.Sh("echo KILL > lender/kill; cat lender/wait") }
		if endsFirst {
			end()
		}
		m.killServer()
		if !endsFirst {
			end()
		}
		if err := os.WriteFile(m.Dir+"/lender/start", []byte("1\n"), 0); !errors.Is(err, syscall.EBUSY) {
			t.Errorf("the lender ends before the server: %v; its start gives %v, %s", endsFirst, err, m.Read("lender/error"))
		}
		m.Sh("echo KILL > guest/kill; cat guest/wait; echo 1 > lender/start; echo KILL > lender/kill; cat lender/wait; rmdir guest lender")
	}
}

// holdsNamespace reports whether a process has a namespace open.
func holdsNamespace(t *testing.T, pid int, inode uint64) bool {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		var st syscall.Stat_t
		if syscall.Stat(dir+"/"+fd.Name(), &st) == nil && st.Ino == inode {
			return true
		}
	}
	return false
}

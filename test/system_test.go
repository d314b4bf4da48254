package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A few lines boot a Debian: systemd comes up without a failed unit, arranges control groups of its own, which a server that is
// killed meanwhile leaves alone, lets people log in, and is shut down by stop.
func TestSystemBoots(t *testing.T) {
	m := bootDebian(t)
	journal := m.inSystem("systemctl", "show", "-P", "MainPID", "systemd-journald")
	if got := m.inSystem("sh", "-c", "tr '\\0' '\\n' < /proc/1/environ | grep ^container=; cut -d: -f1,3 /proc/1/cgroup | grep ^0"); got != "container=ctrfs\n0:/init.scope" {
		t.Errorf("PID 1 has %q", got)
	}
	Eventually(t, "cgroup.procs and ps have the same processes, also those in groups of the system's own", 10*time.Second, func() bool {
		listed := m.Sh("sort -n s/cgroup.procs; echo; tail -n +2 s/ps | cut -d' ' -f1 | sort -n")
		inGroup, inPS, _ := strings.Cut(listed, "\n\n")
		return inGroup+"\n" == inPS && strings.Contains("\n"+inPS, "\n"+m.Read("s/pid")+"\n")
	})
	m.killServer()
	if got := m.inSystem("systemctl", "show", "-P", "MainPID", "systemd-journald"); got != journal {
		t.Errorf("after the death of a server the journal is process %s, before it was %s", got, journal)
	}
	m.verifyUnit()
	m.logIn()
	m.powerOff("Exiting container.")
}

// unitMounts show a system the unit of examples/, and the program.
func (m *Tree) unitMounts(unit string) string {
	m.T.Helper()
	dir, err := filepath.Abs("../examples/service")
	if err != nil {
		m.T.Fatal(err)
	}
	return dir + "/ctrfs.service " + unit + " none bind,ro,x-mount.mkdir\n" + m.Binary + " /usr/bin/ctrfs none bind,ro,x-mount.mkdir"
}

// verifyUnit has systemd read the unit of examples/. One that is older than the newest option says that it ignores it.
func (m *Tree) verifyUnit() {
	m.T.Helper()
	m.Write("s/mounts", m.unitMounts("/run/unit/ctrfs.service"))
	for line := range strings.Lines(m.inSystem("systemd-analyze", "verify", "--man=no", "/run/unit/ctrfs.service")) {
		if !strings.Contains(line, "'DelegateSubgroup' in section [Service], ignoring") {
			m.T.Errorf("systemd on the unit: %s", line)
		}
	}
}

// The unit does what it says, in a system that may do all that root may: the keeper is the main process, and is replaced when it is
// killed; stopping leaves nothing.
func TestSystemUnit(t *testing.T) {
	m := bootDebian(t, func(m *Tree) {
		m.Sh("cd s; echo 'user host' > namespaces; echo all > caps; echo unconfined > seccomp; echo 0 > no_new_privs; echo 'c 10:229 rwm /dev/fuse' >> devices")
		m.Write("s/mounts", m.unitMounts("/etc/systemd/system/ctrfs.service"))
	})
	main := func() string { return m.inSystem("systemctl", "show", "-P", "MainPID", "ctrfs") }
	m.inSystem("systemctl", "start", "ctrfs")
	first := main()
	if got := m.inSystem("sh", "-c", "cat /proc/"+first+"/comm; systemctl is-active ctrfs; head -c 6 /ctr/version; cat /proc/"+first+"/cgroup | grep ^0"); got != "ctrfs-keeper\nactive\nctrfs 0::/system.slice/ctrfs.service" {
		t.Errorf("the main process is %s: %q", first, got)
	}
	m.inSystem("kill", "-9", first)
	Eventually(t, "another one takes its place", 20*time.Second, func() bool {
		second := main()
		return second != first && second != "0" && m.inSystem("sh", "-c", "systemctl is-active ctrfs || true") == "active"
	})
	before := main()
	m.inSystem("systemctl", "reload", "ctrfs")
	if got := main() + m.inSystem("sh", "-c", "systemctl is-active ctrfs; head -c 6 /ctr/version"); got != before+"active\nctrfs" {
		t.Errorf("after an upgrade of %s: %s", before, got)
	}
	m.inSystem("systemctl", "stop", "ctrfs")
	// systemd says that it is inactive, and removes its group a moment later.
	if got := m.inSystem("sh", "-c", "systemctl is-active ctrfs; ls /ctr; for i in $(seq 100); do [ -d /sys/fs/cgroup/system.slice/ctrfs.service ] || break; sleep 0.05; done; ls -d /sys/fs/cgroup/system.slice/ctrfs.service 2> /dev/null; pgrep ctrfs-; true"); got != "inactive" {
		t.Errorf("after its stop there is %q", got)
	}
	m.powerOff("Halting system.") // by the kernel, which it may ask
}

// What a system has made for itself goes with it: it boots again, also with another program that arranges nothing.
func TestSystemAgain(t *testing.T) {
	m := bootDebian(t)
	m.powerOff("Exiting container.")
	m.Write("s/cmd", "true")
	m.Write("s/start", "1")
	if got := m.Read("s/wait"); got != "0" {
		t.Errorf("exit %s", got)
	}
	if got := m.Read("s/plan"); strings.Contains(got, "cgroup2") || strings.Contains(got, "/run") {
		t.Errorf("a program that boots nothing gets what a system does:\n%s", got)
	}
}

// bootDebian boots the tests' Debian, without the servers in it, in the container s. prepare sets
// what is special about it.
func bootDebian(t *testing.T, prepare ...func(m *Tree)) *Tree {
	t.Helper()
	root, err := DebianRoot()
	Require(t, err)
	m := MountFor(t)
	if err := os.Mkdir(m.Dir+"/s", 0o755); err != nil {
		t.Fatal(err)
	}
	m.Write("s/rootfs", root)
	m.Write("s/cmd", "/sbin/init systemd.mask=nginx.service systemd.mask=postgresql.service systemd.mask=redis-server.service")
	m.Write("s/tty", "1")
	m.Write("s/stop.timeout", "600")
	for _, f := range prepare {
		f(m)
	}
	m.Write("s/start", "1")
	state := ""
	Eventually(t, "it is up", 60*time.Second, func() bool {
		if m.Read("s/state") != "running" {
			t.Fatalf("it ended with %s and said\n%s", m.Read("s/exit"), m.Read("s/log"))
		}
		out, _ := exec.Command(m.Binary, "exec", "--dir", m.Dir, "s", "--", "systemctl", "is-system-running").Output()
		state = strings.TrimSpace(string(out))
		return state == "running" || state == "degraded"
	})
	if state != "running" {
		t.Errorf("it is %s: %s", state, m.inSystem("systemctl", "--failed", "--plain", "--no-legend"))
	}
	return m
}

// inSystem runs a program in the container s, and returns what it printed.
func (m *Tree) inSystem(argv ...string) string {
	m.T.Helper()
	out, err := exec.Command(m.Binary, append([]string{"exec", "--dir", m.Dir, "s", "--"}, argv...)...).CombinedOutput()
	if err != nil {
		m.T.Fatalf("%v: %v, %s", argv, err, out)
	}
	return strings.TrimSpace(string(out))
}

// logIn answers the login prompt, and is asked for the password.
func (m *Tree) logIn() {
	m.T.Helper()
	Eventually(m.T, "the console asks who is there", 30*time.Second, func() bool { return strings.Contains(m.Read("s/log"), "login: ") })
	console, err := os.OpenFile(m.Dir+"/s/console", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		m.T.Fatal(err)
	}
	defer console.Close()
	if _, err := console.WriteString("root\r"); err != nil {
		m.T.Fatal(err)
	}
	Eventually(m.T, "the password is asked for", 30*time.Second, func() bool { return strings.Contains(m.Read("s/log"), "Password: ") })
}

// powerOff stops the container s, which exits with success and these last words.
func (m *Tree) powerOff(words string) {
	m.T.Helper()
	m.Write("s/stop", "1")
	if got := m.Read("s/wait"); got != "0" {
		m.T.Errorf("exit %s", got)
	}
	if log := m.Read("s/log"); !strings.HasSuffix(strings.TrimRight(log, "\r\n"), words) {
		m.T.Errorf("its last words are %q", log[max(0, len(log)-200):])
	}
}

package security

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/test"
)

// carelessly mounts as an administrator may who has files open, secrets in the environment, groups, inheritable capabilities and
// no umask, and who expects none of that to matter.
func carelessly(t *testing.T) *ground {
	t.Helper()
	test.RequireRoot(t)
	i, err := test.NewInstance()
	must(t, err)
	g := &ground{Tree: &test.Tree{Instance: i, T: t}}
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	g.plant(t)
	wrapper := i.Base + "/mount"
	must(t, os.WriteFile(wrapper, []byte(fmt.Sprintf(`#!/bin/sh
exec 7<%[1]s 8<%[2]s 9>>%[1]s
umask 000
export SECRET=%[3]s LD_PRELOAD=/x.so
exec setpriv --groups 4,6,27 --inh-caps +chown,+net_raw,+sys_chroot %[4]s "$@"
`, g.secret, g.canary, secretWord, i.Binary)), 0o755))
	binary := i.Binary
	i.Binary = wrapper
	err = i.Mount()
	i.Binary = binary
	must(t, err)
	return g
}

// unprivileged is the configuration of a program that is not root.
func unprivileged(groups ...int) func(spec) {
	return func(s spec) {
		user := spec{"uid": 1000, "gid": 1000}
		if len(groups) > 0 {
			user["additionalGids"] = groups
		}
		s["process"].(spec)["user"] = user
	}
}

// Nothing that was open anywhere is open in a container: not what the administrator had open, nor anything of ctrfs. Keeper and
// server have nothing of the administrator's either.
func TestDescriptors(t *testing.T) {
	g := carelessly(t)
	o := g.run("c", g.attacker("attacker"), "hostile fds")
	lines := strings.Split(o.log, "\n")
	if len(lines) != 3 || lines[0] != "0 /dev/null <nil>" || !strings.HasPrefix(lines[1], "1 ") || !strings.HasPrefix(lines[2], "2 ") {
		t.Errorf("the descriptors in a container: %v", o)
	}
	for name, pid := range g.processes() {
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		must(t, err)
		for _, fd := range fds {
			if link, err := os.Readlink(fd); err == nil && strings.HasPrefix(link, g.canary) {
				t.Errorf("the %s has %s open", name, link)
			}
		}
	}
}

// A container's environment is what env says, and nothing of the administrator's, of ctrfs or of another container's.
func TestEnvironment(t *testing.T) {
	g := carelessly(t)
	g.make("other", g.Root(), "sleep 1000", "env", "TOKEN="+secretWord)
	g.Write("other/start", "1")
	if o := g.run("c", g.Root(), "env", "env", "A=1\nPATH=/bin\nEMPTY="); o.log != "A=1\nPATH=/bin\nEMPTY=" {
		t.Errorf("declared were A, PATH and EMPTY: %v", o)
	}
	for name, pid := range g.processes() {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil || len(text) > 0 {
			t.Errorf("the environment of the %s is %q (%v)", name, text, err)
		}
	}
	g.make("bad", g.Root(), "env", "env", "KEPT=1")
	for _, line := range []string{"SECRET", "*", "SEC*", "=x", "A=1\nSECRET"} {
		if err := g.put("bad/env", line); err == nil {
			t.Errorf("env took %q", line)
		}
		err := g.reconfigure("bad", func(s spec) { s["process"].(spec)["env"] = strings.Split(line, "\n") })
		if err == nil {
			t.Errorf("config.json took %q", line)
		}
	}
	if o := g.try("bad"); o.log != "KEPT=1" {
		t.Errorf("after what was refused: %v", o)
	}
}

// The supplementary groups of a program are those that its configuration names, not those of whoever mounted.
func TestGroups(t *testing.T) {
	g := carelessly(t)
	for _, c := range []struct {
		name   string
		change func(spec)
		want   string
	}{
		{"root", func(spec) {}, ""},
		{"user", unprivileged(), ""},
		{"groups", unprivileged(100, 200), "100 200"},
	} {
		g.make(c.name, g.Root(), "cat /proc/self/status")
		must(t, g.reconfigure(c.name, c.change))
		o := g.try(c.name)
		if got, ok := status(o.log)["Groups"]; !ok || got != c.want {
			t.Errorf("%s: groups %q, wanted %q", c.name, got, c.want)
		}
	}
	for name, pid := range g.processes() {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		must(t, err)
		if got := status(string(text))["Groups"]; got != "" {
			t.Errorf("the %s has the groups %s", name, got)
		}
	}
}

// A program's inheritable and ambient capabilities are empty, so that executing a file with capabilities gives it none; and
// what it has is what it was given.
func TestCapabilitySets(t *testing.T) {
	g := carelessly(t)
	const none = "0000000000000000"
	for name, change := range map[string]func(spec){"root": func(spec) {}, "user": unprivileged()} {
		g.make(name, g.Root(), "cat /proc/self/status")
		must(t, g.reconfigure(name, change))
		got := status(g.try(name).log)
		if got["CapInh"] != none || got["CapAmb"] != none {
			t.Errorf("%s: inheritable %s, ambient %s", name, got["CapInh"], got["CapAmb"])
		}
		if name == "user" && (got["CapEff"] != none || got["CapPrm"] != none) {
			t.Errorf("%s: effective %s, permitted %s", name, got["CapEff"], got["CapPrm"])
		}
		if got["NoNewPrivs"] != "1" {
			t.Errorf("%s can gain privileges by executing a file", name)
		}
	}
	for name, pid := range g.processes() {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		must(t, err)
		if got := status(string(text)); got["CapInh"] != none || got["CapAmb"] != none {
			t.Errorf("%s: inheritable %s, ambient %s", name, got["CapInh"], got["CapAmb"])
		}
	}
}

// State and run directory are root's alone whatever the umask: layers hold set-user-id programs, logs hold secrets.
func TestStateIsPrivate(t *testing.T) {
	g := carelessly(t)
	root := g.freshRoot("setuid")
	g.make("c", root, "sh -c 'cp /bin/busybox /tmp/gift; chmod 4755 /tmp/gift; umask; mkdir /x; stat -c %a /x; echo done; sleep 1000'")
	g.Write("c/start", "1")
	test.Eventually(t, "the gift is made", patience, func() bool { return strings.HasSuffix(g.Read("c/log"), "done") })
	if got := g.Read("c/log"); got != "0022\n755\ndone" {
		t.Errorf("the umask in a container, and a directory made with it: %q", got)
	}
	for _, dir := range []string{g.State, g.Run} {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v (%v)", dir, info.Mode(), err)
		}
		must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			// What a container sees has the modes that it must have there; what is above it is closed.
			if base := filepath.Base(path); base == "upper" || base == "host" || base == "work" {
				return filepath.SkipDir
			}
			info, err := d.Info()
			if err == nil && info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v", path, info.Mode())
			}
			return err
		}))
		if out, err := g.as(65534, "find", dir, "-name", "gift"); err == nil || strings.Contains(out, "gift") {
			t.Errorf("anybody can look into %s: %s", dir, out)
		}
	}
}

// No user is root by the way its number is written. The one that means "do not change" to the kernel is no user.
func TestUserNumbers(t *testing.T) {
	g := mounted(t)
	g.make("c", g.Root(), "cat /proc/self/status")
	for _, c := range []struct{ key, value string }{
		{"uid", "4294967296"}, {"uid", "4294967295"}, {"uid", "-1"}, {"uid", `"0"`}, {"uid", "0.5"}, {"uid", "1e99"},
		{"gid", "4294967296"}, {"gid", "4294967295"}, {"gid", "-1"}, {"additionalGids", "[4294967295]"}, {"additionalGids", "[-1]"},
	} {
		text := g.Read("c/config.json")
		from, to := `"uid": 0`, fmt.Sprintf("%q: %s", c.key, c.value)
		if !strings.Contains(text, from) {
			t.Fatalf("no %s in\n%s", from, text)
		}
		if c.key != "uid" {
			to = `"uid": 1000, ` + to
		}
		if c.key == "gid" {
			text = strings.Replace(text, `"gid": 0`, `"umask": 18`, 1)
		}
		err := g.put("c/config.json", strings.Replace(text, from, to, 1))
		if err == nil {
			t.Errorf("%s %s was taken: %v", c.key, c.value, g.try("c"))
		}
	}
	for _, uid := range []int{1, 65535, 2147483647, 2147483648, 4294967294} {
		if uid == 2147483647 { // from here on there are none in a user namespace of a container's own
			must(t, g.put("c/namespaces", "user host"))
		}
		must(t, g.reconfigure("c", func(s spec) { s["process"].(spec)["user"] = spec{"uid": uid, "gid": uid} }))
		want := strings.TrimSpace(strings.Repeat(fmt.Sprint(uid)+"\t", 4))
		if got := status(g.try("c").log); got["Uid"] != want || got["Gid"] != want {
			t.Errorf("user %d is uid %s, gid %s", uid, got["Uid"], got["Gid"])
		}
	}
}

// A container cannot reach the terminal of whoever mounted or started it, nor type into it.
func TestTerminal(t *testing.T) {
	test.RequireRoot(t)
	i, err := test.NewInstance()
	must(t, err)
	g := &ground{Tree: &test.Tree{Instance: i, T: t}}
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	must(t, err)
	defer terminal.Close()
	must(t, unix.IoctlSetPointerInt(int(terminal.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPTN)
	must(t, err)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	must(t, err)
	defer slave.Close()
	process, err := os.StartProcess(i.Binary, []string{"ctrfs", "mount", i.Dir, "--state", i.State, "--run", i.Run, "--foreground"},
		&os.ProcAttr{Files: []*os.File{slave, slave, slave}, Sys: &syscall.SysProcAttr{Setsid: true, Setctty: true}})
	must(t, err)
	test.Eventually(t, "the mount answers", patience, i.Mounted)
	o := g.run("c", g.attacker("attacker"), "hostile tty")
	if o.exit != "0" || strings.Contains(o.log, "done") || !strings.Contains(o.log, "open /dev/tty") {
		t.Errorf("a container at a terminal: %v", o)
	}
	must(t, i.Umount())
	_, err = process.Wait()
	must(t, err)
}

// A program that a connection has launched has the sockets that it is given, or its connection, and the log: no more than that.
func TestDescriptorsOfListeners(t *testing.T) {
	g := carelessly(t)
	root := g.attacker("attacker")
	path := g.Tmp + "/sock"
	for _, c := range []struct{ style, want string }{
		{"fds", "0 /dev/null;1 LOG;2 LOG;3 SOCKET;4 SOCKET;"},
		{"inetd", "0 SOCKET;1 SOCKET;2 LOG;"},
	} {
		g.make("c", root, "hostile fds", "net.listen", fmt.Sprintf("unix %s %s\nunix %s2 %s", path, c.style, path, c.style))
		g.Write("c/start", "1")
		conn, err := net.Dial("unix", path)
		must(t, err)
		must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
		var text []byte
		if c.style == "inetd" {
			text, err = io.ReadAll(conn)
			must(t, err)
		} else {
			test.Eventually(t, "it has said what it has", 10*time.Second, func() bool { return g.Read("c/exit") == "0" })
			text = []byte(g.Read("c/log"))
		}
		conn.Close()
		got := ""
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			switch {
			case strings.HasPrefix(fields[1], "socket:"):
				fields[1] = "SOCKET"
			case strings.HasSuffix(fields[1], "/log"):
				fields[1] = "LOG"
			}
			if fields[0] == "0" && got != "" {
				break // the run that follows, since this one takes nothing
			}
			got += fields[0] + " " + fields[1] + ";"
		}
		if got != c.want {
			t.Errorf("%s: the descriptors are %s, from\n%s", c.style, got, text)
		}
		g.Write("c/stop", "1")
		g.Read("c/wait")
		must(t, os.Remove(filepath.Join(g.Dir, "c")))
	}
	for name, pid := range g.processes() {
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		must(t, err)
		listening, err := os.ReadFile("/proc/net/unix")
		must(t, err)
		if strings.Contains(string(listening), path) {
			t.Errorf("something still listens; the %s has %d descriptors open", name, len(fds))
		}
	}
}

package security

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ctrfs/ctrfs/test"
)

// exec makes an exec in a container, runs it, and removes it. settings are pairs of file and value.
func (g *ground) exec(container, cmd string, settings ...string) outcome {
	g.T.Helper()
	x := container + "/exec/x"
	must(g.T, os.Mkdir(filepath.Join(g.Dir, x), 0o755))
	g.Write(x+"/cmd", cmd)
	for i := 0; i < len(settings); i += 2 {
		g.Write(x+"/"+settings[i], settings[i+1])
	}
	o := g.try(x)
	must(g.T, os.Remove(filepath.Join(g.Dir, x)))
	return o
}

// far is a PATH that keeps a child on its way for a while.
var far = "PATH=" + strings.Repeat("/proc/self/cwd/x:", 3000) + "/bin"

// Whoever waits in a container for a program that is run there, as its first process and with every right that it can have, gets
// hold of nothing of the child before that has executed the program: neither of the one that shares the keeper's memory nor of the
// copy, with ids of its own and with the host's. The program does not exist, so that all that is seen is on its way.
func TestExecIsClosed(t *testing.T) {
	for name, settings := range map[string][]string{
		"apart":  {"caps", "all", "seccomp", "unconfined", "no_new_privs", "0"},
		"copied": {"caps", "all", "seccomp", "unconfined", "no_new_privs", "0", "namespaces", "time new"},
		"along":  {"namespaces", "user host", "seccomp", "unconfined"},
	} {
		t.Run(name, func(t *testing.T) {
			g := mounted(t)
			g.sameServer(t)
			g.make("lair", g.attacker("lurker"), "hostile lurk", settings...)
			g.Write("lair/start", "1")
			test.Eventually(t, "it lurks", patience, func() bool { return strings.Contains(g.Read("lair/log"), "lurking") })
			for range 10 {
				if o := g.exec("lair", "nosuch", "env", far); !strings.Contains(o.refused, "no such file") {
					t.Fatal(o)
				}
			}
			if log := g.Read("lair/log"); log != "lurking\nsaw somebody" {
				t.Error(log)
			}
		})
	}
}

// The same until the very moment at which the program is executed.
func TestExecIsClosedUntilExec(t *testing.T) {
	g := mounted(t)
	g.make("lair", g.attacker("attacker"), "hostile joiner", armed...)
	g.Write("lair/start", "1")
	for range 10 {
		if o := g.exec("lair", "true", "env", far); o.exit != "0" {
			t.Fatal(o)
		}
	}
	g.Write("lair/kill", "KILL")
	g.Read("lair/wait")
	if log := g.Read("lair/log"); log != "closed" {
		t.Errorf("wanted one that was seen, and nothing that was reached:\n%s", log)
	}
}

// Where nothing would keep a container from tracing who enters it, nobody does. Whoever has CAP_SYS_ADMIN on the host is not kept
// from anything.
func TestExecAmongTracers(t *testing.T) {
	g := mounted(t)
	for caps, refused := range map[string]bool{"+SYS_PTRACE": true, "+SYS_PTRACE +SYS_ADMIN": false, "-KILL": false} {
		g.make("c", g.Root(), "sleep 1000", "namespaces", "user host", "caps", caps)
		g.Write("c/start", "1")
		o := g.exec("c", "true")
		if refused != strings.Contains(o.refused, syscall.EOPNOTSUPP.Error()) || !refused && o.exit != "0" {
			t.Errorf("%s: %v", caps, o)
		}
		g.end("c")
	}
}

// What a program may do is what the container's first one may, whoever it is and whatever the administrator had when mounting.
func TestExecRights(t *testing.T) {
	g := carelessly(t)
	const show = "sh -c 'grep -Ev \"^(Name|Pid|PPid|Tgid|Ngid|NSpid|NStgid|NSpgid|NSsid|Vm|Rss|Threads|SigQ|.*ctxt|Mems|Hugetl|State|nonv|.*bias)\" /proc/self/status; " +
		"cat /proc/self/limits /proc/self/oom_score_adj /proc/self/cgroup /proc/self/uid_map /proc/self/gid_map; umask; readlink /proc/self/ns/*; " +
		"readlink /proc/self/root; env; exec sleep 1000'"
	for name, c := range map[string]struct {
		settings []string
		change   func(spec)
	}{
		"default":  {nil, func(spec) {}},
		"user":     {nil, unprivileged(100, 200)},
		"host ids": {[]string{"namespaces", "user host\nnet host", "seccomp", "unconfined", "no_new_privs", "0", "oom_score_adj", "5"}, func(spec) {}},
		"limits":   {[]string{"rlimits", "nofile 64 128\ncore 0 0", "caps", "CHOWN", "sysctl", "net.ipv4.ip_forward 1", "namespaces", "time new"}, func(spec) {}},
		"ambient": {nil, func(s spec) {
			unprivileged()(s)
			for _, set := range []string{"inheritable", "ambient"} {
				s["process"].(spec)["capabilities"].(spec)[set] = []string{"CAP_CHOWN"}
			}
			s["process"].(spec)["user"].(spec)["umask"] = 63
		}},
	} {
		g.make("c", g.Root(), show, c.settings...)
		must(t, g.reconfigure("c", c.change))
		g.Write("c/start", "1")
		test.Eventually(t, "it has shown all", patience, func() bool { return strings.Contains(g.Read("c/log"), "PATH=") })
		want := g.Read("c/log")
		if o := g.exec("c", strings.Replace(show, "exec sleep 1000", "exit 0", 1)); o.log != want || len(want) < 1000 {
			t.Errorf("%s: the first program\n%s\nthe further one: %v", name, want, o)
		}
		g.end("c")
	}
}

// In a container whose names are traps, an exec finds what is the container's: its working directory, its program and its user are
// looked up in there, and all of procfs in the host's own. It has three descriptors.
func TestExecTraps(t *testing.T) {
	g := mounted(t)
	g.sameServer(t)
	root := g.attacker("attacker")
	for i, way := range descriptors() {
		way = strings.Replace(way, "/proc/", "/rp/", 1)
		must(t, os.Symlink(way, fmt.Sprintf("%s/way%d", root, i)))
		must(t, os.Symlink(way, fmt.Sprintf("%s/bin/way%d", root, i)))
		must(t, os.Symlink(way+strings.Repeat("/..", 20)+g.secret, fmt.Sprintf("%s/bin/far%d", root, i)))
	}
	must(t, os.Symlink(strings.Repeat("../", 20)+g.canary, root+"/relative"))
	must(t, os.Symlink(g.canary, root+"/absolute"))
	must(t, os.Symlink("/proc/self/exe", root+"/bin/itself"))
	const lies = "mkdir /rp && mount -o bind /proc /rp && mount -t tmpfs lies /proc && mkdir -p /proc/self/fd /proc/self/attr && " +
		"echo lies > /proc/self/oom_score_adj && ln -sf " + "/rp/1/root/rp/self/fd/3" + " /etc/passwd && touch /ready && exec sleep 1000"
	g.make("lair", root, "sh -c '"+lies+"'", append(armed, "oom_score_adj", "77")...)
	g.Write("lair/start", "1")
	inLair := "/proc/" + g.Read("lair/pid") + "/root"
	test.Eventually(t, "the lair is made", patience, func() bool { _, err := os.Stat(inLair + "/ready"); return err == nil })

	if o := g.exec("lair", "sh -c 'cat /rp/self/oom_score_adj /proc/self/oom_score_adj; ls /rp/self/fd | wc -l'"); o.log != "77\nlies\n4" { // ls has the directory open
		t.Errorf("what went past the lies: %v", o)
	}
	if o := g.exec("lair", "true", "user", "root"); o.refused == "" {
		t.Errorf("a user from a file that is a way out: %v", o)
	}
	for i := range descriptors() {
		for _, cwd := range []string{fmt.Sprintf("/way%d", i), fmt.Sprintf("/way%d/ctrfs-made", i)} {
			if o := g.exec("lair", "ls", "cwd", cwd); o.refused == "" {
				t.Errorf("cwd %s: %v", cwd, o)
			}
		}
		for _, program := range []string{fmt.Sprintf("/bin/way%d", i), fmt.Sprintf("/bin/far%d", i)} {
			if o := g.exec("lair", program); o.refused == "" {
				t.Errorf("program %s: %v", program, o)
			}
		}
	}
	for _, cwd := range []string{"/relative", "/absolute", "/relative/ctrfs-made", "/absolute/ctrfs-made"} {
		if o := g.exec("lair", "ls /", "cwd", cwd); strings.Contains(o.log, secretWord) {
			t.Errorf("cwd %s: %v", cwd, o)
		}
	}
	g.nothingMade(t, "ctrfs-made")
}

// A first process without rights makes a user namespace and, in it, mounts of its own. Who is run there as root gets into that user
// namespace too, or is not run at all: else it would be root among names that anybody has made up.
func TestExecInNamespacesOfItsOwnMaking(t *testing.T) {
	g := mounted(t)
	g.make("c", g.Root(), "busybox unshare -U -r -m sh -c 'mount -t tmpfs x /tmp && touch /tmp/ready; exec sleep 1000'", "namespaces", "user host",
		"user", "1000:1000", "seccomp", "unconfined")
	g.Write("c/start", "1")
	pid := g.Read("c/pid")
	ready := func() bool { _, err := os.Stat("/proc/" + pid + "/root/tmp/ready"); return err == nil }
	test.Eventually(t, "it is in its own namespaces, or cannot be", patience, func() bool { return ready() || g.Read("c/state") == "exited" })
	if !ready() {
		t.Skip("this kernel lets nobody make user namespaces: ", g.Read("c/log"))
	}
	x := "c/exec/x"
	must(t, os.Mkdir(filepath.Join(g.Dir, x), 0o755))
	g.Write(x+"/cmd", "sleep 1000")
	g.Write(x+"/user", "0:0")
	if err := g.put(x+"/start", "1"); err != nil {
		if text := g.Read(x + "/error"); !strings.Contains(text, "of its own making") {
			t.Error(text)
		}
		return
	}
	text, err := os.ReadFile("/proc/" + g.Read(x+"/pid") + "/status")
	must(t, err)
	if got := status(string(text)); got["Uid"] != strings.TrimSpace(strings.Repeat("1000\t", 4)) {
		t.Errorf("an exec in the mounts of user 1000 is %s on the host", got["Uid"])
	}
}

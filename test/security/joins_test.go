package security

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/ctrfs/ctrfs/test"
)

// armed gives a container every capability and system call that its user namespace has to give.
var armed = []string{"caps", "all", "seccomp", "unconfined"}

// join has a container enter namespaces of another.
func (g *ground) join(name, other string, kinds ...string) {
	g.T.Helper()
	must(g.T, os.Mkdir(g.Dir+"/"+name, 0o755))
	g.Write(name+"/stop.timeout", "0")
	g.Write(name+"/namespaces", strings.Join(kinds, " "+other+"\n")+" "+other)
}

// Whoever is joined, and waits for that with every right that it can have in its own namespaces, cannot reach into the child on
// its way: neither into the one that shares the keeper's memory, nor into the copy that enters a time namespace.
func TestMountsJoinerIsClosed(t *testing.T) {
	for name, kinds := range map[string][]string{"shared": {"pid", "user", "mnt"}, "copied": {"pid", "user", "mnt", "time"}} {
		t.Run(name, func(t *testing.T) {
			g := mounted(t)
			g.make("lair", g.attacker("attacker"), "hostile joiner", append(armed, "namespaces", "time new")...)
			g.Write("lair/start", "1")
			g.join("c", "lair", kinds...)
			// The child is kept on its way as in TestChildIsClosedUntilExec.
			g.Write("c/env", "PATH="+strings.Repeat("/proc/self/cwd/x:", 3000)+"/bin")
			g.Write("c/cmd", "true")
			for range 10 {
				if o := g.try("c"); o.exit != "0" {
					t.Fatal(o)
				}
			}
			g.Write("lair/kill", "KILL")
			g.Read("lair/wait")
			if log := g.Read("lair/log"); log != "closed" {
				t.Errorf("wanted one that was seen, and nothing that was reached:\n%s", log)
			}
		})
	}
}

// In the mounts of somebody hostile, all names are traps: those of the working directory, of the program and of everything
// below /proc. They lead nowhere but into those mounts, nothing is made, and nothing is open in the end.
func TestJoinedMountsAreTraps(t *testing.T) {
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
	const lies = "mkdir /rp && mount -o bind /proc /rp && mount -t tmpfs lies /proc && mkdir -p /proc/self/fd /proc/sys/net/ipv4 && " +
		"echo lies > /proc/self/oom_score_adj && echo lies > /proc/sys/net/ipv4/ip_forward && touch /ready && exec sleep 1000"
	g.make("lair", root, "sh -c '"+lies+"'", armed...)
	g.Write("lair/start", "1")
	inLair := "/proc/" + g.Read("lair/pid") + "/root"
	test.Eventually(t, "the lair is made", patience, func() bool {
		_, err := os.Stat(inLair + "/ready")
		return err == nil
	})
	g.join("c", "lair", "mnt", "pid", "user", "net")
	g.Write("c/oom_score_adj", "77")
	g.Write("c/sysctl", "net.ipv4.ip_forward 1")

	g.Write("c/cmd", "sh -c 'cat /rp/self/oom_score_adj /rp/sys/net/ipv4/ip_forward /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_forward; ls /rp/self/fd | wc -l'")
	if o := g.try("c"); o.log != "77\n1\nlies\nlies\n4" { // ls has the directory open
		t.Errorf("what went past the lies: %v", o)
	}
	for i := range descriptors() {
		for _, cwd := range []string{fmt.Sprintf("/way%d", i), fmt.Sprintf("/way%d/ctrfs-made", i)} {
			g.Write("c/cwd", cwd)
			if o := g.try("c"); o.refused == "" {
				t.Errorf("cwd %s: %v", cwd, o)
			}
		}
		g.Write("c/cwd", "/")
		for _, program := range []string{fmt.Sprintf("/bin/way%d", i), fmt.Sprintf("/bin/far%d", i)} {
			g.Write("c/cmd", program)
			if o := g.try("c"); o.refused == "" && !strings.Contains(o.log, "ctrfs") {
				t.Errorf("program %s: %v", program, o)
			}
		}
		g.Write("c/cmd", "ls")
	}
	for _, cwd := range []string{"/relative", "/absolute", "/relative/ctrfs-made", "/absolute/ctrfs-made", "/ctrfs-made"} {
		g.Write("c/cwd", cwd)
		if o := g.try("c"); o.refused == "" {
			t.Errorf("cwd %s: %v", cwd, o)
		}
	}
	g.nothingMade(t, "ctrfs-made")
	if _, err := os.Stat(inLair + "/ctrfs-made"); err == nil {
		t.Error("a start has made a directory in the mounts of another container")
	}
}

// On this machine's own files, with every right of its user namespace, a container mounts nothing, makes nothing and reads nothing
// that is not for everybody; nor does its start.
func TestHostMountsStay(t *testing.T) {
	g := mounted(t)
	mounts := func() string {
		t.Helper()
		out, err := exec.Command("sh", "-c", "grep -v ctrfs-test /proc/self/mountinfo | sort").Output()
		must(t, err)
		return string(out)
	}
	before := mounts()
	private := g.Base + "/private"
	must(t, os.WriteFile(private, []byte(secretWord), 0o600))
	must(t, os.Mkdir(g.Dir+"/c", 0o755))
	for i := 0; i < len(armed); i += 2 {
		g.Write("c/"+armed[i], armed[i+1])
	}
	g.Write("c/namespaces", "mnt host")
	script := g.Base + "/script"
	must(t, os.WriteFile(script, []byte("cat "+private+"\nmount -t tmpfs x "+g.canary+"\nmount --bind / "+g.canary+"\numount "+g.Dir+"\nmount --make-rprivate /\n"+
		"echo x > "+private+"\nmkdir "+g.Base+"/made\nls "+g.State+" "+g.Run+"\necho x > /proc/sys/kernel/core_pattern\nchroot / true && echo chroot\n"), 0o755))
	g.Write("c/cmd", "sh "+script)
	o := g.try("c")
	if strings.Contains(o.log, secretWord) || strings.Contains(o.log, "containers") || o.refused != "" || !strings.Contains(o.log, "ermission denied") {
		t.Errorf("got %v", o)
	}
	if text, err := os.ReadFile(private); err != nil || string(text) != secretWord {
		t.Errorf("a file of root's was changed: %q, %v", text, err)
	}
	if _, err := os.Stat(g.Base + "/made"); err == nil {
		t.Error("a directory was made")
	}
	if after := mounts(); after != before {
		t.Errorf("the mounts of this machine were\n%s\nand are\n%s", before, after)
	}
}

package security

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/test"
)

// A name is one component of a path, and nothing else: what is made of it on the host stays where it belongs.
func TestNames(t *testing.T) {
	g := mounted(t)
	must(t, os.Mkdir(g.Dir+"/good", 0o755))
	dir, err := unix.Open(g.Dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(dir)
	for _, name := range []string{".hidden", "-rf", "_", "a\nb", "a b", "a\tb", "a\x1b[2J", "a\xff", "a:b", "a*", "a%n", "a\\b", "$(x)", "é",
		strings.Repeat("a", 64), strings.Repeat("a", 255), strings.Repeat("a", 256), "...", "..a"} {
		if err := unix.Mkdirat(dir, name, 0o755); err == nil {
			t.Errorf("mkdir %q", name)
		}
		if err := unix.Renameat(dir, "good", dir, name); err == nil {
			t.Fatalf("mv good %q", name)
		}
	}
	for _, host := range []string{"../../x", "a/b", "a\x00b", "a b", "a\nb", strings.Repeat("h", 65)} {
		if err := g.put("good/hostname", host); err == nil {
			t.Errorf("hostname %q", host)
		}
	}
}

// What lies in a root or beside it is never a setting.
func TestSettingsBesideRoot(t *testing.T) {
	g := mounted(t)
	root := g.freshRoot("machine")
	g.make("plain", root, "true")
	before := g.settings("plain")
	evil := "[Exec]\nPivotRoot=/:/x\nCapability=all\nNoNewPrivileges=no\n[Files]\nBind=" + g.canary + ":/canary\n"
	oci := fmt.Sprintf(`{"ociVersion":"1.2.0","process":{"args":["sh"],"cwd":"/","user":{"uid":0,"gid":0}},"root":{"path":"/"},"mounts":[{"destination":"/c","type":"bind","source":%q,"options":["rbind"]}]}`, g.canary)
	for name, text := range map[string]string{
		root + ".nspawn": evil, root + "/machine.nspawn": evil, root + "/.nspawn": evil, root + ".json": oci, root + "/config.json": oci,
		g.Base + "/config.json": oci, root + "/.ctrfs": oci, root + "/etc/ctrfs.conf": evil, root + "/.dockerenv": "",
		root + "/etc/environment": "EVIL=1\n", root + "/.env": "EVIL=1\n",
	} {
		must(t, os.WriteFile(name, []byte(text), 0o644))
	}
	g.make("c", root, "true")
	if after := g.settings("c"); after != before {
		t.Errorf("files in the root changed the configuration from\n%s\nto\n%s", before, after)
	}
	g.Write("c/cmd", "sh -c 'env; ls /canary'")
	if o := g.try("c"); strings.Contains(o.log, "EVIL") || strings.Contains(o.log, "secret") {
		t.Errorf("files in the root were obeyed: %v", o)
	}
}

// settings are the configuration and the plan of a container, without what differs between any two: ids and names.
func (g *ground) settings(name string) string {
	var out strings.Builder
	for line := range strings.Lines(g.Read(name+"/config.json") + g.Read(name+"/plan")) {
		if !strings.Contains(line, "cgroup") && !strings.Contains(line, "hostname") && !strings.Contains(line, "hostID") && !strings.Contains(line, g.State) {
			out.WriteString(line)
		}
	}
	return out.String()
}

// The log is a file of ctrfs's own. What somebody has put in its place is neither read nor written.
func TestLogIsNoLink(t *testing.T) {
	g := mounted(t)
	g.make("c", g.Root(), "echo hello")
	if o := g.try("c"); o.log != "hello" {
		t.Fatal(o)
	}
	logs, err := filepath.Glob(g.State + "/containers/*/*/log")
	if err != nil || len(logs) != 1 {
		t.Fatal(logs, err)
	}
	must(t, os.Remove(logs[0]))
	must(t, os.Symlink(g.secret, logs[0]))
	if text, err := os.ReadFile(g.Dir + "/c/log"); strings.Contains(string(text), secretWord) {
		t.Errorf("the log shows a file of the host's: %q (%v)", text, err)
	}
	must(t, os.Symlink(g.secret, logs[0]+".new"))
	if o := g.try("c"); o.log != "hello" {
		t.Errorf("a start with links in the place of logs: %v", o)
	}
	if info, err := os.Lstat(logs[0]); err != nil || !info.Mode().IsRegular() {
		t.Errorf("the log is %v (%v)", info, err)
	}
}

// The mount takes no set-user-id programs and no devices, and the kernel enforces the modes it shows. No set-user-id helper is
// needed for it.
func TestMountOptions(t *testing.T) {
	g := mounted(t)
	text, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	found := false
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) < 5 || f[4] != g.Dir {
			continue
		}
		found = true
		for _, option := range []string{"nosuid", "nodev", "default_permissions"} {
			if !strings.Contains(line, option) {
				t.Errorf("the mount lacks %s: %s", option, line)
			}
		}
	}
	if !found {
		t.Error("no mount: this test shows nothing")
	}
	if info, err := os.Stat(g.Binary); err != nil || info.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
		t.Errorf("the program is %v (%v)", info.Mode(), err)
	}
	if err := os.Mkdir(g.Dir+"/"+strings.Repeat("n", 256), 0o755); err == nil {
		t.Error("a name of 256 bytes was taken")
	}
}

// Whoever is not root has real root open nothing, whatever the modes of the files say, and what root has configured does not start once
// it is somebody else's. What else users may do is in the transcript users.
func TestOnlyRootNamesPaths(t *testing.T) {
	g := mounted(t)
	g.make("c", g.Root(), "true")
	must(t, os.Chmod(g.Dir, 0o777))
	g.Sh("chown -R 65534 c; chmod 666 c/* 2>/dev/null; true")
	private := g.Base + "/private"
	must(t, os.Mkdir(private, 0o700))
	for _, script := range []string{
		"echo " + private + " > c/rootfs", "echo / > c/rootfs", "echo rw > c/rootfs.mode", "echo '/ /x none bind' > c/mounts", "echo net " + private + " > c/namespaces",
		"sed s:" + g.Root() + ":/: c/config.json > /tmp/x$$; cat /tmp/x$$ > c/config.json; s=$?; rm /tmp/x$$; exit $s", "echo 1M > c/memory.max", "echo 1 > c/start",
	} {
		if out, err := g.as(65534, "sh", "-c", "cd "+g.Dir+" && "+script); err == nil {
			t.Errorf("anybody may: %s\n%s", script, out)
		}
	}
	if got := g.Read("c/cmd") + g.Read("c/rootfs"); got != "true"+g.Root() {
		t.Errorf("what was refused is there: %s", got)
	}
	// And what is not theirs to see does not show.
	must(t, os.Mkdir(g.Dir+"/c/inner", 0o700))
	must(t, os.Chmod(g.Dir+"/c/log", 0o600))
	must(t, os.Chown(g.Dir+"/c/log", 0, 0))
	if out, err := g.as(65534, "cat", g.Dir+"/c/log"); err == nil {
		t.Errorf("anybody reads a log of mode 0600: %s", out)
	}
	if out, err := g.as(65534, "ls", g.Dir+"/c/inner"); err == nil {
		t.Errorf("anybody lists a container of mode 0700: %s", out)
	}
}

// Too much of anything is refused as a whole, and changes nothing: never cut short.
func TestOversize(t *testing.T) {
	g := mounted(t)
	g.sameServer(t)
	g.make("c", g.Root(), "echo kept", "env", "KEPT=1")
	before := g.Read("c/config.json")
	const mib = 1 << 20
	huge := map[string]string{
		"env": "A=" + strings.Repeat("x", mib), "cmd": "echo " + strings.Repeat("x", mib), "cwd": "/" + strings.Repeat("x", mib),
		"config.json": strings.Replace(before, "echo", strings.Repeat("x", mib), 1), "rootfs": "/" + strings.Repeat("x", mib),
		"hostname": strings.Repeat("x", mib), "memory.max": strings.Repeat("9", mib),
	}
	for file, value := range huge {
		if err := g.put("c/"+file, value); err == nil {
			t.Errorf("%s took %d bytes", file, len(value))
		}
		// In pieces on one open file, which continue each other.
		f, err := os.OpenFile(g.Dir+"/c/"+file, os.O_WRONLY|os.O_TRUNC, 0)
		must(t, err)
		err = nil
		for at := 0; at < len(value) && err == nil; at += 64 << 10 {
			_, err = f.WriteString(value[at:min(at+64<<10, len(value))])
		}
		f.Close()
		if err == nil {
			t.Errorf("%s took %d bytes in pieces", file, len(value))
		}
		g.Write("c/env", "KEPT=1") // the first pieces of a list are whole values by themselves
		g.Write("c/cmd", "echo kept")
		g.Write("c/cwd", "/")
	}
	if after := g.Read("c/config.json"); after != before {
		t.Errorf("the configuration was changed from\n%.2000s\nto\n%.2000s", before, after)
	}
	// What fits a setting may still be too much for the kernel: a start says so, and the next one works.
	g.Write("c/env", "A="+strings.Repeat("x", 200<<10))
	if o := g.try("c"); o.refused == "" {
		t.Errorf("a variable of 200 KB was executed: exit %s", o.exit)
	}
	g.Write("c/env", "A=1")
	if o := g.try("c"); o.log != "kept" {
		t.Errorf("afterwards: %v", o)
	}
}

// Whatever is written to whatever file, the server answers.
func TestServerSurvivesInput(t *testing.T) {
	g := mounted(t)
	g.sameServer(t)
	g.make("c", g.Root(), "sleep 1000")
	entries, err := os.ReadDir(g.Dir + "/c")
	must(t, err)
	values := []string{"", "\n", "\x00", "x", "-1", "0", " ", "{}", "[]", "null", `{"process":null}`, `{"ociVersion":"1.0.0"}`, `{"ociVersion":"1.0.0","linux":{"namespaces":[{}]}}`,
		`{"ociVersion":"1.0.0","mounts":[{}],"process":{}}`, "\xff\xfe", "a=b=c", "=", "18446744073709551616", "max max max", "'", strings.Repeat("\n", 1000), strings.Repeat("[", 10000)}
	writes := 0
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		for _, v := range values {
			f, err := os.OpenFile(g.Dir+"/c/"+e.Name(), os.O_WRONLY, 0)
			if err != nil {
				break
			}
			f.WriteString(v)
			f.Close()
			writes++
		}
	}
	if writes < 300 {
		t.Errorf("only %d writes: this test shows nothing", writes)
	}
	g.put("c/kill", "KILL")
	g.Read("c/wait")
}

// A line without an end costs the disk, not the memory of ctrfs.
func TestHugeLogLine(t *testing.T) {
	g := mounted(t)
	const size = 64 << 20
	o := g.run("c", g.Root(), fmt.Sprintf("sh -c 'head -c %d /dev/zero; echo end'", size))
	if o.exit != "0" || len(o.log) < 1<<20 || !strings.HasSuffix(o.log, "end") {
		t.Errorf("exit %s, a log of %d bytes", o.exit, len(o.log))
	}
	if strings.HasSuffix(g.Binary, ".race") {
		return // needs memory of its own
	}
	var sum int64
	for _, pid := range g.processes() {
		n, err := test.RSS(pid)
		must(t, err)
		sum += n
	}
	if sum > 40<<20 {
		t.Errorf("%d bytes of memory after a line of %d", sum, size)
	}
}

// Lists show what a program calls itself, and cannot be made to show anything else.
func TestListsHoldOneLineEach(t *testing.T) {
	g := mounted(t)
	g.make("c", g.Root(), "sleep 1000 'x\n1 forged\x1b[2J\r'")
	// busybox refuses to sleep for that long; a shell takes any argument.
	g.Write("c/cmd", "sh -c 'sleep 1000; true' 'x\n9 forged\x1b[2J\r'")
	g.Write("c/start", "1")
	for _, file := range []string{"ps", "c/ps", "stats", "c/status"} {
		text := g.Read(file)
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "9 forged") {
				t.Errorf("%s holds a line that the program wrote:\n%s", file, text)
			}
		}
		if strings.ContainsAny(text, "\x1b\r") {
			t.Errorf("%s holds control characters: %q", file, text)
		}
	}
}

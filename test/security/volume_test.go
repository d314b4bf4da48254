package security

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ctrfs/ctrfs/test"
)

// shared makes a volume that the container called flipper writes to, whose program exchanges the directory called sub, all the
// time, with a link to target.
func (g *ground) shared(t *testing.T, name, target string) (volume string) {
	t.Helper()
	volume = g.Base + "/volume-" + name
	must(t, os.MkdirAll(volume+"/sub", 0o755))
	must(t, os.WriteFile(volume+"/sub/secret", []byte("of the volume\n"), 0o644))
	must(t, os.Symlink(target, volume+"/sub.link"))
	root := g.Base + "/flipper"
	if _, err := os.Stat(root); err != nil {
		g.attacker("flipper")
	}
	g.make(name, root, "hostile flip /volume/sub", "mounts", volume+" /volume none bind,idmap,x-mount.mkdir")
	g.Write(name+"/start", "1")
	return volume
}

// end kills and removes a container.
func (g *ground) end(name string) {
	g.T.Helper()
	g.put(name+"/kill", "KILL")
	g.Read(name + "/wait")
	must(g.T, os.Remove(g.Dir+"/"+name))
}

// One container cannot choose what of the host another one is shown, whose root or mounts lie in a volume that they share: as a
// source, as a root, and when a container that runs gets another mount.
func TestRacingSources(t *testing.T) {
	g := mounted(t)
	g.sameServer(t)
	g.make("live", g.Root(), "sh -c 'while :; do cat /data/secret; echo bad >> /data/secret; done 2>/dev/null'")
	g.Write("live/start", "1")
	live := 0
	targets := map[string]string{"absolute": g.canary, "relative": strings.Repeat("../", 20) + g.canary[1:], "process": "/proc/1/root" + g.canary}
	for name, target := range targets {
		volume := g.shared(t, name, target)
		g.make("source", g.Root(), "sh -c 'cat /data/secret; touch /data/made; echo bad >> /data/secret'",
			"mounts", volume+"/sub /data none bind,idmap,x-mount.mkdir")
		g.make("root", g.Root(), "/bin/busybox cat /secret")
		seen := map[string]int{}
		for end := time.Now().Add(patience / 2); seen["ok"]+seen["refused"] < 40 && time.Now().Before(end); {
			if g.put("live/mounts", volume+"/sub /data none bind,idmap,x-mount.mkdir") == nil {
				live++
			}
			if err := g.put("root/rootfs", volume+"/sub"); err == nil {
				if o := g.try("root"); strings.Contains(o.String(), secretWord) {
					t.Fatalf("%s: the root: %v", name, o)
				}
			}
			switch o := g.try("source"); {
			case strings.Contains(o.log, secretWord):
				t.Fatalf("%s: the source: %v", name, o)
			case o.refused != "":
				seen["refused"]++
			default:
				seen["ok"]++
			}
			g.put("live/mounts", "")
		}
		t.Log(name, seen)
		if seen["ok"] == 0 || seen["refused"] == 0 {
			t.Errorf("%s: the race was not close: this test shows little", name)
		}
		for _, c := range []string{name, "source", "root"} {
			g.end(c)
		}
	}
	if log := g.Read("live/log"); strings.Contains(log, secretWord) || live == 0 {
		t.Errorf("a container that runs was shown the host's file, or nothing in %d mounts", live)
	}
}

// The same of a target: what one container mounts, makes or writes below a volume stays inside of it, whatever another one puts on
// the way meanwhile.
func TestRacingTargets(t *testing.T) {
	g := mounted(t)
	g.sameServer(t)
	targets := []string{g.canary, "/proc/1/root" + g.canary, strings.Repeat("../", 20) + g.canary}
	for n := 3; n < 24; n++ { // what a child may have open of the keeper's: groups, the log, trees
		targets = append(targets, fmt.Sprintf("/proc/self/fd/%d", n))
	}
	data := g.Base + "/data"
	must(t, os.Mkdir(data, 0o755))
	ok, refused, live := 0, 0, 0
	for i, target := range targets {
		name := fmt.Sprint("flipper", i)
		volume := g.shared(t, name, target)
		mounts := volume + " /volume none bind,idmap,x-mount.mkdir\n"
		below := "tmpfs /volume/sub/ctrfs-made tmpfs x-mount.mkdir\n" + data + " /volume/sub/ctrfs-made2/deep none bind,x-mount.mkdir"
		g.make("c", g.Root(), "cat /proc/self/mountinfo", "mounts", mounts+below)
		must(t, g.reconfigure("c", func(s spec) { s["linux"].(spec)["maskedPaths"] = []string{"/volume/sub/secret"} }))
		g.make("live", g.Root(), "sh -c 'sleep 1000; true'", "mounts", mounts)
		g.Write("live/start", "1")
		for range 8 {
			o := g.try("c")
			if o.refused == "" {
				ok++
			} else {
				refused++
			}
			if g.put("live/mounts", mounts+below) == nil {
				live++
			}
			table, err := os.ReadFile("/proc/" + g.Read("live/pid") + "/mountinfo")
			must(t, err)
			for line := range strings.Lines(o.log + "\n" + string(table)) {
				if f := strings.Fields(line); len(f) > 4 && strings.Contains(f[4], "ctrfs-made") && !strings.HasPrefix(f[4], "/volume/sub") && !strings.HasPrefix(f[4], g.canary) {
					t.Fatalf("by a link to %s, a mount came to %s", target, f[4])
				}
			}
			g.put("live/mounts", mounts)
			// The next one has to make them again.
			for _, d := range []string{"/sub", "/sub.link"} {
				os.RemoveAll(volume + d + "/ctrfs-made")
				os.RemoveAll(volume + d + "/ctrfs-made2")
			}
		}
		for _, c := range []string{"c", "live", name} {
			g.end(c)
		}
	}
	t.Logf("%d starts, %d refusals, %d mounts into one that ran", ok, refused, live)
	if ok == 0 || refused == 0 || live == 0 {
		t.Error("the race was not close: this test shows little")
	}
	g.nothingMade(t, "ctrfs-made")
	g.nothingMade(t, "ctrfs-made2")
}

// A program that puts a link where a mount's target was cannot have another one taken away instead: not what makes /proc/sys
// read-only, nor a mask.
func TestUnmountOfLink(t *testing.T) {
	g := mounted(t)
	g.make("c", g.Root(), "sh -c 'mv /data /moved; ln -s /proc /data; echo moved; sleep 1000'",
		"mounts", "tmpfs /data/sys tmpfs x-mount.mkdir\ntmpfs /plain tmpfs x-mount.mkdir")
	g.Write("c/start", "1")
	test.Eventually(t, "the program is ready", patience, func() bool { return g.Read("c/log") == "moved" })
	table := func() string {
		text, err := os.ReadFile("/proc/" + g.Read("c/pid") + "/mountinfo")
		must(t, err)
		return string(text)
	}
	before := table()
	if !strings.Contains(before, " /proc/sys ") || !strings.Contains(before, " /moved/sys ") {
		t.Fatalf("this test shows nothing:\n%s", before)
	}
	if err := g.put("c/mounts", "tmpfs /plain tmpfs x-mount.mkdir"); err == nil {
		t.Error("a mount whose place is a link was taken away")
	}
	if after := table(); after != before {
		t.Errorf("the mounts were\n%s\nand are\n%s", before, after)
	}
	// What is where it was put goes.
	if err := g.put("c/mounts", "tmpfs /data/sys tmpfs x-mount.mkdir"); err != nil || strings.Contains(table(), " /plain ") {
		t.Errorf("a plain mount stays (%v):\n%s", err, table())
	}
}

package security

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/test"
)

// ownDev takes the mount of /dev out of a configuration: what is there is the root's own. The devpts on /dev/pts stays, without
// which there is no terminal.
func ownDev(s spec) {
	s["mounts"] = slices.DeleteFunc(s["mounts"].([]any), func(m any) bool {
		at := m.(spec)["destination"].(string)
		return strings.HasPrefix(at, "/dev") && at != "/dev/pts"
	})
}

// console prints where terminals are mounted, and whether the standard descriptors are one of the container's own.
const console = `sh -c 'while read id up dev root at rest; do case $rest in *" - devpts "*) echo at $at;; esac; done < /proc/self/mountinfo
echo is $(stat -L -c %t:%T /proc/1/fd/0 /proc/1/fd/1 /proc/1/fd/2)'`

const isTerminal = "is 88:0 88:0 88:0"

// words are the words of a log of [console]: a terminal puts a carriage return before each line feed.
func words(o outcome) string { return strings.Join(strings.Fields(o.log), " ") }

// A root that has links, or something else, in the places of a terminal: the start is refused, or the terminal is a real one at
// its own place.
func TestConsoleTraps(t *testing.T) {
	g := mounted(t)
	started, refused := 0, 0
	for _, mode := range []string{"overlay", "rw"} {
		root := g.freshRoot(mode)
		must(t, os.MkdirAll(root+"/dev", 0o755))
		must(t, os.WriteFile(root+"/etc/victim", nil, 0o644))
		traps := g.traps()
		for i, name := range descriptors() {
			if i%8 != 0 { // some will do
				delete(traps, name)
			}
		}
		for _, target := range []string{g.secret, "/etc/victim", "pts/0", "pts/ptmx", "null", "/dev/pts/../../etc/victim"} {
			traps[target] = func(path string) error { return os.Symlink(target, path) }
		}
		for _, place := range []string{"console", "pts", "ptmx"} {
			for name, trap := range traps {
				must(t, trap(root+"/dev/"+place))
				for _, change := range []func(spec){func(spec) {}, ownDev} {
					g.make("c", root, console, "rootfs.mode", mode, "tty", "1")
					must(t, g.reconfigure("c", change))
					o := g.try("c")
					must(t, os.Remove(filepath.Join(g.Dir, "c")))
					switch {
					case o.refused != "":
						refused++
					case words(o) == "at /dev/pts at /dev/console "+isTerminal:
						started++
					default:
						t.Errorf("%s root with a %s as /dev/%s: %v", mode, name, place, o)
					}
				}
				must(t, os.RemoveAll(root+"/dev"))
				must(t, os.Mkdir(root+"/dev", 0o755))
			}
		}
	}
	t.Logf("%d starts, %d refusals", started, refused)
	if started == 0 || refused == 0 {
		t.Error("this test shows little")
	}
}

// While /dev/console and /dev/pts are exchanged with links (CVE-2025-52565), no terminal is mounted anywhere else.
func TestConsoleRace(t *testing.T) {
	g := mounted(t)
	g.sameServer(t)
	root := g.freshRoot("shared")
	must(t, os.MkdirAll(root+"/dev/pts", 0o755))
	must(t, os.WriteFile(root+"/dev/console", nil, 0o644))
	must(t, os.Symlink("null", root+"/dev/console.link")) // which would then be what masks
	must(t, os.Symlink("/etc", root+"/dev/pts.link"))
	const pause = 100 * time.Microsecond // as in TestRacingRoot
	stop := make(chan struct{})
	var racing sync.WaitGroup
	racing.Go(func() {
		for {
			for _, name := range []string{"console", "pts", "console", "console"} {
				at := root + "/dev/" + name
				unix.Renameat2(unix.AT_FDCWD, at, unix.AT_FDCWD, at+".link", unix.RENAME_EXCHANGE)
				select {
				case <-stop:
					return
				case <-time.After(pause):
				}
			}
		}
	})
	g.make("c", root, console, "rootfs.mode", "rw", "tty", "1")
	must(t, g.reconfigure("c", ownDev))
	started, refused := 0, 0
	for end := time.Now().Add(patience); started+refused < 200 && time.Now().Before(end); {
		o := g.try("c")
		if o.refused != "" {
			refused++
			continue
		}
		started++
		for _, word := range strings.Fields(strings.ReplaceAll(words(o), isTerminal, "")) {
			if word != "at" && !strings.HasPrefix(word, "/dev/console") && !strings.HasPrefix(word, "/dev/pts") {
				t.Fatalf("a terminal elsewhere: %v", o)
			}
		}
	}
	close(stop)
	racing.Wait()
	t.Logf("%d starts, %d refusals", started, refused)
	if started == 0 || refused == 0 {
		t.Error("the race was not close: this test shows little")
	}
}

// A program on a terminal has its own end of it and nothing else, cannot type into it, and sees no terminal of the host's. That
// has one more for each terminal, its console, which is root's alone.
func TestOwnTerminal(t *testing.T) {
	g := mounted(t)
	terminals := func() []string {
		names, err := filepath.Glob("/dev/pts/*")
		must(t, err)
		return names
	}
	before := terminals()
	root := g.attacker("attacker")
	g.make("other", g.Root(), "sleep 1000", "tty", "1")
	g.Write("other/start", "1")
	o := g.run("c", root, "hostile fds", "tty", "1")
	if got := strings.ReplaceAll(o.log, "\r", ""); got != "0 /dev/pts/0 <nil>\n1 /dev/pts/0 <nil>\n2 /dev/pts/0 <nil>" {
		t.Errorf("the descriptors in a container: %v", o)
	}
	o = g.run("c", root, "hostile tty", "tty", "1")
	attempts := 0
	for line := range strings.Lines(o.log) {
		if strings.Contains(line, "TIOCSTI") { // what is typed is echoed before it
			attempts++
			if strings.Contains(line, "done") {
				t.Errorf("a program has typed: %s", line)
			}
		}
	}
	if attempts == 0 {
		t.Errorf("nothing was tried: %v", o)
	}
	o = g.run("c", root, "ls -1 /dev/pts", "tty", "1")
	if words(o) != "0 ptmx" {
		t.Errorf("terminals in a container: %v", o)
	}
	console, err := os.Readlink(filepath.Join(g.Dir, "other/console"))
	must(t, err)
	// Other tests have terminals for a while.
	test.Eventually(t, "the host has no more terminals than before, but for a console", patience, func() bool {
		return !slices.ContainsFunc(terminals(), func(name string) bool { return name != console && !slices.Contains(before, name) })
	})
	var st unix.Stat_t
	must(t, unix.Stat(console, &st))
	if st.Mode != unix.S_IFCHR|0o600 || st.Uid != 0 {
		t.Errorf("a console has mode %o and belongs to %d", st.Mode, st.Uid)
	}
	keeper := g.processes()["keeper"]
	if n := masters(t, keeper); n != 2 {
		t.Errorf("the keeper holds %d terminals; one is used, and has a console", n)
	}
	g.Write("other/kill", "KILL")
	g.Read("other/wait")
	test.Eventually(t, "the keeper has closed both", 5*time.Second, func() bool { return masters(t, keeper) == 0 })
}

// masters counts the masters of terminals that a process has open.
func masters(t *testing.T, pid int) (n int) {
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	must(t, err)
	for _, fd := range fds {
		var st unix.Stat_t
		if unix.Stat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(5, 2) {
			n++
		}
	}
	return n
}

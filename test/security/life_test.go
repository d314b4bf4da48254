package security

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/test"
)

// said is what a program says of where it runs: whose it is by its environment, by its root and by its name, then its namespaces.
const said = `o=/out/$WHO.$(cat /proc/sys/kernel/random/uuid); echo $WHO $(cat /who) $(hostname) $(for n in pid net mnt user uts ipc cgroup; do readlink /proc/self/ns/$n; done) > $o.new; mv $o.new $o; sleep 1000; true`

// Containers that are made, configured, started, killed, frozen, renamed and removed all at once, under few names: no program runs with
// half of another one's configuration, in the host's namespaces, or twice; the server answers, and nothing is left behind.
func TestLifeRaces(t *testing.T) {
	g := mounted(t)
	g.sameServer(t)
	out := g.Base + "/out"
	must(t, os.Mkdir(out, 0o777))
	must(t, os.Chmod(out, 0o777))
	var configs []string
	for who := range 4 {
		root := g.freshRoot(fmt.Sprint("root", who))
		must(t, os.WriteFile(root+"/who", fmt.Append(nil, who, "\n"), 0o644))
		name := fmt.Sprint("model", who)
		g.make(name, root, "sh -c '"+said+"'", "env", fmt.Sprint("PATH=/bin\nWHO=", who), "hostname", fmt.Sprint("h", who),
			"mounts", out+" /out none bind,x-mount.mkdir")
		configs = append(configs, g.Read(name+"/config.json"))
	}
	// As often as it takes for enough programs to live long enough to say something: on a busy machine few do.
	const enough, most = 30, 600
	reports := func() int { words, _ := filepath.Glob(out + "/*"); return len(words) }
	var all sync.WaitGroup
	for who, config := range configs {
		all.Go(func() {
			for n := 0; n < 60 || n < most && reports() < enough; n++ {
				name := fmt.Sprint("c", (who+n)%3)
				if os.Mkdir(g.Dir+"/"+name, 0o755) == nil || n%4 == 0 {
					g.put(name+"/config.json", config)
				}
				for _, action := range [][2]string{{"start", "1"}, {"cgroup.freeze", "1"}, {"start", "1"}, {"cgroup.freeze", "0"}} {
					g.put(name+"/"+action[0], action[1])
				}
				if n%2 == 0 {
					time.Sleep(20 * time.Millisecond) // for the program to say where it is
				}
				os.Rename(g.Dir+"/"+name, g.Dir+"/"+fmt.Sprint("c", (who+n+1)%3))
				g.put(name+"/kill", "KILL")
				g.put(name+"/cgroup.kill", "1")
				os.Remove(g.Dir + "/" + name)
			}
		})
	}
	all.Wait()
	host := map[string]bool{}
	for _, kind := range []string{"pid", "net", "mnt", "user", "uts", "ipc", "cgroup"} {
		link, err := os.Readlink("/proc/self/ns/" + kind)
		must(t, err)
		host[link] = true
	}
	words, err := filepath.Glob(out + "/*")
	must(t, err)
	for _, file := range words {
		text, err := os.ReadFile(file)
		must(t, err)
		f := strings.Fields(string(text))
		if strings.HasSuffix(file, ".new") {
			continue // it was killed over it
		}
		if len(f) != 10 || f[0] != f[1] || "h"+f[0] != f[2] {
			t.Errorf("a program says that it is %q", f)
			continue
		}
		for _, ns := range f[3:] {
			if host[ns] {
				t.Errorf("a program runs in the host's %s", ns)
			}
		}
	}
	t.Logf("%d programs have said where they run", len(words))
	if len(words) < enough {
		t.Error("this test shows little")
	}
	// Every process that runs is that of a container which knows it.
	known := map[string]bool{}
	states, err := filepath.Glob(g.Dir + "/*/pid")
	must(t, err)
	for _, file := range states {
		text, _ := os.ReadFile(file)
		known[strings.TrimSpace(string(text))] = true
	}
	p := g.processes()
	for _, pid := range children(p["keeper"]) {
		if pid != p["server"] && !known[strconv.Itoa(pid)] {
			t.Errorf("process %d runs for no container", pid)
		}
	}
	if o := g.run("after", g.Base+"/root0", "echo well"); o.log != "well" {
		t.Errorf("afterwards: %v", o)
	}
}

// Of many starts, removals and renames of one container at the same moment, the outcome is one that they have in some order: it
// runs once, with its layer, or it is gone.
func TestOneAtATime(t *testing.T) {
	g := mounted(t)
	g.sameServer(t)
	const cmd = "sh -c 'sleep 0.4; echo kept > /mark; for i in 1 2 3 4 5; do sleep 0.01; cat /mark; done'"
	for round := range 40 {
		g.make("c", g.Root(), cmd)
		starts, removals := make(chan bool, 8), make(chan bool, 8)
		var all sync.WaitGroup
		barrier := make(chan struct{})
		for n := range 8 {
			all.Go(func() {
				<-barrier
				for _, name := range []string{"c", "d"} {
					switch {
					case n < 5:
						starts <- g.put(name+"/start", "1") == nil
					case n == 5:
						os.Rename(g.Dir+"/c", g.Dir+"/d")
					case round%2 == 1:
						removals <- os.Remove(g.Dir+"/"+name) == nil
					}
					if n < 5 {
						break // one start each
					}
				}
			})
		}
		close(barrier)
		all.Wait()
		ran, gone := 0, 0
		for range len(starts) {
			if <-starts {
				ran++
			}
		}
		for range len(removals) {
			if <-removals {
				gone++
			}
		}
		name := "c"
		if _, err := os.Stat(g.Dir + "/d"); err == nil {
			name = "d"
		}
		_, err := os.Stat(g.Dir + "/" + name)
		if ran > 1 || gone > 1 || ran+gone > 1 || (gone == 1) != (err != nil) {
			t.Errorf("round %d: %d starts and %d removals have succeeded, and it is there: %v", round, ran, gone, err == nil)
		}
		if gone > 0 {
			continue
		}
		if ran > 0 {
			exit, log := g.Read(name+"/wait"), g.Read(name+"/log")
			if exit != "0" || log != strings.TrimSpace(strings.Repeat("kept\n", 5)) {
				t.Errorf("round %d: exit %s, log %q", round, exit, log)
			}
		}
		must(t, os.Remove(g.Dir+"/"+name))
	}
}

// A process that has got the pid of a container's, which has ended without the server's knowing yet, is neither killed nor entered.
func TestReusedPid(t *testing.T) {
	g := mounted(t)
	g.sameServer(t)
	program, err := hostile()
	must(t, err)
	server := g.processes()["server"]
	t.Cleanup(func() { syscall.Kill(server, syscall.SIGCONT) }) // whatever fails in between
	struck := g.Tmp + "/struck"
	g.make("guest", g.Root(), "sh -c 'readlink /proc/self/ns/net; readlink /proc/self/ns/ipc'", "namespaces", "net c\nipc c")
	for name, attack := range map[string]func(){
		"kill":       func() { g.put("c/kill", "KILL") },
		"stop":       func() { g.put("c/stop", "1") },
		"mounts":     func() { g.put("c/mounts", "tmpfs "+struck+" tmpfs x-mount.mkdir") },
		"namespaces": func() { g.put("guest/start", "1") },
	} {
		hits := 0
		for range 12 {
			g.make("c", g.Root(), "sh -c 'sleep 1000; true'")
			g.Write("c/start", "1")
			pid, err := strconv.Atoi(g.Read("c/pid"))
			must(t, err)
			must(t, syscall.Kill(server, syscall.SIGSTOP))
			test.Eventually(t, "the server has stopped", patience, func() bool { return stopped(server) })
			done := make(chan struct{})
			go func() { attack(); close(done) }()
			time.Sleep(5 * time.Millisecond) // the request waits for the server first, then the exit
			must(t, syscall.Kill(pid, syscall.SIGKILL))
			for end := time.Now().Add(patience); unix.Kill(pid, 0) == nil && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			stranger := exec.Command(program, "reborn", strconv.Itoa(pid))
			words, err := stranger.StdoutPipe()
			must(t, err)
			must(t, stranger.Start())
			lines := bufio.NewScanner(words)
			lines.Scan()
			must(t, syscall.Kill(server, syscall.SIGCONT))
			<-done
			if lines.Text() == "born" {
				hits++
				if unix.Kill(pid, 0) != nil || state(fmt.Sprint(pid)) == "Z" {
					t.Errorf("%s: a stranger with the pid of a container's was killed", name)
				}
				unix.Kill(pid, syscall.SIGTERM)
			}
			stranger.Wait()
			if name == "namespaces" {
				g.Read("guest/wait")
				for _, kind := range []string{"net", "ipc"} {
					host, _ := os.Readlink("/proc/self/ns/" + kind)
					if strings.Contains(g.Read("guest/log"), host) {
						t.Errorf("a container was let into the %s namespace of a stranger", kind)
					}
				}
			}
			test.Eventually(t, "the exit is known", patience, func() bool { return g.Read("c/state") == "exited" })
			must(t, os.Remove(g.Dir+"/c"))
		}
		if hits == 0 {
			t.Errorf("%s: no pid was used again: this test shows nothing", name)
		}
	}
	if _, err := os.Stat(struck); err == nil {
		t.Error("a mount of a container's was made on the host")
		unix.Unmount(struck, unix.MNT_DETACH)
	}
}

// state is the state of a process or thread, proc_pid_status(5).
func state(pid string) string {
	text, _ := os.ReadFile("/proc/" + pid + "/status")
	word, _, _ := strings.Cut(status(string(text))["State"], " ")
	return word
}

// stopped reports whether every thread of a process has stopped.
func stopped(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, thread := range threads {
		if state(strings.TrimPrefix(thread, "/proc/")) != "T" {
			return false
		}
	}
	return len(threads) > 0
}

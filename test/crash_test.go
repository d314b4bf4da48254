package test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// crashing is an operation that is cut off at every step, in the words of a shell in the mount.
type crashing struct {
	name    string
	prepare string // what there is before
	do      string // the operation; its exit status says whether it has succeeded
	kill    bool   // the operation is a death of the server: the points are those of the one that follows
	net     bool   // in a network namespace of its own, where all that has to do with networks must be gone in the end
}

const (
	created  = "mkdir c; echo $ROOT > c/rootfs; echo sh -c \"'trap \\\"exit 3\\\" TERM; echo up; while :; do sleep 0.02; done'\" > c/cmd; "
	running  = created + "echo 1 > c/start; until grep -q up c/log; do :; done; "
	exited   = created + "echo 1 > c/start; until grep -q up c/log; do :; done; echo 1 > c/stop; cat c/wait; "
	within   = running + "mkdir c/exec/x; echo sh -c \"'trap \\\"exit 4\\\" TERM; echo in; while :; do sleep 0.02; done'\" > c/exec/x/cmd; "
	imported = "mkdir images/a; tar -C $ROOT/. -cf $TMP/a.tar etc; tar -C $ROOT/. -cf $TMP/b.tar etc tmp; cat $TMP/a.tar > images/a/tar; cat images/a/wait; "
	deaf     = created + "echo unix $TMP/sock > c/net.listen; "
	armed    = deaf + "echo 1 > c/start; "
	connect  = "python3 -c 'import os, socket; socket.socket(socket.AF_UNIX).connect(os.environ[\"TMP\"] + \"/sock\")'; "
	inside   = within + "echo 1 > c/exec/x/start; until grep -q in c/exec/x/log; do :; done; "
)

var crashings = []crashing{
	{name: "create", do: "mkdir c"},
	{name: "create in another", prepare: "mkdir p", do: "mkdir p/c"},
	{name: "configure", prepare: created, do: "echo A=1 > c/env"},
	{name: "configure what runs", prepare: running, do: "echo 64M > c/memory.max"},
	{name: "open the input", prepare: created, do: "echo 1 > c/stdin.open"},
	{name: "end the input", prepare: created + "echo 1 > c/stdin.open; echo sh -c \"'echo up; cat; exit 3'\" > c/cmd; echo 1 > c/start; until grep -q up c/log; do :; done",
		do: "echo 0 > c/stdin.open && cat c/wait"},
	{name: "start", prepare: created + "echo 64M > c/memory.max; echo 1 > c/stdin.open", do: "echo 1 > c/start"},
	{name: "start in a network", net: true, prepare: created + "echo bridge > c/net; echo 8080:80 > c/net.ports", do: "echo 1 > c/start"},
	{name: "start again", prepare: exited + "echo always > c/restart", do: "echo 1 > c/start"},
	{name: "start in vain", prepare: created + "echo /nothing > c/cmd", do: "! sh -c 'echo 1 > c/start'"},
	{name: "stop", prepare: running, do: "echo 1 > c/stop && cat c/wait"},
	{name: "listen", prepare: deaf, do: "echo 1 > c/start"},
	{name: "listen in vain", prepare: deaf + "touch $TMP/sock; ", do: "! sh -c 'echo 1 > c/start'"},
	{name: "listen no more", prepare: armed, do: "echo 1 > c/stop && cat c/wait"},
	{name: "launch by a connection", prepare: armed, do: connect + "until grep -q up $MNT/c/log; do sleep 0.02; done 2> /dev/null"},
	{name: "create exec", prepare: running, do: "mkdir c/exec/x"},
	{name: "configure exec", prepare: within, do: "echo A=1 > c/exec/x/env"},
	{name: "start exec", prepare: within, do: "echo 1 > c/exec/x/start"},
	{name: "end exec", prepare: inside, do: "echo TERM > c/exec/x/kill && cat c/exec/x/wait"},
	{name: "remove exec", prepare: inside + "echo TERM > c/exec/x/kill; cat c/exec/x/wait", do: "rmdir c/exec/x"},
	{name: "rename", prepare: exited, do: "mv c d"},
	{name: "move", prepare: exited + "mkdir p", do: "mv c p/c"},
	{name: "remove", prepare: exited + "echo 1 > c/stdin.open; mkdir c/exec/x", do: "rmdir c"},
	{name: "create image", do: "mkdir images/a"},
	{name: "import", prepare: "mkdir images/a; tar -C $ROOT/. -cf $TMP/a.tar .", do: "cat $TMP/a.tar > images/a/tar && [ $(cat images/a/wait) = ready ]"},
	{name: "import anew", prepare: imported, do: "cat $TMP/b.tar > images/a/tar && [ $(cat images/a/wait) = ready ]"},
	{name: "give an image", prepare: imported + "mkdir c", do: "echo a > c/image"},
	{name: "take an image away", prepare: imported + "mkdir c; echo a > c/image", do: "echo > c/image"},
	{name: "commit", prepare: running + "mkdir images/a", do: "echo a > c/commit && [ $(cat images/a/wait) = ready ]"},
	{name: "remove image", prepare: imported, do: "rmdir images/a"},
	{name: "recover what listens", prepare: armed, kill: true},
	{name: "recover", prepare: inside + "mkdir d; echo 1 > d/stdin.open", kill: true},
}

// look prints everything that one of these operations changes.
const look = `for x in c d p p/c; do [ -d $x ] || continue; echo "$x:"; cd $x; cat state exit cmd env memory.max stdin.open image log; [ -s log ] || echo
	for e in exec/*/; do [ -d "$e" ] && (echo $e; cd $e; cat state exit cmd env log); done; cd "$MNT"; done
	ls $TMP | grep sock
	for i in images/*/; do [ -d $i ] && echo $i $(wc -l < $i/layers) layers of $(cat $i/size); done; true`

// finish shows that what is there works, whatever state it is in, and takes it away: each container of these is started once more and
// exits as it should, each exec is removed.
const finish = `set -e; for x in p/c c d p; do [ -d $x ] || continue
	echo no > $x/restart
	for e in $x/exec/*/; do [ -d "$e" ] || continue; echo KILL 2> /dev/null > $e/kill || true; cat $e/wait > /dev/null; rmdir $e; done
	[ -z "$(cat $x/net.listen)" ] || echo 1 2> /dev/null > $x/stop || true
	echo KILL 2> /dev/null > $x/kill || true; cat $x/wait > /dev/null; echo > $x/net.listen
	echo $ROOT > $x/rootfs; echo 'sh -c "exit 7"' > $x/cmd; echo 1 > $x/start; [ "$(cat $x/wait)" = 7 ]
	rmdir $x; done
	for i in images/*/; do [ -d $i ] || continue; cat $i/wait > /dev/null; rmdir $i; done; ls -d [!in]*/ images/*/ 2> /dev/null || true`

// crashBench is one mounted ctrfs whose server can be killed at a point.
type crashBench struct {
	*Tree
	orders string // the directory that package engine/crash looks into
	keeper int    // its pid
	files  int    // that the keeper had open at first
	was    string // the state of the network namespace before; empty when it is not its own
}

// openCrashBench mounts a ctrfs with crash points, and waits until all is done that follows a mount.
func openCrashBench(t *testing.T, c crashing) *crashBench {
	i, err := NewInstance()
	was := ""
	if err == nil && c.net {
		i.Netns = NewNetns(t, "crash")
		i.Netns.IP(t, "link set lo up")
		was = i.Netns.state(t)
	}
	if err == nil {
		i.Binary, err = CrashBinary()
	}
	if err == nil {
		err = shared.lend(i)
	}
	if err == nil {
		err = i.Mount()
	}
	if err != nil {
		t.Fatal(err)
	}
	b := &crashBench{&Tree{i, t}, i.Run + "/crashpoints", 0, 0, was}
	Eventually(t, "the root called host is there", 20*time.Second, func() bool {
		made, err := filepath.Glob(i.State + "/host/*-*")
		return err == nil && len(made) == 1
	})
	if b.keeper, _, err = i.Processes(); err != nil {
		t.Fatal(err)
	}
	b.files = openFiles(b.keeper)
	return b
}

// order asks for the points that are passed from now on, and for the server's death at one of them, "N NAME", or at none.
func (b *crashBench) order(at string) {
	b.T.Helper()
	err := os.Mkdir(b.orders, 0o700)
	if err == nil && at != "" {
		err = os.WriteFile(b.orders+"/at", []byte(at+"\n"), 0o600)
	}
	if err == nil {
		err = os.WriteFile(b.orders+"/passed", nil, 0o600)
	}
	if err != nil {
		b.T.Fatal(err)
	}
}

// passed returns the points that have been passed, each as "N NAME", once no more come for longer than the server puts anything off.
func (b *crashBench) passed() (points []string) {
	b.T.Helper()
	quiet, last := time.Now(), -1
	Eventually(b.T, "an operation comes to its end", 20*time.Second, func() bool {
		text, err := os.ReadFile(b.orders + "/passed")
		if err != nil {
			b.T.Fatal(err)
		}
		if len(text) != last {
			quiet, last = time.Now(), len(text)
		}
		return time.Since(quiet) > crashQuiet
	})
	text, _ := os.ReadFile(b.orders + "/passed")
	times := map[string]int{}
	for line := range strings.Lines(string(text)) {
		name := strings.TrimSpace(line)
		times[name]++
		points = append(points, fmt.Sprint(times[name], " ", name))
	}
	return points
}

// crashQuiet is more than the half second after which the server syncs what has changed, and crashLate is when such a step must have
// been taken on a machine with much else to do.
const (
	crashQuiet = 700 * time.Millisecond
	crashLate  = 3 * time.Second
)

// try does the operation, and says whether it has succeeded.
func (b *crashBench) try(c crashing) bool {
	b.T.Helper()
	if c.kill {
		_, server, err := b.Processes()
		if err == nil {
			err = syscall.Kill(server, syscall.SIGKILL)
		}
		if err != nil {
			b.T.Fatal(err)
		}
		return false
	}
	sh := b.Shell("dash")
	defer sh.Close()
	_, status, err := sh.Run(c.do, patience)
	if errors.Is(err, syscall.ENOTCONN) { // the server has taken the step by itself, and died, before there was a shell
		return false
	}
	if err != nil {
		b.T.Errorf("%s: %v", c.do, err)
	}
	return status == 0
}

// back waits for a server that answers, other than the one that has died.
func (b *crashBench) back(dead int) {
	b.T.Helper()
	Eventually(b.T, "another server answers", 20*time.Second, func() bool {
		if !b.Mounted() {
			return false
		}
		_, now, err := b.Processes()
		return err == nil && now != dead
	})
}

// shows waits until what there is looks like one of these, and still does a moment later, and returns what it looks like.
func (b *crashBench) shows(wanted ...string) string {
	var seen string
	stable := 0
	for end := time.Now().Add(Patiently(10 * time.Second)); stable < 2 && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		now := b.Sh("%s", look)
		if slices.Contains(wanted, now) && (stable == 0 || now == seen) {
			stable++
		} else {
			stable = 0
		}
		seen = now
	}
	return seen
}

// close takes everything away and returns what is left of it, and of the containers before.
func (b *crashBench) close() error {
	var errs []error
	if left := b.Sh("%s", finish); left != "" {
		errs = append(errs, fmt.Errorf("containers that could not be removed: %s", left))
	}
	os.RemoveAll(b.orders)
	stays := ""
	left := func() bool {
		if stays = b.ownerless(); stays != "" {
			return true
		}
		if kept, _ := filepath.Glob(b.State + "/images/*/*"); len(kept) > 0 {
			stays = fmt.Sprintf("of images: %q", kept)
			return true
		}
		files := openFiles(b.keeper)
		stays = fmt.Sprintf("the keeper has more than %d files open: %q", b.files, namesOfFiles(b.keeper))
		return files > b.files
	}
	for end := time.Now().Add(Patiently(5 * time.Second)); left(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			errs = append(errs, errors.New("left behind: "+stays))
			break
		}
	}
	for _, line := range b.failures() {
		errs = append(errs, fmt.Errorf("ctrfs.log: %s", line))
	}
	errs = append(errs, b.Umount(), shared.takeBack(b.Instance))
	if b.was != "" {
		errs = append(errs, b.Netns.unlike(b.T, b.was))
	}
	return errors.Join(append(errs, b.Close())...)
}

// shelf is what one mount after the other uses, because it takes longer to make than all else that is done here: a busybox root, and
// what ctrfs makes of this machine for the root called host.
type shelf struct {
	mu    sync.Mutex
	dir   string
	hosts []string // not in use at the moment
}

var shared shelf

// open makes the shelf, for the time of a test.
func (s *shelf) open(t *testing.T) {
	s.dir, s.hosts = t.TempDir(), nil
	if err := os.Chmod(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.dir+"/root", 0o755); err != nil {
		t.Fatal(err)
	}
	Require(t, BusyboxRoot(s.dir+"/root"))
}

// lend gives an instance that is not mounted yet what it needs.
func (s *shelf) lend(i *Instance) error {
	if err := os.Symlink(s.dir+"/root", i.Base+"/root"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.hosts) == 0 {
		return nil
	}
	last := len(s.hosts) - 1
	from := s.hosts[last]
	s.hosts = s.hosts[:last]
	return os.Rename(from, i.State+"/host")
}

// takeBack takes it back from one that is not mounted any more.
func (s *shelf) takeBack(i *Instance) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	to := fmt.Sprintf("%s/host-%s", s.dir, filepath.Base(i.Base))
	err := os.Rename(i.State+"/host", to)
	if err == nil {
		s.hosts = append(s.hosts, to)
	}
	return err
}

// survey does the operation once, undisturbed: what it looks like before and afterwards, and the points that it passes.
func survey(t *testing.T, c crashing) (before, after string, points []string) {
	t.Run(c.name, func(t *testing.T) {
		before, after, points = openCrashBench(t, c).survey(c)
		t.Logf("%d points: %s", len(points), strings.Join(points, ", "))
		if len(points) == 0 {
			t.Errorf("%s passes no point: it cannot last", c.name)
		}
	})
	return before, after, points
}

func (b *crashBench) survey(c crashing) (before, after string, points []string) {
	t := b.T
	b.Sh("%s\ntrue", c.prepare)
	before = b.Sh("%s", look)
	b.order("")
	_, server, _ := b.Processes()
	succeeded := b.try(c)
	if c.kill {
		b.back(server)
	} else if !succeeded {
		t.Errorf("%s fails undisturbed: %s", c.do, b.Sh("cat */error"))
	}
	points = b.passed()
	after = b.Sh("%s", look)
	if err := b.close(); err != nil {
		t.Error(err)
	}
	return before, after, points
}

// crashAt does the operation on a fresh mount, with the server killed at that point, and says whether it came there.
func crashAt(t *testing.T, c crashing, before, after, point string) (hit bool) {
	b := openCrashBench(t, c)
	fail := func(format string, args ...any) {
		t.Errorf("%s, killed at %q: %s", c.name, point, fmt.Sprintf(format, args...))
	}
	b.Sh("%s\ntrue", c.prepare)
	_, server, err := b.Processes()
	if err != nil {
		t.Fatal(err)
	}
	b.order(point)
	succeeded := b.try(c)
	for end := time.Now().Add(Patiently(crashLate)); !hit && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		_, err := os.Lstat(b.orders + "/hit")
		hit = err == nil
	}
	if os.Remove(b.orders+"/at") != nil { // else it is not going to happen any more
		hit = true
	}
	if hit || c.kill {
		b.back(server)
	}
	wanted := []string{after}
	if !succeeded {
		wanted = append(wanted, before)
	}
	if now := b.shows(wanted...); !slices.Contains(wanted, now) {
		fail("succeeded %v, and now there is\n%s\nbefore there was\n%s\nand it should become\n%s", succeeded, now, before, after)
	}
	if err := b.close(); err != nil {
		fail("%v", err)
	}
	return hit
}

// worthwhile leaves out what is the same again: of a step that is taken many times, as for each file of a tree that is deleted, the
// first, the second and the last count, unless all are asked for; and of what the server does by itself from time to time, and not
// for this operation, the first, and in one operation only.
func worthwhile(c crashing, points []string) []string {
	times := map[string]int{}
	for _, point := range points {
		n, name, _ := strings.Cut(point, " ")
		times[name], _ = strconv.Atoi(n)
	}
	return slices.DeleteFunc(slices.Clone(points), func(point string) bool {
		n, name, _ := strings.Cut(point, " ")
		if byItself(name) {
			return n != "1" || c.name != crashings[0].name && !*everyPoint
		}
		return !*everyPoint && n != "1" && n != "2" && n != strconv.Itoa(times[name])
	})
}

// byItself reports whether the server takes a step when it has time for it, whatever the operation: it may come too early, or too late,
// for a death to be one in the middle of that.
func byItself(name string) bool {
	return strings.HasPrefix(name, "sync") || strings.HasPrefix(name, "stock ")
}

// mayBeOne reports whether a step is taken once more or once less: the record of a layer is written again when that has reached the disk,
// of several layers together or of each.
func mayBeOne(name string) bool { return strings.HasSuffix(name, "a file of the images") }

var everyPoint = flag.Bool("every", false, "for TestCrashPoints: kill at every point, also where the same step is taken many times")

// crashJob is an operation and where it is cut off.
type crashJob struct {
	crashing
	before, after, point string
}

// crashWorkers is how many mounts are tried at a time: most of the time they wait.
const crashWorkers = 6

// TestCrashPoints: the server dies after every single step that each of these operations takes towards something that lasts. Then
// everything is as before, or as it should become; if the operation has succeeded, as it should become. It works, and nothing is left
// when it is removed.
func TestCrashPoints(t *testing.T) {
	RequireRoot(t)
	if _, err := CrashBinary(); err != nil {
		t.Fatal(err)
	}
	shared.open(t)
	jobs, plans, work, planners := make(chan crashJob), make(chan crashing), sync.WaitGroup{}, sync.WaitGroup{}
	var killed atomic.Int64
	for range crashWorkers {
		planners.Go(func() {
			for c := range plans {
				before, after, points := survey(t, c)
				for _, point := range worthwhile(c, points) {
					jobs <- crashJob{c, before, after, point}
				}
			}
		})
		work.Go(func() {
			for j := range jobs {
				t.Run(j.name+"/"+j.point, func(t *testing.T) {
					for range 4 {
						if crashAt(t, j.crashing, j.before, j.after, j.point) {
							killed.Add(1)
							return
						}
						if _, name, _ := strings.Cut(j.point, " "); t.Failed() || byItself(name) || mayBeOne(name) {
							return
						}
					}
					t.Errorf("%s does not pass %q any more", j.name, j.point)
				})
			}
		})
	}
	for _, c := range crashings {
		plans <- c
	}
	close(plans)
	planners.Wait()
	close(jobs)
	work.Wait()
	t.Logf("killed at %d points", killed.Load())
}

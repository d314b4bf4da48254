package test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var (
	chaosFor    = flag.Duration("duration", time.Minute, "for TestChaos: how long")
	chaosSeed   = flag.Uint64("seed", 0, "for TestChaos: what the operations are made up from; 0 is another one each time")
	chaosKeeper = flag.Bool("keeper", false, "for TestChaos: kill the keeper now and then, too")
)

// chaosWorkers is how many work at the same time.
const chaosWorkers = 8

// TestChaos: some fifty containers of all kinds are created, configured, started, entered, frozen, stopped, killed, renamed and removed
// from all sides, by plain operations on files, while the server is killed again and again. Nothing that was done is lost, nothing
// happens that was not done, and at the end nothing is left.
func TestChaos(t *testing.T) {
	m := MountFor(t)
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-seed %d, which means the operations %s", seed, digest(seed, chaosWorkers))
	keeper, _, err := m.Processes()
	if err != nil {
		t.Fatal(err)
	}
	m.Sh("mkdir t; echo 1 > t/tty; echo true > t/cmd; echo 1 > t/start; cat t/wait; rmdir t") // the keeper has one inotify(7) from then on
	files := namesOfFiles(keeper)
	busybox := m.Root()
	Eventually(t, "the root called host is there", 20*time.Second, func() bool {
		made, err := filepath.Glob(m.State + "/host/*-*")
		return err == nil && len(made) == 1
	})

	var failed atomic.Bool
	var deaths keeperDeaths
	over := time.Now().Add(*chaosFor)
	workers, work := make([]*chaosWorker, chaosWorkers), sync.WaitGroup{}
	for i := range workers {
		w := &chaosWorker{Instance: m.Instance, number: i, busybox: busybox, deaths: &deaths}
		workers[i] = w
		work.Go(func() {
			for plan := newChaosPlan(seed, i); time.Now().Before(over) && !failed.Load(); {
				if err := w.do(plan.next()); err != nil {
					t.Errorf("-seed %d: %v", seed, err)
					failed.Store(true)
				}
			}
		})
	}
	killer := chaosKiller{Instance: m.Instance, deaths: &deaths, random: rand.New(rand.NewPCG(seed, chaosWorkers)), keepers: *chaosKeeper, over: over, end: make(chan struct{})}
	var killing sync.WaitGroup
	killing.Go(func() {
		if err := killer.run(); err != nil {
			t.Errorf("-seed %d: %v", seed, err)
			failed.Store(true)
		}
	})
	work.Wait()
	close(killer.end)
	killing.Wait()
	ops, broken := 0, 0
	for _, w := range workers {
		ops, broken = ops+w.ops, broken+w.broken
	}
	t.Logf("%d operations; %d servers and %d keepers killed; %d system calls cut off", ops, killer.servers, deaths.count(), broken)
	if killer.servers == 0 || *chaosKeeper && deaths.count() == 0 || ops < 2*chaosWorkers {
		t.Errorf("-seed %d: this was no chaos", seed)
	}
	if failed.Load() {
		for _, w := range workers {
			w.leave()
		}
		dump(t, m)
		return
	}
	reckon(t, m, workers, seed)
	for end := time.Now().Add(Patiently(10 * time.Second)); !*chaosKeeper && openFiles(keeper) > len(files); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("-seed %d: the keeper had these files open at first\n%q\nand has now\n%q", seed, files, namesOfFiles(keeper))
		}
	}
}

// reckon checks at the end that there is what must be, and nothing else, and takes it away.
func reckon(t *testing.T, m *Tree, workers []*chaosWorker, seed uint64) {
	var wanted []string
	for _, w := range workers {
		names, err := w.account()
		if err != nil {
			t.Errorf("-seed %d: %v", seed, err)
		}
		wanted = append(wanted, names...)
	}
	slices.Sort(wanted)
	if there := topmost(m); !slices.Equal(there, wanted) {
		t.Errorf("-seed %d: there are the containers\n%q\nand there should be\n%q", seed, there, wanted)
	}
	var clearing sync.WaitGroup
	for _, w := range workers {
		clearing.Go(func() {
			if err := w.clear(); err != nil {
				t.Errorf("-seed %d: %v", seed, err)
			}
		})
	}
	clearing.Wait()
	if t.Failed() {
		for _, w := range workers {
			w.leave()
		}
		dump(t, m)
		return
	}
	for _, line := range m.failures() {
		t.Errorf("-seed %d: ctrfs.log: %s", seed, line)
	}
	left := ""
	Eventually(t, fmt.Sprintf("-seed %d: nothing is left but %q", seed, left), 10*time.Second, func() bool {
		left = m.ownerless()
		return left == ""
	})
}

// topmost lists those at the top.
func topmost(m *Tree) (names []string) {
	entries, err := os.ReadDir(m.Dir)
	if err != nil {
		m.T.Error(err)
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() != "images" && e.Name() != "networks" {
			names = append(names, e.Name())
		}
	}
	return names
}

// dump shows what the log has to say.
func dump(t *testing.T, m *Tree) {
	log, _ := os.ReadFile(m.Run + "/ctrfs.log")
	lines := strings.Split(string(log), "\n")
	t.Logf("ctrfs.log:\n%s", strings.Join(lines[max(0, len(lines)-60):], "\n"))
}

// chaosKiller kills servers.
type chaosKiller struct {
	*Instance
	random  *rand.Rand
	keepers bool // keepers, too
	deaths  *keeperDeaths
	over    time.Time // until when; so that whoever waits for something finds in the end that it does not come
	end     chan struct{}
	servers int
}

// pause is how long a server lives: often too short for anything that takes long, and now and then longer.
func (k *chaosKiller) pause() time.Duration {
	if k.random.IntN(8) == 0 {
		return Patiently(time.Duration(1+k.random.IntN(2)) * time.Second)
	}
	return Patiently(time.Duration(50+k.random.IntN(600)) * time.Millisecond)
}

// run kills a server soon after it answers, again and again.
func (k *chaosKiller) run() error {
	for {
		select {
		case <-k.end:
			return nil
		case <-time.After(k.pause()):
		}
		if !k.Mounted() {
			continue
		}
		keeper, server, err := k.Processes()
		if err != nil {
			continue
		}
		if k.keepers && time.Now().Before(k.over) && k.random.IntN(10) == 0 {
			if err := k.killKeeper(keeper); err != nil {
				return err
			}
			continue
		}
		if syscall.Kill(server, syscall.SIGKILL) == nil {
			k.servers++
		}
	}
}

package test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What two thousand readers of wait may cost. The first holds everywhere; the others are what a machine with nothing else to do must
// keep, and are multiplied for all others.
const (
	waitersCount  = 2000
	waitersMemory = 20 << 20
	waitersSlower = 1.2
	waitersLate   = 100 * time.Millisecond
	waitersSlack  = 20
)

// TestWaiters: two thousand readers wait for the ends of ten containers. That costs the server little memory and others no time, and
// all of them have their answer soon after the ends.
func TestWaiters(t *testing.T) {
	m := MountFor(t)
	_, server, err := m.Processes()
	if err != nil {
		t.Fatal(err)
	}
	const ten = 10
	for i := range ten {
		m.Start(fmt.Sprintf("c%d", i), "sleep 1000000")
	}
	m.Sh("mkdir other; cat */state > /dev/null")
	p50(m, 100) // what the first of anything needs is not the readers'
	before, calm := rss(t, server), p50(m, 300)

	control := m.Tmp + "/fusectl"
	if err := errors.Join(os.Mkdir(control, 0o755), syscall.Mount("fusectl", control, "fusectl", 0, "")); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(control, syscall.MNT_DETACH)
	crowd := &waiters{Tree: m}
	for i := range waitersCount {
		crowd.add(fmt.Sprintf("c%d", i%ten))
	}
	Eventually(t, "all of them wait", 60*time.Second, func() bool { return m.waiting() >= waitersCount })
	grown := rss(t, server) - before // before others do anything, whose garbage is not the readers'
	busy := p50(m, 300)
	t.Logf("%d readers: server %.1f MB larger, %.1f after 300 operations; other operations' p50 %v, before %v",
		waitersCount, float64(grown)/(1<<20), float64(rss(t, server)-before)/(1<<20), busy, calm)
	if grown > waitersMemory && !strings.HasSuffix(os.Getenv("CTRFS_BINARY"), ".race") {
		t.Errorf("the server has grown by %d bytes", grown)
	}
	for i := range calm {
		if slower := float64(busy[i]) / float64(calm[i]); slower > waitersSlower*waitersSlack {
			t.Errorf("operation %d takes %.1f times as long: %v, before %v", i, slower, busy[i], calm[i])
		}
	}

	var worst time.Duration
	for i := range ten {
		name := fmt.Sprintf("c%d", i)
		begin := time.Now()
		m.Write(name+"/kill", "KILL")
		worst = max(worst, crowd.answered(waitersCount/ten*(i+1), begin))
	}
	t.Logf("the last of %d readers has its answer %v after the end of a container", waitersCount/ten, worst)
	if worst > Patiently(waitersLate)*waitersSlack {
		t.Errorf("the last reader has its answer after %v", worst)
	}
	crowd.all.Wait()
	if n := crowd.wrong.Load(); n > 0 {
		t.Errorf("%d of %d readers got another answer than 137", n, waitersCount)
	}
}

func rss(t *testing.T, pid int) int64 {
	t.Helper()
	n, err := RSS(pid)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// waiters are readers that block.
type waiters struct {
	*Tree
	all         sync.WaitGroup
	back, wrong atomic.Int64
}

// add has one more read the wait of a container. It takes a thread, as cat would take a process.
func (w *waiters) add(name string) {
	w.all.Go(func() {
		text := make([]byte, 128<<10) // what cat(1) reads at a time
		f, err := os.Open(w.Dir + "/" + name + "/wait")
		if err == nil {
			defer f.Close()
			var n int
			n, err = f.Read(text)
			text = text[:n]
		}
		if err != nil || string(text) != "137\n" {
			w.wrong.Add(1)
		}
		w.back.Add(1)
	})
}

// answered waits until that many have their answer, and returns how long after begin that was.
func (w *waiters) answered(count int, begin time.Time) time.Duration {
	w.T.Helper()
	for end := begin.Add(Patiently(60 * time.Second)); w.back.Load() < int64(count); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.T.Fatalf("%d readers have their answer, and %d should", w.back.Load(), count)
		}
	}
	return time.Since(begin)
}

// waiting is how many requests the kernel has given to the server that are not answered.
func (m *Tree) waiting() int {
	m.T.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(m.Dir, &st); err != nil {
		m.T.Fatal(err)
	}
	text, err := os.ReadFile(fmt.Sprintf("%s/fusectl/%d/waiting", m.Tmp, unix.Minor(st.Dev)))
	if err != nil {
		m.T.Fatal(err)
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

// p50 returns the medians of what some operations take: reading a state, changing a setting, making and removing a container.
func p50(m *Tree, rounds int) (medians [3]time.Duration) {
	var took [3][]time.Duration
	for i := range rounds {
		for j, do := range []func(){
			func() { m.Read("other/state") },
			func() { m.Write("other/memory.high", strconv.Itoa((i+1)<<20)) },
			func() {
				if err := os.Mkdir(m.Dir+"/more", 0o755); err != nil {
					m.T.Fatal(err)
				}
				if err := os.Remove(m.Dir + "/more"); err != nil {
					m.T.Fatal(err)
				}
			},
		} {
			begin := time.Now()
			do()
			took[j] = append(took[j], time.Since(begin))
		}
	}
	for j := range took {
		slices.Sort(took[j])
		medians[j] = took[j][rounds/2]
	}
	return medians
}

package test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

var cycles = flag.Int("cycles", 300, "for TestCycles: how many containers come and go; the bounds are strict from 5000 on")

// footprint is what the two processes of a mount take at one moment, or usually.
type footprint struct {
	server, keeper           int64 // bytes of memory
	serverFiles, keeperFiles int
}

func (f footprint) String() string {
	return fmt.Sprintf("server %.2f MB and %d files, keeper %.2f MB and %d files", float64(f.server)/1e6, f.serverFiles, float64(f.keeper)/1e6, f.keeperFiles)
}

// footprintOf looks at them.
func footprintOf(t *testing.T, keeper, server int) footprint {
	t.Helper()
	f := footprint{serverFiles: openFiles(server), keeperFiles: openFiles(keeper)}
	var err error
	if f.server, err = RSS(server); err == nil {
		f.keeper, err = RSS(keeper)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// usual is the median of each figure. A collector of garbage makes every single look at memory worth little.
func usual(looks []footprint) footprint {
	return footprint{
		server: median(looks, func(f footprint) int64 { return f.server }), keeper: median(looks, func(f footprint) int64 { return f.keeper }),
		serverFiles: int(median(looks, func(f footprint) int64 { return int64(f.serverFiles) })),
		keeperFiles: int(median(looks, func(f footprint) int64 { return int64(f.keeperFiles) })),
	}
}

func median(looks []footprint, figure func(footprint) int64) int64 {
	var all []int64
	for _, f := range looks {
		all = append(all, figure(f))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// TestCycles: containers come, run, and go, and neither server nor keeper grows by that. The first tenth does not count: pools and
// heaps get their size. After it, what the processes usually need up to the middle is compared with what they do from there on. A
// tenth is too short for that: some thousand containers have gone before each page of a heap, which does not grow, has been touched.
func TestCycles(t *testing.T) {
	m := MountFor(t)
	keeper, server, err := m.Processes()
	if err != nil {
		t.Fatal(err)
	}
	root, begin := m.Root(), time.Now()
	tenth := max(*cycles/10, 1)
	var early, late, now []footprint
	for i := range *cycles {
		cycle(m, root, i)
		now = append(now, footprintOf(t, keeper, server))
		if (i+1)%tenth != 0 {
			continue
		}
		t.Logf("to %d: %v", i+1, usual(now))
		switch n := i / tenth; {
		case n >= 5:
			late = append(late, now...)
		case n > 0:
			early = append(early, now...)
		}
		now = nil
	}
	was, is := usual(early), usual(late)
	t.Logf("%d containers in %v; in the first half: %v; in the second: %v", *cycles, time.Since(begin).Round(time.Millisecond), was, is)
	more := int64(5) // per cent
	if *cycles < 5000 {
		more = 30 // a heap is still finding its size
	}
	if is.server > was.server*(100+more)/100 || is.keeper > was.keeper*(100+more)/100 {
		t.Errorf("memory grows by more than %d %%", more)
	}
	if is.serverFiles > was.serverFiles+was.serverFiles/20 || is.keeperFiles > was.keeperFiles+was.keeperFiles/20 {
		t.Error("descriptors are left open")
	}
}

// cycle makes a container, lets it run, and removes it.
func cycle(m *Tree, root string, i int) {
	name := "c" + strconv.Itoa(i)
	dir := filepath.Join(m.Dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		m.T.Fatal(err)
	}
	m.Write(name+"/rootfs", root)
	m.Write(name+"/cmd", fmt.Sprintf("sh -c 'exit %d'", i%100))
	m.Write(name+"/start", "1")
	if got := m.Read(name + "/wait"); got != strconv.Itoa(i%100) {
		m.T.Fatalf("%s: exit %s", name, got)
	}
	if err := os.Remove(dir); err != nil {
		m.T.Fatal(err)
	}
}

package test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var netCycles = flag.Int("netcycles", 200, "for TestNetworkCycles: how many containers in a network come and go")

// crowd does something for each of n, some at a time.
func crowd(n int, do func(i int)) {
	var all sync.WaitGroup
	next := make(chan int)
	for range 8 {
		all.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
}

// Two hundred containers in a network find each other, by name and by address.
func testCrowd(w *World) {
	const many, atOnce = 200, 50 // of questions, fewer than a resolver takes at once from one
	w.Sh("mkdir networks/many")
	begin := time.Now()
	crowd(many, func(i int) { w.Run(fmt.Sprintf("c%03d", i), "many", "sleep 1000") })
	w.T.Logf("%d containers started in %v", many, time.Since(begin).Round(time.Millisecond))
	members := strings.Split(w.Read("networks/many/members"), "\n")
	if len(members) != many {
		w.T.Fatalf("%d members", len(members))
	}
	seen := map[string]bool{}
	for _, from := range []string{"c000", fmt.Sprintf("c%03d", many-1)} {
		for some := range slices.Chunk(members, atOnce) {
			var pairs []string
			for _, m := range some {
				fields := strings.Fields(m)
				if len(fields) != 3 {
					w.T.Fatalf("a member %q", m)
				}
				pairs = append(pairs, "name "+fields[0], fields[1]+" "+fields[2])
				seen[fields[1]], seen[fields[2]] = true, true
			}
			w.Answers(from, pairs...)
			for i := 0; i < len(pairs); i += 2 {
				four, six, _ := strings.Cut(pairs[i+1], " ")
				name := strings.TrimPrefix(pairs[i], "name ") + "."
				pairs[i], pairs[i+1] = "owner "+four, name+" | "+strings.TrimSuffix(name, ".") // of itself it knows by /etc/hosts
				if i%4 == 0 {
					pairs[i] = "owner " + six
				}
			}
			w.Answers(from, pairs...)
		}
	}
	if len(seen) != 2*many {
		w.T.Errorf("%d addresses for %d containers", len(seen), many)
	}
	begin = time.Now()
	w.Sh("for c in c[0-9]*; do echo KILL > $c/kill; done; cat c[0-9]*/wait > /dev/null; rmdir c[0-9]*; rmdir networks/many")
	w.T.Logf("and removed in %v", time.Since(begin).Round(time.Millisecond))
}

// One container asks for names as fast as it can. Others get their answers, and so does everybody who uses the mount.
func testFlood(w *World) {
	gateway := w.Link("web").Via
	quiet := w.Ask("app", "ask web 100")[0]
	w.Run("rude", "bridge", "peer flood "+on(gateway[0], "53"))
	w.Run("worse", "bridge", "peer flood "+on(gateway[1], "53"))
	time.Sleep(100 * time.Millisecond)
	done := make(chan string, 1)
	go func() { done <- w.Ask("app", "ask web 100")[0] }()
	var reads, starts []time.Duration
	answer := ""
	for answer == "" {
		begin := time.Now()
		w.Read("web/state")
		reads = append(reads, time.Since(begin))
		if len(reads)%5 == 1 {
			begin = time.Now()
			w.Run("brief", "bridge", "true")
			w.Read("brief/wait")
			starts = append(starts, time.Since(begin))
			if err := os.Remove(w.Dir + "/brief"); err != nil {
				w.T.Error(err)
			}
		}
		select {
		case answer = <-done:
		case <-time.After(5 * time.Millisecond):
		}
	}
	slices.Sort(reads)
	slices.Sort(starts)
	w.T.Logf("100 names, median and slowest: %s ms, during the flood %s ms; cat state %v and %v, start to exit %v and %v", quiet, answer,
		reads[len(reads)/2], reads[len(reads)-1], starts[len(starts)/2], starts[len(starts)-1])
	var median, slowest int
	if _, err := fmt.Sscanf(answer, "%d %d", &median, &slowest); err != nil || median > 100 || slowest > 6000 {
		w.T.Errorf("during the flood a name takes %s ms, median and slowest", answer)
	}
	if m := reads[len(reads)/2]; m > Patiently(50*time.Millisecond) {
		w.T.Errorf("during the flood a file takes %v", m)
	}
	if m := starts[len(starts)/2]; m > Patiently(time.Second) {
		w.T.Errorf("during the flood a container takes %v", m)
	}
	w.Down("rude", "worse")
}

// ports counts the links that are ports of a bridge.
func (w *World) ports(bridge string) int {
	w.T.Helper()
	return strings.Count(w.Host.Run(w.T, "ip -o link show master %s", bridge), "\n")
}

// TestNetworkCycles: containers with networks and ports come and go, and of none anything is left: no link, no address, no rule, no file.
func TestNetworkCycles(t *testing.T) {
	w := MountWorld(t)
	w.Run("first", "bridge", "sleep 1000")
	bridge := w.Read("networks/bridge/interface")
	cycle := func(i int) {
		name := fmt.Sprint("c", i)
		var ports string
		if i%4 == 0 {
			ports = fmt.Sprintf("0.0.0.0:%d:80\n[::]:%d:80/udp", 2000+i%1000, 2000+i%1000)
		}
		w.Run(name, "bridge", "true", "net.ports", ports)
		if got := w.Read(name + "/wait"); got != "0" {
			t.Errorf("%s: exit %s", name, got)
		}
		if err := os.Remove(filepath.Join(w.Dir, name)); err != nil {
			t.Error(err)
		}
	}
	crowd(20, cycle) // stocks and heaps get their size
	_, server, err := w.Processes()
	if err != nil {
		t.Fatal(err)
	}
	rules := w.Host.Run(t, "nft -s list ruleset")
	ports, files, begin := w.ports(bridge), openFiles(server), time.Now()
	crowd(*netCycles, cycle)
	took := time.Since(begin)
	t.Logf("%d cycles in %v, %v each", *netCycles, took.Round(time.Millisecond), (took / time.Duration(*netCycles)).Round(time.Microsecond))
	const most = 64 + 1 // what is kept ready at most, and the first container
	Eventually(t, fmt.Sprintf("the bridge has %d ports, as before, or what is in stock", ports), 20*time.Second, func() bool { return w.ports(bridge) <= max(ports, most) })
	Eventually(t, "no more files are open", 5*time.Second, func() bool { return openFiles(server) <= files+4*most })
	t.Logf("ports of the bridge: %d, now %d; files of the server: %d, now %d", ports, w.ports(bridge), files, openFiles(server))
	if now := w.Host.Run(t, "nft -s list ruleset"); now != rules {
		t.Errorf("rules: %q", differences(rules, now))
	}
	if got := w.Read("networks/bridge/members"); strings.Count(got, "\n") != 0 || !strings.HasPrefix(got, "first ") {
		t.Errorf("members: %q", got)
	}
	w.Down("first")
	for _, line := range w.failures() {
		t.Errorf("ctrfs.log: %s", line)
	}
}

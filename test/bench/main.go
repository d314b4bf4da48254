// Bench measures what it costs to run one short program in a fresh container: with ctrfs, and with every other runtime
// that this machine has, in one run.
//
//	go run ./test/bench [-n 200] [-peers crun,runc] [-root DIR]
//
// Everybody runs /bin/true, a static busybox, from the same directory, with pid, mount, uts, ipc, network and cgroup
// namespaces of its own, and with its default configuration beyond that. What is timed is the whole job: from the first
// call until the program has ended and nothing of the container is left. For ctrfs that is
//
//	mkdir; write cmd and rootfs; write start; read wait; rmdir
//
// once by plain system calls from this program, and once by a dash script. The write to start is also shown alone. What ctrfs
// isolates more than others by default is measured from both sides: without it, and with others that are told to do the same.
// The
// other runtimes are one command each, which includes starting that command: the row "fork and exec" is what this alone
// costs, without any container.
//
// At the end come the rows of another job, one more program in a container that runs, of ctrfs and crun: see exec.go.
//
// Hot and cold are different worlds on an idle machine, so both are measured. Hot is a burst of jobs without a pause, of
// which the first is not counted; cold is one job after 30 ms of sleep, which is what a person at a shell gets. The
// participants take turns, burst by burst and job by job, so that whatever else the machine does hits all alike.
//
// A runtime that is installed and does not work is listed with its error.
//
//	go run ./test/bench -crowd 500
//
// measures something else: what reading a mount with so many running containers costs; and
//
//	go run ./test/bench -net 50
//
// what a network adds to a start, and to so many starts at once; and
//
//	go run ./test/bench -iperf 5
//
// how fast containers in a network send, in so many turns of a second.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ctrfs/ctrfs/test"
)

const (
	burst = 10                    // counted jobs between two turns, hot
	idle  = 30 * time.Millisecond // before each job, cold
)

// A row is one line of the table.
type row struct {
	name      string
	hot, cold []time.Duration
	parts     bool // only a part of a whole job: its ratio would mislead
	base      *row // what its ratio is to; nil for ctrfs's whole job
}

// A contestant does the job once at a time, and says how long it took, for each of its rows.
type contestant struct {
	rows []*row
	run  func() ([]time.Duration, error)
	err  error // why it does not take part any more
}

// The main goroutine keeps the main thread: what another one does to its thread's mount namespace would otherwise now and then
// be what /proc/self shows.
func init() { runtime.LockOSThread() }

func main() {
	n := flag.Int("n", 200, "jobs of each kind, hot and cold, for each participant")
	peers := flag.String("peers", strings.Join(peerNames(), ","), "the runtimes to compare with")
	root := flag.String("root", "", "an unpacked root with a /bin/true (default: a static busybox)")
	many := flag.Int("crowd", 0, "instead, measure what reading costs with so many running containers")
	nets := flag.Int("net", 0, "instead, measure what a network adds to a start, and to so many starts at once")
	speed := flag.Int("iperf", 0, "instead, measure how fast containers in a network send, in so many turns")
	flag.Parse()
	if *speed > 0 {
		if err := throughput(*speed); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if *nets > 0 {
		if err := networks(*n, *nets); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if *many > 0 {
		if err := crowd(*many, *n/10); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if err := bench(*n, strings.Split(*peers, ","), *root); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(n int, peers []string, root string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("this needs root")
	}
	fs, err := test.Mount()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fs.Close()) }()
	if root == "" {
		root = fs.Base + "/root"
		if err := test.BusyboxRoot(root); err != nil {
			return err
		}
	}
	all := []*contestant{throughMount("ctrfs", fs.Dir, root), throughDash(fs.Dir, root),
		throughMount("ctrfs, isolated as crun", fs.Dir, root, [2]string{"namespaces", "user host"}, [2]string{"seccomp", "unconfined"})}
	do, stop := apart()
	defer stop()
	others, cleanUp := setUpPeers(peers, root, fs.Tmp, do)
	defer cleanUp()
	inside, cleanUp, err := enters(fs.Dir, root, fs.Tmp, peers, do)
	if err != nil {
		return err
	}
	defer cleanUp()
	all = append(append(all, others...), inside...)

	for _, c := range all {
		c.do(func(*row, time.Duration) {})
	}
	for done := 0; done < n; done += burst {
		for _, c := range all {
			c.do(func(*row, time.Duration) {})
			for range burst {
				c.do(func(r *row, took time.Duration) { r.hot = append(r.hot, took) })
			}
		}
		for range burst {
			for _, c := range all {
				time.Sleep(idle)
				c.do(func(r *row, took time.Duration) { r.cold = append(r.cold, took) })
			}
		}
	}
	report(all)
	return all[0].err
}

// do runs the job once and hands out what it took. A contestant that has failed does nothing more.
func (c *contestant) do(record func(*row, time.Duration)) {
	if c.err != nil {
		return
	}
	times, err := c.run()
	c.err = err
	for i, took := range times {
		record(c.rows[i], took)
	}
}

// report prints the table: each row's percentiles, and how many times ctrfs's job of that kind it takes.
func report(all []*contestant) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\thot p50\tp99\t× ctrfs\tcold p50\tp99\t× ctrfs\t")
	fmt.Fprintln(w, "\tms\tms\t\tms\tms\t\t")
	for _, c := range all {
		for _, r := range c.rows {
			if c.err != nil || len(r.hot) == 0 {
				continue
			}
			whole := all[0].rows[0]
			if r.base != nil {
				whole = r.base
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", r.name,
				ms(at(r.hot, 50)), ms(at(r.hot, 99)), ratio(r, at(r.hot, 50), at(whole.hot, 50)),
				ms(at(r.cold, 50)), ms(at(r.cold, 99)), ratio(r, at(r.cold, 50), at(whole.cold, 50)))
		}
	}
	w.Flush()
	for _, c := range all {
		if c.err != nil {
			fmt.Printf("\nnot measured: %s: %v\n", c.rows[0].name, c.err)
		}
	}
}

// at returns a percentile, by the nearest rank.
func at(times []time.Duration, percent int) time.Duration {
	if len(times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(times))
	return sorted[(len(sorted)*percent+99)/100-1]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/float64(time.Millisecond)) }

func ratio(r *row, d, whole time.Duration) string {
	if r.parts || whole == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", float64(d)/float64(whole))
}

package netns

import (
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// median runs something as often as the benchmark says and reports the middle and the tail of how long it took, without what comes before.
func median(b *testing.B, before, do func(n int)) {
	var took []time.Duration
	for n := 0; b.Loop(); n++ {
		if before != nil {
			before(n)
		}
		start := time.Now()
		do(n)
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

func benchWire(n int) Wire {
	at := 2 + n%65000
	return Wire{Name: "eth0", Bridge: "ctrfs0", Host: fmt.Sprintf("ctrfsb%d", n), Gateways: addrs("10.88.0.1"),
		Addresses: prefixes(fmt.Sprintf("10.88.%d.%d/16", at>>8, at&255))}
}

func benchWorld(b *testing.B) world {
	w := newWorld(b)
	bridge := blue()
	bridge.Gateways = prefixes("10.88.0.1/16 fd00:88::1/64")
	_, err := w.Apply(bridge)
	w.must(err)
	return w
}

// BenchmarkConnect does not count the making of namespaces. They end as they are used up, so that the bridge has few ports: what a new
// container says to all goes out by each.
func BenchmarkConnect(b *testing.B) {
	w := benchWorld(b)
	for _, wait := range []bool{true, false} {
		b.Run(map[bool]string{true: "wait", false: "nowait"}[wait], func(b *testing.B) {
			var ns *os.File
			median(b, func(int) {
				if ns != nil {
					ns.Close()
					time.Sleep(60 * time.Millisecond) // it takes half of that, with RTNL
				}
				var err error
				ns, err = New()
				w.must(err)
			}, func(n int) {
				wire := benchWire(n)
				wire.NoWait = !wait
				_, err := w.Connect(ns, wire)
				w.must(err)
			})
			ns.Close()
		})
	}
}

func BenchmarkReaddress(b *testing.B) {
	w := benchWorld(b)
	ns := w.namespace()
	if _, err := w.Connect(ns, benchWire(0)); err != nil {
		b.Fatal(err)
	}
	median(b, nil, func(n int) { w.must(w.Readdress(ns, benchWire(n))) })
}

// BenchmarkReaddressBusy: the same while namespaces with wires end all the time, one after the other.
func BenchmarkReaddressBusy(b *testing.B) {
	w := benchWorld(b)
	ns := w.namespace()
	if _, err := w.Connect(ns, benchWire(0)); err != nil {
		b.Fatal(err)
	}
	var stop atomic.Bool
	done := make(chan int)
	go func() {
		n := 1
		for ; !stop.Load(); n++ {
			other, err := New()
			if err == nil {
				_, err = w.Connect(other, benchWire(n))
				other.Close()
			}
			if err != nil {
				b.Error(err)
			}
		}
		done <- n
	}()
	median(b, nil, func(n int) { w.must(w.Readdress(ns, benchWire(n))) })
	stop.Store(true)
	b.ReportMetric(float64(<-done), "ended")
}

func BenchmarkApplied(b *testing.B) {
	w := benchWorld(b)
	median(b, nil, func(int) {
		bridge := blue()
		bridge.Gateways = prefixes("10.88.0.1/16 fd00:88::1/64")
		_, err := w.Apply(bridge)
		w.must(err)
	})
}

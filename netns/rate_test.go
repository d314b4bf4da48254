package netns

import (
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// rate measures bytes a second over TCP, which fills the bucket first.
func (w world) rate(from, at *os.File, to string, size int) float64 {
	w.t.Helper()
	took, err := w.stream(from, at, to, size)
	w.must(err)
	return float64(size) / took.Seconds()
}

// near measures until it is near, a few times: a busy machine is slower than the rate, never faster.
func (w world) near(what string, want float64, measure func() float64) {
	w.t.Helper()
	var got float64
	for range 4 {
		got = measure()
		w.t.Logf("%s: %.0f bytes a second, to be %.0f", what, got, want)
		if got > 0.7*want {
			break
		}
	}
	if got < 0.7*want || got > 1.3*want {
		w.t.Errorf("%s: %.0f bytes a second, to be %.0f", what, got, want)
	}
}

// TestSetRate: both directions, changed and removed while it runs.
func TestSetRate(t *testing.T) {
	w := newWorld(t)
	_, err := w.Apply(blue())
	w.must(err)
	a, b := w.namespace(), w.container(3)
	index, err := w.Connect(a, wire(2))
	w.must(err)
	const mega = 1 << 20
	for _, c := range []struct {
		name            string
		egress, ingress uint64
	}{
		{"both", mega, 2 * mega},
		{"changed", 4 * mega, mega},
		{"egress alone", mega, 0},
		{"ingress alone", 0, mega},
		{"fast", 64 * mega, 64 * mega},
	} {
		w.must(w.SetRate(index, c.egress, c.ingress))
		for _, d := range []struct {
			way      string
			from, at *os.File
			to       string
			rate     uint64
		}{{"egress", a, b, "10.88.0.3", c.egress}, {"ingress", b, a, "10.88.0.2", c.ingress}} {
			if d.rate != 0 {
				w.near(c.name+", "+d.way, float64(d.rate), func() float64 { return w.rate(d.from, d.at, d.to, int(min(d.rate, 16*mega))) })
			} else if got := w.rate(d.from, d.at, d.to, 16*mega); got < 8*mega {
				t.Errorf("%s, %s: %.0f bytes a second without a bound", c.name, d.way, got)
			}
		}
	}
	end, err := w.traffic.LinkByIndex(index)
	w.must(err)
	if filters, err := w.traffic.FilterList(end, netlink.HANDLE_INGRESS); err != nil || len(filters) != 1 {
		t.Errorf("%d filters (%v)", len(filters), err)
	}
	w.must(w.SetRate(index, 0, 0))
	w.must(w.SetRate(index, 0, 0))
	for _, d := range [][]*os.File{{a, b}, {b, a}} {
		to := map[*os.File]string{a: "10.88.0.2", b: "10.88.0.3"}[d[1]]
		if got := w.rate(d[0], d[1], to, 16*mega); got < 8*mega {
			t.Errorf("%.0f bytes a second to %s without a bound", got, to)
		}
	}
	w.must(w.ping(a, "fd00:88::3", 20000))
	w.refused(w.SetRate(1<<30, 1e6, 1e6), unix.ENODEV)
}

// TestSlowRate: it does not stop, and packets larger than the bucket of such a rate would be pass.
func TestSlowRate(t *testing.T) {
	w := newWorld(t)
	_, err := w.Apply(blue())
	w.must(err)
	a, b := w.namespace(), w.container(3)
	index, err := w.Connect(a, wire(2))
	w.must(err)
	w.must(w.SetRate(index, 10000, 10000))
	start := time.Now()
	if err := w.datagram(a, b, "10.88.0.3", 20000); err != nil {
		t.Error(err)
	}
	// 6000 of each direction's bytes pass at once.
	if took := time.Since(start); took < 1500*time.Millisecond || took > 4*time.Second {
		t.Errorf("40000 bytes in %s", took)
	}
	for _, rate := range []uint64{RateLeast, 1 << 33, 1 << 36, 1 << 50, 1<<64 - 1} {
		if err := w.SetRate(index, rate, rate); err != nil {
			t.Errorf("%d: %v", rate, err)
		}
	}
	w.must(w.ping(a, "10.88.0.3", 100))
	w.refused(w.SetRate(index, 1, 0), unix.EINVAL)
	w.refused(w.SetRate(index, 0, RateLeast-1), unix.EINVAL)
}

// TestSweep removes the device of a wire that is gone, and no other.
func TestSweep(t *testing.T) {
	w := newWorld(t)
	_, err := w.Apply(blue())
	w.must(err)
	var ends []int
	var all []*os.File
	for n := 2; n <= 3; n++ {
		ns, err := New()
		w.must(err)
		defer ns.Close()
		index, err := w.Connect(ns, wire(n))
		w.must(err)
		w.must(w.SetRate(index, 1e6, 1e6))
		ends, all = append(ends, index), append(all, ns)
	}
	w.must(w.traffic.LinkAdd(&netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: "ifb0"}}))
	w.must(all[0].Close())
	for end := time.Now().Add(patience); w.find("ctrfsw2").index != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the wire does not go")
		}
	}
	w.must(w.Sweep())
	if w.find(shaperName(ends[0])).index != 0 || w.find(shaperName(ends[1])).index == 0 || w.find("ifb0").index == 0 {
		t.Errorf("links: %s", w.names())
	}
	w.must(w.ping(all[1], "10.88.0.1", 10))
}

package local

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ctrfs/ctrfs/engine"
)

const statText = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 150 25 0 0 20 0 1 0 12345 1000000 7 18446744073709551615 1 1 0\n"

func TestParseProcess(t *testing.T) {
	var p engine.Process
	name, ok := parseStat(&p, statText)
	if !ok || name != "a) b (c" || p.State != "S" || p.RSS != 7*pageSize || p.CPU != 1750*time.Millisecond {
		t.Errorf("%q, %v, %+v", name, ok, p)
	}
	parseStatus(&p, "Name:\tx\nUid:\t1\t2\t3\t4\nNSpid:\t42\t7\t1\n")
	if p.User != "2" || p.Inner != 1 {
		t.Errorf("%+v", p)
	}
	for _, text := range []string{"", "42 a S", "42 (a", "42 )a( S", "42 (a) S 1", strings.Replace(statText, "150", "x", 1)} {
		if _, ok := parseStat(&p, text); ok {
			t.Errorf("%q is taken", text)
		}
	}
}

// TestProcess reads this process, and one that there cannot be.
func TestProcess(t *testing.T) {
	p, err := process(os.Getpid())
	if err != nil || p.PID != os.Getpid() || p.User != strconv.Itoa(os.Geteuid()) || p.RSS < 1<<20 || !strings.Contains(p.Command, ".test") ||
		!strings.Contains("RSD", p.State) {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := process(1 << 30); err == nil {
		t.Errorf("%+v", p)
	}
}

func FuzzParseProcess(f *testing.F) {
	f.Add(statText, "Uid:\t1\t2\n")
	f.Fuzz(func(t *testing.T, stat, status string) {
		var p engine.Process
		if name, ok := parseStat(&p, stat); ok && !strings.Contains(stat, "("+name+")") {
			t.Errorf("name %q of %q", name, stat)
		}
		parseStatus(&p, status)
	})
}

func TestAddStats(t *testing.T) {
	show := func(stats []engine.Stat) string {
		var words []string
		for _, s := range stats {
			words = append(words, s.Name+"="+strconv.FormatUint(s.Value, 10))
		}
		return strings.Join(words, " ")
	}
	const devices = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 9999 9 9 9 0 0 0 0 9999 9 9 9 0 0 0 0
  eth0:1000      10    1    2    0     0          0         0     2000      20    3    4    0     0       0          0
  eth1: 18446744073709550000 1 0 0 0 0 0 0 1 0 0 0 0 0 0 0
`
	for _, c := range []struct{ name, have, want string }{
		{"number", show(addNumber("x")(nil, "12\n")), "x=12"},
		{"no number", show(addNumber("x")(nil, "max\n")), ""},
		{"all keys", show(addKeys("cpu.")(nil, "usage_usec 5\nnr_periods 0\nodd\nbad x\n")), "cpu.usage_usec=5 cpu.nr_periods=0"},
		{"some keys", show(addKeys("memory.", "oom_kill")(nil, "max 3\noom_kill 2\n")), "memory.oom_kill=2"},
		{"no device", show(addIO(nil, "")), "io.rbytes=0 io.wbytes=0 io.rios=0 io.wios=0"},
		{"devices", show(addIO(nil, "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 rbytes=10 wbytes=20 rios=30 wios=40\n")),
			"io.rbytes=11 io.wbytes=22 io.rios=33 io.wios=44"},
		{"net", show(addDevices(nil, devices)), "net.rx_bytes=18446744073709551000 net.rx_packets=11 net.rx_errors=1 net.rx_dropped=2 " +
			"net.tx_bytes=2001 net.tx_packets=20 net.tx_errors=3 net.tx_dropped=4"},
	} {
		if c.have != c.want {
			t.Errorf("%s: %q, want %q", c.name, c.have, c.want)
		}
	}
}

func FuzzStats(f *testing.F) {
	f.Add("8:0 rbytes=1 wbytes=2 rios=3 wios=4\n")
	f.Add("eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18\n")
	f.Fuzz(func(t *testing.T, text string) {
		if n := len(addIO(nil, text)); n != len(ioKeys) {
			t.Errorf("%d numbers of io", n)
		}
		if n := len(addDevices(nil, text)); n != len(netColumns) {
			t.Errorf("%d numbers of net", n)
		}
		for _, s := range addKeys("x.", "a")(nil, text) {
			if s.Name != "x.a" {
				t.Errorf("%+v", s)
			}
		}
	})
}

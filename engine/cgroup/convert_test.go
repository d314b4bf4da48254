package cgroup

import (
	"fmt"
	"math"
	"strings"
	"syscall"
	"testing"

	"github.com/ctrfs/ctrfs/engine"
)

func TestFromV1(t *testing.T) {
	for _, c := range []struct {
		file  string
		texts []string
		want  string
	}{
		{"memory.max", []string{"9223372036854771712\n"}, "max\n"},
		{"memory.max", []string{"9223372036854767616\n"}, "9223372036854767616\n"},
		{"memory.max", []string{"18446744073709551615\n"}, "max\n"},
		{"memory.max", []string{"0\n"}, "0\n"},
		{"cpu.max", []string{"-1\n", "100000\n"}, "max 100000\n"},
		{"cpu.max", []string{"1000\n", "1000000\n"}, "1000 1000000\n"},
		{"cpu.weight", []string{"2\n"}, "1\n"},
		{"cpu.weight", []string{"10\n"}, "1\n"},
		{"cpu.weight", []string{"15\n"}, "1\n"},
		{"cpu.weight", []string{"16\n"}, "2\n"},
		{"cpu.weight", []string{"1024\n"}, "100\n"},
		{"cpu.weight", []string{"102400\n"}, "10000\n"},
		{"cpu.weight", []string{"262144\n"}, "10000\n"},
		{"cpu.weight", []string{"18446744073709551615\n"}, "10000\n"},
		{"memory.events", []string{"3\n0\n4\n", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\noom_kill_disable 0\noom_kill 2\n"}, "max 7\noom_kill 3\n"},
		{"cgroup.events", []string{"FREEZING\nFROZEN\n", "12\n"}, "populated 1\nfrozen 0\n"},
		{"cgroup.events", []string{"FROZEN\n", ""}, "populated 0\nfrozen 1\n"},
		{"cpu.stat", []string{"10000000\n", "3000000\n", "1000000\n", "nr_periods 5\nnr_throttled 2\nthrottled_time 7999\n"},
			"usage_usec 10000\nuser_usec 7500\nsystem_usec 2500\nnr_periods 5\nnr_throttled 2\nthrottled_usec 7\n"},
		{"cpu.stat", []string{"5000\n", "0\n", "0\n", "nr_bursts 1\nburst_time 1000\n"},
			"usage_usec 5\nuser_usec 5\nsystem_usec 0\nnr_bursts 1\nburst_usec 1\n"},
		{"cpu.stat", []string{"5000\n", "0\n", "4000000\n", ""}, "usage_usec 5\nuser_usec 0\nsystem_usec 5\n"},
		{"cpu.stat", []string{"18446744073709551615\n", "18446744073709551615\n", "18446744073709551615\n", ""},
			"usage_usec 18446744073709551\nuser_usec 9223372036854775\nsystem_usec 9223372036854775\n"},
	} {
		got, err := find1(t, c.file).get(c.texts)
		if err != nil || got != c.want {
			t.Errorf("%s of %q: got %q, %v, want %q", c.file, c.texts, got, err, c.want)
		}
	}
}

func TestFromV1Malformed(t *testing.T) {
	for file, texts := range map[string][]string{
		"memory.max": {"x"}, "cpu.weight": {""}, "memory.events": {"a", ""}, "cpu.stat": {"1", "-1", "1", ""},
	} {
		if got, err := find1(t, file).get(texts); engine.Errno(err) == 0 {
			t.Errorf("%s of %q: %q", file, texts, got)
		}
	}
}

func TestToV1(t *testing.T) {
	for _, c := range []struct{ file, old, value, want string }{
		{"memory.max", "0", "max", "[{0 -1}]"},
		{"memory.max", "max", "4096", "[{0 4096}]"},
		{"cpu.weight", "100", "1", "[{0 10}]"},
		{"cpu.weight", "100", "50", "[{0 512}]"},
		{"cpu.weight", "1", "10000", "[{0 102400}]"},
		{"cpu.max", "max 100000", "20000 100000", "[{0 20000}]"},
		{"cpu.max", "20000 100000", "30000 100000", "[{0 30000}]"},
		{"cpu.max", "20000 100000", "max 100000", "[{0 -1}]"},
		{"cpu.max", "max 100000", "max 50000", "[{1 50000}]"},
		{"cpu.max", "max 100000", "20000 50000", "[{1 50000} {0 20000}]"},
		{"cpu.max", "20000 100000", "max 50000", "[{0 -1} {1 50000}]"},
		{"cpu.max", "20000 100000", "20000 50000", "[{0 -1} {1 50000} {0 20000}]"},
		{"cpu.max", "20000 100000", "20000 100000", "[]"},
	} {
		got, err := find1(t, c.file).set(c.old, c.value)
		if err != nil || fmt.Sprint(got) != c.want {
			t.Errorf("%s from %q to %q: got %v, %v, want %s", c.file, c.old, c.value, got, err, c.want)
		}
	}
}

// Every weight survives the way through v1's shares.
func TestWeightRoundTrip(t *testing.T) {
	for weight := 1; weight <= maxWeight; weight++ {
		changes, err := cpuWeightToV1("", fmt.Sprint(weight))
		if err != nil {
			t.Fatal(err)
		}
		got, err := cpuWeightFromV1([]string{changes[0].text})
		if want := fmt.Sprintf("%d\n", weight); err != nil || got != want {
			t.Fatalf("%s: %q, %v", want, got, err)
		}
	}
}

// What a configuration without limits wants is what a new group has, or every start would write in vain; devices are not.
func TestInitial(t *testing.T) {
	for i := range table {
		if r := &table[i]; r.limit != nil {
			if got := r.limit(engine.NewConfig()); got != r.initial && got != r.spare {
				t.Errorf("%s: %q, want %q", r.file, got, r.initial)
			}
		}
	}
}

func find1(t *testing.T, file string) *row {
	t.Helper()
	for i := range table {
		if table[i].file == file {
			return &table[i]
		}
	}
	t.Fatalf("no row %s", file)
	return nil
}

// TestCPUStatFromBoth: the time is v2's, the limit v1's, and what is missing is said.
func TestCPUStatFromBoth(t *testing.T) {
	const time, limits = "usage_usec 30\nuser_usec 10\nsystem_usec 20\nnice_usec 0\n", "nr_periods 5\nnr_throttled 1\nthrottled_time 2000\n"
	const want = "usage_usec 30\nuser_usec 10\nsystem_usec 20\nnr_periods 5\nnr_throttled 1\nthrottled_usec 2\n"
	if text, err := cpuStatFromBoth([]string{time, limits}); err != nil || text != want {
		t.Errorf("%q, %v", text, err)
	}
	if text, err := cpuStatFromBoth([]string{"usage_usec 30\n", limits}); engine.Errno(err) != syscall.EIO {
		t.Errorf("%q, %v", text, err)
	}
}

func FuzzCPUMax(f *testing.F) {
	for _, s := range []string{"max 100000\n", "20000 100000", "max", "-1 1", "18446744073709551615 1", " ", "1 1 1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		quota, period, err := parseCPUMax(text)
		if err != nil {
			return
		}
		if quota < engine.Max || period < 0 {
			t.Fatalf("%q: %d %d", text, quota, period)
		}
		again := fmt.Sprintf("%s %d", limitText(quota), period)
		if q, p, err := parseCPUMax(again); err != nil || q != quota || p != period {
			t.Fatalf("%q then %q: %d %d %v", text, again, q, p, err)
		}
	})
}

func FuzzCPUStat(f *testing.F) {
	f.Add(uint64(10), uint64(3), uint64(1), "nr_periods 5\n")
	f.Add(uint64(math.MaxUint64), uint64(math.MaxUint64), uint64(0), "throttled_time x\n")
	f.Fuzz(func(t *testing.T, usage, user, system uint64, stat string) {
		text, err := cpuStatFromV1([]string{fmt.Sprint(usage), fmt.Sprint(user), fmt.Sprint(system), stat})
		if err != nil || !strings.HasPrefix(text, fmt.Sprintf("usage_usec %d\n", usage/1000)) {
			t.Fatalf("%q, %v", text, err)
		}
		u, _ := keyed(text, "user_usec")
		s, _ := keyed(text, "system_usec")
		// Each is rounded down, so that their sum may be one short.
		if d := usage/1000 - (u + s); d > 1 {
			t.Fatalf("%d %d %d: %q", usage, user, system, text)
		}
	})
}

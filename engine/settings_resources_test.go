package engine

import (
	"math"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

func TestNumberList(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "0": "0", "0-3": "0-3", "3,1,2": "1-3", "0,2,4": "0,2,4", "1-2,2-5": "1-5", " 1 , 7\n": "1,7", "0-7:1/2": "0,2,4,6", "8191": "8191", ",": "",
	} {
		if got, err := numberList("cpuset.cpus", text); got != want || err != nil {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"x", "-1", "3-2", "1-", "8192", "1:1/2", "0-7:2/1", "0-7:0/2", "0-7:1", "1 2", "99999999999999999999"} {
		if got, err := numberList("cpuset.cpus", text); Errno(err) != syscall.EINVAL {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func FuzzNumberList(f *testing.F) {
	f.Add("0-3,7,9-12:1/2")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := numberList("cpuset.cpus", text)
		if err != nil {
			return
		}
		if again, err := numberList("cpuset.cpus", list); err != nil || again != list {
			t.Fatalf("%q becomes %q, and that %q, %v", text, list, again, err)
		}
	})
}

func FuzzIOMax(f *testing.F) {
	f.Add("8:0", "wbps=1 riops=max", "rbps=7")
	f.Fuzz(func(t *testing.T, device, first, second string) {
		c := NewConfig()
		if c.SetIOMax(device, first) != nil || c.SetIOMax(device, second) != nil {
			return
		}
		again := NewConfig()
		for _, l := range c.IOMax() {
			name, rates, _ := strings.Cut(l.String(), " ")
			if err := again.SetIOMax(name, rates); err != nil {
				t.Fatalf("%s: %v", l, err)
			}
		}
		if !reflect.DeepEqual(c.IOMax(), again.IOMax()) {
			t.Fatalf("%v reads back as %v", c.IOMax(), again.IOMax())
		}
	})
}

// How much may be swapped out does not change with the limit on memory, wherever the specification keeps it.
func TestMemorySwapMax(t *testing.T) {
	c := NewConfig()
	for _, step := range []struct{ limit, swap int64 }{{Max, Max}, {Max, 4096}, {8192, 4096}, {1 << 40, 0}, {Max, 0}, {8192, Unlimited - 4096}, {4096, Max}} {
		if err := c.SetMemorySwapMax(step.swap); err != nil {
			t.Fatal(err)
		}
		if err := c.SetMemoryMax(step.limit); err != nil {
			t.Fatal(err)
		}
		if limit, swap := c.MemoryMax(), c.MemorySwapMax(); limit != step.limit || swap != step.swap {
			t.Errorf("got %d and %d, want %d and %d", limit, swap, step.limit, step.swap)
		}
		if m := c.Spec.Linux.Resources.Memory; m != nil && m.Swap != nil && *m.Swap < *m.Limit {
			t.Errorf("swap %d is below limit %d", *m.Swap, *m.Limit)
		}
	}
	if err := c.SetMemoryMax(math.MaxInt64); err != nil || c.MemoryMax() != Max || c.Spec.Linux.Resources.Memory != nil {
		t.Errorf("what is beyond all memory is no limit: %d, %+v", c.MemoryMax(), c.Spec.Linux.Resources.Memory)
	}
}

func TestCPUWeightNice(t *testing.T) {
	for nice := int64(-20); nice < 20; nice++ {
		c := NewConfig()
		if err := c.SetCPUWeightNice(nice); err != nil || c.CPUWeightNice() != nice {
			t.Errorf("%d reads back as %d, %v", nice, c.CPUWeightNice(), err)
		}
	}
	c := NewConfig()
	for weight, nice := range map[int64]int64{1: 19, 100: 0, 300: -5, 10_000: -20} {
		if err := c.SetCPUWeight(weight); err != nil || c.CPUWeightNice() != nice {
			t.Errorf("weight %d is %d, want %d", weight, c.CPUWeightNice(), nice)
		}
		if err := c.SetCPUWeightNice(nice); err != nil || c.CPUWeight() != weight {
			t.Errorf("the nearest niceness changes weight %d to %d", weight, c.CPUWeight())
		}
	}
}

func TestIOWeight(t *testing.T) {
	c := NewConfig()
	for _, weight := range []int64{100, 1, 9, 10, 1000, 1001, 10_000, 100} {
		if err := c.SetIOWeight(weight); err != nil || c.IOWeight() != weight {
			t.Errorf("%d reads back as %d, %v", weight, c.IOWeight(), err)
		}
		b, unified := c.Spec.Linux.Resources.BlockIO, c.Spec.Linux.Resources.Unified
		if (b != nil) != (weight >= 10 && weight <= 1000 && weight != 100) || (unified != nil) == (b != nil) && weight != 100 {
			t.Errorf("%d is kept in %+v and %v", weight, b, unified)
		}
	}
}

func TestHugepageMax(t *testing.T) {
	c := NewConfig()
	for _, step := range [][2]int64{{5 << 20, 4 << 20}, {1, 0}, {Max, Max}, {math.MaxInt64, Max}} {
		if err := c.SetHugepageMax("2MB", step[0]); err != nil || c.HugepageMax("2MB") != step[1] || c.HugepageMax("1GB") != Max {
			t.Errorf("%d reads back as %d, %v", step[0], c.HugepageMax("2MB"), err)
		}
	}
	if c.Spec.Linux.Resources.HugepageLimits != nil {
		t.Error("a limit that is none leaves a trace")
	}
}

// A change of a copy is not seen by who holds the original.
func TestResourcesAreCopied(t *testing.T) {
	a := NewConfig()
	set := func(c *Config, n int64) {
		for _, err := range []error{c.SetMemoryMax(n << 20), c.SetMemorySwapMax(n << 12), c.SetMemoryLow(n << 12), c.SetMemoryHigh(n << 12), c.SetMemoryMin(n << 12),
			c.SetIOWeight(n), c.SetIOMax("8:0", "wbps="+strings.Repeat("1", int(n))), c.SetHugepageMax("2MB", n<<21), c.SetCPUs(strings.Repeat("1", int(n))),
			c.SetMemoryNodes("0"), c.SetMemoryOOMGroup(n % 2), c.SetCPUWeightNice(n)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	set(a, 1)
	before, err := a.OCI(Automatic{})
	if err != nil {
		t.Fatal(err)
	}
	set(a.Clone(), 2)
	after, err := a.OCI(Automatic{})
	if err != nil || string(before) != string(after) {
		t.Errorf("before %s\nafter %s, %v", before, after, err)
	}
}

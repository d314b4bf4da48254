package cgroup

import (
	"strings"
	"testing"

	"github.com/ctrfs/ctrfs/engine"
)

func TestResourcesFromV1(t *testing.T) {
	const none = "9223372036854771712\n"
	for _, c := range []struct {
		file  string
		texts []string
		want  string
	}{
		{"memory.swap.max", []string{none, none}, "max\n"},
		{"memory.swap.max", []string{"12288\n", "4096\n"}, "8192\n"},
		{"memory.swap.max", []string{"4096\n", "4096\n"}, "0\n"},
		{"memory.swap.max", []string{"4096\n", none}, "0\n"}, // read while both change
		{"memory.high", []string{none}, "max\n"},
		{"memory.high", []string{"4096\n"}, "4096\n"},
		{"memory.low", []string{none}, "0\n"},
		{"memory.low", []string{"4096\n"}, "4096\n"},
		{"hugetlb.2MB.max", []string{"9223372036852678656\n"}, "max\n"},
		{"hugetlb.1GB.max", []string{"9223372035781033984\n"}, "max\n"},
		{"hugetlb.2MB.max", []string{"4194304\n"}, "4194304\n"},
		{"io.weight", []string{"100\n"}, "default 100\n"},
		{"io.max", []string{"", "", "", ""}, ""},
		{"io.max", []string{"8:0 7\n", "8:0 8\n253:1 9\n", "", "253:1 4\n"},
			"8:0 rbps=7 wbps=8 riops=max wiops=max\n253:1 rbps=max wbps=9 riops=max wiops=4\n"},
		{"io.stat", []string{"Total 0\n", "Total 0\n"}, ""},
		{"io.stat", []string{"7:0 Read 0\n7:0 Write 0\n7:0 Total 0\n8:0 Read 4096\n8:0 Write 512\n8:0 Sync 1\n8:0 Async 1\n8:0 Discard 2\n8:0 Total 4610\nTotal 4610\n",
			"8:0 Read 1\n8:0 Write 2\n8:0 Discard 3\nTotal 6\n"}, "8:0 rbytes=4096 wbytes=512 rios=1 wios=2 dbytes=2 dios=3\n"},
		{"memory.swap.current", []string{"swap 5\ntotal_swap 7\n"}, "7\n"},
		{"memory.stat", []string{"cache 1\nrss 1\npgpgin 3\ntotal_cache 8192\ntotal_rss 4096\ntotal_dirty 0\ntotal_pgmajfault 2\n", "512\n"},
			"anon 4096\nfile 8192\nkernel 512\nfile_dirty 0\npgmajfault 2\n"},
	} {
		got, err := find1(t, c.file).get(c.texts)
		if err != nil || got != c.want {
			t.Errorf("%s of %q: got %q, %v, want %q", c.file, c.texts, got, err, c.want)
		}
	}
	for file, texts := range map[string][]string{
		"memory.swap.max": {"x", "1"}, "memory.low": {""}, "hugetlb.2MB.max": {"-"}, "io.weight": {"default"}, "io.max": {"8:0 x\n", "", "", ""},
		"io.stat": {"8:0 Read x\n", ""}, "memory.swap.current": {"swap 1\n"}, "memory.stat": {"", "x"},
	} {
		if got, err := find1(t, file).get(texts); engine.Errno(err) == 0 {
			t.Errorf("%s of %q: %q", file, texts, got)
		}
	}
}

func TestResourcesToV1(t *testing.T) {
	const (
		some  = "8:0 rbps=7 wbps=8 riops=max wiops=max"
		other = "8:16 rbps=1 wbps=max riops=max wiops=max"
	)
	for _, c := range []struct{ file, old, value, want string }{
		{"memory.low", "max", "4096", "[{0 4096}]"},
		{"memory.swap.max", "max", "8192", "[{0 8192}]"},
		{"hugetlb.2MB.max", "4096", "max", "[{0 -1}]"},
		{"io.weight", "default 100", "default 1000", "[{0 1000}]"},
		{"io.weight", "default 100", "default 1001", "[{0 1001}] EOPNOTSUPP"},
		{"io.max", "", some, "[{0 8:0 7} {1 8:0 8}]"},
		{"io.max", some, "8:0 rbps=7 wbps=9 riops=max wiops=3", "[{1 8:0 9} {3 8:0 3}]"},
		{"io.max", some, "", "[{0 8:0 0} {1 8:0 0}]"},
		{"io.max", some, other, "[{0 8:16 1} {0 8:0 0} {1 8:0 0}]"},
		{"io.max", some, some, "[]"},
	} {
		got, err := find1(t, c.file).set(c.old, c.value)
		text := words(got)
		if engine.Errno(err) == errUnsupported {
			text += " EOPNOTSUPP"
		} else if err != nil {
			text += err.Error()
		}
		if text != c.want {
			t.Errorf("%s %q to %q: got %s, want %s", c.file, c.old, c.value, text, c.want)
		}
	}
	got, err := ioMaxToV2(some, other)
	if want := "[{0 8:16 rbps=1 wbps=max riops=max wiops=max} {0 8:0 rbps=max wbps=max riops=max wiops=max}]"; err != nil || words(got) != want {
		t.Errorf("on v2: %s, %v, want %s", words(got), err, want)
	}
}

// TestJoint is about the numbers of v1 that two settings decide.
func TestJoint(t *testing.T) {
	const max = engine.Max
	for _, c := range []struct {
		limit, swap, low, high int64
		memsw, soft            string
	}{
		{max, max, 0, max, "max", "max"},
		{8192, 4096, 4096, max, "12288", "4096"},
		{8192, 0, max, max, "8192", "max"},
		{8192, max, 0, 4096, "max", "4096"},
		{8192, max, 4096, 4096, "max", "4096"},
		{max, 4096, 4096, 8192, "EOPNOTSUPP", "EOPNOTSUPP"},
		{8192, engine.Unlimited - 8192, max, 4096, "max", "EOPNOTSUPP"},
	} {
		config := engine.NewConfig()
		for _, err := range []error{config.SetMemoryMax(c.limit), config.SetMemorySwapMax(c.swap), config.SetMemoryLow(c.low), config.SetMemoryHigh(c.high)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		text := func(f func(*engine.Config) (string, error)) string {
			text, err := f(config)
			if engine.Errno(err) == errUnsupported {
				return "EOPNOTSUPP"
			}
			return text
		}
		if memsw, soft := text(memswLimit), text(softLimit); memsw != c.memsw || soft != c.soft {
			t.Errorf("%+v: got %s, %s", c, memsw, soft)
		}
	}
	for _, c := range [][2]string{{"1", "2"}, {"9", "10"}, {"1", "max"}} {
		if !rises(c[0], c[1]) || rises(c[1], c[0]) || rises(c[0], c[0]) || rises(c[1], c[1]) {
			t.Errorf("%v", c)
		}
	}
}

// Whatever v1 tells is either refused or becomes a v2 text that goes back to v1 and comes out the same.
func FuzzResources(f *testing.F) {
	f.Add("io.max", "8:0 7\n", "8:0 9\n8:16 1\n")
	f.Add("memory.low", "4096\n", "")
	f.Add("memory.swap.max", "12288\n", "4096\n")
	f.Add("memory.stat", "total_rss 5\ntotal_cache x\n", "7\n")
	f.Add("io.stat", "8:0 Read 1\nTotal 1\n", "8:0 Write 18446744073709551615\n")
	f.Add("io.weight", "1000\n", "")
	f.Add("hugetlb.2MB.max", "2097152\n", "")
	f.Fuzz(func(t *testing.T, file, first, second string) {
		var r *row
		for i := range table {
			if table[i].file == file && table[i].get != nil {
				r = &table[i]
			}
		}
		if r == nil {
			return
		}
		texts := make([]string, max(len(r.v1), 1))
		texts[0] = first
		if len(texts) > 1 {
			texts[1] = second
		}
		text, err := r.get(texts)
		if err != nil {
			return
		}
		if r.set == nil || r.limit == nil || r.joint != nil {
			return
		}
		old := r.initial
		changes, err := r.set(old, strings.TrimSuffix(text, "\n"))
		if err != nil {
			if engine.Errno(err) == errUnsupported || engine.Errno(err) == 22 {
				return // v1 holds what v2 does not take
			}
			t.Fatalf("%s: %q of %q: %v", file, text, texts, err)
		}
		for _, c := range changes {
			if c.file < 0 || c.file >= len(r.v1) || c.text == "" || strings.Contains(c.text, "\n") {
				t.Fatalf("%s: %q makes %+v", file, text, c)
			}
		}
	})
}

func words(changes []change) string {
	var out []string
	for _, c := range changes {
		out = append(out, strings.Trim(strings.Join([]string{"{" + string(rune('0'+c.file)), c.text + "}"}, " "), " "))
	}
	return "[" + strings.Join(out, " ") + "]"
}

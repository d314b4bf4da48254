package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// render tells all of a host as text.
func render(h *Host) string {
	var b strings.Builder
	for _, f := range h.Features() {
		fmt.Fprintln(&b, strings.TrimSpace(strings.Join([]string{f.Name, f.Value, f.Reason}, " ")))
	}
	for _, y := range h.used {
		fmt.Fprintf(&b, "use %s%s\n", y.mount, map[bool]string{true: " late"}[y.late])
	}
	if h.leaf {
		fmt.Fprintf(&b, "leaf %s\n", strings.Join(h.wanted, " "))
	}
	return b.String()
}

// Mount tables of real systems, cut to the cgroup lines and one other. V2 stands for a directory that has a file
// cgroup.controllers, with the content given: this machine need not have what the table says.
var detections = []struct{ name, offers, table, want string }{
	{"v2", "cpuset cpu io memory hugetlb pids", `
22 1 0:20 / /proc rw,relatime shared:12 - proc proc rw
30 23 0:26 / V2 rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
`, `cgroup v2
cgroup-memory yes
memory.oom no cgroup v2 always kills when memory.max is reached, and cannot be told to wait
cgroup-pids yes
cgroup-cpu yes
cgroup-io yes
cgroup-cpuset yes
cgroup-devices yes
cgroup-hugetlb yes
cgroup-net_cls no no mounted hierarchy has the controller net_cls
cgroup-net_prio no no mounted hierarchy has the controller net_prio
use V2
leaf memory pids cpu io cpuset hugetlb
`},
	{"v2 without memory", "cpu pids", `
30 23 0:26 / V2 rw - cgroup2 cgroup2 rw
`, `cgroup v2
cgroup-memory no no mounted hierarchy has the controller memory
cgroup-pids yes
cgroup-cpu yes
cgroup-io no no mounted hierarchy has the controller blkio
cgroup-cpuset no no mounted hierarchy has the controller cpuset
cgroup-devices yes
cgroup-hugetlb no no mounted hierarchy has the controller hugetlb
cgroup-net_cls no no mounted hierarchy has the controller net_cls
cgroup-net_prio no no mounted hierarchy has the controller net_prio
use V2
leaf pids cpu
`},
	{"hybrid of systemd, cpu and cpuacct together", "", `
31 30 0:27 / V2 rw shared:10 - cgroup2 cgroup2 rw
32 30 0:28 / /c/systemd rw shared:11 - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /c/cpuset rw shared:14 - cgroup cgroup rw,cpuset
35 30 0:31 / /c/cpu,cpuacct rw shared:15 - cgroup cgroup rw,cpu,cpuacct
36 30 0:32 / /c/memory rw shared:16 - cgroup cgroup rw,memory
37 30 0:33 / /c/freezer rw shared:17 - cgroup cgroup rw,freezer
38 30 0:34 / /c/pids rw shared:18 - cgroup cgroup rw,pids
`, `cgroup hybrid
cgroup-memory yes
memory.min no cgroup v1 protects no memory for certain
cgroup-pids yes
cgroup-cpu yes
cgroup-io no no mounted hierarchy has the controller blkio
cgroup-cpuset yes
cgroup-devices yes
cgroup-hugetlb no no mounted hierarchy has the controller hugetlb
cgroup-net_cls no no mounted hierarchy has the controller net_cls
cgroup-net_prio no no mounted hierarchy has the controller net_prio
use V2
use /c/memory
use /c/pids
use /c/cpu,cpuacct
use /c/cpuset late
`},
	{"a controller moved to v2", "memory", `
31 30 0:27 / V2 rw - cgroup2 cgroup2 rw
38 30 0:34 / /c/pids rw - cgroup cgroup rw,pids
`, `cgroup hybrid
cgroup-memory yes
memory.oom no cgroup v2 always kills when memory.max is reached, and cannot be told to wait
cgroup-pids yes
cgroup-cpu no no mounted hierarchy has the controller cpu
cgroup-io no no mounted hierarchy has the controller blkio
cgroup-cpuset no no mounted hierarchy has the controller cpuset
cgroup-devices yes
cgroup-hugetlb no no mounted hierarchy has the controller hugetlb
cgroup-net_cls no no mounted hierarchy has the controller net_cls
cgroup-net_prio no no mounted hierarchy has the controller net_prio
use V2
use /c/pids
leaf memory
`},
	{"v2, a kernel without programs, and v1's devices", "", `
31 30 0:27 / V2 rw - cgroup2 cgroup2 rw
38 30 0:34 / /c/devices rw - cgroup cgroup rw,devices
`, `cgroup hybrid
cgroup-memory no no mounted hierarchy has the controller memory
cgroup-pids no no mounted hierarchy has the controller pids
cgroup-cpu no no mounted hierarchy has the controller cpu
cgroup-io no no mounted hierarchy has the controller blkio
cgroup-cpuset no no mounted hierarchy has the controller cpuset
cgroup-devices yes
cgroup-hugetlb no no mounted hierarchy has the controller hugetlb
cgroup-net_cls no no mounted hierarchy has the controller net_cls
cgroup-net_prio no no mounted hierarchy has the controller net_prio
use V2
use /c/devices
`},
	{"v2, a kernel without programs", "cpu", `
31 30 0:27 / V2 rw - cgroup2 cgroup2 rw
`, `cgroup v2
cgroup-memory no no mounted hierarchy has the controller memory
cgroup-pids no no mounted hierarchy has the controller pids
cgroup-cpu yes
cgroup-io no no mounted hierarchy has the controller blkio
cgroup-cpuset no no mounted hierarchy has the controller cpuset
cgroup-devices no none taken
cgroup-hugetlb no no mounted hierarchy has the controller hugetlb
cgroup-net_cls no no mounted hierarchy has the controller net_cls
cgroup-net_prio no no mounted hierarchy has the controller net_prio
use V2
leaf cpu
`},
	{"v1, no cpuacct, pids read-only", "", `
35 30 0:31 / /c/cpu rw - cgroup cgroup rw,cpu
36 30 0:32 / /c/memory rw - cgroup cgroup rw,memory
37 30 0:33 / /c/freezer rw - cgroup cgroup rw,freezer
38 30 0:34 / /c/pids,cpuset ro,nosuid - cgroup cgroup rw,pids,cpuset
`, `cgroup v1
cgroup-memory yes
memory.min no cgroup v1 protects no memory for certain
cgroup-pids no /c/pids,cpuset is mounted read-only
cgroup-cpu yes
cgroup-io no no mounted hierarchy has the controller blkio
cgroup-cpuset no /c/pids,cpuset is mounted read-only
cgroup-devices no no mounted hierarchy has the controller devices
cgroup-hugetlb no no mounted hierarchy has the controller hugetlb
cgroup-net_cls no no mounted hierarchy has the controller net_cls
cgroup-net_prio no no mounted hierarchy has the controller net_prio
cpu.pressure no only cgroup v2 measures pressure
cpu.stat no no mounted hierarchy has the controller cpuacct
io.pressure no only cgroup v2 measures pressure
memory.pressure no only cgroup v2 measures pressure
use /c/freezer
use /c/memory
use /c/cpu
`},
	{"v1 without a freezer, mounted twice", "", `
38 30 0:34 /docker/1 /guest/pids rw - cgroup cgroup rw,pids
39 30 0:34 / /c/pids rw - cgroup cgroup rw,pids
40 30 0:34 / /d/pids rw - cgroup cgroup rw,pids
`, `cgroup v1
cgroup-memory no no mounted hierarchy has the controller memory
cgroup-pids yes
cgroup-cpu no no mounted hierarchy has the controller cpu
cgroup-io no no mounted hierarchy has the controller blkio
cgroup-cpuset no no mounted hierarchy has the controller cpuset
cgroup-devices no no mounted hierarchy has the controller devices
cgroup-hugetlb no no mounted hierarchy has the controller hugetlb
cgroup-net_cls no no mounted hierarchy has the controller net_cls
cgroup-net_prio no no mounted hierarchy has the controller net_prio
cgroup.events no no mounted hierarchy has the controller freezer
cpu.pressure no only cgroup v2 measures pressure
io.pressure no only cgroup v2 measures pressure
memory.pressure no only cgroup v2 measures pressure
cgroup.freeze no no mounted hierarchy has the controller freezer
use /c/pids
`},
}

func TestDetect(t *testing.T) {
	for _, c := range detections {
		t.Run(c.name, func(t *testing.T) {
			defer func(lack func() string) { filterLack = lack }(filterLack)
			filterLack = func() string {
				if strings.Contains(c.name, "without programs") {
					return "none taken"
				}
				return ""
			}
			v2 := t.TempDir()
			if err := os.WriteFile(filepath.Join(v2, "cgroup.controllers"), []byte(c.offers+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			h, err := Detect(strings.NewReader(strings.TrimPrefix(strings.ReplaceAll(c.table, "V2", v2), "\n")))
			if err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(render(h), v2, "V2")
			got = regexp.MustCompile(`(?m)^hugetlb.* no this machine has no huge pages .*\n`).ReplaceAllString(got, "") // which ones it has is its own
			if got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestDetectNothing(t *testing.T) {
	for table, errno := range map[string]syscall.Errno{
		"": syscall.ENODEV,
		"32 30 0:28 / /c/systemd rw - cgroup cgroup rw,name=systemd\n": syscall.ENODEV,
		"36 30 0:32 / /c/memory ro - cgroup cgroup rw,memory\n":        syscall.ENODEV,
		"36 30 0:32 / /c/mem":                     syscall.EIO,
		"31 30 0:27 / /nowhere rw - cgroup2 x rw": syscall.ENOENT,
	} {
		_, err := Detect(strings.NewReader(table))
		wantErrno(t, err, errno)
	}
}

// A hidden hierarchy must not become a tree of plain directories that limit nothing.
func TestTreeWantsCgroups(t *testing.T) {
	dir := t.TempDir()
	h, err := Detect(strings.NewReader("38 30 0:34 / " + dir + " rw - cgroup cgroup rw,pids\n"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.Tree("ctrfs-test")
	wantErrno(t, err, syscall.ENODEV)
	if list, _ := os.ReadDir(dir); len(list) > 0 {
		t.Errorf("made %v", list)
	}
}

// lists may be empty.
var lists = []string{"cgroup.procs", "cgroup.threads", "io.max", "io.stat"}

// What this machine's features say and what its files do must be the same.
func TestFeaturesAreTrue(t *testing.T) {
	onHosts(t, "", func(t *testing.T, tree *Tree) {
		g := create(t, tree, "a", nil)
		for _, p := range tree.host.places {
			text, err := g.Read(p.file)
			if p.blind {
				wantErrno(t, err, syscall.EACCES)
				continue
			}
			if p.lack != "" {
				wantErrno(t, err, syscall.EOPNOTSUPP)
				if !strings.Contains(err.Error(), p.lack) {
					t.Errorf("%v does not say %q", err, p.lack)
				}
			} else if err != nil || !slices.Contains(lists, p.file) && !strings.HasSuffix(text, "\n") {
				t.Errorf("%s: %q, %v", p.file, text, err)
			}
		}
	})
}

func TestMember(t *testing.T) {
	const text = "8:pids:/user/a\n3:cpu,cpuacct:/x\n2:name=systemd:/cpu\n0::/../out\n"
	for _, c := range []struct {
		root, controllers string
		unified           bool
		want              string
		ok                bool
	}{
		{"/", "rw,pids", false, "./user/a", true},
		{"/user", "rw,pids", false, "./a", true},
		{"/other", "rw,pids", false, "", false},
		{"/", "rw,cpu,cpuacct", false, "./x", true},
		{"/", "rw,memory", false, "", false},
		{"/", "", true, "", false},
	} {
		y := &hierarchy{root: c.root, unified: c.unified, controllers: strings.Split(c.controllers, ",")}
		got, ok := y.member(text)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%+v: got %q, %v", c, got, ok)
		}
	}
}

func FuzzMountinfo(f *testing.F) {
	for _, d := range detections {
		f.Add(d.table)
	}
	f.Fuzz(func(t *testing.T, table string) {
		found, err := Options{}.parseMounts(strings.NewReader(table))
		if err != nil {
			return
		}
		h := newHost(found)
		for _, p := range h.places {
			if (p.lack == "") != (len(p.in) > 0) {
				t.Fatalf("%s: %q and %d places", p.file, p.lack, len(p.in))
			}
		}
		for _, y := range h.used {
			if y.readonly {
				t.Fatalf("%s is read-only and used", y.mount)
			}
		}
	})
}

func FuzzMember(f *testing.F) {
	f.Add("8:pids:/user/a\n0::/\n", "/user")
	f.Fuzz(func(t *testing.T, text, root string) {
		y := &hierarchy{root: root, controllers: []string{"rw", "pids"}}
		if group, ok := y.member(text); ok && !strings.HasPrefix(group, "./") {
			t.Fatalf("%q", group)
		}
	})
}

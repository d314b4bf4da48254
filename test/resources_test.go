package test

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Limits, measured from inside or by what the kernel has counted, not by what the files say of themselves.

// busy is a program that would use a whole processor.
const busy = "sh -c 'while :; do :; done'"

// launch starts a container that need not be asked to end.
func (m *Tree) launch(name, cmd string, settings ...string) {
	m.T.Helper()
	m.Start(name, cmd, append(settings, "stop.timeout", "0")...)
}

// counter returns one number of a keyed file.
func (m *Tree) counter(path, key string) float64 {
	m.T.Helper()
	for line := range strings.Lines(m.Read(path) + "\n") {
		if k, v, _ := strings.Cut(strings.TrimSpace(line), " "); k == key {
			n, err := strconv.ParseFloat(v, 64)
			if err != nil {
				m.T.Fatal(err)
			}
			return n
		}
	}
	m.T.Fatalf("%s has no %s", path, key)
	return 0
}

// usage returns how many seconds of cpu each container uses until the time is over, and how long that really was.
func (m *Tree) usage(during time.Duration, names ...string) (used []float64, wall float64) {
	m.T.Helper()
	begin := time.Now()
	for _, name := range names {
		used = append(used, -m.counter(name+"/cpu.stat", "usage_usec")/1e6)
	}
	time.Sleep(during)
	wall = time.Since(begin).Seconds()
	for i, name := range names {
		used[i] += m.counter(name+"/cpu.stat", "usage_usec") / 1e6
	}
	return used, wall
}

// near fails the test unless got is want, give or take a part of it.
func near(t testing.TB, what string, got, want, part float64) {
	t.Helper()
	t.Logf("%s: %.3f", what, got)
	if math.Abs(got-want) > part*want {
		t.Errorf("%s: %.3f, want %.3f within %.0f %%", what, got, want, 100*part)
	}
}

// A limited container beside one that is not, on one processor: what the other gets tells whether there was more to be had.
func TestCPUMax(t *testing.T) {
	m := MountFor(t)
	m.launch("c", busy, "cpu.max", "20000 100000", "cpuset.cpus", "1")
	m.launch("free", busy, "cpuset.cpus", "1")
	for _, c := range []struct {
		max  string
		want float64
	}{{"20000 100000", 0.20}, {"10000 100000", 0.10}} { // the second changes what runs
		m.Write("c/cpu.max", c.max)
		for try := range 10 {
			used, wall := m.usage(3*time.Second, "c", "free")
			share, room := used[0]/wall, used[1]/wall
			t.Logf("%s: %.3f of the processor, and %.3f for the other", c.max, share, room)
			if share > 1.15*c.want {
				t.Fatalf("%s lets it have %.3f of a processor", c.max, share)
			}
			if share >= 0.85*c.want {
				break
			}
			if room > 2*c.want {
				t.Fatalf("%s lets it have only %.3f of a processor", c.max, share)
			}
			if try == 9 {
				t.Skipf("this machine is too busy: all that was left are %.3f", room)
			}
		}
	}
	if n := m.counter("c/cpu.stat", "nr_throttled"); n < 10 {
		t.Errorf("throttled %v times", n)
	}
}

// Two share one processor, whatever else the machine has to do meanwhile: it takes from both.
func TestCPUWeight(t *testing.T) {
	m := MountFor(t)
	m.launch("one", busy, "cpu.weight", "100", "cpuset.cpus", "1")
	m.launch("three", busy, "cpu.weight", "300", "cpuset.cpus", "1")
	used, wall := m.usage(4*time.Second, "one", "three")
	t.Logf("%.2f of the processor was theirs", (used[0]+used[1])/wall)
	near(t, "300 to 100", used[1]/used[0], 3, 0.15)
	m.Write("one/cpu.weight", "300")
	used, _ = m.usage(4*time.Second, "one", "three")
	near(t, "300 to 300", used[1]/used[0], 1, 0.15)
}

func TestCPUSet(t *testing.T) {
	m := MountFor(t)
	m.launch("c", "sh -c 'nproc; grep Cpus_allowed_list /proc/self/status; exec sleep 1000'", "cpuset.cpus", "1")
	Eventually(t, "it has told", 5*time.Second, func() bool { return strings.Count(m.Read("c/log"), "\n") == 1 })
	if got := strings.Join(strings.Fields(m.Read("c/log")), " "); got != "1 Cpus_allowed_list: 1" {
		t.Errorf("inside: %q", got)
	}
	if got := m.Read("c/cpuset.cpus.effective"); got != "1" {
		t.Errorf("effective: %q", got)
	}
}

// A fork bomb gets no further than its limit, and others fork as ever.
func TestPidsMax(t *testing.T) {
	m := MountFor(t)
	m.launch("bomb", `sh -c 'bomb() { bomb & bomb & wait; }; bomb 2>/dev/null; exec sleep 1000'`, "pids.max", "20")
	Eventually(t, "it meets its limit", 10*time.Second, func() bool { return m.counter("bomb/pids.events", "max") >= 10 })
	for range 50 {
		if n, _ := strconv.Atoi(m.Read("bomb/pids.current")); n > 20 {
			t.Errorf("%d processes", n)
		}
		if err := exec.Command("true").Run(); err != nil {
			t.Errorf("the host cannot fork: %v", err)
		}
	}
	m.Write("bomb/cgroup.kill", "1")
	if got := m.Read("bomb/wait"); got != "137" {
		t.Errorf("exit %s", got)
	}
}

// loop makes a device of some megabytes for the time of the test.
func loop(t *testing.T, file string, megabytes int64) (device string) {
	t.Helper()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, megabytes<<20); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).Output()
	if err != nil {
		Require(t, fmt.Errorf("losetup: %w", err))
	}
	device = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach: %v: %s", err, out)
		}
	})
	return device
}

// copied is what dd(1) says at its end.
var copied = regexp.MustCompile(`(\d+) bytes .* copied, ([0-9.e-]+) s`)

// ddRate returns how many bytes a second the last run of a container copied, as dd measured.
func (m *Tree) ddRate(name string) float64 {
	m.T.Helper()
	// The first start from rootfs host looks at much of this machine's /usr, which a busy one does not always do in time.
	Eventually(m.T, "it starts", 30*time.Second, func() bool {
		return os.WriteFile(filepath.Join(m.Dir, name, "start"), []byte("1"), 0o644) == nil
	})
	if code := m.Read(name + "/wait"); code != "0" {
		m.T.Fatalf("exit %s: %s", code, m.Read(name+"/log"))
	}
	match := copied.FindStringSubmatch(m.Read(name + "/log"))
	if match == nil {
		m.T.Fatalf("dd said %q", m.Read(name+"/log"))
	}
	bytes, _ := strconv.ParseFloat(match[1], 64)
	seconds, _ := strconv.ParseFloat(match[2], 64)
	return bytes / seconds
}

func TestIOMax(t *testing.T) {
	m := MountFor(t)
	device := loop(t, filepath.Join(m.Tmp, "disk"), 16)
	number, err := os.ReadFile("/sys/block/" + filepath.Base(device) + "/dev")
	if err != nil {
		t.Fatal(err)
	}
	dev := strings.TrimSpace(string(number))
	if err := os.Mkdir(filepath.Join(m.Dir, "c"), 0o755); err != nil {
		t.Fatal(err)
	}
	// The machine's own dd, which can go around the page cache, as a root that may open the node.
	m.Write("c/namespaces", "user host")
	m.Write("c/devices", "c 1:3 rw /dev/null\nc 1:5 r /dev/zero\nb "+dev+" rw /dev/disk")
	m.Write("c/cmd", "dd if=/dev/zero of=/dev/disk oflag=direct bs=64k count=48")
	m.Write("c/io.max", dev+" wbps=1048576")
	near(t, "bytes a second written", m.ddRate("c"), 1<<20, 0.15)
	want := dev + " rbytes=0 wbytes=3145728 rios=0 wios=48 dbytes=0 dios=0"
	if got := m.Read("c/io.stat"); !strings.Contains(got+"\n", want+"\n") {
		t.Errorf("io.stat %q, want %q", got, want)
	}
	m.Write("c/io.max", dev+" wbps=max rbps=2097152")
	if rate := m.ddRate("c"); rate < 4<<20 {
		t.Errorf("unlimited again: %.0f bytes a second", rate)
	}
	m.Write("c/cmd", "dd of=/dev/null if=/dev/disk iflag=direct bs=64k count=96")
	near(t, "bytes a second read", m.ddRate("c"), 2<<20, 0.15)
	m.Write("c/io.max", dev+" rbps=max riops=20")
	m.Write("c/cmd", "dd of=/dev/null if=/dev/disk iflag=direct bs=4k count=60")
	near(t, "reads a second", m.ddRate("c")/4096, 20, 0.15)
}

// A frozen container does nothing, and dies nevertheless.
func TestFreeze(t *testing.T) {
	m := MountFor(t)
	for _, order := range [][2]string{{"cgroup.kill", "1"}, {"kill", "KILL"}} {
		m.launch("c", "sh -c 'while :; do echo; done'")
		Eventually(t, "it counts", 5*time.Second, func() bool { return m.Read("c/log") != "" })
		m.Write("c/cgroup.freeze", "1")
		before := m.counter("c/cpu.stat", "usage_usec")
		time.Sleep(300 * time.Millisecond)
		if after := m.counter("c/cpu.stat", "usage_usec"); after != before {
			t.Errorf("used %v microseconds while frozen", after-before)
		}
		m.Write("c/cgroup.freeze", "0")
		Eventually(t, "it goes on", 5*time.Second, func() bool { return m.counter("c/cpu.stat", "usage_usec") > before })
		m.Write("c/cgroup.freeze", "1")
		m.Write("c/"+order[0], order[1])
		if got := m.Read("c/wait"); got != "137" {
			t.Errorf("%s: exit %s", order[0], got)
		}
		m.Sh("rmdir c")
	}
}

// The limit of a container is that of all in it, and its counters count them.
func TestNestedLimits(t *testing.T) {
	m := MountFor(t)
	m.launch("pod", "sleep 1000", "memory.max", "32M")
	m.launch("pod/modest", busy)
	m.launch("pod/greedy", "tail /dev/zero")
	if got := m.Read("pod/greedy/wait"); got != "137" {
		t.Errorf("exit %s", got)
	}
	if got := m.counter("pod/greedy/status", "oom"); got != 1 {
		t.Errorf("oom %v", got)
	}
	for _, other := range []string{"pod", "pod/modest"} {
		if got := m.Read(other + "/state"); got != "running" {
			t.Errorf("%s is %s", other, got)
		}
	}
	if kills := m.counter("pod/memory.events", "oom_kill"); kills != 1 {
		t.Errorf("the parent counts %v kills", kills)
	}
	if kills := m.counter("pod/modest/memory.events", "oom_kill"); kills != 0 {
		t.Errorf("the modest one counts %v kills", kills)
	}
	used := m.counter("pod/modest/stats", "cpu.usage_usec")
	if all := m.counter("pod/stats", "cpu.usage_usec"); used == 0 || all < used {
		t.Errorf("the parent used %v, the child alone %v", all, used)
	}
	if n := m.counter("pod/stats", "pids.current"); n != 2 {
		t.Errorf("the parent has %v processes", n)
	}
	if peak := m.counter("pod/stats", "memory.peak"); peak > 32<<20 || peak < 24<<20 {
		t.Errorf("the parent's peak is %v", peak)
	}
}

// Fields of the specification that only the kernel's own files can confirm: this machine need not have huge pages.
func TestOCILimits(t *testing.T) {
	m := MountFor(t)
	m.Sh(`mkdir c; echo 0 > c/stop.timeout; echo $ROOT > c/rootfs; echo 'sleep 1000' > c/cmd
dev=$(cat /sys/block/loop0/dev); maj=${dev%%:*}; min=${dev#*:}
jq --argjson M $maj --argjson m $min '.linux.resources += {"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}], "blockIO": {"weight": 300,
  "throttleReadBpsDevice": [{"major": $M, "minor": $m, "rate": 1001}], "throttleWriteBpsDevice": [{"major": $M, "minor": $m, "rate": 1002}],
  "throttleReadIOPSDevice": [{"major": $M, "minor": $m, "rate": 1003}], "throttleWriteIOPSDevice": [{"major": $M, "minor": $m, "rate": 1004}]}}' c/config.json > ../new
cat ../new > c/config.json`)
	dev := strings.TrimSpace(m.Sh("cat /sys/block/loop0/dev"))
	for file, want := range map[string]string{"hugetlb.2MB.max": "4194304", "io.weight": "default 300", "io.max": dev + " rbps=1001 wbps=1002 riops=1003 wiops=1004"} {
		if got := m.Read("c/" + file); got != want {
			t.Errorf("%s: %q, want %q", file, got, want)
		}
	}
	m.Write("c/start", "1")
	id := m.Read("c/id")
	for _, c := range [][2]string{
		{"hugetlb.2MB.max", "4194304"}, {"hugetlb.2MB.limit_in_bytes", "4194304"},
		{"io.max", dev + " rbps=1001 wbps=1002 riops=1003 wiops=1004"},
		{"blkio.throttle.read_bps_device", dev + " 1001"}, {"blkio.throttle.write_bps_device", dev + " 1002"},
		{"blkio.throttle.read_iops_device", dev + " 1003"}, {"blkio.throttle.write_iops_device", dev + " 1004"},
		{"io.weight", "default 300"}, {"blkio.bfq.weight", "300"},
	} {
		for _, pattern := range []string{"/sys/fs/cgroup/*/ctrfs-*/", "/sys/fs/cgroup/ctrfs-*/"} {
			files, _ := filepath.Glob(pattern + id + "/" + c[0])
			for _, file := range files {
				if text, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(text)) != c[1] {
					t.Errorf("%s: %q, %v, want %q", c[0], text, err, c[1])
				}
			}
		}
	}
}

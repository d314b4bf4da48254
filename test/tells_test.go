package test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The counters of a container that stands still agree with the kernel's own files, to the last digit that is told.
func TestMetricsAgree(t *testing.T) {
	m := MountFor(t)
	m.Start("c", `sh -c 'i=0; while test $i -lt 30000; do i=$((i+1)); done; echo done; sleep 1000'`)
	Eventually(t, "it has worked", 20*time.Second, func() bool { return m.Read("c/log") == "done" })
	m.Write("c/cgroup.freeze", "1")
	pid := m.Read("c/pid")
	// What a frozen program has is given back by the kernel in its own time: the two looks have to be at the same moment.
	usage := func() string {
		return kernelFile(pid, [2]string{"memory", "memory.usage_in_bytes"}) + kernelFile(pid, [2]string{"", "memory.current"})
	}
	have := map[string]string{}
	Eventually(t, "the kernel's number stays for a moment", 20*time.Second, func() bool {
		before := usage()
		for line := range strings.Lines(m.Read("metrics")) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			have[strings.TrimPrefix(name, "ctrfs_container_")] = value
		}
		return usage() == before
	})
	micro := func(usec uint64) string { return fmt.Sprintf("%d.%06d", usec/1e6, usec%1e6) }
	plain := func(n uint64) string { return strconv.FormatUint(n, 10) }
	for _, c := range []struct {
		metric string
		v1, v2 [2]string // controller or none, file
		key    string    // of v2's file
		unit   uint64    // of v1's number
		show   func(uint64) string
	}{
		{"cpu_usage_seconds_total", [2]string{"cpuacct", "cpuacct.usage"}, [2]string{"", "cpu.stat"}, "usage_usec", 1000, micro},
		{"memory_bytes", [2]string{"memory", "memory.usage_in_bytes"}, [2]string{"", "memory.current"}, "", 1, plain},
		{"memory_peak_bytes", [2]string{"memory", "memory.max_usage_in_bytes"}, [2]string{"", "memory.peak"}, "", 1, plain},
		{"pids", [2]string{"pids", "pids.current"}, [2]string{"", "pids.current"}, "", 1, plain},
	} {
		text, unit := kernelFile(pid, c.v1), c.unit
		if text == "" {
			text, unit = kernelFile(pid, c.v2), 1
			for line := range strings.Lines(text) {
				if key, value, ok := strings.Cut(line, " "); ok && key == c.key {
					text = value
				}
			}
		}
		n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
		if err != nil {
			t.Errorf("%s: the kernel says %q", c.metric, text)
		}
		if want := c.show(n / unit); have[c.metric+`{container="c"}`] != want {
			t.Errorf("%s is %q, and the kernel says %s", c.metric, have[c.metric+`{container="c"}`], want)
		}
	}
	m.Write("c/cgroup.kill", "1")
	m.Read("c/wait")
}

// kernelFile reads a file of the group that a process is in, in the hierarchy of a controller; "" is v2's. Processes of a
// container are in a leaf there. It is empty when there is no such file.
func kernelFile(pid string, file [2]string) string {
	groups, _ := os.ReadFile("/proc/" + pid + "/cgroup")
	for line := range strings.Lines(string(groups)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if part[1] != file[0] || part[2] == "/" { // a hierarchy that containers are not in
			continue
		}
		for _, mount := range []string{"/sys/fs/cgroup/" + file[0], "/sys/fs/cgroup/unified"} {
			if text, err := os.ReadFile(filepath.Join(mount, strings.TrimSuffix(part[2], "/_self"), file[1])); err == nil {
				return string(text)
			}
		}
	}
	return ""
}

// Readers of events do not hold up containers, whatever they do, and what they miss is counted.
func TestEventsStalled(t *testing.T) {
	m := MountFor(t)
	stalled, err := os.Open(m.Dir + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Close()
	const jobs = 300
	for i := range jobs {
		m.Sh("mkdir c && echo true > c/cmd && echo 1 > c/start && cat c/wait && rmdir c")
		if i == 0 {
			// Its first event is read, and no more.
			if _, err := stalled.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	text, rest := make([]byte, 1<<20), []byte(nil)
	seen, last := 0, uint64(0)
	for deadline := time.Now().Add(20 * time.Second); last < 4*jobs && time.Now().Before(deadline); {
		n, err := stalled.Read(text)
		if err != nil {
			t.Fatal(err)
		}
		whole := append(rest, text[:n]...)
		end := bytes.LastIndexByte(whole, '\n') + 1 // a read may end within a line
		rest = bytes.Clone(whole[end:])
		for line := range bytes.Lines(whole[:end]) {
			_, after, ok := bytes.Cut(line, []byte(`"seq":`))
			if !ok {
				continue // the rest of the first line
			}
			number, _, _ := bytes.Cut(after, []byte(","))
			number, _, _ = bytes.Cut(number, []byte("}"))
			seq, err := strconv.ParseUint(string(number), 10, 64)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			if _, lost, gap := bytes.Cut(line, []byte(`"lost":`)); gap {
				n, _ := strconv.Atoi(string(bytes.Trim(lost, "}\n")))
				seen += n
			} else {
				seen++
			}
			if uint64(seen) != seq {
				t.Fatalf("number %d after %d, with %d told", seq, last, seen)
			}
			last = seq
		}
	}
	if last != 4*jobs {
		t.Errorf("the last one is %d of %d", last, 4*jobs)
	}
}

// A terminal is a pseudo-terminal with a program on it.
type terminal struct {
	master *os.File
	cmd    *exec.Cmd
	mu     sync.Mutex
	text   []byte // guarded by mu
	ended  chan struct{}
}

// newTerminal runs a program on a terminal of its own.
func newTerminal(t *testing.T, rows, cols uint16, name string, args ...string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	p := &terminal{master: master, cmd: exec.Command(name, args...), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "TERM=xterm", "LC_ALL=C.UTF-8")
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = slave, slave, slave
	p.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.collect()
	t.Cleanup(func() { p.cmd.Process.Kill(); p.master.Close() })
	return p
}

// collect gathers what is written until nobody has the terminal open.
func (p *terminal) collect() {
	defer close(p.ended)
	buf := make([]byte, 4096)
	for {
		n, err := p.master.Read(buf)
		p.mu.Lock()
		p.text = append(p.text, buf[:n]...)
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// shows waits for a text, and forgets everything up to it.
func (p *terminal) shows(t *testing.T, want string) {
	t.Helper()
	Eventually(t, fmt.Sprintf("the terminal shows %q", want), 10*time.Second, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		i := bytes.Index(p.text, []byte(want))
		if i >= 0 {
			p.text = p.text[i+len(want):]
		}
		return i >= 0
	})
}

func (p *terminal) keys(t *testing.T, keys string) {
	t.Helper()
	if _, err := p.master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

// The leave of the alternate screen, by which a program gives the terminal back as it was.
const restored = "\x1b[?1049l"

// ctrfs top on a terminal: it shows what runs, sorts as it is told, copes with any size, and puts the terminal back, however it
// ends.
func TestTop(t *testing.T) {
	m := MountFor(t)
	m.Start("busy", `sh -c 'while :; do :; done'`)
	m.Sh("mkdir idle")
	top := newTerminal(t, 12, 100, m.Binary, "top", "--interval", "200ms", m.Dir)
	top.shows(t, "active;")
	top.shows(t, "WRITE/s")
	top.shows(t, "busy")
	top.keys(t, "n")
	top.shows(t, "CONTAINER")
	top.keys(t, "\x1b[C") // right
	top.shows(t, "STATE")
	for _, size := range []unix.Winsize{{Row: 1, Col: 5}, {Row: 2, Col: 200}, {Row: 40, Col: 20}, {Row: 12, Col: 100}} {
		if err := unix.IoctlSetWinsize(int(top.master.Fd()), unix.TIOCSWINSZ, &size); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	top.shows(t, "WRITE/s")
	top.keys(t, "q")
	top.shows(t, restored)
	<-top.ended
	if err := top.cmd.Wait(); err != nil {
		t.Error(err)
	}
	ended := newTerminal(t, 12, 100, m.Binary, "top", m.Dir)
	ended.shows(t, "busy")
	if err := ended.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ended.shows(t, restored)
	<-ended.ended
	ended.cmd.Wait()

	once := strings.Split(m.Sh("%s top --once --interval 500ms %s", m.Binary, m.Dir), "\n")
	words := strings.Fields(once[1])
	if cpu, err := strconv.ParseFloat(words[2], 64); err != nil || words[0] != "busy" || words[1] != "running" || cpu < 5 {
		t.Errorf("--once printed\n%s", strings.Join(once, "\n"))
	}
	m.Write("busy/kill", "KILL")
	m.Read("busy/wait")
}

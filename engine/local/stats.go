package local

import (
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// sources are the resource files that a sample is read from, each once. A file that the host does not have adds nothing.
var sources = []struct {
	file string
	add  func(out []engine.Stat, text string) []engine.Stat
}{
	{"cpu.stat", addKeys("cpu.")},
	{"memory.current", addNumber("memory.current")},
	{"memory.peak", addNumber("memory.peak")},
	{"memory.swap.current", addNumber("memory.swap.current")},
	{"memory.events", addKeys("memory.", "oom_kill")},
	{"pids.current", addNumber("pids.current")},
	{"io.stat", addIO},
}

// Stats implements [engine.Container].
func (c *container) Stats() []engine.Stat {
	out := make([]engine.Stat, 0, 32)
	for _, s := range sources {
		if text, err := c.ReadControl(s.file); err == nil {
			out = s.add(out, text)
		}
	}
	return c.addNet(out)
}

// addNumber is a file that holds one number.
func addNumber(name string) func([]engine.Stat, string) []engine.Stat {
	return func(out []engine.Stat, text string) []engine.Stat {
		if n, err := strconv.ParseUint(strings.TrimSuffix(text, "\n"), 10, 64); err == nil {
			out = append(out, engine.Stat{Name: name, Value: n})
		}
		return out
	}
}

// addKeys is a file of KEY NUMBER lines, of which only some may be wanted.
func addKeys(prefix string, only ...string) func([]engine.Stat, string) []engine.Stat {
	return func(out []engine.Stat, text string) []engine.Stat {
		for line := range strings.Lines(text) {
			key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			if n, err := strconv.ParseUint(value, 10, 64); err == nil && (len(only) == 0 || slices.Contains(only, key)) {
				out = append(out, engine.Stat{Name: prefix + key, Value: n})
			}
		}
		return out
	}
}

// ioKeys are the numbers of io.stat that both versions of cgroups have.
var ioKeys = [...]string{"rbytes", "wbytes", "rios", "wios"}

// addIO adds up the devices of io.stat. Without any, nothing has been read or written.
func addIO(out []engine.Stat, text string) []engine.Stat {
	var sums [len(ioKeys)]uint64
	for word := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(word, "=")
		for i, k := range ioKeys {
			if k == key {
				n, _ := strconv.ParseUint(value, 10, 64)
				sums[i] += n
			}
		}
	}
	for i, k := range ioKeys {
		out = append(out, engine.Stat{Name: "io." + k, Value: sums[i]})
	}
	return out
}

// netColumns are the columns of proc_pid_net(5), dev, that are told, by the names that sysfs has for them.
var netColumns = []struct {
	name   string
	column int
}{
	{"net.rx_bytes", 0}, {"net.rx_packets", 1}, {"net.rx_errors", 2}, {"net.rx_dropped", 3},
	{"net.tx_bytes", 8}, {"net.tx_packets", 9}, {"net.tx_errors", 10}, {"net.tx_dropped", 11},
}

// addNet adds up the interfaces of the container's own network namespace, without the loopback, which is no traffic. It looks
// through PID 1's directory of the host's procfs, without entering anything. Who shares a namespace has no numbers of its
// own, nor has one in which nothing runs.
func (c *container) addNet(out []engine.Stat) []engine.Stat {
	c.mu.Lock()
	pid, own := c.pid, c.rec.Config.Namespace(specs.NetworkNamespace).New()
	c.mu.Unlock()
	if pid == 0 || !own {
		return out
	}
	text, err := readProc("/proc/" + strconv.Itoa(pid) + "/net/dev")
	if err != nil || text == "" || !c.still(pid) {
		return out
	}
	return addDevices(out, text)
}

// readProc reads a file of the host's procfs, without [os.File], which would register it with epoll(7): that costs as much as
// the rest.
func readProc(name string) (string, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var first [2048]byte
	for buf := first[:0]; ; {
		buf = slices.Grow(buf, 1024)
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return string(buf), err
		}
		buf = buf[:len(buf)+n]
	}
}

// addDevices reads what follows two lines of titles: NAME: and sixteen numbers.
func addDevices(out []engine.Stat, text string) []engine.Stat {
	var sums [16]uint64
	for line := range strings.Lines(text) {
		name, numbers, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(name) == "lo" {
			continue
		}
		i := 0
		for word := range strings.FieldsSeq(numbers) {
			if n, err := strconv.ParseUint(word, 10, 64); err == nil && i < len(sums) {
				sums[i] += n
			}
			i++
		}
	}
	for _, c := range netColumns {
		out = append(out, engine.Stat{Name: c.name, Value: sums[c.column]})
	}
	return out
}

// still reports whether pid has been the container's PID 1 until now: the kernel may have given a number to another process
// since it was looked up, and what was read is then of somebody else.
func (c *container) still(pid int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pid == pid && c.pidfd != nil && unix.PidfdSendSignal(int(c.pidfd.Fd()), 0, nil, 0) == nil
}

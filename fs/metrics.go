package fs

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ctrfs/ctrfs/engine"
)

// metricsEnd is the last line, by which a reader knows that it has seen all.
const metricsEnd = "# EOF\n"

// metric is one family of the metrics file: the OpenMetrics text format, version 1.0.0. It writes what that needs of eight
// lines itself: the libraries that could do it bring the protocol buffers that it is not made of.
type metric struct {
	name string // ends in the unit, where there is one
	kind string
	unit string
	help string

	stat  string // the number of the stats file that it shows
	micro bool   // which counts microseconds

	of func(*engine.View) (string, bool) // or what it shows of the container itself, if there is anything
}

// The kinds of metric.
const (
	counter = "counter"
	gauge   = "gauge"
	info    = "info"
)

// metrics lists the families in the order of the file.
var metrics = []metric{
	{name: "ctrfs_container", kind: info, help: "The identity of a container, which a rename does not change.",
		of: func(*engine.View) (string, bool) { return "1", true }},
	{name: "ctrfs_container_active", kind: gauge, help: "Whether anything of it lives.",
		of: func(v *engine.View) (string, bool) {
			return map[bool]string{true: "1", false: "0"}[v.State.Alive()], true
		}},
	{name: "ctrfs_container_start_time_seconds", kind: gauge, unit: "seconds", help: "When its program was started last, as Unix time.",
		of: func(v *engine.View) (string, bool) { return unixTime(v.Started), !v.Started.IsZero() }},
	{name: "ctrfs_container_last_exit_status", kind: gauge, help: "How its program has ended, as a shell tells it.",
		of: func(v *engine.View) (string, bool) { return v.Exit.Code(), v.Exit.Happened() && !v.Exit.Unknown }},
	{name: "ctrfs_container_restarts", kind: counter, help: "How often its restart policy has started it, since somebody did.",
		of: func(v *engine.View) (string, bool) { return strconv.Itoa(v.Restarts), true }},
	{name: "ctrfs_container_cpu_usage_seconds", kind: counter, unit: "seconds", help: "Processor time used.",
		stat: "cpu.usage_usec", micro: true},
	{name: "ctrfs_container_cpu_user_seconds", kind: counter, unit: "seconds", help: "Processor time used in user mode.",
		stat: "cpu.user_usec", micro: true},
	{name: "ctrfs_container_cpu_system_seconds", kind: counter, unit: "seconds", help: "Processor time used in the kernel.",
		stat: "cpu.system_usec", micro: true},
	{name: "ctrfs_container_cpu_periods", kind: counter, help: "Periods of cpu.max that have passed.", stat: "cpu.nr_periods"},
	{name: "ctrfs_container_cpu_throttled_periods", kind: counter, help: "Periods in which cpu.max was hit.", stat: "cpu.nr_throttled"},
	{name: "ctrfs_container_cpu_throttled_seconds", kind: counter, unit: "seconds", help: "Time spent waiting because of cpu.max.",
		stat: "cpu.throttled_usec", micro: true},
	{name: "ctrfs_container_memory_bytes", kind: gauge, unit: "bytes", help: "Memory in use.", stat: "memory.current"},
	{name: "ctrfs_container_memory_peak_bytes", kind: gauge, unit: "bytes", help: "The most memory that was in use.", stat: "memory.peak"},
	{name: "ctrfs_container_memory_swap_bytes", kind: gauge, unit: "bytes", help: "Swap in use.", stat: "memory.swap.current"},
	{name: "ctrfs_container_oom_kills", kind: counter, help: "Processes that the out-of-memory killer has killed.", stat: "memory.oom_kill"},
	{name: "ctrfs_container_pids", kind: gauge, help: "Processes and threads that exist.", stat: "pids.current"},
	{name: "ctrfs_container_io_read_bytes", kind: counter, unit: "bytes", help: "Bytes read from block devices.", stat: "io.rbytes"},
	{name: "ctrfs_container_io_written_bytes", kind: counter, unit: "bytes", help: "Bytes written to block devices.", stat: "io.wbytes"},
	{name: "ctrfs_container_io_reads", kind: counter, help: "Read operations on block devices.", stat: "io.rios"},
	{name: "ctrfs_container_io_writes", kind: counter, help: "Write operations on block devices.", stat: "io.wios"},
	{name: "ctrfs_container_network_received_bytes", kind: counter, unit: "bytes", help: "Bytes received from the network.", stat: "net.rx_bytes"},
	{name: "ctrfs_container_network_received_packets", kind: counter, help: "Packets received from the network.", stat: "net.rx_packets"},
	{name: "ctrfs_container_network_receive_errors", kind: counter, help: "Packets received with an error.", stat: "net.rx_errors"},
	{name: "ctrfs_container_network_receive_drops", kind: counter, help: "Packets received and dropped.", stat: "net.rx_dropped"},
	{name: "ctrfs_container_network_sent_bytes", kind: counter, unit: "bytes", help: "Bytes sent to the network.", stat: "net.tx_bytes"},
	{name: "ctrfs_container_network_sent_packets", kind: counter, help: "Packets sent to the network.", stat: "net.tx_packets"},
	{name: "ctrfs_container_network_send_errors", kind: counter, help: "Packets that could not be sent.", stat: "net.tx_errors"},
	{name: "ctrfs_container_network_send_drops", kind: counter, help: "Packets dropped before they were sent.", stat: "net.tx_dropped"},
}

// metricsText shows every container in every family that it has a number for. A family without any is left out.
func metricsText(t *tree, by *sight) string {
	var b strings.Builder
	all := by.samples(t.samples.take(t, "metrics"))
	for i := range metrics {
		metrics[i].write(&b, all)
	}
	return b.String() + metricsEnd
}

// write writes a family: what it is, once, and a line for each container.
func (m *metric) write(b *strings.Builder, all []sample) {
	told := false
	for i := range all {
		value, ok := m.value(&all[i])
		if !ok {
			continue
		}
		if !told {
			m.head(b)
			told = true
		}
		b.WriteString(m.name)
		b.WriteString(suffixes[m.kind])
		b.WriteString(`{container="`)
		b.WriteString(label(all[i].view.Path))
		if m.kind == info {
			b.WriteString(`",id="` + label(all[i].view.ID))
		}
		b.WriteString(`"} `)
		b.WriteString(value)
		b.WriteByte('\n')
	}
}

// suffixes are what a sample is called beyond its family.
var suffixes = map[string]string{counter: "_total", info: "_info"}

func (m *metric) head(b *strings.Builder) {
	fmt.Fprintf(b, "# TYPE %s %s\n", m.name, m.kind)
	if m.unit != "" {
		fmt.Fprintf(b, "# UNIT %s %s\n", m.name, m.unit)
	}
	fmt.Fprintf(b, "# HELP %s %s\n", m.name, label(m.help))
}

// value is the number of one container; false when it has none.
func (m *metric) value(s *sample) (string, bool) {
	if m.of != nil {
		return m.of(s.view)
	}
	n, ok := s.number(m.stat)
	if ok && m.micro {
		return fmt.Sprintf("%d.%06d", n/1e6, n%1e6), true
	}
	return strconv.FormatUint(n, 10), ok
}

// unixTime renders a moment in seconds.
func unixTime(t time.Time) string {
	return fmt.Sprintf("%d.%03d", t.Unix(), t.Nanosecond()/1e6)
}

// escapes are what a label's value, and a help text, may not contain as it is.
var escapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

func label(text string) string { return escapes.Replace(strings.ToValidUTF8(text, "\ufffd")) }

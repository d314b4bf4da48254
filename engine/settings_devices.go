package engine

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultDevices are the customary nodes, and what else may be used: the terminals, and making any node, which gives
// nobody a device that is not allowed besides.
var defaultDevices = []string{
	"c 1:3 rwm /dev/null", "c 1:5 rwm /dev/zero", "c 1:7 rwm /dev/full", "c 1:8 rwm /dev/random", "c 1:9 rwm /dev/urandom",
	"c 5:0 rwm /dev/tty", "c 5:2 rwm", "c 136:* rwm", "c *:* m", "b *:* m",
}

// Bounds of device numbers: 12 and 20 bits, include/linux/kdev_t.h.
const (
	majorMax = 1<<12 - 1
	minorMax = 1<<20 - 1
)

// noAccess is the access of a node without a rule: it is made, and only another line lets it be used.
const noAccess = "-"

// deviceLine is one line of the devices file.
type deviceLine struct {
	kind         string // "a", "b" or "c"
	major, minor int64  // or AnyDevice
	access       string // of "rwm", or noAccess
	node         string // its path in the container, "" for none
}

func (d deviceLine) String() string {
	line := fmt.Sprintf("%s %s:%s %s", d.kind, formatDevice(d.major), formatDevice(d.minor), d.access)
	if d.node != "" {
		line += " " + escape(d.node)
	}
	return line
}

func formatDevice(n int64) string {
	if n == AnyDevice {
		return "*"
	}
	return fmt.Sprint(n)
}

// same reports whether two lines speak of the same devices.
func (d deviceLine) same(o deviceLine) bool {
	return d.kind == o.kind && d.major == o.major && d.minor == o.minor
}

// parseDevice reads "c 1:3 rwm /dev/null", "c 136:* rwm", or "a" for everything.
func parseDevice(line string) (d deviceLine, err error) {
	refuse := func(why string) (deviceLine, error) {
		return deviceLine{}, Invalid("devices", line, why, "write TYPE MAJOR:MINOR ACCESS [NODE], such as c 1:3 rwm /dev/null or c 136:* rw, or a")
	}
	words := strings.Fields(line)
	if len(words) == 1 && words[0] == "a" {
		words = []string{"a", "*:*", "rwm"}
	}
	if len(words) < 3 || len(words) > 4 {
		return refuse("not three or four fields")
	}
	if d.kind = words[0]; d.kind != "a" && d.kind != "b" && d.kind != "c" {
		return refuse("the type is not c, b or a")
	}
	major, minor, _ := strings.Cut(words[1], ":")
	ok, too := false, false
	d.major, ok = parseDeviceNumber(major, majorMax)
	d.minor, too = parseDeviceNumber(minor, minorMax)
	if !ok || !too {
		return refuse("not a device number")
	}
	if d.access, ok = parseAccess(words[2]); !ok {
		return refuse("the access is not of r, w and m")
	}
	if len(words) == 4 {
		d.node = unescape(words[3])
	}
	if d.kind == "a" && (d.major != AnyDevice || d.minor != AnyDevice || d.access != "rwm" || d.node != "") {
		return refuse("type a is everything or nothing")
	}
	if why := d.nodeFault(); why != "" {
		return refuse(why)
	}
	return d, nil
}

// nodeFault says what is wrong with the node of a line.
func (d deviceLine) nodeFault() string {
	switch {
	case d.node == "" && d.access == noAccess:
		return "it allows nothing and makes nothing"
	case d.node == "":
		return ""
	case !strings.HasPrefix(d.node, "/") || path.Clean(d.node) != d.node || d.node == "/":
		return "the node is not a clean absolute path"
	case strings.ContainsFunc(d.node, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }):
		return "the node's path has characters that are no text"
	case d.major == AnyDevice || d.minor == AnyDevice:
		return "a node has one number"
	}
	return ""
}

func parseDeviceNumber(text string, limit int64) (int64, bool) {
	if text == "*" {
		return AnyDevice, true
	}
	n, err := strconv.ParseUint(text, 10, 32)
	return int64(n), err == nil && int64(n) <= limit
}

// parseAccess puts the letters into the kernel's order, each once.
func parseAccess(text string) (string, bool) {
	if text == noAccess {
		return text, true
	}
	out := ""
	for _, letter := range []string{"r", "w", "m"} {
		if n := strings.Count(text, letter); n == 1 {
			out += letter
		} else if n > 1 {
			return "", false
		}
	}
	return out, out != "" && len(out) == len(text)
}

// Devices returns the devices of the container, one a line: a node with what may be done to it, or a rule alone.
func (c *Config) Devices() []string {
	var lines []deviceLine
	for _, r := range deviceRules(c.Spec.Linux.Resources.Devices) {
		lines = append(lines, ruleLine(r))
	}
	for _, n := range c.Spec.Linux.Devices {
		if n.Type == "p" {
			continue
		}
		node := deviceLine{kind: n.Type, major: n.Major, minor: n.Minor, access: noAccess, node: n.Path}
		at := slices.IndexFunc(lines, func(l deviceLine) bool { return l.same(node) && l.node == "" })
		if at >= 0 {
			lines[at].node = n.Path
			continue
		}
		at = slices.IndexFunc(lines, func(l deviceLine) bool { return l.same(node) && l.access != noAccess })
		if at >= 0 {
			node.access = lines[at].access // one more node of a device that has a rule
		}
		lines = append(lines, node)
	}
	var out []string
	for _, l := range lines {
		out = append(out, l.String())
	}
	return out
}

// AllDevices reports whether the container may use every device.
func (c *Config) AllDevices() bool { return slices.Contains(c.Devices(), AllDevices) }

// deviceRules leaves out the rule that nothing is allowed, with which a list of rules begins.
func deviceRules(rules []specs.LinuxDeviceCgroup) []specs.LinuxDeviceCgroup {
	if len(rules) > 0 && isDenyAll(rules[0]) {
		return rules[1:]
	}
	return rules
}

func isDenyAll(r specs.LinuxDeviceCgroup) bool {
	access, _ := parseAccess(r.Access)
	return !r.Allow && ruleLine(r).kind == "a" && (r.Access == "" || access == "rwm")
}

// ruleLine renders a rule: in the specification, what is left out means all.
func ruleLine(r specs.LinuxDeviceCgroup) deviceLine {
	d := deviceLine{kind: r.Type, major: AnyDevice, minor: AnyDevice, access: r.Access}
	if d.kind == "" {
		d.kind = "a"
	}
	if r.Major != nil {
		d.major = *r.Major
	}
	if r.Minor != nil {
		d.minor = *r.Minor
	}
	return d
}

// SetDevices replaces nodes and rules. A node that stays keeps what the line does not say: owner and mode.
func (c *Config) SetDevices(lines []string) error {
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	var nodes []specs.LinuxDevice
	var ruled []deviceLine
	for _, line := range lines {
		d, err := parseDevice(line)
		if err != nil {
			return err
		}
		if d.node != "" {
			if slices.ContainsFunc(nodes, func(n specs.LinuxDevice) bool { return n.Path == d.node }) {
				return Invalid("devices", line, "another line has the same node", "leave one out")
			}
			nodes = append(nodes, c.deviceNode(d))
		}
		known := slices.ContainsFunc(ruled, func(r deviceLine) bool { return r.same(d) && r.access == d.access })
		if d.access != noAccess && !known {
			ruled = append(ruled, d)
			rules = append(rules, d.rule())
		}
	}
	c.Spec.Linux.Devices, c.Spec.Linux.Resources.Devices = nodes, rules
	return nil
}

// deviceNode is the node that a line asks for: the one that is there, or a new one.
func (c *Config) deviceNode(d deviceLine) specs.LinuxDevice {
	for _, n := range c.Spec.Linux.Devices {
		if n.Path == d.node && n.Type == d.kind && n.Major == d.major && n.Minor == d.minor {
			return n
		}
	}
	n := specs.LinuxDevice{Path: d.node, Type: d.kind, Major: d.major, Minor: d.minor}
	if !d.customary() {
		n.FileMode = new(nodeMode)
	}
	return n
}

// nodeMode is written down with a new node, because runtimes do not agree on what it is without: rules say who may use it.
const nodeMode os.FileMode = 0o666

// customary reports whether the node is one that every runtime supplies.
func (d deviceLine) customary() bool {
	line := fmt.Sprintf("%s %d:%d rwm %s", d.kind, d.major, d.minor, d.node)
	return slices.Contains(defaultDevices, line)
}

func (d deviceLine) rule() specs.LinuxDeviceCgroup {
	r := specs.LinuxDeviceCgroup{Allow: true, Type: d.kind, Access: d.access}
	if d.major != AnyDevice {
		r.Major = &d.major
	}
	if d.minor != AnyDevice {
		r.Minor = &d.minor
	}
	return r
}

// validateDevices refuses what the devices file could not show: rules that take back, and nodes that could not be made.
func (c *Config) validateDevices() error {
	refuse := func(value, why string) error {
		return &Error{Op: "check", File: "linux.devices", Value: value, Errno: syscall.EOPNOTSUPP, Why: why, Cure: "leave it out of config.json"}
	}
	for _, r := range deviceRules(c.Spec.Linux.Resources.Devices) {
		if line := ruleLine(r).String(); !r.Allow {
			return refuse(line, "a rule that denies is supported at the front only, for everything")
		} else if _, err := parseDevice(line); err != nil {
			return refuse(line, "not a rule of the devices file")
		}
	}
	for _, n := range c.Spec.Linux.Devices {
		line := deviceLine{kind: n.Type, major: n.Major, minor: n.Minor, access: noAccess, node: n.Path}
		switch n.Type {
		case "u": // as the kernel does not tell it from c any more
			line.kind = "c"
		case "p": // no device, and so no line of the file
			line.kind, line.major, line.minor = "c", 0, 0
		}
		if _, err := parseDevice(line.String()); err != nil {
			return refuse(line.String(), "not a node of the devices file")
		}
	}
	return nil
}

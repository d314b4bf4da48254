package engine

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// mountFlags are the options that any mount takes, with what each decides: two that decide the same contradict each other.
// The names are those of mount(8), and "idmap" is the specification's.
var mountFlags = map[string]string{
	"ro": "writing", "rw": "writing", "suid": "set-user-id", "nosuid": "set-user-id", "dev": "devices", "nodev": "devices",
	"exec": "execution", "noexec": "execution", "relatime": "access times", "noatime": "access times",
	"strictatime": "access times", "diratime": "access times of directories", "nodiratime": "access times of directories",
	"symfollow": "symbolic links", "nosymfollow": "symbolic links",
	"private": "propagation", "slave": "propagation", "shared": "propagation", "unbindable": "propagation",
	"rprivate": "propagation", "rslave": "propagation", "rshared": "propagation", "runbindable": "propagation",
	"x-mount.mkdir": "the target",
}

// bindFlags are those that only a bind mount takes.
var bindFlags = map[string]string{"bind": "the source", "rbind": "the source", "idmap": "ids"}

// mountType is a file system that can be mounted, with the options that are its own.
type mountType struct {
	flags  []string                     // without a value
	values map[string]func(string) bool // with one, and what it may be
}

// mountTypes are the file systems of the mounts file and of the customary mounts.
var mountTypes = map[string]mountType{
	"none": {flags: slices.Collect(maps.Keys(bindFlags))},
	"tmpfs": {values: map[string]func(string) bool{"size": isTmpfsSize, "nr_blocks": isTmpfsSize, "nr_inodes": isTmpfsSize,
		"mode": isOctal, "uid": isID, "gid": isID}},
	"proc":   {values: map[string]func(string) bool{"hidepid": isHidepid, "subset": func(v string) bool { return v == "pid" }, "gid": isID}},
	"devpts": {flags: []string{"newinstance"}, values: map[string]func(string) bool{"ptmxmode": isOctal, "mode": isOctal, "uid": isID, "gid": isID}},
	"sysfs":  {}, "mqueue": {}, "cgroup": {},
}

// The forms of values: tmpfs(5), proc(5), mount(8).

func isDigits(v string) bool { return v != "" && strings.Trim(v, "0123456789") == "" }
func isOctal(v string) bool  { return v != "" && len(v) <= 5 && strings.Trim(v, "01234567") == "" }
func isID(v string) bool     { _, ok := parseID(v); return ok }
func isHidepid(v string) bool {
	return slices.Contains([]string{"0", "1", "2", "4", "off", "noaccess", "invisible", "ptraceable"}, v)
}

// isTmpfsSize takes a number with the kernel's suffixes, or a share of the memory.
func isTmpfsSize(v string) bool {
	if number, ok := strings.CutSuffix(v, "%"); ok {
		return isDigits(number)
	}
	if n := len(v); n > 1 && strings.IndexByte("kmgtpe", v[n-1]|0x20) >= 0 {
		v = v[:n-1]
	}
	return isDigits(v)
}

// isClean reports whether a path can mean one place only: it starts at the root and never goes back.
func isClean(p string) bool {
	return strings.HasPrefix(p, "/") && !slices.Contains(strings.Split(p, "/"), "..")
}

// isBind reports whether a mount shows a tree that exists. The specification leaves the type of one open.
func isBind(m specs.Mount) bool {
	return (m.Type == "none" || m.Type == "bind" || m.Type == "") && (slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind"))
}

// mountFault says what is wrong with a mount, and the cure; "" is nothing.
func mountFault(m specs.Mount) (why, cure string) {
	kind := m.Type
	if isBind(m) {
		kind = "none"
	}
	fs, ok := mountTypes[kind]
	if !ok || kind == "none" && !isBind(m) {
		return fmt.Sprintf("type %q is not supported, or lacks an option bind or rbind", m.Type),
			"write none with bind or rbind, tmpfs, proc, sysfs, mqueue, cgroup or devpts"
	}
	if !isClean(m.Destination) {
		return fmt.Sprintf("the target %q is not an absolute path, or there is .. in it", m.Destination), "write it as seen from the container's /"
	}
	if kind == "none" && !isClean(m.Source) {
		return fmt.Sprintf("the source %q is not an absolute path, or there is .. in it", m.Source), "write it as seen from this machine's /"
	}
	if path.Clean(m.Destination) == "/" {
		return "the target is the root itself", "choose the root with rootfs"
	}
	if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
		return "it has an id mapping of its own", "use the option idmap, which maps as the container does"
	}
	if !utf8.ValidString(m.Source+m.Destination) || strings.ContainsRune(m.Source+m.Destination, 0) {
		return "a path has a NUL, or is not UTF-8", "rename it"
	}
	return optionsFault(kind, fs, m.Options)
}

// optionsFault checks options one by one, and that no two decide the same.
func optionsFault(kind string, fs mountType, options []string) (why, cure string) {
	decided := map[string]string{}
	for _, o := range options {
		name, value, has := strings.Cut(o, "=")
		what, ok := mountFlags[o]
		switch valid := fs.values[name]; {
		case ok:
		case slices.Contains(fs.flags, o):
			if what = bindFlags[o]; what == "" {
				what = o
			}
		case valid != nil && has && valid(value):
			what = name
		case valid != nil:
			return fmt.Sprintf("option %q has no value that %s takes", o, kind), "see mount(8) for the values"
		default:
			return fmt.Sprintf("option %q is not known for type %s", o, kind), "leave it out"
		}
		if before, twice := decided[what]; twice {
			return fmt.Sprintf("options %s and %s both decide about %s", before, o, what), "leave one out"
		}
		decided[what] = o
	}
	return "", ""
}

// parseMount reads a line of fstab(5): source, target, type and options, and the two numbers of dump(8) and fsck(8), which
// mean nothing here and may be left out.
func parseMount(line string) (specs.Mount, error) {
	const cure = "write SOURCE TARGET TYPE OPTIONS 0 0, such as /srv /data none bind,ro 0 0"
	words := strings.Fields(line)
	if len(words) < 4 || len(words) > 6 || strings.HasPrefix(words[0], "#") {
		return specs.Mount{}, Invalid("mounts", line, "not a line of fstab(5) with four to six fields", cure)
	}
	for _, number := range words[4:] {
		if number != "0" {
			return specs.Mount{}, Invalid("mounts", line, "nothing is dumped or checked here", "end the line with 0 0")
		}
	}
	m := specs.Mount{Source: unescape(words[0]), Destination: unescape(words[1]), Type: words[2]}
	for o := range strings.SplitSeq(words[3], ",") {
		if o != "" && o != "defaults" {
			m.Options = append(m.Options, o)
		}
	}
	if i := slices.Index(m.Options, mkdirOption); i >= 0 { // last, as config.json has to put it back
		m.Options = append(slices.Delete(m.Options, i, i+1), mkdirOption)
	}
	if isBind(m) {
		m.Type = "none"
	}
	if why, cure := mountFault(m); why != "" {
		return specs.Mount{}, Invalid("mounts", line, why, cure)
	}
	m.Destination = path.Clean(m.Destination)
	if m.Type == "none" {
		m.Source = path.Clean(m.Source)
	}
	return m, nil
}

// formatMount renders what parseMount reads.
func formatMount(m specs.Mount) string {
	if isBind(m) {
		m.Type = "none"
	}
	options := strings.Join(m.Options, ",")
	if options == "" {
		options = "defaults"
	}
	source := m.Source
	if source == "" {
		source = m.Type
	}
	return fmt.Sprintf("%s %s %s %s 0 0", escape(source), escape(m.Destination), m.Type, options)
}

// escape writes blanks, and what would be read as an escape or a comment, as three octal digits: fstab(5), getmntent(3).
func escape(text string) string {
	var b strings.Builder
	for i := range len(text) {
		if ch := text[i]; ch <= ' ' || ch == '\\' || ch == 0x7f || i == 0 && ch == '#' {
			fmt.Fprintf(&b, `\%03o`, ch)
		} else {
			b.WriteByte(ch)
		}
	}
	return b.String()
}

// unescape reads it. A backslash before anything but three octal digits stands for itself, as in libmount.
func unescape(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) && text[i+1] <= '3' && isOctal(text[i+1:i+4]) {
			b.WriteByte((text[i+1]-'0')<<6 | (text[i+2]-'0')<<3 | (text[i+3] - '0'))
			i += 3
		} else {
			b.WriteByte(text[i])
		}
	}
	return b.String()
}

// customary reports whether a mount is one that every container has.
func customary(m specs.Mount) bool {
	return slices.ContainsFunc(defaultMounts, func(d specs.Mount) bool {
		return d.Destination == m.Destination && d.Type == m.Type && d.Source == m.Source && slices.Equal(d.Options, m.Options) &&
			len(m.UIDMappings)+len(m.GIDMappings) == 0
	})
}

// AdditionalMounts returns the mounts that the container has beyond the customary ones, in order.
func (c *Config) AdditionalMounts() []specs.Mount {
	return slices.DeleteFunc(slices.Clone(c.Spec.Mounts), customary)
}

// Mounts returns them as lines of fstab(5).
func (c *Config) Mounts() (lines []string) {
	for _, m := range c.AdditionalMounts() {
		lines = append(lines, formatMount(m))
	}
	return lines
}

// SetMounts replaces them; the customary mounts stay as they are, and come first. Whether a source exists is for the engine
// to say.
func (c *Config) SetMounts(lines []string) error {
	all := slices.DeleteFunc(slices.Clone(c.Spec.Mounts), func(m specs.Mount) bool { return !customary(m) })
	for _, line := range lines {
		m, err := parseMount(line)
		if err != nil {
			return err
		}
		all = append(all, m)
	}
	c.Spec.Mounts = all
	return nil
}

package engine

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// CapabilityNames lists the capabilities by number, as in include/uapi/linux/capability.h.
var CapabilityNames = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW",
	"CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
	"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD",
	"CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
	"CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

func isCap(name string) bool { return slices.Contains(CapabilityNames, name) }

// Caps returns the capabilities that the container may have at most, sorted: its bounding set.
func (c *Config) Caps() []string {
	if c.Spec.Process.Capabilities == nil {
		return nil
	}
	return slices.Sorted(slices.Values(c.Spec.Process.Capabilities.Bounding))
}

// SetCaps sets the bounding, the permitted and the effective set alike. The inheritable and the ambient set stay empty: a
// user who is not root has no capability unless config.json names an ambient one. A word is CAP_X or X, all or none, in either case; with + or
// - it adds to or takes from what there is. A list that begins so changes the present set.
func (c *Config) SetCaps(items []string) error {
	words := strings.Fields(strings.Join(items, " "))
	set := map[string]bool{}
	if len(words) > 0 && (words[0][0] == '+' || words[0][0] == '-') {
		for _, name := range c.Caps() {
			set[name] = true
		}
	}
	for _, word := range words {
		names, keep, err := parseCap(word)
		if err != nil {
			return err
		}
		if names == nil {
			clear(set)
		}
		for _, name := range names {
			set[name] = keep
		}
	}
	var all []string
	for _, name := range CapabilityNames {
		if set[name] {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	c.Spec.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding: all, Permitted: slices.Clone(all), Effective: slices.Clone(all),
	}
	return nil
}

// parseCap reads one word: the capabilities meant, nil for none, and whether they are to be kept or dropped.
func parseCap(word string) (names []string, keep bool, err error) {
	name, drop := strings.CutPrefix(word, "-")
	if !drop {
		name = strings.TrimPrefix(word, "+")
	}
	name = strings.ToUpper(name)
	if name == "ALL" {
		return CapabilityNames, !drop, nil
	}
	if name == "NONE" && len(word) == len(name) {
		return nil, false, nil
	}
	name = "CAP_" + strings.TrimPrefix(name, "CAP_")
	if !isCap(name) {
		return nil, false, Invalid("caps", word, "no such capability", "write names of capabilities(7), with + or - to change the set, all, or none")
	}
	return []string{name}, !drop, nil
}

// NoNewPrivileges reports whether set-user-id and file capabilities are powerless in the container.
func (c *Config) NoNewPrivileges() bool { return c.Spec.Process.NoNewPrivileges }

// SetNoNewPrivileges sets it.
func (c *Config) SetNoNewPrivileges(on bool) { c.Spec.Process.NoNewPrivileges = on }

// The words of seccomp: a filter made for the container's capabilities, and none at all.
const (
	SeccompDefault    = "default"
	SeccompUnconfined = "unconfined"
)

// Seccomp returns [SeccompDefault], [SeccompUnconfined], or an OCI seccomp object as indented JSON.
func (c *Config) Seccomp() string {
	if c.Spec.Linux.Seccomp != nil {
		text, err := json.MarshalIndent(c.Spec.Linux.Seccomp, "", "  ")
		if err == nil {
			return string(text)
		}
	}
	if c.Extension.Seccomp == SeccompUnconfined {
		return SeccompUnconfined
	}
	return SeccompDefault
}

// SetSeccomp sets it. What the object says is for the compiler of the filter to judge; here it must be a whole one, with
// nothing in it that the specification does not know. An object that is cut short is [io.ErrUnexpectedEOF].
func (c *Config) SetSeccomp(text string) error {
	if word := strings.TrimSpace(text); word == SeccompDefault || word == SeccompUnconfined {
		c.Spec.Linux.Seccomp, c.Extension.Seccomp = nil, ""
		if word == SeccompUnconfined {
			c.Extension.Seccomp = word
		}
		return nil
	}
	filter := &specs.LinuxSeccomp{}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	why := ""
	err := dec.Decode(filter)
	if err == nil && filter.DefaultAction == "" {
		why = "it has no defaultAction"
	}
	if err == nil && why == "" {
		if _, more := dec.Token(); more != io.EOF {
			why = "there is more after the object"
		}
	}
	if err != nil || why != "" {
		e := Invalid("seccomp", text, why, "write default, unconfined, or a seccomp object of the OCI runtime specification")
		e.Err = err
		return e
	}
	c.Spec.Linux.Seccomp, c.Extension.Seccomp = filter, ""
	return nil
}

// setSeccompWord takes the annotation of config.json. An object in the specification says more, and wins.
func (c *Config) setSeccompWord(word string) error {
	if word != SeccompUnconfined {
		return Invalid("seccomp", word, "not the one word that config.json has no field for", "write unconfined, or leave it out")
	}
	c.Extension.Seccomp = ""
	if c.Spec.Linux.Seccomp == nil {
		c.Extension.Seccomp = word
	}
	return nil
}

// AppArmor returns the profile that confines the program, or "" for none of its own.
func (c *Config) AppArmor() string { return c.Spec.Process.ApparmorProfile }

// SetAppArmor sets it. Whether the kernel has AppArmor, and that profile, is for the engine to say.
func (c *Config) SetAppArmor(profile string) error {
	if why := labelFault(profile); why != "" {
		return Invalid("apparmor", profile, why, "write the name of a loaded profile, as /sys/kernel/security/apparmor/profiles has it")
	}
	c.Spec.Process.ApparmorProfile = profile
	return nil
}

// SELinux returns the label that the program runs with, or "" for none of its own.
func (c *Config) SELinux() string { return c.Spec.Process.SelinuxLabel }

// SetSELinux sets it: user:role:type, and a level where the policy has levels.
func (c *Config) SetSELinux(label string) error {
	why := labelFault(label)
	if parts := strings.SplitN(label, ":", 4); why == "" && label != "" && (len(parts) < 3 || slices.Contains(parts, "")) {
		why = "not a security context"
	}
	if why != "" {
		return Invalid("selinux", label, why, "write user:role:type:level, such as system_u:system_r:container_t:s0:c1,c2")
	}
	c.Spec.Process.SelinuxLabel = label
	return nil
}

// labelMax bounds what is written into /proc/self/attr: a page, less the NUL.
const labelMax = pageSize - 1

// labelFault says what is wrong with a label or a profile's name, which the kernel takes as text.
func labelFault(text string) string {
	if len(text) > labelMax {
		return fmt.Sprintf("longer than %d bytes", labelMax)
	}
	if strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0 || strings.TrimSpace(text) != text {
		return "control characters, or blanks around it"
	}
	return ""
}

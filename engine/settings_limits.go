package engine

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// rlimitNames are the limits of getrlimit(2), as the rlimits file names them.
var rlimitNames = []string{
	"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime",
	"sigpending", "stack",
}

// rlimitPrefix turns them into the specification's names.
const rlimitPrefix = "RLIMIT_"

// unlimited is RLIM_INFINITY.
const unlimited = math.MaxUint64

// Rlimit is one resource limit: a line of the rlimits file.
type Rlimit struct {
	Name       string // "nofile"
	Soft, Hard string // numbers, or "unlimited"
}

// Rlimits returns the resource limits that are set, by name.
func (c *Config) Rlimits() (all []Rlimit) {
	for _, r := range c.Spec.Process.Rlimits {
		name := strings.ToLower(strings.TrimPrefix(r.Type, rlimitPrefix))
		all = append(all, Rlimit{name, formatRlimit(r.Soft), formatRlimit(r.Hard)})
	}
	slices.SortStableFunc(all, func(a, b Rlimit) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

func formatRlimit(n uint64) string {
	if n == unlimited {
		return "unlimited"
	}
	return fmt.Sprint(n)
}

// SetRlimit sets one limit: "SOFT HARD", or one value for both. An empty value takes the limit out.
func (c *Config) SetRlimit(name, value string) error {
	refuse := func(why string) error {
		return Invalid("rlimits", name+" "+value, why, "write NAME SOFT HARD, such as nofile 1024 4096; one number is both, or write unlimited")
	}
	if !slices.Contains(rlimitNames, name) {
		return Invalid("rlimits", name, "no such limit", "write one of "+strings.Join(rlimitNames, " "))
	}
	words := strings.Fields(value)
	if len(words) > 2 {
		return refuse("more than two values")
	}
	limit := specs.POSIXRlimit{Type: rlimitPrefix + strings.ToUpper(name)}
	for i, word := range words {
		n, err := strconv.ParseUint(word, 10, 64)
		if word == "unlimited" {
			n, err = unlimited, nil
		}
		if err != nil {
			return refuse("not a number")
		}
		if i == 0 {
			limit.Soft = n
		}
		limit.Hard = n
	}
	if limit.Soft > limit.Hard {
		return refuse("the soft limit is above the hard one")
	}
	all := slices.DeleteFunc(slices.Clone(c.Spec.Process.Rlimits), func(r specs.POSIXRlimit) bool { return r.Type == limit.Type })
	if len(words) > 0 {
		all = append(all, limit)
	}
	slices.SortStableFunc(all, func(a, b specs.POSIXRlimit) int { return cmp.Compare(a.Type, b.Type) })
	c.Spec.Process.Rlimits = all
	return nil
}

// Bounds of oom_score_adj: proc_pid_oom_score_adj(5).
const (
	oomScoreMin = -1000
	oomScoreMax = 1000
)

// OOMScoreAdj returns how much likelier the kernel's OOM killer picks the container's program than others.
func (c *Config) OOMScoreAdj() int64 {
	if p := c.Spec.Process.OOMScoreAdj; p != nil {
		return int64(*p)
	}
	return 0
}

// SetOOMScoreAdj sets it.
func (c *Config) SetOOMScoreAdj(n int64) error {
	if n < oomScoreMin || n > oomScoreMax {
		return Invalid("oom_score_adj", fmt.Sprint(n), "out of range", "write -1000 to 1000")
	}
	c.Spec.Process.OOMScoreAdj = nil
	if n != 0 {
		adj := int(n)
		c.Spec.Process.OOMScoreAdj = &adj
	}
	return nil
}

// sysctls lists the parameters that belong to a namespace, by pattern (path.Match), with the kind. Everything else is the
// machine's: a container that could set it would set it for all.
var sysctls = []struct {
	pattern string
	kind    specs.LinuxNamespaceType
}{
	{"kernel/sem", specs.IPCNamespace}, {"kernel/shmall", specs.IPCNamespace}, {"kernel/shmmax", specs.IPCNamespace},
	{"kernel/shmmni", specs.IPCNamespace}, {"kernel/shm_rmid_forced", specs.IPCNamespace}, {"kernel/msgmax", specs.IPCNamespace},
	{"kernel/msgmnb", specs.IPCNamespace}, {"kernel/msgmni", specs.IPCNamespace}, {"fs/mqueue/*", specs.IPCNamespace},
	{"kernel/domainname", specs.UTSNamespace},
	{"net/*", specs.NetworkNamespace}, {"net/*/*", specs.NetworkNamespace}, {"net/*/*/*", specs.NetworkNamespace},
	{"net/*/*/*/*", specs.NetworkNamespace}, {"net/*/*/*/*/*", specs.NetworkNamespace},
}

// sysctlKind returns the kind of namespace that a parameter belongs to, by its path below /proc/sys.
func sysctlKind(file string) (kind specs.LinuxNamespaceType, ok bool) {
	for _, s := range sysctls {
		if match, _ := path.Match(s.pattern, file); match {
			return s.kind, true
		}
	}
	return "", false
}

// swapped exchanges the two separators of sysctl(8): net.ipv4.conf.eth0/1.forwarding is net/ipv4/conf/eth0.1/forwarding.
var swapped = strings.NewReplacer(".", "/", "/", ".")

// SysctlPath returns the path below /proc/sys of a parameter. As in sysctl(8), the first separator says which of the two
// forms it is.
func SysctlPath(key string) string {
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '.' {
		return swapped.Replace(key)
	}
	return key
}

// Sysctls returns the kernel parameters that are set, sorted by key.
func (c *Config) Sysctls() (pairs [][2]string) {
	for _, key := range slices.Sorted(maps.Keys(c.Spec.Linux.Sysctl)) {
		pairs = append(pairs, [2]string{key, c.Spec.Linux.Sysctl[key]})
	}
	return pairs
}

// SetSysctl sets one parameter, which must belong to a namespace. The key may have either form of sysctl(8) and is kept
// with dots. An empty value takes the parameter out.
func (c *Config) SetSysctl(key, value string) error {
	file := SysctlPath(key)
	for part := range strings.SplitSeq(file, "/") {
		if !sysctlWord(part) {
			return Invalid("sysctl", key, "not a parameter's name", "write a key such as net.ipv4.ip_forward")
		}
	}
	if file == "kernel/hostname" {
		return Invalid("sysctl", key, "the host name is a setting of its own", "write it into hostname")
	}
	if _, ok := sysctlKind(file); !ok {
		return Invalid("sysctl", key, "it is the whole machine's, not the container's", "write net.*, fs.mqueue.*, kernel.shm*, kernel.msg*, kernel.sem or kernel.domainname")
	}
	if strings.IndexFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r >= 0x7f || r == '+' || r == '=' }) >= 0 {
		return Invalid("sysctl", key+" "+value, "the value has characters that no parameter takes", "write one line of plain text without + and =")
	}
	all := maps.Clone(c.Spec.Linux.Sysctl)
	delete(all, swapped.Replace(file))
	if value != "" {
		if all == nil {
			all = map[string]string{}
		}
		all[swapped.Replace(file)] = value
	}
	if len(all) == 0 {
		all = nil
	}
	c.Spec.Linux.Sysctl = all
	return nil
}

// sysctlWord reports whether text may be one component of a parameter's path. Interface names are among them.
func sysctlWord(text string) bool {
	bad := func(r rune) bool {
		alnum := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		return !alnum && !strings.ContainsRune("_-.:@", r)
	}
	return text != "" && text != "." && text != ".." && strings.IndexFunc(text, bad) < 0
}

// sysctlOf returns the first parameter that belongs to a kind of namespace, or "".
func (c *Config) sysctlOf(kind specs.LinuxNamespaceType) string {
	for _, pair := range c.Sysctls() {
		if k, _ := sysctlKind(SysctlPath(pair[0])); k == kind {
			return pair[0]
		}
	}
	return ""
}

// Masked returns the paths that are hidden in the container.
func (c *Config) Masked() []string { return c.Spec.Linux.MaskedPaths }

// SetMasked sets them.
func (c *Config) SetMasked(paths []string) (err error) {
	all, err := cleanPaths("masked", paths)
	if err == nil {
		c.Spec.Linux.MaskedPaths = all
	}
	return err
}

// Readonly returns the paths that are read-only in the container.
func (c *Config) Readonly() []string { return c.Spec.Linux.ReadonlyPaths }

// SetReadonly sets them.
func (c *Config) SetReadonly(paths []string) (err error) {
	all, err := cleanPaths("readonly", paths)
	if err == nil {
		c.Spec.Linux.ReadonlyPaths = all
	}
	return err
}

// cleanPaths checks paths inside the container. Each stands once.
func cleanPaths(file string, paths []string) (all []string, err error) {
	for _, p := range paths {
		if !isClean(p) || strings.ContainsFunc(p, unicode.IsControl) {
			return nil, Invalid(file, p, "not an absolute path, or there is .. or a control character in it", "write paths from the container's /, one a line")
		}
		if p = path.Clean(p); p == "/" {
			return nil, Invalid(file, p, "that is the whole root", "write a path below it; rootfs.mode ro makes all of it read-only")
		}
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all, nil
}

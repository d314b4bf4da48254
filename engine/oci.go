package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// annotation is the prefix of the annotations by which the [Extension] travels in config.json.
const annotation = "org.ctrfs."

// extensions maps each annotation to a field of the extension: one row a field, both directions.
var extensions = []struct {
	key string
	get func(*Config) string
	set func(*Config, string) error
}{
	{annotation + "rootfs.mode",
		func(c *Config) string { return string(c.RootMode()) },
		func(c *Config, v string) error { return c.SetRootMode(RootMode(v)) }},
	{annotation + "stop.signal",
		func(c *Config) string { return c.StopSignal() },
		func(c *Config, v string) error { return c.SetStopSignal(v) }},
	{annotation + "stop.timeout",
		func(c *Config) string { return strconv.Itoa(c.StopTimeout()) },
		func(c *Config, v string) error {
			n, err := strconv.ParseUint(v, 10, 31)
			if err != nil {
				return Invalid("config.json", v, "stop.timeout is not a number of seconds", "")
			}
			return c.SetStopTimeout(int(n))
		}},
}

// honoured lists the fields of the specification, by their path in config.json, that a start acts upon. A field that is
// set and not listed is refused by name: a container never runs with less than its configuration asks for.
var honoured = []string{
	"ociVersion", "hostname", "annotations", "root.path", "root.readonly", "mounts",
	"process.args", "process.env", "process.cwd", "process.noNewPrivileges", "process.rlimits", "process.capabilities",
	"process.user.uid", "process.user.gid", "process.user.umask", "process.user.additionalGids",
	"linux.namespaces", "linux.maskedPaths", "linux.readonlyPaths", "linux.resources.memory.limit",
	"linux.resources.pids.limit", "linux.resources.cpu.shares", "linux.resources.cpu.quota", "linux.resources.cpu.period",
}

// OCI returns the configuration as an OCI runtime specification, indented JSON: the content of config.json. A hostname
// that is only the container's name is left out, so that a copy gets its own.
func (c *Config) OCI() ([]byte, error) {
	out := c.Clone()
	out.Spec.Annotations = maps.Clone(c.Spec.Annotations)
	if out.Spec.Annotations == nil {
		out.Spec.Annotations = map[string]string{}
	}
	for _, x := range extensions {
		out.Spec.Annotations[x.key] = x.get(c)
	}
	text, err := json.MarshalIndent(&out.Spec, "", "  ")
	return append(text, '\n'), err
}

// ParseOCI reads a config.json. Errors: EINVAL for what is malformed, EOPNOTSUPP for a field that no start would honour;
// both name the field.
func ParseOCI(data []byte) (*Config, error) {
	refuse := func(errno syscall.Errno, why string, err error) error {
		return &Error{Op: "write", File: "config.json", Errno: errno, Why: why, Err: err,
			Cure: "write an OCI runtime specification, such as another container's config.json"}
	}
	c := &Config{Extension: NewConfig().Extension}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c.Spec); err != nil {
		return nil, refuse(syscall.EINVAL, "not an OCI runtime specification", err)
	}
	if dec.More() {
		return nil, refuse(syscall.EINVAL, "there is more after the specification", nil)
	}
	if major, _, _ := strings.Cut(c.Spec.Version, "."); major != "1" {
		return nil, refuse(syscall.EINVAL, fmt.Sprintf("ociVersion %q is not 1.x", c.Spec.Version), nil)
	}
	if name := unhonoured(data); name != "" {
		return nil, refuse(syscall.EOPNOTSUPP, name+" is not supported", nil)
	}
	c = c.Clone() // makes every structure that the setters rely on
	if err := c.adopt(); err != nil {
		return nil, err
	}
	return c, c.Validate()
}

// adopt runs the values that came in the specification through the setters, so that a rule stands in one place only.
func (c *Config) adopt() error {
	if c.Spec.Root.Readonly {
		c.Extension.RootMode = RootReadOnly
	}
	annotations := maps.Clone(c.Spec.Annotations)
	for _, x := range extensions {
		if v, ok := annotations[x.key]; ok {
			if err := x.set(c, v); err != nil {
				return err
			}
			delete(annotations, x.key)
		}
	}
	c.Spec.Annotations = annotations
	if len(annotations) == 0 {
		c.Spec.Annotations = nil
	}
	if c.Spec.Process.Cwd == "" {
		c.Spec.Process.Cwd = "/"
	}
	if c.Spec.Root.Path == "" {
		c.Spec.Root.Path = RootHost
	}
	quota, period := c.CPUMax()
	limited := c.Spec.Linux.Resources.CPU != nil && (c.Spec.Linux.Resources.CPU.Quota != nil || c.Spec.Linux.Resources.CPU.Period != nil)
	for _, err := range []error{
		c.SetCwd(c.Cwd()), c.SetEnv(c.Env()), c.SetHostname(c.Spec.Hostname), c.SetRootfs(c.Rootfs()),
		c.SetMemoryMax(c.MemoryMax()), c.SetPidsMax(c.PidsMax()),
	} {
		if err != nil {
			return err
		}
	}
	if limited {
		return c.SetCPUMax(quota, period)
	}
	return nil
}

// unhonoured returns the path of the first field that is set and that nothing acts upon, or "".
func unhonoured(data []byte) string {
	var tree any
	if json.Unmarshal(data, &tree) != nil {
		return ""
	}
	return firstUnhonoured("", tree)
}

func firstUnhonoured(at string, node any) string {
	if slices.Contains(honoured, at) {
		return ""
	}
	object, ok := node.(map[string]any)
	if !ok {
		if emptyJSON(node) {
			return ""
		}
		return at
	}
	for _, key := range slices.Sorted(maps.Keys(object)) {
		if name := firstUnhonoured(strings.TrimPrefix(at+"."+key, "."), object[key]); name != "" {
			return name
		}
	}
	return ""
}

// emptyJSON reports whether a decoded value asks for nothing.
func emptyJSON(node any) bool {
	switch v := node.(type) {
	case nil:
		return true
	case bool:
		return !v
	case float64:
		return v == 0
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	}
	return false
}

// namespaceTypes are the namespaces that a container is given anew.
var namespaceTypes = []specs.LinuxNamespaceType{
	specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace,
}

// mountTypes are the file systems that a start mounts.
var mountTypes = []string{"proc", "sysfs", "tmpfs", "devpts", "mqueue"}

// Validate checks what no single setting can: that a start could honour the configuration as a whole. It runs when a
// configuration is written and again before every start, whoever wrote it.
func (c *Config) Validate() error {
	refuse := func(file, why string) error {
		return &Error{Op: "check", File: file, Errno: syscall.EOPNOTSUPP, Why: why, Cure: "leave it out of config.json"}
	}
	if err := validIDs(&c.Spec.Process.User); err != nil {
		return err
	}
	seen := map[specs.LinuxNamespaceType]bool{}
	for _, ns := range c.Spec.Linux.Namespaces {
		if !slices.Contains(namespaceTypes, ns.Type) || ns.Path != "" {
			return refuse("linux.namespaces", fmt.Sprintf("namespace %s %s is not supported", ns.Type, ns.Path))
		}
		seen[ns.Type] = true
	}
	for _, t := range namespaceTypes {
		if !seen[t] {
			return refuse("linux.namespaces", fmt.Sprintf("a container without its own %s namespace is not supported", t))
		}
	}
	for _, m := range c.Spec.Mounts {
		if !slices.Contains(mountTypes, m.Type) {
			return refuse("mounts", fmt.Sprintf("type %q on %s is not supported", m.Type, m.Destination))
		}
		if !strings.HasPrefix(m.Destination, "/") || len(m.UIDMappings)+len(m.GIDMappings) > 0 {
			return refuse("mounts", fmt.Sprintf("destination %q is not an absolute path, or it asks for an id mapping", m.Destination))
		}
	}
	return nil
}

// validIDs refuses the number that means "do not change" to setresuid(2) and setresgid(2): a program that was to be that user
// would stay root.
func validIDs(u *specs.User) error {
	for _, id := range append([]uint32{u.UID, u.GID}, u.AdditionalGids...) {
		if id == 1<<32-1 {
			return Invalid("process.user", fmt.Sprint(id), "it is no user and no group to the kernel", "use a number below 4294967295")
		}
	}
	return nil
}

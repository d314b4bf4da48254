package engine

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Namespaces are the kinds of namespace by the names that the namespaces file and ns/ use, in their order, which are the
// kernel's names in /proc/PID/ns, and the specification's types.
var Namespaces = []struct {
	Name string
	Type specs.LinuxNamespaceType
}{
	{"pid", specs.PIDNamespace}, {"net", specs.NetworkNamespace}, {"mnt", specs.MountNamespace}, {"ipc", specs.IPCNamespace},
	{"uts", specs.UTSNamespace}, {"user", specs.UserNamespace}, {"cgroup", specs.CgroupNamespace}, {"time", specs.TimeNamespace},
}

// NamespaceChoice is which namespace of one kind a container uses. At most one field is set; none means a new one.
type NamespaceChoice struct {
	Host      bool   // this machine's
	Container string // another container's, by its path below the mount, or [ParentContainer]
	Path      string // an absolute path on the host that stands for a namespace, such as /run/netns/x
}

// ParentContainer is the Container of a [NamespaceChoice] that means the container around.
const ParentContainer = ".."

// New reports whether the container gets a namespace of its own.
func (n NamespaceChoice) New() bool { return n == NamespaceChoice{} }

// String is the choice as the namespaces file has it.
func (n NamespaceChoice) String() string {
	switch {
	case n.Host:
		return "host"
	case n.Container != "":
		return n.Container
	case n.Path != "":
		return n.Path
	}
	return "new"
}

// parseNamespaceChoice reads what String renders.
func parseNamespaceChoice(name, value string) (NamespaceChoice, error) {
	refuse := func(why string) (NamespaceChoice, error) {
		return NamespaceChoice{}, Invalid("namespaces", name+" "+value, why,
			"write new, host, a container's name such as pod/web, .. for the parent's, or a path such as /run/netns/x")
	}
	switch {
	case value == "new":
		return NamespaceChoice{}, nil
	case value == "host":
		return NamespaceChoice{Host: true}, nil
	case value == ParentContainer:
		return NamespaceChoice{Container: value}, nil
	case strings.HasPrefix(value, "/"):
		if value = path.Clean(value); value == "/" {
			return refuse("the root directory is no namespace")
		}
		return NamespaceChoice{Path: value}, nil
	}
	for part := range strings.SplitSeq(value, "/") {
		if ValidateName(part) != nil {
			return refuse("neither a choice, nor a container's name, nor an absolute path")
		}
	}
	return NamespaceChoice{Container: value}, nil
}

// Namespace returns which namespace of a kind the container uses. The specification has a word for new, host and a path;
// a container's name is in the extension, and counts only while the specification does not say something else.
func (c *Config) Namespace(kind specs.LinuxNamespaceType) NamespaceChoice {
	for _, ns := range c.Spec.Linux.Namespaces {
		if ns.Type != kind {
			continue
		}
		if ns.Path != "" {
			return NamespaceChoice{Path: ns.Path}
		}
		return NamespaceChoice{Container: c.Extension.Join[kind]}
	}
	return NamespaceChoice{Host: true}
}

// SetNamespace chooses the namespace of one kind, both as the namespaces file names them. The empty value is the default.
func (c *Config) SetNamespace(name, value string) error {
	kind, ok := namespaceKind(name)
	if !ok {
		return Invalid("namespaces", name, "no such kind of namespace", "write pid, net, mnt, ipc, uts, user, cgroup or time first")
	}
	if value == "" {
		value = NewConfig().Namespace(kind).String()
	}
	choice, err := parseNamespaceChoice(name, value)
	if err != nil {
		return err
	}
	c.choose(kind, choice)
	return nil
}

// namespaceKind is the type by the name in the table.
func namespaceKind(name string) (kind specs.LinuxNamespaceType, ok bool) {
	for _, n := range Namespaces {
		if n.Name == name {
			return n.Type, true
		}
	}
	return "", false
}

// choose makes a choice the configuration's. The entries keep the order of the table, so that a choice taken back leaves no
// trace.
func (c *Config) choose(kind specs.LinuxNamespaceType, choice NamespaceChoice) {
	all := slices.DeleteFunc(slices.Clone(c.Spec.Linux.Namespaces), func(ns specs.LinuxNamespace) bool { return ns.Type == kind })
	if !choice.Host {
		all = append(all, specs.LinuxNamespace{Type: kind, Path: choice.Path})
	}
	slices.SortStableFunc(all, func(a, b specs.LinuxNamespace) int { return rank(a.Type) - rank(b.Type) })
	c.Spec.Linux.Namespaces = all
	join := maps.Clone(c.Extension.Join)
	delete(join, kind)
	if choice.Container != "" {
		if join == nil {
			join = map[specs.LinuxNamespaceType]string{}
		}
		join[kind] = choice.Container
	}
	if len(join) == 0 {
		join = nil
	}
	c.Extension.Join = join
	if kind == specs.NetworkNamespace && !choice.New() {
		c.changeNet(func(n *Net) { n.Networks = nil }) // whoever uses another one's has that one's networks
	}
}

// rank is the place of a kind in the table; what the table lacks comes first.
func rank(kind specs.LinuxNamespaceType) int {
	for i, n := range Namespaces {
		if n.Type == kind {
			return i
		}
	}
	return -1
}

// joins renders the choices that the specification has no word for, as lines of the namespaces file.
func (c *Config) joins() string {
	var b strings.Builder
	for _, n := range Namespaces {
		if choice := c.Namespace(n.Type); choice.Container != "" {
			fmt.Fprintf(&b, "%s %s\n", n.Name, choice)
		}
	}
	return b.String()
}

// setJoins reads what joins renders. What the specification itself says about a kind, host or a path, stands.
func (c *Config) setJoins(text string) error {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if choice, err := parseNamespaceChoice(name, value); err == nil && choice.Container == "" {
			return Invalid("namespaces", line, "not a container's name", "state anything else in linux.namespaces")
		}
		if kind, ok := namespaceKind(name); ok && !c.Namespace(kind).New() {
			continue
		}
		if err := c.SetNamespace(name, value); err != nil {
			return err
		}
	}
	return nil
}

// ruledOut is a setting that a choice of namespace rules out.
type ruledOut struct {
	kind      specs.LinuxNamespaceType
	joined    bool // also when the namespace is somebody else's but not the host's
	file      string
	set       func(*Config) string // the offending value, "" for none
	why, cure string
}

// impossible lists what a choice of namespace rules out: settings that would reach beyond the container.
var impossible = []ruledOut{
	{specs.UTSNamespace, true, "hostname", func(c *Config) string { return c.Spec.Hostname },
		"without a uts namespace of its own, the container would rename others",
		"empty hostname first, or write 'uts new' into namespaces"},
	{specs.UserNamespace, true, "uid_map", func(c *Config) string { return strings.Join(c.UIDMap(), ", ") },
		"only a user namespace of its own has a map", "empty uid_map first, or write 'user new' into namespaces"},
	{specs.UserNamespace, true, "gid_map", func(c *Config) string { return strings.Join(c.GIDMap(), ", ") },
		"only a user namespace of its own has a map", "empty gid_map first, or write 'user new' into namespaces"},
	{specs.NetworkNamespace, false, "sysctl", func(c *Config) string { return c.sysctlOf(specs.NetworkNamespace) },
		"it would change this machine's network", "remove that key first, or write 'net new' into namespaces"},
	{specs.IPCNamespace, false, "sysctl", func(c *Config) string { return c.sysctlOf(specs.IPCNamespace) },
		"it would change this machine's own limits", "remove that key first, or write 'ipc new' into namespaces"},
	{specs.UTSNamespace, false, "sysctl", func(c *Config) string { return c.sysctlOf(specs.UTSNamespace) },
		"it would rename this machine's domain", "remove that key first, or write 'uts new' into namespaces"},
}

// validateNamespaces checks the namespaces as a whole, and against the settings that need one of the container's own.
func (c *Config) validateNamespaces() error {
	seen := map[specs.LinuxNamespaceType]bool{}
	for _, ns := range c.Spec.Linux.Namespaces {
		value := strings.TrimSpace(string(ns.Type) + " " + ns.Path)
		if rank(ns.Type) < 0 {
			return clash("linux.namespaces", value, "no such kind of namespace", "see namespaces(7)")
		}
		if seen[ns.Type] {
			return clash("linux.namespaces", value, "that kind of namespace stands twice", "leave one out")
		}
		if ns.Path != "" && (!strings.HasPrefix(ns.Path, "/") || path.Clean(ns.Path) != ns.Path) {
			return clash("linux.namespaces", value, "not a clean absolute path", "write a path such as /run/netns/x")
		}
		seen[ns.Type] = true
	}
	for _, x := range slices.Concat(impossible, unmountable) {
		choice := c.Namespace(x.kind)
		if choice.New() || !choice.Host && !x.joined {
			continue
		}
		if value := x.set(c); value != "" {
			return clash(x.file, value, x.why, x.cure)
		}
	}
	return nil
}

// clash is the refusal of a value that does not go with the rest of the configuration.
func clash(file, value, why, cure string) error {
	return &Error{Op: "check", File: file, Value: value, Errno: syscall.EINVAL, Why: why, Cure: cure}
}

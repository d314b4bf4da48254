package engine

import (
	"slices"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Config is everything that can be configured about a container: an OCI runtime specification, and an extension for what
// the specification has no field for. A Config that an engine handed out is never changed; [Config.Clone] first.
type Config struct {
	Spec      specs.Spec `json:"spec"`
	Extension Extension  `json:"extension"`
}

// Extension is what ctrfs knows of a container beyond the OCI runtime specification. In config.json it travels as
// annotations under "org.ctrfs.".
type Extension struct {
	RootMode    RootMode `json:"rootfs.mode"`
	RootSize    int64    `json:"rootfs.size,omitempty"` // bytes, or 0 for no bound
	StopSignal  string   `json:"stop.signal"`           // without the SIG prefix
	StopTimeout int      `json:"stop.timeout"`          // seconds
	StdinOpen   bool     `json:"stdin.open,omitempty"`

	Image *ImageUse `json:"image,omitempty"` // instead of a root; replaced, never changed

	User    string                              `json:"user,omitempty"`    // what [Config.SetUser] leaves for the start to look up
	Seccomp string                              `json:"seccomp,omitempty"` // SeccompUnconfined, or "" for what linux.seccomp says
	Join    map[specs.LinuxNamespaceType]string `json:"join,omitempty"`    // other containers whose namespaces are used

	Init      bool   `json:"init,omitempty"`      // a reaper at PID 1
	Restart   string `json:"restart,omitempty"`   // see [Config.SetRestart]; "" for no
	Autostart bool   `json:"autostart,omitempty"` // a mount starts it
	LogMax    int64  `json:"log.max,omitempty"`   // bytes, or [Max]; 0 for the default

	Health *Health `json:"health,omitempty"` // see [Config.SetHealth]; replaced, never changed

	Net    *Net       `json:"net,omitempty"`        // beyond the network namespace; replaced, never changed
	Listen []Listener `json:"net.listen,omitempty"` // replaced, never changed
	Idle   int        `json:"net.idle,omitempty"`   // seconds

	OOM OOM `json:"memory.oom,omitempty"` // OOMStop, or "" for what disableOOMKiller says

	CPUPressure    string `json:"cpu.pressure,omitempty"` // triggers, see [Config.SetPressure]
	MemoryPressure string `json:"memory.pressure,omitempty"`
	IOPressure     string `json:"io.pressure,omitempty"`
}

// RootMode is what happens to a container's writes: the content of rootfs.mode.
type RootMode string

// The root modes, as abi.md defines them.
const (
	RootOverlay  RootMode = "overlay"  // into a private layer that lasts until removal
	RootVolatile RootMode = "volatile" // into a private layer on tmpfs that lasts until the exit
	RootReadOnly RootMode = "ro"       // nowhere
	RootDirect   RootMode = "rw"       // straight into the root
)

// RootHost is the rootfs that needs no image: a read-only view of this machine's /usr with everything else fresh.
const RootHost = "host"

// DefaultPath is the PATH that a container gets when nobody sets one.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Capabilities that a container keeps by default: the fourteen that the field has settled on.
var defaultCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// Paths of procfs and sysfs that tell about the host or steer it. A container's root is still uid 0 to them, so the
// first list is hidden and the second read-only.
var (
	defaultMasked = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
		"/sys/firmware",
	}
	defaultReadonly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// defaultMounts are the customary mounts of every container, in order.
var defaultMounts = []specs.Mount{
	{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
	{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	// nodev: the customary nodes are bound from the host one by one, and a node made by mknod(2) opens nothing.
	{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "noexec", "strictatime", "mode=755", "size=65536k"}},
	{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
	{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
	{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
}

// NewConfig returns the configuration of a container that nobody has configured. The hostname stays empty: it is the
// container's name then, also after a rename.
func NewConfig() *Config {
	caps := func() []string { return slices.Clone(defaultCapabilities) }
	c := &Config{
		Spec: specs.Spec{
			Version: specs.Version,
			Process: &specs.Process{
				Cwd:             "/",
				Env:             []string{"PATH=" + DefaultPath},
				Capabilities:    &specs.LinuxCapabilities{Bounding: caps(), Effective: caps(), Permitted: caps()},
				NoNewPrivileges: true,
			},
			Root:   &specs.Root{Path: RootHost},
			Mounts: cloneMounts(defaultMounts),
			Linux: &specs.Linux{
				Namespaces: []specs.LinuxNamespace{
					{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.MountNamespace},
					{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.UserNamespace}, {Type: specs.CgroupNamespace},
				},
				Resources:     &specs.LinuxResources{},
				MaskedPaths:   slices.Clone(defaultMasked),
				ReadonlyPaths: slices.Clone(defaultReadonly),
			},
		},
		Extension: Extension{RootMode: RootOverlay, StopSignal: "TERM", StopTimeout: 10},
	}
	c.SetDevices(defaultDevices) // never fails: they are ours, and a test reads them back
	return c
}

func cloneMounts(m []specs.Mount) []specs.Mount {
	out := slices.Clone(m)
	for i := range out {
		out[i].Options = slices.Clone(out[i].Options)
	}
	return out
}

// Clone returns a configuration that can be changed without c noticing: every structure that a setter writes to is
// copied, and setters replace slices and maps, they never edit them in place.
func (c *Config) Clone() *Config {
	out := *c
	out.Spec.Process = clonePtr(c.Spec.Process)
	out.Spec.Root = clonePtr(c.Spec.Root)
	out.Spec.Linux = clonePtr(c.Spec.Linux)
	out.Spec.Linux.Resources = clonePtr(out.Spec.Linux.Resources)
	r := out.Spec.Linux.Resources
	if r.Memory != nil {
		r.Memory = clonePtr(r.Memory)
	}
	if r.CPU != nil {
		r.CPU = clonePtr(r.CPU)
	}
	if r.Pids != nil {
		r.Pids = clonePtr(r.Pids)
	}
	return &out
}

// clonePtr copies what p points to, or makes a zero one.
func clonePtr[T any](p *T) *T {
	out := new(T)
	if p != nil {
		*out = *p
	}
	return out
}

// ValidateName checks the name of a container: 1 to 63 of [A-Za-z0-9_.-], starting with a letter or a digit.
func ValidateName(name string) error {
	ok := len(name) >= 1 && len(name) <= 63
	for i := 0; ok && i < len(name); i++ {
		b := name[i]
		alnum := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
		ok = alnum || i > 0 && (b == '_' || b == '.' || b == '-')
	}
	if ok {
		return nil
	}
	return &Error{Op: "mkdir", Value: name, Errno: syscall.EINVAL, Why: "not a container name",
		Cure: "use 1 to 63 of A-Z a-z 0-9 _ . -, starting with a letter or a digit"}
}

package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strconv"
	"strings"
	"syscall"
)

// annotation is the prefix of the annotations by which the [Extension] travels in config.json.
const annotation = "org.ctrfs."

// extension is a row of [extensions].
type extension struct {
	key     string
	get     func(*Config) string
	set     func(*Config, string) error
	absent  func(*Config) string // what a specification means that does not have the annotation
	without string               // the same in words, for docs/oci.md
}

// extensions maps each annotation to a field of the extension: one row a field, both directions. An annotation is written
// only when its value is not what its absence means, so that a foreign config.json reads back without additions.
var extensions = []extension{
	// Before all others: the user's name has numbers only as long as they are automatic.
	{ociAutomatic,
		func(*Config) string { return "" }, // made where it is known: in [Config.OCI]
		(*Config).setOCIAutomatic,
		func(*Config) string { return "" },
		"everything that is there was wanted so"},
	{annotation + "image",
		(*Config).ociImage,
		(*Config).setOCIImage,
		func(*Config) string { return "" },
		"what `root.path` says"},
	{annotation + "rootfs.mode",
		func(c *Config) string { return string(c.RootMode()) },
		func(c *Config, v string) error { return c.setOCIRootMode(RootMode(v)) },
		func(c *Config) string {
			if c.Spec.Root != nil && c.Spec.Root.Readonly {
				return string(RootReadOnly)
			}
			return string(RootOverlay)
		},
		"`ro` when `root.readonly` says so, else `overlay`"},
	{annotation + "rootfs.size",
		(*Config).rootSizeText,
		(*Config).setOCIRootSize,
		func(*Config) string { return fresh().rootSizeText() },
		"`max`"},
	{annotation + "stop.signal",
		func(c *Config) string { return c.StopSignal() },
		func(c *Config, v string) error { return c.SetStopSignal(v) },
		func(*Config) string { return fresh().StopSignal() },
		"`TERM`"},
	{annotation + "stop.timeout",
		func(c *Config) string { return strconv.Itoa(c.StopTimeout()) },
		func(c *Config, v string) error {
			n, err := strconv.ParseUint(v, 10, 31)
			if err != nil {
				return Invalid("stop.timeout", v, "not a number of seconds", "")
			}
			return c.SetStopTimeout(int(n))
		},
		func(*Config) string { return strconv.Itoa(fresh().StopTimeout()) },
		"`10`"},
	switchExtension("init", "`0`", (*Config).Init, (*Config).SetInit),
	{annotation + "restart",
		func(c *Config) string { return c.Restart().String() },
		(*Config).SetRestart,
		func(*Config) string { return RestartNo },
		"`no`"},
	switchExtension("autostart", "`0`", (*Config).Autostart, (*Config).SetAutostart),
	{annotation + "health",
		(*Config).ociHealth,
		(*Config).setOCIHealth,
		func(*Config) string { return "" },
		"nobody looks"},
	{annotation + "log.max",
		func(c *Config) string { return logMaxText(c.LogMax()) },
		(*Config).setOCILogMax,
		func(*Config) string { return logMaxText(defaultLogMax) },
		"`16777216`"},
	{annotation + "stdin.open",
		(*Config).StdinOpen,
		(*Config).SetStdinOpen,
		func(*Config) string { return "0" },
		"`0`"},
	{annotation + "memory.oom",
		func(c *Config) string { return string(c.Extension.OOM) },
		(*Config).setOCIOOM,
		func(*Config) string { return "" },
		"`freeze` when `linux.resources.memory.disableOOMKiller` says so, else `kill`"},
	pressureExtension("cpu.pressure"),
	pressureExtension("memory.pressure"),
	pressureExtension("io.pressure"),
	{annotation + "user",
		func(c *Config) string { return c.Extension.User },
		func(c *Config, v string) error { return c.setOCIUser(v) },
		func(*Config) string { return "" },
		"the numbers in `process.user`"},
	{annotation + "seccomp",
		func(c *Config) string { return c.Extension.Seccomp },
		func(c *Config, v string) error {
			if v == "" {
				return nil
			}
			return c.setSeccompWord(v)
		},
		func(*Config) string { return "" },
		"the filter in `linux.seccomp`, or else `default`"},
	{annotation + "namespaces",
		func(c *Config) string { return c.joins() },
		func(c *Config, v string) error { return c.setJoins(v) },
		func(*Config) string { return "" },
		"what `linux.namespaces` says"},
	{annotation + "net", // after the namespaces: networks are for one of its own
		(*Config).ociNet,
		(*Config).setOCINet,
		func(*Config) string { return "" },
		"no networks, ports, names and bounds"},
	{annotation + "mounts.existing",
		(*Config).ociExisting,
		(*Config).setOCIExisting,
		func(*Config) string { return "" },
		"every missing target of a mount is made"},
	listenExtensions[0],
	listenExtensions[1],
	{annotation + "devices",
		func(c *Config) string {
			if c.hasCustomaryDevices() {
				return ""
			}
			return ociDevicesListed
		},
		(*Config).setOCIDevices,
		func(*Config) string { return "" },
		"the customary devices, and those that are listed"},
}

// pressureExtension is the row of a trigger.
func pressureExtension(file string) extension {
	return extension{annotation + file,
		func(c *Config) string { return c.Pressure(file) },
		func(c *Config, v string) error { return c.SetPressure(file, v) },
		func(*Config) string { return "" },
		"no trigger"}
}

// setOCIRootMode sets the root mode, and refuses one that root.readonly contradicts.
func (c *Config) setOCIRootMode(mode RootMode) error {
	readonly := c.Spec.Root.Readonly
	if err := c.SetRootMode(mode); err != nil {
		return err
	}
	if c.Spec.Root.Readonly != readonly {
		return Invalid("rootfs.mode", string(mode), fmt.Sprintf("root.readonly says %v", readonly), "change both, or leave the annotation out")
	}
	return nil
}

// setOCIUser takes the name that stands for the numbers in process.user. Further groups stay as they are.
func (c *Config) setOCIUser(text string) error {
	if text == "" {
		return nil
	}
	u, err := ParseUser(text)
	if err != nil {
		return err
	}
	if s := c.Spec.Process.User; u.Numeric() || u.UID != s.UID || u.GID != s.GID {
		return Invalid("user", text, fmt.Sprintf("process.user says %d:%d", s.UID, s.GID), "change both, or leave the annotation out")
	}
	c.Extension.User = text
	return nil
}

// OCI returns the configuration as an OCI runtime specification, indented JSON: the content of config.json. What the
// configuration leaves to a start is spelled out as a says; [ParseOCI] leaves it to the start again.
func (c *Config) OCI(a Automatic) ([]byte, error) {
	full, marks := c.spellOut(a)
	spec := full.Spec
	notes := map[string]string{}
	maps.Copy(notes, c.Spec.Annotations)
	for _, x := range extensions {
		if v := x.get(c); v != x.absent(c) {
			notes[x.key] = v
		}
	}
	if marks != "" {
		notes[ociAutomatic] = marks
	}
	if spec.Annotations = notes; len(notes) == 0 {
		spec.Annotations = nil
	}
	if c.hasCustomaryDevices() {
		leaveOutDevices(&spec)
	}
	spec.Mounts = plainMounts(spec.Mounts)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // people read it: cmd is full of < and &
	enc.SetIndent("", "  ")
	err := enc.Encode(&spec)
	return b.Bytes(), err
}

// ParseOCI reads a config.json: what [Config.OCI] returns, or another tool's. Nothing in it is passed over: what is not a
// field is EINVAL, and a field that asks for what no start does is EOPNOTSUPP, both with the field's path; docs/oci.md lists
// all fields. Values have the rules that the settings have.
func ParseOCI(data []byte) (*Config, error) {
	c, err := decodeOCI(data)
	if err != nil {
		return nil, err
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return c, nil
}

// decodeOCI is [ParseOCI] without the look at the configuration as a whole.
func decodeOCI(data []byte) (*Config, error) {
	tree, err := ociJSON(data)
	if err != nil {
		return nil, err
	}
	if err := ociRoot().known("", tree); err != nil {
		return nil, err
	}
	c := &Config{Extension: fresh().Extension}
	if err := json.Unmarshal(data, &c.Spec); err != nil {
		return nil, ociTypeError(err)
	}
	if all := ociRoot().refusals("", tree); len(all) > 0 {
		return nil, ociRefuse(all)
	}
	dropEmpty(reflect.ValueOf(&c.Spec))
	c = c.Clone() // makes every structure that the setters rely on
	if err := c.adopt(); err != nil {
		return nil, err
	}
	return c, nil
}

// ociTypeError puts an error of encoding/json, which speaks of Go types, into words.
func ociTypeError(err error) error {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return ociError(e.Field, fmt.Sprintf("a %s is not what belongs there", e.Value), "see docs/oci.md and the specification")
	}
	return ociError("", err.Error(), "")
}

// dropEmpty makes empty slices and maps nil. JSON does not tell them apart from those left out, so a configuration that has
// them would read back as another one.
func dropEmpty(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			dropEmpty(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			dropEmpty(v.Field(i))
		}
	case reflect.Slice, reflect.Map:
		if v.Len() == 0 {
			v.SetZero()
		} else if v.Kind() == reflect.Slice {
			for i := range v.Len() {
				dropEmpty(v.Index(i))
			}
		}
	}
}

// adopt runs the values that came in the specification through the rules, and takes the annotations that are settings.
func (c *Config) adopt() error {
	if c.Spec.Process.Cwd == "" {
		c.Spec.Process.Cwd = "/"
	}
	if c.Spec.Root.Path == "" {
		c.Spec.Root.Path = RootHost
	}
	for _, rule := range ociRules {
		if err := rule.check(c); err != nil {
			return ociAt(rule.path, err)
		}
	}
	rest := maps.Clone(c.Spec.Annotations)
	for _, x := range extensions {
		v, ok := rest[x.key]
		if !ok {
			v = x.absent(c)
		}
		if err := x.set(c, v); err != nil {
			return ociAt(ociJoin("annotations", x.key), err)
		}
		delete(rest, x.key)
	}
	for key := range rest {
		if strings.HasPrefix(key, annotation) {
			return ociError(ociJoin("annotations", key), "no such setting", "leave it out")
		}
	}
	c.Spec.Annotations = rest
	if len(rest) == 0 {
		c.Spec.Annotations = nil
	}
	return nil
}

// ociAt turns the error of a rule or a setter into one about the field of config.json that broke it.
func ociAt(path string, err error) error {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return ociError(path, err.Error(), "")
	}
	out := *e
	out.Op, out.File, out.Value = "write", "config.json", ""
	why := e.Why
	if why == "" && e.Err == nil {
		why = e.Errno.Error()
	}
	if e.Value != "" {
		why = strings.TrimSpace(Quote(e.Value) + " " + why)
	}
	out.Why = path + ": " + why
	if e.Errno == 0 {
		out.Errno = syscall.EINVAL
	}
	return &out
}

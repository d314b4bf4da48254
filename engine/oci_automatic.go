package engine

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Automatic is what a start supplies where a configuration leaves the choice to it. config.json spells it out, so that another
// runtime makes the same container of it, and marks it in an annotation, so that it stays automatic in a copy.
type Automatic struct {
	Hostname    string
	User        *specs.User         // the numbers of a user who is configured by name; nil while nobody has looked them up
	Seccomp     *specs.LinuxSeccomp // the default filter for the container's capabilities
	UIDMappings []specs.LinuxIDMapping
	GIDMappings []specs.LinuxIDMapping
	Cgroups     bool // this host can give a part of the cgroup hierarchy to a system
}

// ociAutomatic names the annotation: words FIELD=DIGEST, one for each field that was spelled out. A field that still has
// that digest when it is written is automatic again; one that somebody has changed counts as it is.
const ociAutomatic = annotation + "automatic"

// nobody is the id of the user who has no rights, as all distributions number it.
const nobody = 65534

// choice is a row of [choices].
type choice struct {
	path  string
	field func(*specs.Spec) any
	open  func(*Config) bool                    // whether the configuration leaves it to the start
	fill  func(*specs.Spec, *Config, Automatic) // spells it out, in structures that are the specification's own
	reset func(*Config)                         // makes it automatic again
}

// choices are the fields that a start fills in.
var choices = []choice{
	{"hostname", func(s *specs.Spec) any { return s.Hostname },
		func(c *Config) bool { return c.Spec.Hostname == "" && c.Namespace(specs.UTSNamespace).New() },
		func(s *specs.Spec, _ *Config, a Automatic) { s.Hostname = a.Hostname },
		func(c *Config) { c.Spec.Hostname = "" }},
	{"process.user", func(s *specs.Spec) any { return s.Process.User },
		func(c *Config) bool { return c.Extension.User != "" },
		fillUser,
		func(c *Config) {
			if u, err := ParseUser(c.Spec.Annotations[annotation+"user"]); err == nil {
				c.Spec.Process.User = specs.User{UID: u.UID, GID: u.GID, Umask: c.Spec.Process.User.Umask}
			}
		}},
	{"linux.seccomp", func(s *specs.Spec) any { return s.Linux.Seccomp },
		func(c *Config) bool { return c.Seccomp() == SeccompDefault },
		func(s *specs.Spec, _ *Config, a Automatic) { s.Linux.Seccomp = a.Seccomp },
		func(c *Config) { c.Spec.Linux.Seccomp = nil }},
	{"linux.uidMappings", func(s *specs.Spec) any { return s.Linux.UIDMappings },
		(*Config).hasAutomaticIDs,
		func(s *specs.Spec, _ *Config, a Automatic) { s.Linux.UIDMappings = a.UIDMappings },
		func(c *Config) { c.Spec.Linux.UIDMappings = nil }},
	{"linux.gidMappings", func(s *specs.Spec) any { return s.Linux.GIDMappings },
		(*Config).hasAutomaticIDs,
		func(s *specs.Spec, _ *Config, a Automatic) { s.Linux.GIDMappings = a.GIDMappings },
		func(c *Config) { c.Spec.Linux.GIDMappings = nil }},
	{"mounts", func(s *specs.Spec) any { return plainMounts(s.Mounts) }, // without what an annotation keeps
		(*Config).Boots,
		func(s *specs.Spec, c *Config, a Automatic) { s.Mounts = c.withSystemMounts(a.Cgroups) },
		(*Config).dropSystemMounts},
	{"process.env", func(s *specs.Spec) any { return s.Process.Env },
		(*Config).Boots,
		func(s *specs.Spec, c *Config, _ Automatic) { s.Process.Env = c.withSystemKind() },
		func(c *Config) {
			c.Spec.Process.Env = slices.DeleteFunc(slices.Clone(c.Spec.Process.Env), func(e string) bool { return e == systemKind+systemName })
		}},
}

func (c *Config) hasAutomaticIDs() bool {
	return c.Namespace(specs.UserNamespace).New() && len(c.Spec.Linux.UIDMappings)+len(c.Spec.Linux.GIDMappings) == 0
}

// fillUser gives a name its numbers. Another runtime does not know names, and shall not take one that nobody has looked up
// yet for root.
func fillUser(s *specs.Spec, c *Config, a Automatic) {
	u, err := ParseUser(c.Extension.User)
	switch {
	case a.User != nil:
		s.Process.User = *a.User
		s.Process.User.Umask = c.Spec.Process.User.Umask
	case err == nil && u.Name != "":
		s.Process.User.UID, s.Process.User.GID = nobody, nobody
	case err == nil && (u.Group != "" || !u.HasGroup):
		s.Process.User.GID = nobody
	}
}

// spellOut fills in what the configuration leaves open. The result shares with c what no start fills in.
func (c *Config) spellOut(a Automatic) (out *Config, marks string) {
	out = c.Clone()
	var words []string
	for _, x := range choices {
		if !x.open(c) {
			continue
		}
		before := x.field(&out.Spec)
		x.fill(&out.Spec, c, a)
		if now := x.field(&out.Spec); !reflect.DeepEqual(now, before) {
			words = append(words, x.path+"="+digest(now))
		}
	}
	return out, strings.Join(words, " ")
}

// digest sums up the value of a field, whichever way it is written down.
func digest(value any) string {
	text, err := json.Marshal(value)
	if err != nil { // of the types of the specification, it cannot fail; an empty digest is no field's
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256(text))[:16]
}

// setOCIAutomatic makes the marked fields automatic again that still are as they were spelled out.
func (c *Config) setOCIAutomatic(marks string) error {
	for word := range strings.FieldsSeq(marks) {
		path, sum, _ := strings.Cut(word, "=")
		i := slices.IndexFunc(choices, func(x choice) bool { return x.path == path })
		if i < 0 {
			return Invalid("config.json", path, "no start fills that in", ociLeave)
		}
		if digest(choices[i].field(&c.Spec)) == sum {
			choices[i].reset(c)
		}
	}
	return nil
}

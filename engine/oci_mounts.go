package engine

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// The specification has a runtime make the targets of mounts that are missing, and has no option for that; fstab(5) has one,
// and takes a missing target for a mistake without it. So config.json leaves the option out, and an annotation names the
// targets that must be there.

// mkdirOption is the option of mount(8).
const mkdirOption = "x-mount.mkdir"

// ociExisting returns the targets of additional mounts that are not made, one a line.
func (c *Config) ociExisting() string {
	var targets []string
	for _, m := range c.AdditionalMounts() {
		if !slices.Contains(m.Options, mkdirOption) {
			targets = append(targets, m.Destination)
		}
	}
	return strings.Join(targets, "\n")
}

// setOCIExisting has every target made but those.
func (c *Config) setOCIExisting(lines string) error {
	existing := strings.Split(lines, "\n")
	var all []specs.Mount
	for _, m := range c.Spec.Mounts {
		if !customary(m) && !slices.Contains(existing, m.Destination) && !slices.Contains(m.Options, mkdirOption) {
			m.Options = append(slices.Clone(m.Options), mkdirOption)
		}
		all = append(all, m)
	}
	c.Spec.Mounts = all
	return nil
}

// plainMounts are mounts as other runtimes know them.
func plainMounts(mounts []specs.Mount) (plain []specs.Mount) {
	for _, m := range mounts {
		if slices.Contains(m.Options, mkdirOption) {
			m.Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == mkdirOption })
		}
		plain = append(plain, m)
	}
	return plain
}

package plan

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
)

// The steps that set capabilities, capabilities(7). Sets are masks, bit n for capability n.
type (
	// Bound removes capabilities from the bounding set: no program can ever regain them.
	Bound struct {
		Drop    []int
		Keep    uint64 // for people: what stays
		Missing uint64 // for people: what was asked for and cannot be given on this host
	}
	// Capabilities sets the four sets that a program runs with.
	Capabilities struct {
		Permitted, Effective, Inheritable, Ambient uint64
		Note                                       string // for people: where the kernel makes less or more of it
	}
)

func (s Bound) String() string {
	text := fmt.Sprintf("drop %d capabilities from the bounding set", len(s.Drop))
	if s.Keep != 0 {
		text += ", leaving " + words(s.Keep)
	}
	if s.Missing != 0 {
		text += "; this host cannot give " + words(s.Missing)
	}
	return text
}

func (s Capabilities) String() string {
	text := "keep no capabilities"
	if s.Permitted != 0 {
		text = "keep capabilities " + words(s.Permitted)
	}
	if s.Effective != s.Permitted {
		text += ", effective " + orNone(s.Effective)
	}
	if s.Inheritable != 0 {
		text += ", inheritable " + words(s.Inheritable)
	}
	if s.Ambient != 0 {
		text += ", ambient " + words(s.Ambient)
	}
	if s.Note != "" {
		text += "; " + s.Note
	}
	return text
}

func words(mask uint64) string { return strings.Join(capabilityNames(mask), " ") }

func orNone(mask uint64) string {
	if mask == 0 {
		return "none"
	}
	return words(mask)
}

// The sets in the order in which a configuration names them.
const (
	bounding = iota
	permitted
	effective
	inheritable
	ambient
	nSets
)

// capabilitySets reads the five sets. Those of no configuration at all are empty.
func capabilitySets(c *specs.LinuxCapabilities) (sets [nSets]uint64, err error) {
	if c == nil {
		return sets, nil
	}
	for i, names := range [nSets][]string{c.Bounding, c.Permitted, c.Effective, c.Inheritable, c.Ambient} {
		mask, unknown := capabilityMask(names)
		if unknown != "" {
			return sets, engine.Invalid("capabilities", unknown, "no such capability", "see capabilities(7) for the names")
		}
		sets[i] = mask
	}
	return sets, nil
}

// capabilitySteps turn the configured sets into those that the kernel can be asked for. What the host cannot give is left out,
// and the plan says so. What no host could do is refused. An ambient capability that is not inheritable too is left out, as
// runc and crun do: the configurations that both of them generate are like that.
//
// For uid 0 the sets are as configured. For any other user, execve(2) leaves of the permitted and effective sets exactly the
// ambient one, so that is what the child has before already: whether it may execute the program is then decided by the
// user's own rights. Only a configuration that names ambient capabilities gives some to a user. A container's user would
// otherwise get CAP_SETUID and CAP_DAC_OVERRIDE, which are among the customary ones, and be root by another name.
func capabilitySteps(p *specs.Process, h Host) (Bound, Capabilities, error) {
	sets, err := capabilitySets(p.Capabilities)
	if err != nil {
		return Bound{}, Capabilities{}, err
	}
	possible := h.Caps & (2<<h.LastCap - 1)
	var b Bound
	for i := range sets {
		b.Missing |= sets[i] &^ possible
		sets[i] &= possible
	}
	if over := sets[effective] &^ sets[permitted]; over != 0 {
		return b, Capabilities{}, engine.Invalid("capabilities", words(over), "effective but not permitted", "add it to the permitted set")
	}
	if over := sets[inheritable] &^ sets[bounding]; over != 0 {
		return b, Capabilities{}, engine.Invalid("capabilities", words(over), "inheritable but not in the bounding set", "add it to the bounding set")
	}
	b.Keep = sets[bounding]
	for i := 0; i <= h.LastCap; i++ {
		if b.Keep&(1<<i) == 0 {
			b.Drop = append(b.Drop, i)
		}
	}
	c := Capabilities{sets[permitted], sets[effective], sets[inheritable], sets[ambient] & sets[permitted] & sets[inheritable], ""}
	if idle := sets[ambient] &^ c.Ambient; idle != 0 {
		c.Note = "ambient " + words(idle) + " does nothing without being permitted and inheritable"
	}
	if p.User.UID != 0 {
		c.Permitted, c.Effective = c.Ambient, c.Ambient
	} else if c.Permitted != b.Keep || c.Effective != b.Keep {
		c.Note = strings.TrimPrefix(c.Note+"; execution gives root the whole bounding set", "; ")
	}
	return b, c, nil
}

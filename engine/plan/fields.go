package plan

import (
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
)

// Steps for fields of config.json that no file shows.
type (
	// Domainname sets the NIS domain name in the new uts namespace.
	Domainname struct{ Name string }
	// TimeNamespace makes a time namespace for the child that follows, with these offsets, as /proc/PID/timens_offsets takes
	// them: "monotonic 3600 0".
	TimeNamespace struct{ Offsets []string }
	// RootPropagation says whether mount events travel to and from the root and what is mounted below it.
	RootPropagation struct {
		How       uint64 // MS_*, mount_setattr(2)
		Recursive bool
		Text      string
	}
	// Personality sets the execution domain, personality(2).
	Personality struct {
		Persona uint64
		Text    string
	}
)

func (s Domainname) String() string { return "set the domain name " + s.Name }
func (s TimeNamespace) String() string {
	return strings.TrimSpace("make a new time namespace " + strings.Join(s.Offsets, ", "))
}
func (s RootPropagation) String() string { return "make the root " + s.Text }
func (s Personality) String() string     { return "set the personality " + s.Text }

// personas are the domains of linux.personality: include/uapi/linux/personality.h.
var personas = map[specs.LinuxPersonalityDomain]uint64{specs.PerLinux: 0, specs.PerLinux32: 8}

// timeOffsets are the lines of a time namespace, in a stable order.
func timeOffsets(offsets map[string]specs.LinuxTimeOffset) (lines []string) {
	for clock, o := range offsets {
		lines = append(lines, fmt.Sprintf("%s %d %d", clock, o.Secs, o.Nanosecs))
	}
	slices.Sort(lines)
	return lines
}

// rootPropagation is the step for linux.rootfsPropagation; every mount is private otherwise.
func rootPropagation(word string) ([]Step, error) {
	if word == "" || word == "private" || word == "rprivate" {
		return nil, nil
	}
	o := ParseMountOptions([]string{word})
	if o.Propagation == 0 {
		return nil, engine.Invalid("linux.rootfsPropagation", word, "no propagation", "write private, slave, shared or unbindable, or with an r in front")
	}
	return []Step{RootPropagation{o.Propagation, o.PropagationRecursive, word}}, nil
}

// personality is the step for linux.personality.
func personality(p *specs.LinuxPersonality) ([]Step, error) {
	if p == nil {
		return nil, nil
	}
	persona, ok := personas[p.Domain]
	if !ok || len(p.Flags) > 0 {
		return nil, &engine.Error{Op: "start", File: "linux.personality", Value: string(p.Domain), Errno: syscall.EOPNOTSUPP,
			Why: "no such domain, or it has flags", Cure: "write LINUX or LINUX32"}
	}
	return []Step{Personality{persona, string(p.Domain)}}, nil
}

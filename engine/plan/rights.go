package plan

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
)

// The steps that say what the program is and may do.
type (
	// Chdir sets the working directory, created if missing.
	Chdir struct{ Path string }
	// Rlimit sets one resource limit, prlimit(2).
	Rlimit struct {
		Name       string
		Resource   int
		Soft, Hard uint64
	}
	// Bound removes capabilities from the bounding set: no program can ever regain them.
	Bound struct{ Drop []int }
	// User changes to the user and groups that the program runs as.
	User struct {
		UID, GID uint32
		Groups   []uint32
	}
	// Capabilities sets the permitted and effective sets, and empties the inheritable and the ambient one.
	Capabilities struct{ Permitted, Effective uint64 }
	// NoNewPrivileges makes set-user-id and file capabilities powerless for good.
	NoNewPrivileges struct{}
	// Umask sets the file mode creation mask.
	Umask struct{ Mask uint32 }
)

func (s Chdir) String() string { return "change directory to " + s.Path }
func (s Rlimit) String() string {
	return fmt.Sprintf("limit %s %s %s", s.Name, limit(s.Soft), limit(s.Hard))
}
func (s Bound) String() string {
	return fmt.Sprintf("drop %d capabilities from the bounding set", len(s.Drop))
}
func (s User) String() string {
	return fmt.Sprintf("become user %d:%d groups %v", s.UID, s.GID, s.Groups)
}
func (s Capabilities) String() string {
	return "keep capabilities " + strings.Join(capabilityNames(s.Permitted), " ")
}
func (NoNewPrivileges) String() string { return "set no_new_privs" }
func (s Umask) String() string         { return fmt.Sprintf("set umask %04o", s.Mask) }

// rightsOf are the steps that give up rights, in the only order that works: the bounding set needs CAP_SETPCAP, changing
// user needs CAP_SETUID, and what is left is set last.
func rightsOf(spec *specs.Spec, h Host) ([]Step, error) {
	steps, err := limits(spec.Process.Rlimits, h)
	if err != nil {
		return nil, err
	}
	caps := spec.Process.Capabilities
	if caps == nil {
		caps = &specs.LinuxCapabilities{}
	}
	var sets [3]uint64
	for i, names := range [][]string{caps.Bounding, caps.Permitted, caps.Effective} {
		mask, unknown := capabilityMask(names)
		if unknown != "" {
			return nil, engine.Invalid("capabilities", unknown, "no such capability", "see capabilities(7) for the names")
		}
		sets[i] = mask
	}
	var drop []int
	for i := 0; i <= h.LastCap; i++ {
		if sets[0]&(1<<i) == 0 {
			drop = append(drop, i)
		}
	}
	steps = append(steps, Bound{drop})
	u := spec.Process.User
	if u.UID != 0 || u.GID != 0 || len(u.AdditionalGids) > 0 {
		steps = append(steps, User{u.UID, u.GID, u.AdditionalGids})
	}
	if u.UID == 0 {
		steps = append(steps, Capabilities{sets[1], sets[2]})
	}
	if spec.Process.NoNewPrivileges {
		steps = append(steps, NoNewPrivileges{})
	}
	mask := uint32(0o022)
	if u.Umask != nil {
		mask = *u.Umask & 0o777
	}
	return append(steps, Umask{mask}), nil
}

// limits are the resource limits: the configured ones, and the customary limit on descriptors when it is not among them.
func limits(configured []specs.POSIXRlimit, h Host) ([]Step, error) {
	var steps []Step
	nofile := false
	for _, r := range configured {
		number, ok := rlimits[r.Type]
		if !ok {
			return nil, engine.Invalid("rlimits", r.Type, "no such limit", "see getrlimit(2) for the names")
		}
		nofile = nofile || r.Type == "RLIMIT_NOFILE"
		steps = append(steps, Rlimit{r.Type, number, r.Soft, r.Hard})
	}
	if !nofile {
		steps = append(steps, Rlimit{"RLIMIT_NOFILE", rlimits["RLIMIT_NOFILE"], min(defaultNoFile, h.NoFile), h.NoFile})
	}
	return steps, nil
}

// limit prints a resource limit as prlimit(1) does.
func limit(n uint64) string {
	if n == ^uint64(0) {
		return "unlimited"
	}
	return fmt.Sprint(n)
}

package plan

import (
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrfs/ctrfs/engine"
)

// The steps that say what the program is and may do.
type (
	// OOMScore sets how readily the program is killed for memory, proc_pid_oom_score_adj(5). It comes before the user namespace
	// is entered: the file belongs to the host's root.
	OOMScore struct{ Adjust int }
	// OpenLabel opens the attribute file of a security module while the host's own procfs is in sight: one of the container's
	// could be anything (CVE-2019-16884).
	OpenLabel struct{ Module string }
	// Label writes the profile or context that the program is executed with into that file.
	Label struct{ Module, Text string }
	// Chdir sets the working directory, created if missing unless it has to exist. It is done with the rights of the container's root, as other
	// runtimes do it: images name working directories that their user may not enter.
	Chdir struct {
		Path   string
		Exists bool
	}
	// Rlimit sets one resource limit, prlimit(2).
	Rlimit struct {
		Name       string
		Resource   int
		Soft, Hard uint64
	}
	// User changes to the user and exactly the groups that the program runs as.
	User struct {
		UID, GID uint32
		Groups   []uint32
		KeepCaps bool // keep the permitted capabilities for the step that sets them
	}
	// NoNewPrivileges makes set-user-id and file capabilities powerless for good.
	NoNewPrivileges struct{}
	// Umask sets the file mode creation mask.
	Umask struct{ Mask uint32 }
	// Seccomp installs the filter of system calls, seccomp(2).
	Seccomp struct{ Filter }
)

// Filter is a compiled seccomp filter.
type Filter struct {
	Code  []byte // an array of struct sock_filter, eight bytes each, in the byte order of this machine
	Flags uint32 // SECCOMP_FILTER_FLAG_*
	Text  string // for people: where it is from
}

// filterMax is the kernel's bound on the instructions of a filter, BPF_MAXINSNS.
const filterMax = 4096

func (s OOMScore) String() string  { return fmt.Sprintf("set oom_score_adj %d", s.Adjust) }
func (s OpenLabel) String() string { return "take the " + s.Module + " attribute of the host's procfs" }
func (s Label) String() string     { return "execute under the " + s.Module + " label " + s.Text }
func (s Chdir) String() string     { return "change directory to " + s.Path }
func (s Rlimit) String() string {
	return fmt.Sprintf("limit %s %s %s", s.Name, limit(s.Soft), limit(s.Hard))
}
func (s User) String() string {
	return fmt.Sprintf("become user %d:%d groups %v", s.UID, s.GID, s.Groups)
}
func (NoNewPrivileges) String() string { return "set no_new_privs" }
func (s Umask) String() string         { return fmt.Sprintf("set umask %04o", s.Mask) }
func (s Seccomp) String() string {
	return fmt.Sprintf("filter system calls: %s, %d instructions", s.Text, len(s.Code)/8)
}

// rights are the steps for what the program is and may do, by the time at which they can be done.
type rights struct {
	outside []Step // while the child still has the host's ids
	early   []Step // in the new namespaces, while the host's tree is in sight
	inside  []Step // as the container's root, before the host's tree goes
	late    []Step // in the container's root
	last    []Step // those that take away what making hooks needs: descriptors, rights, system calls
}

// rightsOf sorts out the rights. Those that the program must not have are given up in the only order that works: the bounding
// set needs CAP_SETPCAP, changing user needs CAP_SETUID, and what is left is set last. A filter without no_new_privs needs
// CAP_SYS_ADMIN, so it comes before that and has to allow what follows it, as in runc; else it is the very last.
func rightsOf(spec *specs.Spec, h Host, standard Stdio) (r rights, err error) {
	p := spec.Process
	if r.late, err = limits(p.Rlimits, h); err != nil {
		return r, err
	}
	if err = r.oomScore(p.OOMScoreAdj, h); err != nil {
		return r, err
	}
	if err = r.labels(p, h); err != nil {
		return r, err
	}
	settings, err := sysctls(spec, h)
	if err != nil {
		return r, err
	}
	r.inside = append(r.inside, settings...)
	filter, err := filterStep(spec, h)
	if err != nil {
		return r, err
	}
	bound, caps, err := capabilitySteps(p, h)
	if err != nil {
		return r, err
	}
	mask := uint32(0o022)
	if p.User.Umask != nil {
		mask = *p.User.Umask & 0o777
	}
	r.late = append(r.late, Umask{mask})
	r.last = append(r.last, standard, CloseRest{}, bound)
	user := User{p.User.UID, p.User.GID, p.User.AdditionalGids, p.User.UID != 0 && caps.Inheritable != 0}
	if p.NoNewPrivileges {
		r.last = append(append(r.last, user, caps, NoNewPrivileges{}), filter...)
	} else {
		r.last = append(append(r.last, filter...), user, caps)
	}
	return r, nil
}

// oomScore refuses what only the privileged may ask for before the launch does.
func (r *rights) oomScore(adjust *int, h Host) error {
	switch {
	case adjust == nil:
		return nil
	case *adjust < -1000 || *adjust > 1000:
		return engine.Invalid("oom_score_adj", fmt.Sprint(*adjust), "out of range", "write -1000 to 1000")
	case *adjust < h.OOMScoreMin:
		return &engine.Error{Op: "start", File: "oom_score_adj", Value: fmt.Sprint(*adjust), Errno: syscall.EOPNOTSUPP,
			Why: "ctrfs runs without CAP_SYS_RESOURCE here", Cure: fmt.Sprintf("write %d or more", h.OOMScoreMin)}
	}
	r.outside = append(r.outside, OOMScore{*adjust})
	return nil
}

// labels are the two that a security module may ask for.
func (r *rights) labels(p *specs.Process, h Host) error {
	for _, l := range []struct {
		module, file, text string
		here               bool
	}{
		{"apparmor", "apparmor", p.ApparmorProfile, h.AppArmor},
		{"selinux", "selinux", p.SelinuxLabel, h.SELinux},
	} {
		switch {
		case l.text == "":
			continue
		case !l.here:
			return &engine.Error{Op: "start", File: l.file, Value: l.text, Errno: syscall.EOPNOTSUPP,
				Why: "this kernel runs without " + l.module, Cure: "empty the file"}
		case strings.ContainsAny(l.text, "\x00\n"):
			return engine.Invalid(l.file, l.text, "a NUL byte or a line break", "write the name on one line")
		}
		r.early = append(r.early, OpenLabel{l.module})
		r.late = append(r.late, Label{l.module, l.text})
	}
	return nil
}

// filterStep is the filter, if there is to be one. A configuration that asks for one never starts without.
func filterStep(spec *specs.Spec, h Host) ([]Step, error) {
	if h.Filter == nil {
		if spec.Linux.Seccomp != nil {
			return nil, &engine.Error{Op: "start", File: "seccomp", Errno: syscall.EOPNOTSUPP, Why: "there is no compiled filter"}
		}
		return nil, nil
	}
	if n := len(h.Filter.Code); n == 0 || n%8 != 0 || n/8 > filterMax {
		return nil, &engine.Error{Op: "start", File: "seccomp", Errno: syscall.EINVAL,
			Why: fmt.Sprintf("a filter of %d bytes", n), Cure: "simplify it: the kernel takes 4096 instructions"}
	}
	return []Step{Seccomp{*h.Filter}}, nil
}

// limits are the resource limits: the configured ones, and the customary limit on descriptors when it is not among them.
func limits(configured []specs.POSIXRlimit, h Host) ([]Step, error) {
	var steps []Step
	for _, r := range configured {
		number, ok := rlimits[r.Type]
		if !ok {
			return nil, engine.Invalid("rlimits", r.Type, "no such limit", "see getrlimit(2) for the names")
		}
		if r.Soft > r.Hard {
			return nil, engine.Invalid("rlimits", r.Type, "the soft limit is above the hard one", "raise the hard limit")
		}
		steps = append(steps, Rlimit{r.Type, number, r.Soft, r.Hard})
	}
	if !slices.ContainsFunc(configured, func(r specs.POSIXRlimit) bool { return r.Type == "RLIMIT_NOFILE" }) {
		steps = append(steps, customaryNoFile(h.NoFile))
	}
	return steps, nil
}

func customaryNoFile(hard uint64) Rlimit {
	return Rlimit{"RLIMIT_NOFILE", rlimits["RLIMIT_NOFILE"], min(defaultNoFile, hard), hard}
}

// limit prints a resource limit as prlimit(1) does.
func limit(n uint64) string {
	if n == ^uint64(0) {
		return "unlimited"
	}
	return fmt.Sprint(n)
}

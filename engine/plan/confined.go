package plan

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// The steps of a program that is given descriptors, and is itself one.
type (
	// Give makes the descriptors 3, 4, … of the program, and closes every other one.
	Give struct{ Files int }
	// ExecFile executes the program behind a descriptor, which it does not get.
	ExecFile struct{ Args []string }
)

func (s Give) String() string {
	return fmt.Sprintf("connect descriptors from 3 on, %d of them; close every other", s.Files)
}
func (s ExecFile) String() string {
	return fmt.Sprintf("execute a program by its descriptor with arguments %q", s.Args)
}

// Confinement is what a program of ctrfs's own runs in that looks at what somebody hostile has written: it sees one directory, which is
// its root, and what it is given, and has rights over nothing else.
type Confinement struct {
	Args       []string
	Files      int      // how many it is given
	Caps       []string // what it may do to that directory
	Filter     Filter
	Text       string // what its root is
	Mountpoint string // as of [Host]
	LastCap    int
	NoFile     uint64
}

// Confined returns the steps that launch it, in a user namespace that exists, and in others that nobody else is in. Without procfs,
// devices and a network there is nobody it could speak to but by what it is given.
func Confined(c Confinement) ([]Step, error) {
	caps, unknown := capabilityMask(c.Caps)
	if unknown != "" {
		return nil, fmt.Errorf("capability %s is unknown", unknown)
	}
	bound := Bound{Keep: caps}
	for i := 0; i <= c.LastCap; i++ {
		if caps&(1<<i) == 0 {
			bound.Drop = append(bound.Drop, i)
		}
	}
	const own = "that it alone is in"
	return []Step{
		Fork{}, Join{specs.NetworkNamespace, own}, Join{specs.UserNamespace, own},
		Clone{[]specs.LinuxNamespaceType{specs.PIDNamespace, specs.MountNamespace, specs.UTSNamespace, specs.IPCNamespace}},
		Guard{}, CgroupNamespace{}, Session{}, Private{},
		Root{Text: c.Text, Mountpoint: c.Mountpoint}, BecomeRoot{}, DropOldRoot{}, Chdir{"/", true},
		customaryNoFile(c.NoFile), Umask{0o022}, Stdio{}, Give{c.Files},
		bound, User{}, Capabilities{Permitted: caps, Effective: caps}, NoNewPrivileges{}, Seccomp{c.Filter},
		ExecFile{c.Args},
	}, nil
}

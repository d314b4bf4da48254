package seccomp

import (
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// profile is a seccomp object that was found good, in the form that is compiled.
type profile struct {
	fallback uint32 // the default action
	flags    uintptr
	abis     []specs.Arch // named besides the native one
	entries  []entry
	byName   map[string][]int // for each system call, which entries are about it
}

// entry is an entry of syscalls but for its names: an action, and when to take it.
type entry struct {
	conditions []condition
	anyOf      bool   // one condition is enough
	action     uint32 // SECCOMP_RET_*, with its data
}

// rule matches when all of its conditions hold.
type rule struct {
	conditions []condition
	action     uint32
}

// condition holds when the comparison holds between the masked argument and any of the values. There are several values
// only for equality, and then their upper halves are equal.
type condition struct {
	operator
	index  uint32
	mask   uint64
	values []uint64
}

// operator is a comparison that BPF has, or the opposite of one.
type operator struct {
	jump uint16
	not  bool
}

var operators = map[specs.LinuxSeccompOperator]operator{
	specs.OpEqualTo:      {unix.BPF_JEQ, false},
	specs.OpNotEqual:     {unix.BPF_JEQ, true},
	specs.OpMaskedEqual:  {unix.BPF_JEQ, false},
	specs.OpGreaterThan:  {unix.BPF_JGT, false},
	specs.OpLessEqual:    {unix.BPF_JGT, true},
	specs.OpGreaterEqual: {unix.BPF_JGE, false},
	specs.OpLessThan:     {unix.BPF_JGE, true},
}

var actions = map[specs.LinuxSeccompAction]uint32{
	specs.ActKill:        unix.SECCOMP_RET_KILL_THREAD,
	specs.ActKillThread:  unix.SECCOMP_RET_KILL_THREAD,
	specs.ActKillProcess: unix.SECCOMP_RET_KILL_PROCESS,
	specs.ActTrap:        unix.SECCOMP_RET_TRAP,
	specs.ActErrno:       unix.SECCOMP_RET_ERRNO,
	specs.ActLog:         unix.SECCOMP_RET_LOG,
	specs.ActAllow:       unix.SECCOMP_RET_ALLOW,
}

// flags are those of seccomp(2). TSYNC is about other threads, of which a starting container has none.
var flags = map[specs.LinuxSeccompFlag]uintptr{
	specs.LinuxSeccompFlagLog:       unix.SECCOMP_FILTER_FLAG_LOG,
	specs.LinuxSeccompFlagSpecAllow: unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
	"SECCOMP_FILTER_FLAG_TSYNC":     0,
}

// supervised is what needs a process beside the container that answers for the kernel, and the cure for each.
var supervised = map[string]string{
	string(specs.ActNotify):                        "use SCMP_ACT_ERRNO or SCMP_ACT_LOG",
	string(specs.ActTrace):                         "use SCMP_ACT_LOG, or run the program under its tracer inside the container",
	string(specs.LinuxSeccompFlagWaitKillableRecv): "remove the flag; it is of use with SCMP_ACT_NOTIFY only",
}

// arguments is how many a system call has, maxErrno the highest error that the kernel returns (its MAX_ERRNO).
const (
	arguments = 6
	maxErrno  = 4095
)

// parse checks a seccomp object and puts it in order.
func parse(p *specs.LinuxSeccomp) (*profile, error) {
	if p == nil {
		return nil, engine.Invalid("seccomp", "", "there is no profile", "write default, unconfined or an OCI seccomp object")
	}
	if p.ListenerPath != "" {
		return nil, unsupported("listenerPath", "remove it")
	}
	if p.ListenerMetadata != "" {
		return nil, unsupported("listenerMetadata", "remove it")
	}
	out := &profile{abis: p.Architectures, byName: map[string][]int{}}
	for _, name := range p.Architectures {
		if !slices.Contains(architectures, name) {
			return nil, engine.Invalid("seccomp", string(name), "no such architecture",
				"use the names of the OCI specification, SCMP_ARCH_X86_64 for example")
		}
	}
	for _, name := range p.Flags {
		flag, err := lookup(flags, name, "flag")
		if err != nil {
			return nil, err
		}
		out.flags |= flag
	}
	var err error
	if out.fallback, err = action(p.DefaultAction, p.DefaultErrnoRet); err != nil {
		return nil, err
	}
	for i := range p.Syscalls {
		if err := out.call(&p.Syscalls[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// call adds one entry of the profile.
func (p *profile) call(s *specs.LinuxSyscall) error {
	if len(s.Names) == 0 || slices.Contains(s.Names, "") {
		return engine.Invalid("seccomp", "", "an entry of syscalls has no name", "name the system calls that it is about")
	}
	act, err := action(s.Action, s.ErrnoRet)
	if err != nil {
		return err
	}
	e := entry{action: act}
	for _, arg := range s.Args {
		c, err := conditionOf(arg)
		if err != nil {
			return err
		}
		e.anyOf = e.anyOf || slices.ContainsFunc(e.conditions, func(other condition) bool { return other.index == c.index })
		e.conditions = append(e.conditions, c)
	}
	p.entries = append(p.entries, e)
	for _, name := range s.Names {
		have := p.byName[name]
		if n := len(have); n > 0 && (have[n-1] == len(p.entries)-1 || len(p.entries[have[n-1]].conditions) == 0) {
			continue // named twice, or after an entry that always decides
		}
		p.byName[name] = append(have, len(p.entries)-1)
	}
	return nil
}

// rules are entries as rules, in order. An entry of which any condition is enough is one rule for each.
func (p *profile) rules(entries []int) (out []rule) {
	for _, i := range entries {
		e := p.entries[i]
		if !e.anyOf {
			out = add(out, rule{slices.Clone(e.conditions), e.action})
			continue
		}
		for _, c := range e.conditions {
			out = add(out, rule{[]condition{c}, e.action})
		}
	}
	return out
}

// add appends a rule. Rules that differ in the wanted value only become one, so that a list of values costs one instruction
// for each and not four.
func add(rules []rule, r rule) []rule {
	if n := len(rules); n > 0 {
		a, b := rules[n-1].conditions, r.conditions
		if rules[n-1].action == r.action && len(a) == 1 && len(b) == 1 && a[0].joins(b[0]) {
			a[0].values = append(a[0].values, b[0].values...)
			return rules
		}
	}
	return append(rules, r)
}

// joins says whether c or other is the same as c with the values of other added.
func (c condition) joins(other condition) bool {
	return c.operator == operator{unix.BPF_JEQ, false} && c.operator == other.operator &&
		c.index == other.index && c.mask == other.mask && c.values[0]>>32 == other.values[0]>>32
}

func conditionOf(arg specs.LinuxSeccompArg) (condition, error) {
	if arg.Index >= arguments {
		return condition{}, engine.Invalid("seccomp", fmt.Sprint(arg.Index), "no such argument", "system calls have the arguments 0 to 5")
	}
	op, err := lookup(operators, arg.Op, "operator")
	if arg.Op == specs.OpMaskedEqual {
		return condition{op, uint32(arg.Index), arg.Value, []uint64{arg.ValueTwo}}, err
	}
	return condition{op, uint32(arg.Index), ^uint64(0), []uint64{arg.Value}}, err
}

// action returns what a filter returns for an action of the specification. The default error is EPERM.
func action(name specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	act, err := lookup(actions, name, "action")
	switch {
	case err != nil:
		return 0, err
	case act != unix.SECCOMP_RET_ERRNO && errno != nil:
		return 0, engine.Invalid("seccomp", string(name), "the action takes no errno", "remove errnoRet, or use SCMP_ACT_ERRNO")
	case act != unix.SECCOMP_RET_ERRNO:
		return act, nil
	case errno == nil:
		return act | uint32(unix.EPERM), nil
	case *errno > maxErrno:
		return 0, engine.Invalid("seccomp", fmt.Sprint(*errno), "no such errno", "use 0 to 4095")
	}
	return act | uint32(*errno), nil
}

// lookup finds a name of the specification, or says what is wrong with it.
func lookup[K ~string, V any](known map[K]V, name K, what string) (V, error) {
	v, ok := known[name]
	if ok {
		return v, nil
	}
	if cure, ok := supervised[string(name)]; ok {
		return v, unsupported(string(name), cure)
	}
	var names []string
	for k := range known {
		names = append(names, string(k))
	}
	slices.Sort(names)
	return v, engine.Invalid("seccomp", string(name), "no such "+what, "use one of "+strings.Join(names, ", "))
}

// unsupported is the error of what needs a supervisor.
func unsupported(what, cure string) *engine.Error {
	return &engine.Error{Op: "write", File: "seccomp", Value: what, Errno: syscall.EOPNOTSUPP,
		Why: "it needs a supervisor beside the container, which ctrfs does not have", Cure: cure}
}

package seccomp

import (
	"fmt"
	"runtime"
	"slices"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// Filter is a compiled profile, ready for seccomp(2). It is shared and must not be changed.
type Filter struct {
	Program []unix.SockFilter // at most 4096 instructions
	Flags   uintptr           // SECCOMP_FILTER_FLAG_*
}

// Compile compiles a profile for this machine: its native ABI, and of the architectures named in the profile those that it
// runs too. Errors are EINVAL and EOPNOTSUPP, see the package comment.
func Compile(p *specs.LinuxSeccomp) (*Filter, error) { return compile(p, runtime.GOARCH) }

func compile(p *specs.LinuxSeccomp, goarch string) (*Filter, error) {
	all, ok := machines[goarch]
	if !ok {
		return nil, &engine.Error{Op: "write", File: "seccomp", Errno: syscall.EOPNOTSUPP,
			Why: "filters for " + goarch + " are not known to ctrfs", Cure: "write unconfined"}
	}
	parsed, err := parse(p)
	if err != nil {
		return nil, err
	}
	c := compiler{
		assembler: assembler{returns: map[uint32]label{}},
		profile:   parsed,
		unknown:   target{action: parsed.fallback},
		verdicts:  map[string]target{},
	}
	if parsed.fallback&unix.SECCOMP_RET_ACTION_FULL == unix.SECCOMP_RET_ERRNO {
		c.unknown.action = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	c.abis = append(slices.Clone(c.abis), all[0].abis[0].name)
	next := target{action: unix.SECCOMP_RET_KILL_PROCESS}
	for _, m := range slices.Backward(all) {
		if slices.ContainsFunc(m.abis, c.serves) {
			body := c.load(offsetNumber, ^uint32(0), c.tree(c.spans(m)))
			next = c.branch(unix.BPF_JEQ, m.audit, body, next)
		}
	}
	c.load(offsetArch, ^uint32(0), next)
	if len(c.code) > maxInstructions {
		why := fmt.Sprintf("the profile needs more than the %d instructions that the kernel takes", maxInstructions)
		return nil, engine.Invalid("seccomp", "", why, "leave out argument conditions or architectures")
	}
	slices.Reverse(c.code)
	return &Filter{Program: c.code, Flags: parsed.flags}, nil
}

// compiler is one compilation.
type compiler struct {
	assembler
	*profile
	unknown  target            // for numbers beyond every system call
	verdicts map[string]target // what was compiled, by entries of the profile
}

// Offsets in struct seccomp_data. The machines in the table are all little-endian: the lower half of an argument is first.
const (
	offsetNumber    = 0
	offsetArch      = 4
	offsetArguments = 16
)

// serves says whether the profile is for an ABI.
func (c *compiler) serves(a abi) bool { return slices.Contains(c.abis, a.name) }

// span is a range of system call numbers with one verdict, but for a few. It ends where the next one begins.
type span struct {
	first      uint32
	verdict    target
	exceptions []span // one number each
}

// maxExceptions is how many comparisons in a row are worth it to save two in the tree, each. More would make the program
// little shorter, but slower where the kernel has to run it.
const maxExceptions = 4

// spans covers all numbers that can come with the audit number of m, from 0 to 2³²-1.
func (c *compiler) spans(m machine) []span {
	named := make(map[uint32]target, len(m.abis)*len(syscalls))
	starts := append(make([]uint32, 0, 2*len(m.abis)*len(syscalls)), 0, 1<<31)
	for _, a := range m.abis {
		starts = append(starts, a.base, a.base+newest+1)
		for _, s := range syscalls {
			if number := a.base + uint32(s.numbers[a.column]); s.numbers[a.column] >= 0 && c.serves(a) {
				named[number] = c.verdict(s.name)
				starts = append(starts, number, number+1)
			}
		}
	}
	slices.Sort(starts)
	var out []span
	for _, first := range starts {
		verdict, ok := named[first]
		if !ok {
			verdict = c.unnamed(m, first)
		}
		if len(out) == 0 || out[len(out)-1].verdict != verdict {
			out = append(out, span{first: first, verdict: verdict})
		}
	}
	return fold(out)
}

// fold makes exceptions out of single numbers between two spans of one verdict.
func fold(spans []span) (out []span) {
	for i := 0; i < len(spans); i++ {
		s := spans[i]
		for i+2 < len(spans) && spans[i+2].first == spans[i+1].first+1 && spans[i+2].verdict == s.verdict {
			if len(s.exceptions) == maxExceptions {
				out = append(out, s)
				s = span{first: spans[i+1].first, verdict: s.verdict}
			}
			s.exceptions = append(s.exceptions, spans[i+1])
			i += 2
		}
		out = append(out, s)
	}
	return out
}

// unnamed is the verdict on a number that no system call has.
func (c *compiler) unnamed(m machine, number uint32) target {
	if number >= 1<<31 { // negative: the -1 by which a tracer skips a system call, for example
		return c.unknown
	}
	a := m.abis[0]
	for _, other := range m.abis {
		if number >= other.base {
			a = other
		}
	}
	switch {
	case !c.serves(a):
		return target{action: unix.SECCOMP_RET_KILL_PROCESS}
	case number-a.base > newest:
		return c.unknown
	}
	return target{action: c.fallback}
}

// tree finds the span of the number in the accumulator.
func (c *compiler) tree(spans []span) target {
	if len(spans) == 1 {
		next := spans[0].verdict
		for _, e := range slices.Backward(spans[0].exceptions) {
			next = c.branch(unix.BPF_JEQ, e.first, e.verdict, next)
		}
		return next
	}
	middle := len(spans) / 2
	right := c.tree(spans[middle:])
	left := c.tree(spans[:middle])
	return c.branch(unix.BPF_JGE, spans[middle].first, right, left)
}

// verdict compiles what the profile says about a system call, from the last rule to the first. What several calls share is
// compiled once, for all ABIs.
func (c *compiler) verdict(name string) target {
	entries := c.byName[name]
	key := fmt.Sprint(entries)
	if have, ok := c.verdicts[key]; ok || len(c.code) > maxInstructions { // a hopeless case costs nothing more
		return have
	}
	next := target{action: c.fallback}
	for _, r := range slices.Backward(c.rules(entries)) {
		yes := target{action: r.action}
		for _, cond := range slices.Backward(r.conditions) {
			yes = c.test(cond, yes, next)
		}
		next = yes
	}
	c.verdicts[key] = next
	return next
}

// test compares 64 bits in two halves, the upper one first.
func (c *compiler) test(t condition, yes, no target) target {
	if t.not {
		yes, no = no, yes
	}
	lower := no
	for _, value := range slices.Backward(t.values) {
		lower = c.branch(t.jump, uint32(value), yes, lower)
	}
	offset := offsetArguments + 8*t.index
	lower = c.load(offset, uint32(t.mask), lower)
	mask, value := uint32(t.mask>>32), uint32(t.values[0]>>32)
	if mask == 0 && value == 0 {
		return lower
	}
	upper := c.branch(unix.BPF_JEQ, value, lower, no)
	if t.jump != unix.BPF_JEQ {
		upper = c.branch(unix.BPF_JGT, value, yes, upper)
	}
	return c.load(offset+4, mask, upper)
}

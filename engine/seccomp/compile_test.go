package seccomp

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

func ptr(n uint) *uint { return &n }

// TestRefusals: what cannot be had is refused by name, with the errno that says whether it could be had elsewhere.
func TestRefusals(t *testing.T) {
	call := func(s specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{s}}
	}
	arg := func(a specs.LinuxSeccompArg) *specs.LinuxSeccomp {
		return call(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActLog, Args: []specs.LinuxSeccompArg{a}})
	}
	long := specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActLog}
	for i := range uint64(3000) {
		long.Args = append(long.Args, specs.LinuxSeccompArg{Index: 0, Op: specs.OpLessThan, Value: i << 32})
	}
	cases := []struct {
		name     string
		profile  *specs.LinuxSeccomp
		errno    syscall.Errno
		sentence string // must be in the error
	}{
		{"none", nil, syscall.EINVAL, "no profile"},
		{"no default", &specs.LinuxSeccomp{}, syscall.EINVAL, "no such action"},
		{"an action", &specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_X"}, syscall.EINVAL, `"SCMP_ACT_X": no such action`},
		{"notify", call(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActNotify}), syscall.EOPNOTSUPP, "SCMP_ACT_NOTIFY"},
		{"trace", &specs.LinuxSeccomp{DefaultAction: specs.ActTrace}, syscall.EOPNOTSUPP, "SCMP_ACT_TRACE"},
		{"listener", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/run/x"}, syscall.EOPNOTSUPP, "listenerPath"},
		{"metadata", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerMetadata: "x"}, syscall.EOPNOTSUPP, "listenerMetadata"},
		{"killable", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}},
			syscall.EOPNOTSUPP, "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"},
		{"a flag", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"X"}}, syscall.EINVAL, "flag"},
		{"an architecture", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"PDP11"}}, syscall.EINVAL, "PDP11"},
		{"no name", call(specs.LinuxSyscall{Action: specs.ActLog}), syscall.EINVAL, "name"},
		{"empty name", call(specs.LinuxSyscall{Names: []string{"read", ""}, Action: specs.ActLog}), syscall.EINVAL, "name"},
		{"errno of allow", call(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, ErrnoRet: ptr(1)}), syscall.EINVAL, "errno"},
		{"default errno of allow", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, DefaultErrnoRet: ptr(1)}, syscall.EINVAL, "errno"},
		{"large errno", &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: ptr(4096)}, syscall.EINVAL, "4096"},
		{"seventh argument", arg(specs.LinuxSeccompArg{Index: 6, Op: specs.OpEqualTo}), syscall.EINVAL, "argument"},
		{"an operator", arg(specs.LinuxSeccompArg{Op: "SCMP_CMP_X"}), syscall.EINVAL, "operator"},
		{"too long", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{long}}, syscall.EINVAL, "4096"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f, err := compile(c.profile, "amd64")
			if f != nil || engine.Errno(err) != c.errno || !strings.Contains(fmt.Sprint(err), c.sentence) {
				t.Errorf("got %v, %v", f, err)
			}
		})
	}
	if _, err := compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow}, "vax"); engine.Errno(err) != syscall.EOPNOTSUPP {
		t.Error(err)
	}
}

func TestFlags(t *testing.T) {
	f, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{
		"SECCOMP_FILTER_FLAG_TSYNC", specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow}})
	if err != nil || f.Flags != unix.SECCOMP_FILTER_FLAG_LOG|unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW {
		t.Error(f, err)
	}
}

// TestCombination: the decisions where the specification leaves room, spelled out.
func TestCombination(t *testing.T) {
	arg := func(index uint, op specs.LinuxSeccompOperator, value uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: index, Op: op, Value: value}
	}
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX32, specs.ArchMIPS}, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"read"}, Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, 1), arg(1, specs.OpEqualTo, 2)}},
		{Names: []string{"read", "nosuchcall"}, Action: specs.ActAllow},
		{Names: []string{"read"}, Action: specs.ActKill},
		{Names: []string{"open"}, Action: specs.ActLog, Args: []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, 1)}},
		{Names: []string{"open"}, Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, 2)}},
		{Names: []string{"open"}, Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, 1<<32+3)}},
		{Names: []string{"write"}, Action: specs.ActLog, Args: []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, 1), arg(0, specs.OpEqualTo, 2), arg(1, specs.OpEqualTo, 3)}},
	}}
	f, err := compile(p, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		why    string
		d      data
		action uint32
	}{
		{"conditions on different arguments must all hold", data{0, unix.AUDIT_ARCH_X86_64, 0, [6]uint64{1, 2}}, unix.SECCOMP_RET_TRAP},
		{"the first rule that matches decides", data{0, unix.AUDIT_ARCH_X86_64, 0, [6]uint64{1, 3}}, unix.SECCOMP_RET_ALLOW},
		{"one of several on the same argument is enough", data{1, unix.AUDIT_ARCH_X86_64, 0, [6]uint64{2}}, unix.SECCOMP_RET_LOG},
		{"also one on another argument then", data{1, unix.AUDIT_ARCH_X86_64, 0, [6]uint64{7, 3}}, unix.SECCOMP_RET_LOG},
		{"none holds", data{1, unix.AUDIT_ARCH_X86_64, 0, [6]uint64{7, 7}}, unix.SECCOMP_RET_ERRNO | 1},
		{"all 64 bits count", data{1, unix.AUDIT_ARCH_X86_64, 0, [6]uint64{1<<32 + 1}}, unix.SECCOMP_RET_ERRNO | 1},
		{"values for different actions stay apart", data{2, unix.AUDIT_ARCH_X86_64, 0, [6]uint64{2}}, unix.SECCOMP_RET_TRAP},
		{"values with different upper halves stay apart", data{2, unix.AUDIT_ARCH_X86_64, 0, [6]uint64{3}}, unix.SECCOMP_RET_ERRNO | 1},
		{"the same, the other half", data{2, unix.AUDIT_ARCH_X86_64, 0, [6]uint64{1<<32 + 3}}, unix.SECCOMP_RET_TRAP},
		{"no rule", data{3, unix.AUDIT_ARCH_X86_64, 0, [6]uint64{}}, unix.SECCOMP_RET_ERRNO | 1},
		{"no such call yet", data{newest + 1, unix.AUDIT_ARCH_X86_64, 0, [6]uint64{}}, unix.SECCOMP_RET_ERRNO | 38},
		{"skipped by a tracer", data{1<<32 - 1, unix.AUDIT_ARCH_X86_64, 0, [6]uint64{}}, unix.SECCOMP_RET_ERRNO | 38},
		{"x32 is named", data{x32Bit, unix.AUDIT_ARCH_X86_64, 0, [6]uint64{}}, unix.SECCOMP_RET_ALLOW},
		{"i386 is not", data{3, unix.AUDIT_ARCH_I386, 0, [6]uint64{}}, unix.SECCOMP_RET_KILL_PROCESS},
	}
	for _, c := range cases {
		if got, err := interpret(f.Program, c.d); err != nil || got != c.action {
			t.Errorf("%s: %#x, %v, want %#x", c.why, got, err, c.action)
		}
	}
	p.Architectures = nil
	if f, err = compile(p, "amd64"); err != nil {
		t.Fatal(err)
	}
	if got, err := interpret(f.Program, data{number: x32Bit, arch: unix.AUDIT_ARCH_X86_64}); err != nil || got != unix.SECCOMP_RET_KILL_PROCESS {
		t.Errorf("x32, not named: %#x, %v", got, err)
	}
}

// checkProgram fails if the program and the profile disagree on any of many calls: all numbers near one that the profile
// knows of, all ABIs, and arguments around every value that it compares with.
func checkProgram(t *testing.T, p *specs.LinuxSeccomp, goarch string, f *Filter, rnd *rand.Rand, calls int) {
	t.Helper()
	if last := f.Program[len(f.Program)-1]; last.Code != unix.BPF_RET|unix.BPF_K || len(f.Program) > maxInstructions {
		t.Fatalf("%d instructions, the last %+v", len(f.Program), last)
	}
	numbers := []uint32{0, newest, newest + 1, x32Bit, 1 << 31, 1<<32 - 1, 0xf0001, 1 << 16}
	values := []uint64{0, 1<<64 - 1, 1 << 32}
	for _, entry := range p.Syscalls {
		for _, a := range entry.Args {
			values = append(values, a.Value, a.ValueTwo)
		}
		for _, s := range syscalls {
			for _, n := range s.numbers {
				if n >= 0 && slices.Contains(entry.Names, s.name) {
					numbers = append(numbers, uint32(n))
				}
			}
		}
	}
	audits := []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM, unix.AUDIT_ARCH_S390X, 0}
	for range calls {
		d := data{number: numbers[rnd.IntN(len(numbers))] + rnd.Uint32N(3) - 1, arch: audits[rnd.IntN(len(audits))], pointer: rnd.Uint64()}
		d.number |= x32Bit * uint32(rnd.IntN(3)/2)
		for i := range d.args {
			d.args[i] = values[rnd.IntN(len(values))] + rnd.Uint64N(3) - 1
			d.args[i] ^= uint64(rnd.IntN(5)/4) << rnd.IntN(64)
		}
		got, err := interpret(f.Program, d)
		if want := naive(p, goarch, d); err != nil || got != want {
			t.Fatalf("%s: %+v: %#x, %v, want %#x in\n%+v", goarch, d, got, err, want, p)
		}
	}
}

// TestManySystemCalls: jumps of a conditional instruction reach 255 instructions; this program is much longer. Every name
// has a rule of its own, with conditions.
func TestManySystemCalls(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: architectures[:5]}
		for _, s := range syscalls {
			if rnd.IntN(2) == 0 {
				continue
			}
			call := specs.LinuxSyscall{Names: []string{s.name}, Action: specs.ActErrno, ErrnoRet: ptr(rnd.UintN(5))}
			if rnd.IntN(2) == 0 {
				call.Args = []specs.LinuxSeccompArg{{Index: rnd.UintN(2), Op: specs.OpGreaterThan, Value: rnd.Uint64N(8)}}
			}
			p.Syscalls = append(p.Syscalls, call)
		}
		for goarch := range machines {
			f, err := compile(p, goarch)
			if err != nil {
				t.Fatal(err)
			}
			if len(f.Program) < 512 {
				t.Errorf("only %d instructions", len(f.Program))
			}
			checkProgram(t, p, goarch, f, rnd, 5000)
		}
	}
}

// choices makes a small profile out of bytes, so that a fuzzer can vary it.
type choices []byte

func (c *choices) of(n int) int {
	if len(*c) == 0 {
		return 0
	}
	b := int((*c)[0])
	*c = (*c)[1:]
	return b % n
}

func pick[T any](c *choices, from ...T) T { return from[c.of(len(from))] }

func (c *choices) action() (specs.LinuxSeccompAction, *uint) {
	act := pick(c, specs.ActErrno, specs.ActAllow, specs.ActLog, specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap)
	if act != specs.ActErrno {
		return act, nil
	}
	return act, pick(c, nil, ptr(0), ptr(38), ptr(4095))
}

func (c *choices) value() uint64 {
	return pick[uint64](c, 0, 1, 2, 1<<31, 1<<32-1, 1<<32, 1<<32+1, 1<<63, 1<<64-1, 0x5412, 0xffffffff00000000) + uint64(c.of(3))
}

func (c *choices) profile() *specs.LinuxSeccomp {
	p := &specs.LinuxSeccomp{}
	p.DefaultAction, p.DefaultErrnoRet = c.action()
	for range c.of(4) {
		p.Architectures = append(p.Architectures, pick(c, architectures[:6]...))
	}
	names := []string{"read", "write", "close", "breakpoint", "rseq_slice_yield", "nosuchcall", "preadv2"}
	ops := []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpEqualTo, specs.OpNotEqual, specs.OpMaskedEqual, specs.OpLessThan, specs.OpLessEqual,
		specs.OpGreaterThan, specs.OpGreaterEqual}
	for range c.of(8) {
		call := specs.LinuxSyscall{Names: []string{pick(c, names...)}}
		for range c.of(3) {
			call.Names = append(call.Names, pick(c, names...))
		}
		call.Action, call.ErrnoRet = c.action()
		for range c.of(4) {
			call.Args = append(call.Args, specs.LinuxSeccompArg{Index: pick[uint](c, 0, 0, 0, 1, 5), Op: pick(c, ops...), Value: c.value(), ValueTwo: c.value()})
		}
		p.Syscalls = append(p.Syscalls, call)
	}
	return p
}

// FuzzCompile: a program decides as its profile says.
func FuzzCompile(f *testing.F) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		text := make([]byte, 10+rnd.IntN(100))
		for i := range text {
			text[i] = byte(rnd.Uint32())
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c := choices(text)
		p := c.profile()
		rnd := rand.New(rand.NewPCG(uint64(len(text)), 2))
		for goarch := range machines {
			f, err := compile(p, goarch)
			if err != nil {
				t.Fatalf("%v in\n%+v", err, p)
			}
			checkProgram(t, p, goarch, f, rnd, 100)
		}
	})
}

package seccomp

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// data is struct seccomp_data.
type data struct {
	number, arch uint32
	pointer      uint64
	args         [6]uint64
}

// interpret runs a program as the kernel would. It knows the instructions that this package uses and fails at any other,
// at a jump out of the program, and at a read outside of the data.
func interpret(program []unix.SockFilter, d data) (action uint32, err error) {
	memory, err := binary.Append(nil, binary.LittleEndian, d)
	if err != nil {
		return 0, err
	}
	var accumulator uint32
	for pc := 0; pc < len(program); pc++ {
		in := program[pc]
		var yes bool
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if in.K%4 != 0 || int(in.K) >= len(memory) {
				return 0, fmt.Errorf("instruction %d reads at %d", pc, in.K)
			}
			accumulator = binary.LittleEndian.Uint32(memory[in.K:])
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			accumulator &= in.K
			continue
		case unix.BPF_RET | unix.BPF_K:
			return in.K, nil
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
			continue
		case unix.BPF_JMP | unix.BPF_K | unix.BPF_JEQ:
			yes = accumulator == in.K
		case unix.BPF_JMP | unix.BPF_K | unix.BPF_JGT:
			yes = accumulator > in.K
		case unix.BPF_JMP | unix.BPF_K | unix.BPF_JGE:
			yes = accumulator >= in.K
		default:
			return 0, fmt.Errorf("instruction %d is %+v", pc, in)
		}
		if yes {
			pc += int(in.Jt)
		} else {
			pc += int(in.Jf)
		}
	}
	return 0, fmt.Errorf("it ran off its end of %d instructions", len(program))
}

// naive decides from the profile as it is written, one rule after the other. It shares the table of numbers with the
// compiler and nothing else.
func naive(p *specs.LinuxSeccomp, goarch string, d data) uint32 {
	abi, number, native := abiOf(goarch, d)
	if abi == "" || !native && !slices.Contains(p.Architectures, abi) {
		return unix.SECCOMP_RET_KILL_PROCESS
	}
	column := slices.Index([]specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM}, abi)
	var names []string
	for _, s := range syscalls {
		if s.numbers[column] >= 0 && uint32(s.numbers[column]) == number {
			names = append(names, s.name)
		}
	}
	for _, entry := range p.Syscalls {
		if slices.ContainsFunc(entry.Names, func(n string) bool { return slices.Contains(names, n) }) && holds(entry.Args, d) {
			return naiveAction(entry.Action, entry.ErrnoRet)
		}
	}
	if len(names) == 0 && number > newest && p.DefaultAction == specs.ActErrno {
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return naiveAction(p.DefaultAction, p.DefaultErrnoRet)
}

func abiOf(goarch string, d data) (abi specs.Arch, number uint32, native bool) {
	switch {
	case goarch == "amd64" && d.arch == unix.AUDIT_ARCH_X86_64 && d.number>>30 == 1:
		return specs.ArchX32, d.number &^ (1 << 30), false
	case goarch == "amd64" && d.arch == unix.AUDIT_ARCH_X86_64:
		return specs.ArchX86_64, d.number, true
	case goarch == "amd64" && d.arch == unix.AUDIT_ARCH_I386:
		return specs.ArchX86, d.number, false
	case goarch == "arm64" && d.arch == unix.AUDIT_ARCH_AARCH64:
		return specs.ArchAARCH64, d.number, true
	case goarch == "arm64" && d.arch == unix.AUDIT_ARCH_ARM:
		return specs.ArchARM, d.number, false
	}
	return "", 0, false
}

// holds combines conditions: all of them, but any of them when two are about the same argument.
func holds(args []specs.LinuxSeccompArg, d data) bool {
	anyOf := false
	for i, a := range args {
		for _, b := range args[:i] {
			anyOf = anyOf || a.Index == b.Index
		}
	}
	for _, a := range args {
		v := d.args[a.Index]
		is := map[specs.LinuxSeccompOperator]bool{
			specs.OpEqualTo: v == a.Value, specs.OpNotEqual: v != a.Value, specs.OpMaskedEqual: v&a.Value == a.ValueTwo,
			specs.OpLessThan: v < a.Value, specs.OpLessEqual: v <= a.Value,
			specs.OpGreaterThan: v > a.Value, specs.OpGreaterEqual: v >= a.Value,
		}[a.Op]
		if is == anyOf {
			return anyOf
		}
	}
	return !anyOf
}

func naiveAction(name specs.LinuxSeccompAction, errno *uint) uint32 {
	act := map[specs.LinuxSeccompAction]uint32{
		specs.ActKill: 0, specs.ActKillThread: 0, specs.ActKillProcess: 0x80000000, specs.ActTrap: 0x00030000,
		specs.ActErrno: 0x00050000, specs.ActLog: 0x7ffc0000, specs.ActAllow: 0x7fff0000,
	}[name]
	switch {
	case name != specs.ActErrno:
		return act
	case errno == nil:
		return act | 1
	}
	return act | uint32(*errno)
}

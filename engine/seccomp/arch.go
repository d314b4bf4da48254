package seccomp

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// abi is one way to call the kernel: its own numbers for the system calls.
type abi struct {
	name   specs.Arch
	column int    // of the table
	base   uint32 // is added to the numbers in the table
}

// machine is what the kernel reports as one architecture. The first ABI of the first machine is the native one.
type machine struct {
	audit uint32
	abis  []abi // by base
}

// x32 programs run on x86-64 with pointers of 32 bits. The kernel tells them from others by this bit of the number only.
const x32Bit = 0x40000000

var machines = map[string][]machine{
	"amd64": {
		{unix.AUDIT_ARCH_X86_64, []abi{{specs.ArchX86_64, 0, 0}, {specs.ArchX32, 2, x32Bit}}},
		{unix.AUDIT_ARCH_I386, []abi{{specs.ArchX86, 1, 0}}},
	},
	"arm64": {
		{unix.AUDIT_ARCH_AARCH64, []abi{{specs.ArchAARCH64, 3, 0}}},
		{unix.AUDIT_ARCH_ARM, []abi{{specs.ArchARM, 4, 0}}},
	},
}

// architectures are the names that the specification knows. A profile may name all of them; those that this machine does
// not run cannot occur here.
var architectures = []specs.Arch{
	specs.ArchX86, specs.ArchX86_64, specs.ArchX32, specs.ArchARM, specs.ArchAARCH64,
	specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32, specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32,
	specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390, specs.ArchS390X, specs.ArchPARISC, specs.ArchPARISC64,
	specs.ArchRISCV64, specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB,
}

// row is a system call and its number in each ABI: x86_64, i386, x32, arm64, arm; -1 where there is none.
type row struct {
	name    string
	numbers [5]int32
}

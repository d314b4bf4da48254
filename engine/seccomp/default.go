package seccomp

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// denied come before the rules of the profile. The first rule that matches decides, so nothing below allows them again.
//
// The profile leaves all three open because some programs want them: TIOCSTI and TIOCLINUX put input into the terminal of
// whoever started the container, and socketcall(2), through which 32-bit x86 programs may make sockets, hides the address
// family behind a pointer, so that AF_ALG could be had by it. 32-bit programs that know socket(2), in the kernel since
// 4.3, are not affected; one linked with glibc for 32-bit x86 cannot make sockets.
//
// Commands of ioctl(2) have 32 bits. The kernel drops the upper half of the register, so the comparison must too.
var denied = []specs.LinuxSyscall{
	deny("ioctl", specs.LinuxSeccompArg{Index: 1, Op: specs.OpMaskedEqual, Value: 0xffffffff, ValueTwo: unix.TIOCSTI}),
	deny("ioctl", specs.LinuxSeccompArg{Index: 1, Op: specs.OpMaskedEqual, Value: 0xffffffff, ValueTwo: tioclinux}),
	deny("socketcall", specs.LinuxSeccompArg{Index: 0, Op: specs.OpEqualTo, Value: sysSocket}),
}

const (
	tioclinux = 0x541c // <asm-generic/ioctls.h>
	sysSocket = 1      // SYS_SOCKET, the number of socket(2) in socketcall(2)
)

func deny(name string, when specs.LinuxSeccompArg) specs.LinuxSyscall {
	return specs.LinuxSyscall{Names: []string{name}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{when}}
}

// Default returns the profile of a container that names none: the one that Docker has, resolved for the capabilities of the
// bounding set, for this architecture, and for a kernel release as uname(2) gives it. It differs in three ways:
//
//   - What is in denied is denied.
//   - x32 is left out and kills. Distributions build their kernels without it or switch it off, so it would only make each
//     start slower: it is a quarter of the program, 15 µs.
//   - System calls newer than the profile do not exist (ENOSYS instead of EPERM), so that programs do without them.
//
// The result is valid for other runtimes, but libseccomp knows no order of rules: there the profile's plain "ioctl" and
// "socketcall" win over what is denied here.
func Default(caps []string, kernel string) (*specs.LinuxSeccomp, error) {
	return resolve(caps, kernel, runtime.GOARCH)
}

func resolve(caps []string, kernel, goarch string) (*specs.LinuxSeccomp, error) {
	have := facts{caps: caps, arch: goarch}
	if _, err := fmt.Sscanf(kernel, "%d.%d", &have.kernel.Kernel, &have.kernel.Major); err != nil {
		return nil, engine.Invalid("seccomp", kernel, "no kernel release", "a release begins as 6.1 does")
	}
	profile := moby.DefaultProfile()
	out := &profile.LinuxSeccomp
	out.Syscalls = slices.Clone(denied)
	for _, m := range machines[goarch] {
		for _, a := range m.abis {
			if a.name != specs.ArchX32 {
				out.Architectures = append(out.Architectures, a.name)
			}
		}
	}
	known := 0
	for _, rule := range profile.Syscalls {
		known = max(known, latest(rule.Names))
		if have.include(rule.Includes) && !have.exclude(rule.Excludes) {
			out.Syscalls = append(out.Syscalls, rule.LinuxSyscall)
		}
	}
	if names := after(known); len(names) > 0 {
		nosys := uint(unix.ENOSYS)
		out.Syscalls = append(out.Syscalls, specs.LinuxSyscall{Names: names, Action: specs.ActErrno, ErrnoRet: &nosys})
	}
	return out, nil
}

// age is the column of the table that tells which system calls are newer. Any will do: they count alike since Linux 5.1.
const age = 0

// latest returns the highest number among names.
func latest(names []string) (number int) {
	for _, name := range names {
		i, ok := slices.BinarySearchFunc(syscalls, name, func(r row, name string) int { return strings.Compare(r.name, name) })
		if ok {
			number = max(number, int(syscalls[i].numbers[age]))
		}
	}
	return number
}

// after returns the system calls with a higher number.
func after(number int) (names []string) {
	for _, s := range syscalls {
		if int(s.numbers[age]) > number {
			names = append(names, s.name)
		}
	}
	return names
}

// facts are what the rules of the profile depend on.
type facts struct {
	caps   []string
	arch   string
	kernel moby.KernelVersion
}

// include says whether a rule that is for f only counts: all capabilities, any architecture, and the kernel must be there.
func (h facts) include(f *moby.Filter) bool {
	if f == nil {
		return true
	}
	for _, c := range f.Caps {
		if !slices.Contains(h.caps, c) {
			return false
		}
	}
	return (len(f.Arches) == 0 || slices.Contains(f.Arches, h.arch)) && (f.MinKernel == nil || h.since(f.MinKernel))
}

// exclude says whether a rule that is not for f is left out: any capability, architecture or the kernel is enough.
func (h facts) exclude(f *moby.Filter) bool {
	if f == nil {
		return false
	}
	return slices.ContainsFunc(f.Caps, func(c string) bool { return slices.Contains(h.caps, c) }) ||
		slices.Contains(f.Arches, h.arch) || f.MinKernel != nil && h.since(f.MinKernel)
}

// since says whether the kernel is of this version or a later one.
func (h facts) since(v *moby.KernelVersion) bool {
	return h.kernel.Kernel > v.Kernel || h.kernel.Kernel == v.Kernel && h.kernel.Major >= v.Major
}

// defaults are the compiled default profiles, by the capabilities that matter to them. A host has a handful of these sets;
// nothing is ever dropped.
var defaults struct {
	sync.Mutex
	byCaps map[uint64]*Filter
}

// running is the release of the running kernel.
var running = sync.OnceValues(func() (string, error) {
	var u unix.Utsname
	err := unix.Uname(&u)
	return unix.ByteSliceToString(u.Release[:]), err
})

// asked are the capabilities that rules of the default profile ask for.
var asked = sync.OnceValue(func() (names []string) {
	for _, rule := range moby.DefaultProfile().Syscalls {
		for _, f := range []*moby.Filter{rule.Includes, rule.Excludes} {
			if f != nil {
				names = append(names, f.Caps...)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
})

// profiles are the default profiles as they are written down, kept for the same reason.
var profiles struct {
	sync.Mutex
	byCaps map[uint64]*specs.LinuxSeccomp
}

// Profile returns the default profile for the capabilities of a bounding set on this machine. Nobody changes it.
func Profile(caps []string) (*specs.LinuxSeccomp, error) {
	key := keyOf(caps)
	profiles.Lock()
	defer profiles.Unlock()
	if have := profiles.byCaps[key]; have != nil {
		return have, nil
	}
	kernel, err := running()
	if err != nil {
		return nil, err
	}
	profile, err := Default(caps, kernel)
	if err != nil {
		return nil, err
	}
	if profiles.byCaps == nil {
		profiles.byCaps = map[uint64]*specs.LinuxSeccomp{}
	}
	profiles.byCaps[key] = profile
	return profile, nil
}

// keyOf tells apart the sets that make a difference to the default profile.
func keyOf(caps []string) (key uint64) {
	for _, c := range caps {
		if i, ok := slices.BinarySearch(asked(), c); ok {
			key |= 1 << i
		}
	}
	return key
}

// For returns the compiled default profile for the capabilities of a bounding set, CAP_CHOWN and so on, on this machine. It
// compiles once for each set that makes a difference, in about a millisecond; after that it costs less than a microsecond.
func For(caps []string) (*Filter, error) {
	key := keyOf(caps)
	defaults.Lock()
	defer defaults.Unlock()
	if have := defaults.byCaps[key]; have != nil {
		return have, nil
	}
	profile, err := Profile(caps)
	if err != nil {
		return nil, err
	}
	filter, err := Compile(profile)
	if err != nil {
		return nil, err
	}
	if defaults.byCaps == nil {
		defaults.byCaps = map[uint64]*Filter{}
	}
	defaults.byCaps[key] = filter
	return filter, nil
}

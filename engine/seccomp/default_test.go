package seccomp

import (
	"encoding/json"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// customary are the capabilities that a container gets.
var customary = strings.Fields(`CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID CAP_SETFCAP
	CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE`)

const (
	allow = unix.SECCOMP_RET_ALLOW
	perm  = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	nosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	kill  = unix.SECCOMP_RET_KILL_PROCESS
)

func mustDefault(t *testing.T, caps []string, goarch string) (*specs.LinuxSeccomp, *Filter) {
	t.Helper()
	p, err := resolve(caps, "6.1.0-18-amd64", goarch)
	if err != nil {
		t.Fatal(err)
	}
	f, err := compile(p, goarch)
	if err != nil {
		t.Fatal(err)
	}
	return p, f
}

// decide is what a program does at a system call of an ABI.
func decide(t *testing.T, f *Filter, abi specs.Arch, name string, args ...uint64) uint32 {
	t.Helper()
	for _, all := range machines {
		for _, m := range all {
			for _, a := range m.abis {
				i := slices.IndexFunc(syscalls, func(r row) bool { return r.name == name })
				if a.name != abi || i < 0 {
					continue
				}
				d := data{number: a.base + uint32(syscalls[i].numbers[a.column]), arch: m.audit}
				copy(d.args[:], args)
				got, err := interpret(f.Program, d)
				if err != nil {
					t.Fatal(err)
				}
				return got
			}
		}
	}
	t.Fatalf("no %s in %s", name, abi)
	return 0
}

// TestDefault: what a container with the customary capabilities may call, on each ABI that has the call.
func TestDefault(t *testing.T) {
	const high = 1 << 32 // a bit that the kernel does not see in an argument of 32 bits
	cases := []struct {
		name   string
		args   []uint64
		action uint32
	}{
		{"read", nil, allow},
		{"execve", nil, allow},
		{"chroot", nil, allow},
		{"mknod", nil, allow},
		{"seccomp", nil, allow},
		{"ptrace", nil, allow},
		{"clone", []uint64{unix.CLONE_VM | unix.CLONE_VFORK | 17}, allow},
		{"clone", []uint64{unix.CLONE_NEWUSER}, perm},
		{"clone", []uint64{unix.CLONE_NEWNET | unix.CLONE_VM | high}, perm},
		{"clone3", nil, nosys},
		{"unshare", nil, perm},
		{"setns", nil, perm},
		{"mount", nil, perm},
		{"umount2", nil, perm},
		{"pivot_root", nil, perm},
		{"fsopen", nil, perm},
		{"fsconfig", nil, perm},
		{"fsmount", nil, perm},
		{"move_mount", nil, perm},
		{"open_tree", nil, perm},
		{"mount_setattr", nil, perm},
		{"open_tree_attr", nil, nosys},
		{"keyctl", nil, perm},
		{"add_key", nil, perm},
		{"request_key", nil, perm},
		{"bpf", nil, perm},
		{"perf_event_open", nil, perm},
		{"io_uring_setup", nil, perm},
		{"io_uring_enter", nil, perm},
		{"io_uring_register", nil, perm},
		{"userfaultfd", nil, perm},
		{"init_module", nil, perm},
		{"finit_module", nil, perm},
		{"kexec_load", nil, perm},
		{"reboot", nil, perm},
		{"open_by_handle_at", nil, perm},
		{"quotactl", nil, perm},
		{"swapon", nil, perm},
		{"settimeofday", nil, perm},
		{"socket", []uint64{unix.AF_UNIX}, allow},
		{"socket", []uint64{unix.AF_INET6}, allow},
		{"socket", []uint64{unix.AF_NETLINK}, allow},
		{"socket", []uint64{unix.AF_ALG}, perm},
		{"socket", []uint64{unix.AF_ALG | high}, perm},
		{"socket", []uint64{unix.AF_VSOCK}, perm},
		{"socket", []uint64{unix.AF_VSOCK | high}, perm},
		{"socketcall", []uint64{sysSocket}, perm},
		{"socketcall", []uint64{sysSocket + 1}, allow},
		{"ioctl", []uint64{0, unix.TCGETS}, allow},
		{"ioctl", []uint64{0, unix.TIOCSTI}, perm},
		{"ioctl", []uint64{0, unix.TIOCSTI | high}, perm},
		{"ioctl", []uint64{0, tioclinux}, perm},
		{"ioctl", []uint64{0, unix.TIOCSTI + 1}, allow},
		{"personality", []uint64{0xffffffff}, allow},
		{"personality", []uint64{0x20008}, allow},
		{"personality", []uint64{0x40000}, perm}, // ADDR_NO_RANDOMIZE
		{"rseq_slice_yield", nil, nosys},
	}
	for goarch, all := range machines {
		_, f := mustDefault(t, customary, goarch)
		for _, m := range all {
			for _, a := range m.abis {
				for _, c := range cases {
					i := slices.IndexFunc(syscalls, func(r row) bool { return r.name == c.name })
					if syscalls[i].numbers[a.column] < 0 {
						continue
					}
					want := c.action
					if a.name == specs.ArchX32 {
						want = kill
					}
					if got := decide(t, f, a.name, c.name, c.args...); got != want {
						t.Errorf("%s: %s(%#x): %#x, want %#x", a.name, c.name, c.args, got, want)
					}
				}
			}
		}
	}
}

// TestDefaultDependsOn: capabilities, kernel and architecture make the differences that the profile says.
func TestDefaultDependsOn(t *testing.T) {
	_, none := mustDefault(t, nil, "amd64")
	_, admin := mustDefault(t, []string{"CAP_SYS_ADMIN"}, "amd64")
	_, arm := mustDefault(t, nil, "arm64")
	cases := []struct {
		f      *Filter
		abi    specs.Arch
		name   string
		action uint32
	}{
		{none, specs.ArchX86_64, "chroot", perm},
		{none, specs.ArchX86_64, "clone3", nosys},
		{admin, specs.ArchX86_64, "clone3", allow},
		{admin, specs.ArchX86_64, "mount", allow},
		{admin, specs.ArchX86_64, "keyctl", perm},
		{none, specs.ArchX86_64, "arch_prctl", allow},
		{none, specs.ArchX86, "modify_ldt", allow},
		{arm, specs.ArchARM, "set_tls", allow},
		{arm, specs.ArchARM, "sync_file_range2", allow},
	}
	for _, c := range cases {
		if got := decide(t, c.f, c.abi, c.name); got != c.action {
			t.Errorf("%s %s: %#x, want %#x", c.abi, c.name, got, c.action)
		}
	}
	for _, caps := range [][]string{nil, {"CAP_SYS_ADMIN"}} {
		p, _ := mustDefault(t, caps, "amd64")
		i := slices.IndexFunc(p.Syscalls, func(s specs.LinuxSyscall) bool {
			return s.Action == specs.ActErrno && slices.Contains(s.Names, "clone3")
		})
		if (i < 0) != (caps != nil) {
			t.Errorf("the rule against clone3, with %v: %d", caps, i)
		}
	}
	for kernel, want := range map[string]uint32{"4.7.10": perm, "4.8-rc1": allow, "10.0": allow} {
		p, err := resolve(nil, kernel, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		f, err := compile(p, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		if got := decide(t, f, specs.ArchX86_64, "ptrace"); got != want {
			t.Errorf("ptrace on %s: %#x, want %#x", kernel, got, want)
		}
	}
	if _, err := Default(nil, "new"); engine.Errno(err) != syscall.EINVAL {
		t.Error(err)
	}
}

// TestDefaultSize: an update of the profile that makes every start slower is seen here. Measure before raising a number.
func TestDefaultSize(t *testing.T) {
	for goarch, want := range map[string]int{"amd64": 197, "arm64": 207} {
		if _, f := mustDefault(t, customary, goarch); len(f.Program) != want {
			t.Errorf("%s: %d instructions, not %d", goarch, len(f.Program), want)
		}
	}
}

// TestDefaultIsItsProfile: the compiled default, for several sets of capabilities, decides as the profile does, also after
// a way through JSON.
func TestDefaultIsItsProfile(t *testing.T) {
	for _, caps := range [][]string{nil, customary, {"CAP_SYS_ADMIN", "CAP_SYS_NICE"}, asked()} {
		for goarch := range machines {
			p, f := mustDefault(t, caps, goarch)
			text, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			var back specs.LinuxSeccomp
			if err := json.Unmarshal(text, &back); err != nil {
				t.Fatal(err)
			}
			again, err := compile(&back, goarch)
			if err != nil || !slices.Equal(again.Program, f.Program) {
				t.Errorf("another program after JSON: %v", err)
			}
			checkProgram(t, p, goarch, f, rand.New(rand.NewPCG(3, 4)), 20000)
		}
	}
}

// TestFor: one program for all capability sets that make no difference, from any number of callers.
func TestFor(t *testing.T) {
	first, err := For(customary)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if f, err := For(append([]string{"CAP_WAKE_ALARM"}, customary...)); err != nil || f != first {
				t.Error("compiled again", err)
			}
			if f, err := For(nil); err != nil || f == first {
				t.Error("the filter of other capabilities", err)
			}
		})
	}
	wg.Wait()
	_, want := mustDefault(t, customary, runtime.GOARCH)
	if !slices.Equal(first.Program, want.Program) {
		t.Error("not the default")
	}
}

func BenchmarkCompile(b *testing.B) {
	p, err := resolve(nil, "6.18", "amd64")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := compile(p, "amd64"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDefault(b *testing.B) {
	for b.Loop() {
		if _, err := resolve(nil, "6.18", "amd64"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFor(b *testing.B) {
	for b.Loop() {
		if _, err := For(customary); err != nil {
			b.Fatal(err)
		}
	}
}

package seccomp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// child is set in a process that these tests start from their own binary: it makes the system calls of probes, installs the
// default filter, makes them again, and executes its arguments.
const child = "CTRFS_TEST_SECCOMP_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(child) != "" {
		fmt.Fprintln(os.Stderr, runChild(os.Args[1:]))
		os.Exit(100)
	}
	os.Exit(m.Run())
}

// probes are system calls that do no harm where they are allowed, and what becomes of them.
var probes = []struct {
	name          string
	number        uintptr
	args          [3]uintptr
	before, after syscall.Errno
}{
	{"unshare", unix.SYS_UNSHARE, [3]uintptr{0}, 0, syscall.EPERM},
	{"keyctl", unix.SYS_KEYCTL, [3]uintptr{unix.KEYCTL_GET_KEYRING_ID, 1 << 62}, syscall.EINVAL, syscall.EPERM},
	{"setns", unix.SYS_SETNS, [3]uintptr{1 << 30}, syscall.EBADF, syscall.EPERM},
	{"mount", unix.SYS_MOUNT, [3]uintptr{0, 0, 1}, syscall.EFAULT, syscall.EPERM},
	{"userfaultfd", unix.SYS_USERFAULTFD, [3]uintptr{1 | 1<<20}, syscall.EINVAL, syscall.EPERM},
	{"io_uring_setup", unix.SYS_IO_URING_SETUP, [3]uintptr{1, 0}, syscall.EFAULT, syscall.EPERM},
	{"clone3", unix.SYS_CLONE3, [3]uintptr{0, 0}, syscall.EINVAL, syscall.ENOSYS},
	{"clone of a namespace", unix.SYS_CLONE, [3]uintptr{unix.CLONE_NEWUSER | unix.CLONE_FS | 1<<40}, syscall.EINVAL, syscall.EPERM},
	{"socket AF_ALG", unix.SYS_SOCKET, [3]uintptr{unix.AF_ALG, 99}, syscall.EINVAL, syscall.EPERM},
	{"socket AF_ALG, high bits", unix.SYS_SOCKET, [3]uintptr{unix.AF_ALG | 1<<32, 99}, syscall.EINVAL, syscall.EPERM},
	{"socket AF_INET", unix.SYS_SOCKET, [3]uintptr{unix.AF_INET, 99}, syscall.EINVAL, syscall.EINVAL},
	{"ioctl TIOCSTI", unix.SYS_IOCTL, [3]uintptr{1 << 30, unix.TIOCSTI}, syscall.EBADF, syscall.EPERM},
	{"ioctl TIOCSTI, high bits", unix.SYS_IOCTL, [3]uintptr{1 << 30, unix.TIOCSTI | 1<<32}, syscall.EBADF, syscall.EPERM},
	{"ioctl TCGETS", unix.SYS_IOCTL, [3]uintptr{1 << 30, unix.TCGETS}, syscall.EBADF, syscall.EBADF},
	{"the next system call", newest + 1, [3]uintptr{}, syscall.ENOSYS, syscall.ENOSYS},
	{"read", unix.SYS_READ, [3]uintptr{1 << 30}, syscall.EBADF, syscall.EBADF},
}

func runChild(argv []string) error {
	runtime.LockOSThread() // the filter is for this thread, and for what it executes
	filter, err := For(customary)
	if err != nil {
		return err
	}
	var out [2][]syscall.Errno
	for i := range out {
		for _, p := range probes {
			_, _, errno := unix.RawSyscall(p.number, p.args[0], p.args[1], p.args[2])
			out[i] = append(out[i], errno)
		}
		if i > 0 {
			break
		}
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
		program := unix.SockFprog{Len: uint16(len(filter.Program)), Filter: &filter.Program[0]}
		if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, filter.Flags, uintptr(unsafe.Pointer(&program))); errno != 0 {
			return fmt.Errorf("seccomp: %w", errno)
		}
	}
	if os.Getenv(child) == "probe" {
		for i, p := range probes {
			if out[0][i] != p.before || out[1][i] != p.after {
				fmt.Printf("%s: %d, then %d; want %d, then %d\n", p.name, out[0][i], out[1][i], p.before, p.after)
			}
		}
	}
	if os.Getenv(child) == "x32" {
		unix.RawSyscall(x32Bit+unix.SYS_GETPID, 0, 0, 0)
	}
	return syscall.Exec(argv[0], argv, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"})
}

// filtered runs a program under the default filter.
func filtered(t *testing.T, mode string, argv ...string) (string, error) {
	t.Helper()
	if status, err := os.ReadFile("/proc/self/status"); err != nil || !bytes.Contains(status, []byte("\nSeccomp:\t0\n")) {
		t.Skip("a filter of somebody else would answer too")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, argv...)
	cmd.Env = []string{child + "=" + mode}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestKernelProbes: the kernel takes the program, and refuses with it what it took before.
func TestKernelProbes(t *testing.T) {
	if out, err := filtered(t, "probe", "/bin/true"); err != nil || out != "" {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestKernelPrograms: programs run under the filter, with threads, pipes, children, sockets and terminals.
func TestKernelPrograms(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := `set -e
		echo one | cat | tr a-z A-Z; (exit 3) || echo $?
		ls -l / > /dev/null; id > /dev/null; stty -a < /dev/null 2> /dev/null || echo no tty
		d=$(mktemp -d); mknod $d/p p; echo x > $d/f; chmod 600 $d/f; mv $d/f $d/g; cat $d/g; rm -r $d
		! unshare --user true 2> /dev/null
		"$0" -test.run '^TestCombination$' > /dev/null; echo done`
	out, err := filtered(t, "run", "/bin/sh", "-c", script, self)
	if want := "ONE\n3\nno tty\nx\ndone\n"; err != nil || out != want {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestKernelX32: a number of x32 ends the process.
func TestKernelX32(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("x32 is an ABI of amd64")
	}
	_, err := filtered(t, "x32", "/bin/true")
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGSYS {
		t.Error(err)
	}
}

// program386 is an executable for 32-bit x86 that makes one system call and exits with the errno. The call is given the
// address of words as its second argument if that is 0.
func program386(number, first, second uint32, words ...uint32) []byte {
	const base, entry = 0x08048000, 52 + 32
	code := func(words uint32) []byte {
		le := binary.LittleEndian
		b := le.AppendUint32([]byte{0xb8}, number)        // mov eax, number
		b = le.AppendUint32(append(b, 0xbb), first)       // mov ebx, first
		b = le.AppendUint32(append(b, 0xb9), words)       // mov ecx, second
		b = append(b, 0x31, 0xd2, 0xcd, 0x80, 0xf7, 0xd8) // xor edx, edx; int 0x80; neg eax
		b = append(b, 0x89, 0xc3)                         // mov ebx, eax
		b = le.AppendUint32(append(b, 0xb8), 1)           // mov eax, exit
		return append(b, 0xcd, 0x80)                      // int 0x80
	}
	size := uint32(entry + len(code(0)))
	if second == 0 {
		second = base + size
	}
	size += uint32(4 * len(words))
	var b bytes.Buffer
	b.WriteString("\x7fELF\x01\x01\x01" + strings.Repeat("\x00", 9))
	for _, v := range []any{
		[2]uint16{2, 3}, [5]uint32{1, base + entry, 52, 0, 0}, [6]uint16{52, 32, 1}, // executable, i386, one segment
		[8]uint32{1, 0, base, base, size, size, 5, 4096}, code(second), words, // loaded as a whole, to read and execute
	} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			return nil
		}
	}
	return b.Bytes()
}

// TestKernel32: the filter holds for the other ABI too, and AF_ALG cannot be had through socketcall(2).
func TestKernel32(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the program is for x86")
	}
	cases := []struct {
		name          string
		program       []byte
		before, after syscall.Errno
	}{
		{"socketcall socket AF_ALG", program386(102, 1, 0, unix.AF_ALG, 99, 0), syscall.EINVAL, syscall.EPERM},
		{"socketcall bind", program386(102, 2, 0, 1<<30, 0, 0), syscall.EBADF, syscall.EBADF},
		{"socket AF_ALG", program386(359, unix.AF_ALG, 99), syscall.EINVAL, syscall.EPERM},
		{"socket AF_UNIX", program386(359, unix.AF_UNIX, 99), syscall.EINVAL, syscall.EINVAL},
		{"unshare", program386(310, 0, 1), 0, syscall.EPERM},
	}
	for _, c := range cases {
		path := filepath.Join(t.TempDir(), "program")
		if err := os.WriteFile(path, c.program, 0o755); err != nil {
			t.Fatal(err)
		}
		status := func(err error) syscall.Errno {
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				return syscall.Errno(exit.ExitCode())
			}
			if errors.Is(err, syscall.ENOEXEC) {
				t.Skip("this kernel runs no 32-bit programs")
			}
			return 0
		}
		if before := status(exec.Command(path).Run()); before != c.before {
			t.Errorf("%s: %d without a filter, want %d", c.name, before, c.before)
		}
		if _, err := filtered(t, "run", path); status(err) != c.after {
			t.Errorf("%s: %v, want %d", c.name, err, c.after)
		}
	}
}

package seccomp

import (
	"bytes"
	"flag"
	"fmt"
	"go/build"
	"go/format"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write syscall_table.go anew")

// sources are the ABIs whose numbers golang.org/x/sys has, by its name for them, in the order of the columns. x32 is made
// from amd64.
var sources = []string{"amd64", "386", "x32", "arm64", "arm"}

// onlyX32 are the system calls that have numbers of their own for x32 from 512 on, in order. The kernel adds no more of them.
var onlyX32 = strings.Fields(`rt_sigaction rt_sigreturn ioctl readv writev recvfrom sendmsg recvmsg execve ptrace rt_sigpending
	rt_sigtimedwait rt_sigqueueinfo sigaltstack timer_create mq_notify kexec_load waitid set_robust_list get_robust_list vmsplice
	move_pages preadv pwritev rt_tgsigqueueinfo recvmmsg sendmmsg process_vm_readv process_vm_writev setsockopt getsockopt
	io_setup io_submit execveat preadv2 pwritev2`)

// notX32 are those that x32 programs do not have.
var notX32 = strings.Fields(`_sysctl create_module epoll_ctl_old epoll_wait_old get_kernel_syms get_thread_area nfsservctl
	query_module set_thread_area uprobe uretprobe uselib vserver`)

// onlyARM are calls of 32-bit ARM that its unistd.h defines apart, and one under the name that profiles use (libseccomp's).
var onlyARM = map[string]int{"breakpoint": 0xf0001, "cacheflush": 0xf0002, "usr26": 0xf0003, "usr32": 0xf0004,
	"set_tls": 0xf0005, "get_tls": 0xf0006, "sync_file_range2": 341}

// TestTable: the table says what the kernel headers say from which the golang.org/x/sys of this build was made. After an
// update of x/sys, `go generate ./engine/seccomp` brings it up to date.
func TestTable(t *testing.T) {
	want, err := makeTable()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("syscall_table.go", want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile("syscall_table.go"); err != nil || !bytes.Equal(have, want) {
		t.Errorf("syscall_table.go is not what golang.org/x/sys says (%v): run go generate", err)
	}
}

func makeTable() ([]byte, error) {
	pkg, err := build.Import("golang.org/x/sys/unix", ".", build.FindOnly)
	if err != nil {
		return nil, err
	}
	rows := map[string]*[5]int{}
	newest := 0
	set := func(name string, column, number int) {
		if rows[name] == nil {
			rows[name] = &[5]int{-1, -1, -1, -1, -1}
		}
		rows[name][column] = number
		if number < 0xf0000 && column != 2 {
			newest = max(newest, number)
		}
	}
	line := regexp.MustCompile(`(?m)^\s*SYS_(\w+)\s*=\s*(\d+)$`)
	for column, arch := range sources {
		if arch == "x32" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(pkg.Dir, "zsysnum_linux_"+arch+".go"))
		if err != nil {
			return nil, err
		}
		for _, m := range line.FindAllStringSubmatch(string(text), -1) {
			name := strings.ToLower(m[1])
			number, err := strconv.Atoi(m[2])
			// The first two are not system calls, the third is another name for one: a number has one name here.
			if err != nil || name == "syscall_mask" || name == "arch_specific_syscall" || name == "arm_sync_file_range" {
				continue
			}
			set(name, column, number)
			if arch == "amd64" && !slices.Contains(notX32, name) && !slices.Contains(onlyX32, name) {
				set(name, 2, number)
			}
		}
	}
	for i, name := range onlyX32 {
		set(name, 2, 512+i)
	}
	for name, number := range onlyARM {
		set(name, 4, number)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, `// Code generated from golang.org/x/sys/unix by go generate; DO NOT EDIT.

package seccomp

//go:generate go test -run ^TestTable$ . -args -update

// newest is the highest number of a system call. All ABIs count alike since Linux 5.1.
const newest = %d

var syscalls = []row{
`, newest)
	for column := range sources {
		have := map[int]string{}
		for name, numbers := range rows {
			if n := numbers[column]; n >= 0 && have[n] != "" {
				return nil, fmt.Errorf("%s: %s and %s are both %d", sources[column], name, have[n], n)
			} else {
				have[n] = name
			}
		}
	}
	names := make([]string, 0, len(rows))
	for name := range rows {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&out, "\t{%q, [5]int32{%s}},\n", name, strings.Trim(strings.ReplaceAll(fmt.Sprint(*rows[name]), " ", ", "), "[]"))
	}
	out.WriteString("}\n")
	return format.Source(out.Bytes())
}

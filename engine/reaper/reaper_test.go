package reaper

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestProgram: the file is one that tools understand, and is as small as it is said to be.
func TestProgram(t *testing.T) {
	b := Program()
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Progs) != 2 || f.Progs[0].Flags != elf.PF_R|elf.PF_X || f.Progs[1].Type != elf.PT_GNU_STACK || f.Progs[1].Flags != elf.PF_R|elf.PF_W {
		t.Errorf("%+v", f.Progs)
	}
	if f.Entry != loadAt+codeAt || f.Progs[0].Filesz != uint64(len(b)) {
		t.Errorf("entry %#x, %d of %d bytes", f.Entry, f.Progs[0].Filesz, len(b))
	}
	if len(b) > 600 || bytes.Contains(b, []byte("\x00ctrfs\x00")) {
		t.Errorf("%d bytes, which may not be the code alone", len(b))
	}
	t.Logf("%d bytes", len(b))
}

// parent makes a child that runs a shell's text, and becomes what it is to test. Signals are blocked, as launch does it.
const parent = `
import ctypes, os, signal, sys
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: it adopts those whose parents die, as PID 1 of a namespace does
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
child = os.fork()
if child == 0:
	signal.pthread_sigmask(signal.SIG_SETMASK, [])
	os.execv("/bin/sh", ["sh", "-c", sys.argv[2]])
os.execv(sys.argv[1], ["ctrfs-init", "%010d" % child])
`

// running is a reaper over a shell's text.
type running struct {
	*exec.Cmd
	out string // the file that it writes to
}

// start starts one.
func start(t *testing.T, text string) *running {
	t.Helper()
	f, err := File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	r := &running{out: out.Name()}
	r.Cmd = exec.Command("python3", "-c", parent, "/proc/self/fd/3", text)
	r.ExtraFiles = []*os.File{f}
	r.Stdout, r.Stderr = out, out
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Process.Kill(); r.Wait() })
	for end := time.Now().Add(10 * time.Second); r.name() != Name; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it is called %q; it wrote %s", r.name(), r.written())
		}
		if _, _, ended := r.ended(); ended {
			break
		}
	}
	return r
}

func (r *running) file(name string) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", r.Process.Pid, name))
	return string(text)
}

func (r *running) name() string { return strings.TrimSuffix(r.file("comm"), "\n") }

// ended looks at a process that may have ended, and leaves it there.
func (r *running) ended() (status syscall.WaitStatus, name string, yes bool) {
	_, rest, _ := strings.Cut(r.file("stat"), ") ")
	if !strings.HasPrefix(rest, "Z") {
		return 0, "", false
	}
	fields := strings.Fields(rest)
	var n uint32
	fmt.Sscan(fields[len(fields)-1], &n) // exit_code, proc_pid_stat(5)
	return syscall.WaitStatus(n), r.name(), true
}

// end waits for it, without taking it away.
func (r *running) end(t *testing.T) (syscall.WaitStatus, string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if status, name, yes := r.ended(); yes {
			return status, name
		}
		if time.Now().After(end) {
			t.Fatalf("it does not end; it wrote %s", r.written())
		}
	}
}

// TestEnd: it ends as its program does.
func TestEnd(t *testing.T) {
	for text, want := range map[string]syscall.WaitStatus{
		"exit 0": 0, "exit 7": 7 << 8, "exit 255": 255 << 8, "exit 143": 143 << 8,
		"kill -TERM $$": 15, "kill -KILL $$": 9, "kill -HUP $$": 1, "kill -64 $$": 64,
	} {
		r := start(t, text)
		status, name := r.end(t)
		if got := EndedBy(status, name); got != want {
			t.Errorf("%s: status %#x of %q is %#x, wanted %#x", text, status, name, got, want)
		}
		if want != 0 && want < 128 && status != (128+want)<<8 {
			t.Errorf("%s: status %#x, for those who do not know the name", text, status)
		}
	}
	for _, c := range []struct {
		status syscall.WaitStatus
		name   string
	}{{143 << 8, "sh"}, {143 << 8, "ended by!"}, {143 << 8, "ended by"}, {15, "ended by/"}, {7 << 8, "ended by\xff"}, {142 << 8, "ended by/"}} {
		if got := EndedBy(c.status, c.name); got != c.status {
			t.Errorf("%#x of %q is taken for %#x", c.status, c.name, got)
		}
	}
}

// TestSignals: every signal that a program can handle gets through, once, and none ends the reaper.
func TestSignals(t *testing.T) {
	const names = "HUP INT QUIT USR1 USR2 PIPE ALRM TERM URG WINCH TSTP TTIN TTOU CONT"
	var traps strings.Builder
	for name := range strings.FieldsSeq(names) {
		fmt.Fprintf(&traps, "trap 'echo got %s' %s\n", name, name)
	}
	r := start(t, traps.String()+"trap 'exit 9' SYS; echo up; while :; do sleep 0.01; done")
	waitFor(t, r, "up\n")
	for name := range strings.FieldsSeq(names) {
		r.Process.Signal(unix.SignalNum("SIG" + name))
		waitFor(t, r, "got "+name+"\n")
	}
	r.Process.Signal(syscall.SIGSTOP) // which nobody can block
	time.Sleep(20 * time.Millisecond)
	r.Process.Signal(syscall.SIGCONT)
	r.Process.Signal(syscall.SIGSYS)
	if status, _ := r.end(t); status != 9<<8 {
		t.Errorf("status %#x", status)
	}
	if n := strings.Count(r.written(), "got "); n < 14 || n > 15 { // CONT twice
		t.Errorf("%d signals:\n%s", n, r.written())
	}
}

func (r *running) written() string {
	text, _ := os.ReadFile(r.out)
	return string(text)
}

func waitFor(t *testing.T, r *running, text string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !strings.Contains(r.written(), text); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%q does not come:\n%s", text, r.written())
		}
	}
}

// TestSmall: what it costs, and what it has.
func TestSmall(t *testing.T) {
	r := start(t, "exec sleep 1000")
	var kilobytes int
	for line := range strings.Lines(r.file("status")) {
		fmt.Sscanf(line, "VmRSS: %d kB", &kilobytes)
	}
	if kilobytes == 0 || kilobytes > 300 {
		t.Errorf("%d kB are resident:\n%s", kilobytes, r.file("status"))
	}
	t.Logf("%d kB are resident", kilobytes)
	r.Process.Signal(syscall.SIGTERM)
	r.end(t)
}

// TestOrphans: what its program leaves behind is waited for, whenever it ends, and together as well as one by one.
func TestOrphans(t *testing.T) {
	r := start(t, "for i in 1 2 3 4 5 6 7 8; do (sleep 0.0$i & sleep 0.03 & true); done; echo up; exec sleep 1000")
	waitFor(t, r, "up\n")
	children := func() []string { return strings.Fields(r.file(fmt.Sprintf("task/%d/children", r.Process.Pid))) }
	if n := len(children()); n < 2 {
		t.Fatalf("%d children: it has adopted none", n)
	}
	for end := time.Now().Add(10 * time.Second); len(children()) > 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("children %v", children())
		}
	}
	r.Process.Signal(syscall.SIGTERM)
	if status, name := r.end(t); EndedBy(status, name) != 15 {
		t.Errorf("status %#x of %q", status, name)
	}
}

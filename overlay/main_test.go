package overlay

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// insideEnv tells the test binary that it is to be the program in a root. Its content is an [errand].
const insideEnv = "CTRFS_OVERLAY_TEST_ERRAND"

// errand is what a child process is to do: attach the mounts that it inherits, from descriptor 3 on, at the targets,
// make the first its root, and perform the operations there. Without targets it stays in the host's tree, in a mount
// namespace of its own.
type errand struct {
	At      string // an empty directory to attach the root at
	Targets []string
	Ops     []string
}

// privateEnv tells the test binary that its mount namespace is its own.
const privateEnv = "CTRFS_OVERLAY_TEST_PRIVATE"

// TestMain also checks that no test leaves a mount or a descriptor behind. With the rights to, it runs the tests in a
// mount namespace of their own, since others may mount things at the same time.
func TestMain(m *testing.M) {
	if text := os.Getenv(insideEnv); text != "" {
		inside(text)
		return
	}
	if os.Geteuid() == 0 && os.Getenv(privateEnv) == "" {
		os.Exit(again())
	}
	if os.Getenv(privateEnv) != "" {
		dropFUSE()
	}
	// The first use makes descriptors that stay (epoll, urandom); they are not leaks.
	os.Pipe()
	mounts, fds := mountTable(), openFiles()
	code := m.Run()
	if after := mountTable(); after != mounts {
		fmt.Printf("FAIL: the mount table has changed:\n%s\n", after)
		code = 1
	}
	if after := openFiles(); len(after) > len(fds) {
		fmt.Printf("FAIL: descriptors have leaked:\nbefore %v\nafter  %v\n", fds, after)
		code = 1
	}
	os.Exit(code)
}

// again runs the test binary once more, in a mount namespace of its own, and returns its exit code.
func again() int {
	runtime.LockOSThread() // the child would die with the thread, Pdeathsig
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), privateEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); cmd.ProcessState == nil {
		fmt.Println("FAIL:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

// dropFUSE unmounts what others serve from the tests' own namespace: it would go when they remove the directory
// beneath, and until then we would keep their servers from ending.
func dropFUSE() {
	for line := range strings.Lines(mountTable()) {
		if strings.Contains(line, " - fuse") {
			unix.Unmount(strings.Fields(line)[4], unix.MNT_DETACH)
		}
	}
}

func mountTable() string {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	return string(text)
}

// openFiles lists what this process has open, the runtime's own and the listing's left out.
func openFiles() []string {
	entries, _ := os.ReadDir("/proc/self/fd")
	var names []string
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.HasPrefix(to, "anon_inode:[event") && !strings.HasPrefix(to, "/proc/") {
			names = append(names, to)
		}
	}
	return names
}

// needRoot skips a test that makes mounts when nobody may; a CI without root is a mistake.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("needs root, and CI is set")
	}
	t.Skip("needs root to make mounts")
}

// newStore opens a store on a disk that can hold layers, and checks at the end that it closes and holds nothing back.
func newStore(t testing.TB) *Store {
	t.Helper()
	needRoot(t)
	s, err := Open(filepath.Join(tempDir(t), "state"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Flush(t.Context()), s.Close()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	return s
}

// tempDir is t.TempDir, but never on an overlay, where no layer can be: a CI's own container may be on one.
func tempDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type != unix.OVERLAYFS_SUPER_MAGIC {
		return dir
	}
	dir, err := os.MkdirTemp("/dev/shm", "ctrfs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// makeTree makes a directory with files: name → content; a name that ends in "/" is a directory, a content that starts
// with "->" a link.
func makeTree(t testing.TB, dir string, files map[string]string) string {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, link := strings.CutPrefix(content, "->"); link {
			err = os.Symlink(target, path)
		} else if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o755)
		} else {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// in runs operations inside a root, in a process and a mount namespace of their own, and returns a line of outcome for
// each.
func in(t testing.TB, r *Root, ops ...string) []string {
	t.Helper()
	return inWith(t, r, exec.Command("/proc/self/exe"), ops)
}

func inWith(t testing.TB, r *Root, cmd *exec.Cmd, ops []string) []string {
	t.Helper()
	e := errand{At: tempDir(t), Ops: ops}
	for _, m := range r.Mounts {
		e.Targets = append(e.Targets, m.Target)
		cmd.ExtraFiles = append(cmd.ExtraFiles, m.File)
	}
	return runErrand(t, cmd, e)
}

func runErrand(t testing.TB, cmd *exec.Cmd, e errand) []string {
	t.Helper()
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	// A race detector that has found nothing need not linger for a second.
	cmd.Env = []string{insideEnv + "=" + string(text), "PATH=/usr/bin:/bin", "GORACE=atexit_sleep_ms=0"}
	cmd.Stderr = os.Stderr
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWNS // and Go makes everything private
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the child in the root: %v\n%s", err, out)
	}
	var lines []string
	if err := json.Unmarshal(out, &lines); err != nil {
		t.Fatalf("the child in the root: %v\n%s", err, out)
	}
	return lines
}

// expect compares outcomes with what is wanted, op by op.
func expect(t testing.TB, r *Root, script [][2]string) {
	t.Helper()
	var ops []string
	for _, line := range script {
		ops = append(ops, line[0])
	}
	compare(t, script, in(t, r, ops...))
}

func compare(t testing.TB, script [][2]string, outcomes []string) {
	t.Helper()
	for i, got := range outcomes {
		if got != script[i][1] {
			t.Errorf("%s: got %q, want %q", script[i][0], got, script[i][1])
		}
	}
}

// inside is the child's main.
func inside(text string) {
	var e errand
	err := json.Unmarshal([]byte(text), &e)
	if err == nil && len(e.Targets) > 0 {
		err = e.enter()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var lines []string
	for _, op := range e.Ops {
		verb, rest, _ := strings.Cut(op, " ")
		out, err := operations[verb](rest)
		if err != nil {
			out = errName(err)
		}
		lines = append(lines, out)
	}
	json.NewEncoder(os.Stdout).Encode(lines)
}

// enter does with the mounts what a launch does.
func (e errand) enter() error {
	for i, target := range e.Targets {
		at := e.At
		if i > 0 {
			root, err := unix.Open(e.At, unix.O_PATH, 0)
			if err != nil {
				return err
			}
			fd, err := unix.Openat2(root, target, &unix.OpenHow{Flags: unix.O_PATH, Resolve: unix.RESOLVE_IN_ROOT})
			if err != nil {
				return fmt.Errorf("target %s: %w", target, err)
			}
			at = "/proc/self/fd/" + strconv.Itoa(fd)
		}
		if err := unix.MoveMount(3+i, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS); err != nil {
			return fmt.Errorf("move_mount to %s: %w", target, err)
		}
	}
	if err := os.Chdir(e.At); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	return unix.Unmount(".", unix.MNT_DETACH)
}

func errName(err error) string {
	if no, ok := errors.AsType[syscall.Errno](err); ok {
		return unix.ErrnoName(no)
	}
	return err.Error()
}

// operations are what an errand can ask for: verb → what it does with the rest of the line. The empty outcome is
// success.
var operations map[string]func(string) (string, error)

func init() { operations = verbs } // some of them refer to it

var verbs = map[string]func(string) (string, error){
	"read": func(path string) (string, error) {
		text, err := os.ReadFile(path)
		return string(text), err
	},
	"write": func(rest string) (string, error) {
		path, text, _ := strings.Cut(rest, " ")
		return "", os.WriteFile(path, []byte(text), 0o644)
	},
	// writable asks and does not try: where the answer is wrong, it would be the host that is written to.
	"writable": func(path string) (string, error) { return "", unix.Access(path, unix.W_OK) },
	"rm":       func(path string) (string, error) { return "", os.RemoveAll(path) },
	"mkdir":    func(path string) (string, error) { return "", os.Mkdir(path, 0o755) },
	"null": func(path string) (string, error) {
		return "", unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
	},
	"open": func(path string) (string, error) {
		f, err := os.Open(path)
		f.Close()
		return "", err
	},
	"ls": func(path string) (string, error) {
		entries, err := os.ReadDir(path)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		slices.Sort(names)
		return strings.Join(names, " "), err
	},
	"stat": func(path string) (string, error) {
		var st unix.Stat_t
		err := unix.Lstat(path, &st)
		return fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid), err
	},
	"chown": func(rest string) (string, error) {
		var path string
		var uid, gid int
		fmt.Sscan(rest, &path, &uid, &gid)
		return "", os.Lchown(path, uid, gid)
	},
	"setid": func(path string) (string, error) { return "", unix.Chmod(path, 0o4755) },
	"link": func(rest string) (string, error) {
		from, to, _ := strings.Cut(rest, " ")
		return "", os.Link(from, to)
	},
	"attr": func(path string) (string, error) {
		value := make([]byte, 100)
		n, err := unix.Getxattr(path, "user.test", value)
		return string(value[:max(n, 0)]), err
	},
	"setattr": func(rest string) (string, error) {
		path, value, _ := strings.Cut(rest, " ")
		return "", unix.Setxattr(path, "user.test", []byte(value), 0)
	},
	// as does an operation with the ids of a user: "as 1000 write /x y".
	"as": func(rest string) (string, error) {
		var id int
		var verb string
		fmt.Sscan(rest, &id, &verb)
		_, op, _ := strings.Cut(rest, verb+" ")
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer unix.Setfsgid(0)
		defer unix.Setfsuid(0)
		unix.Setfsgid(id)
		unix.Setfsuid(id)
		return operations[verb](op)
	},
	"euid": func(string) (string, error) { return strconv.Itoa(os.Geteuid()), nil },
	// euid-as runs a program as a user, and says who it is then.
	"euid-as": func(rest string) (string, error) {
		var id uint32
		var program string
		fmt.Sscan(rest, &id, &program)
		cmd := exec.Command(program)
		cmd.Env = []string{insideEnv + `={"Ops":["euid"]}`}
		cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
		out, err := cmd.Output()
		return strings.Trim(string(out), "[\"]\n"), err
	},
	"layered": func(path string) (string, error) {
		var fs unix.Statfs_t
		err := unix.Statfs(path, &fs)
		return fmt.Sprint(fs.Type == unix.OVERLAYFS_SUPER_MAGIC), err
	},
	"flags": func(path string) (string, error) {
		var fs unix.Statfs_t
		err := unix.Statfs(path, &fs)
		var on []string
		for i, name := range []string{"ro", "nosuid", "nodev", "noexec"} {
			if fs.Flags&(1<<i) != 0 {
				on = append(on, name)
			}
		}
		return strings.Join(on, " "), err
	},
	"mounts": func(string) (string, error) {
		if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
			return "", err
		}
		return mountTable(), nil
	},
	"sh": func(script string) (string, error) {
		cmd := exec.Command("/bin/sh", "-c", script)
		cmd.Env = []string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin"}
		cmd.Stdin = os.Stdin // there is no /dev/null
		out, err := cmd.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
		return strings.TrimSuffix(string(out), "\n"), nil
	},
	"fuse":      silentFUSE,
	"fuse-bind": silentBind,
	"sleep": func(string) (string, error) {
		_, err := os.Stdin.Read(make([]byte, 1))
		return "", err
	},
}

package fs

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// mounted is a tree on a real mount, with the engine behind it.
type mounted struct {
	*testing.T
	*memEngine
	dir    string
	server *Server
	log    *diary
}

// diary is what the server logged.
type diary struct {
	mu   sync.Mutex
	text []byte
}

func (d *diary) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.text = append(d.text, p...)
	return len(p), nil
}

// take returns the text and empties the diary.
func (d *diary) take() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	text := string(d.text)
	d.text = nil
	return text
}

// needFUSE skips a test where nothing can be mounted.
func needFUSE(t testing.TB) {
	t.Helper()
	why := ""
	if os.Geteuid() != 0 {
		why = "mounting needs root"
	} else if _, err := os.Stat("/dev/fuse"); err != nil {
		why = "there is no /dev/fuse"
	}
	need(t, why)
}

// needUsers skips a test where nobody but root gets as far as the mount.
func needUsers(t testing.TB, dir string) {
	t.Helper()
	for ; ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode()&1 == 0 {
			need(t, "other users may not enter "+dir)
		}
		if dir == "/" {
			return
		}
	}
}

// need skips a test, except in CI, where what it needs must be there.
func need(t testing.TB, missing string) {
	t.Helper()
	if missing != "" && os.Getenv("CI") != "" {
		t.Fatal(missing)
	} else if missing != "" {
		t.Skip(missing)
	}
}

// mount mounts a tree for a test, and sees to it that nothing of it is left behind.
func mount(t *testing.T) *mounted {
	t.Helper()
	needFUSE(t)
	m := &mounted{T: t, memEngine: newMemEngine(), dir: mountPoint(t), log: &diary{}}
	m.mount()
	t.Cleanup(func() { m.unmount() })
	return m
}

// mountPoint is a directory that everybody may enter.
func mountPoint(t testing.TB) string {
	dir := t.TempDir()
	for d := dir; strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (m *mounted) mount() {
	m.Helper()
	s, err := Mount(m.dir, m.memEngine, Options{Version: "ctrfs test", Logger: slog.New(slog.NewTextHandler(m.log, nil))})
	if err != nil {
		m.Fatal(err)
	}
	if err := s.poll(); err != nil {
		m.Fatal(err)
	}
	m.server = s
}

// pollfd is struct pollfd, poll(2).
type pollfd struct {
	fd              int32
	events, revents int16
}

// poll asks the mount for its device number and a file, and polls the file once: go-fuse answers that poll(2) is not offered, and the
// kernel does not ask again. A test in this process that opened a file of the mount would otherwise wait for us inside epoll_ctl(2)
// with the last processor (go-fuse, fuse/poll.go). The server itself never does that.
func (s *Server) poll() error {
	var st syscall.Stat_t
	if err := syscall.Stat(s.dir, &st); err != nil {
		return err
	}
	if st.Dev != s.dev {
		return fmt.Errorf("the device is %#x, not %#x", st.Dev, s.dev)
	}
	fd, err := syscall.Open(filepath.Join(s.dir, "version"), syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	p, now := pollfd{fd: int32(fd), events: 1}, syscall.Timespec{}
	_, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func (m *mounted) unmount() {
	m.Helper()
	if err := m.server.Unmount(); err != nil {
		m.Error(err)
	}
	if table, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(table), m.dir) {
		m.Errorf("the mount is left behind (%v)", err)
	}
	if text := m.log.take(); text != "" {
		m.Errorf("the server logged:\n%s", text)
	}
}

// run runs a script by a shell in the mount and returns what it printed and whether it succeeded.
func (m *mounted) run(shell, script string) (string, bool) {
	m.Helper()
	// The shell changes the directory itself: os/exec would in the forked child, while the parent waits for it.
	words := append(strings.Fields(shell), "-c", "cd "+m.dir+" || exit\n"+script)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

// runAs runs a script as an unprivileged user.
func (m *mounted) runAs(uid uint32, script string) (string, bool) {
	m.Helper()
	cmd := exec.Command("bash", "-c", "cd "+m.dir+" || exit\n"+script)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

// eventually waits for a script to print something.
func (m *mounted) eventually(script, want string) {
	m.Helper()
	out := ""
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if out, _ = m.run("dash", script); strings.Contains(out, want) {
			return
		}
	}
	m.Errorf("%s\nprinted %q\n want   %q in it", script, out, want)
}

// sh runs a script that must succeed and print want.
func (m *mounted) sh(script, want string) {
	m.Helper()
	m.in("dash", script, want)
}

func (m *mounted) in(shell, script, want string) {
	m.Helper()
	if out, ok := m.run(shell, script); out != want || !ok {
		m.Errorf("%s: %s\nprinted %q (success %v)\n want   %q", shell, script, out, ok, want)
	}
}

// fails runs a script that must fail and print want somewhere.
func (m *mounted) fails(script string, want ...string) {
	m.Helper()
	out, ok := m.run("bash", script)
	if ok {
		m.Errorf("%s\nsucceeded", script)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			m.Errorf("%s\nprinted %q\n want   %q in it", script, out, w)
		}
	}
}

// ends waits until the server has ended. It cannot while a mount namespace that somebody made meanwhile holds a copy.
func (m *mounted) ends() {
	m.Helper()
	done := make(chan bool)
	go func() { m.server.Wait(); close(done) }()
	select {
	case <-done:
		return
	case <-time.After(5 * time.Second):
	}
	tables, _ := filepath.Glob("/proc/[0-9]*/mountinfo")
	for _, name := range tables {
		if table, _ := os.ReadFile(name); strings.Contains(string(table), m.dir) {
			m.Skip(name + " holds a copy of the mount")
		}
	}
	m.Fatal("Wait does not return after the unmount")
}

// renameat2 is the system call, which package syscall has no function for. Its number is the architecture's.
func renameat2(from, to *byte, flags uintptr) syscall.Errno {
	number := map[string]uintptr{"amd64": 316, "arm64": 276}[runtime.GOARCH]
	here := -100 // AT_FDCWD
	_, _, errno := syscall.Syscall6(number, uintptr(here), uintptr(unsafe.Pointer(from)), uintptr(here), uintptr(unsafe.Pointer(to)), flags, 0)
	return errno
}

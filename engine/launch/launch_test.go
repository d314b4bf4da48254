package launch_test

import (
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/engine/plan"
	"github.com/ctrfs/ctrfs/engine/reaper"
	"github.com/ctrfs/ctrfs/netns"
)

// requireRoot stops a test that launches for real when nobody here may do that; in CI that is a failure.
func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("launching needs root, and CI has to have it")
	}
	t.Skip("launching needs root")
}

// hostTree returns a read-only detached clone of this machine's root directory: a root that has everything.
func hostTree(t testing.TB) *os.File {
	t.Helper()
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		t.Fatalf("open_tree /: %v", err)
	}
	f := os.NewFile(uintptr(fd), "root")
	t.Cleanup(func() { f.Close() })
	return f
}

// result is what became of a launch.
type result struct {
	err    error
	status syscall.WaitStatus
	output string
}

// try launches a configuration on the root and waits for its end.
func try(t testing.TB, c *engine.Config, root *os.File, limit time.Duration) result {
	t.Helper()
	return tryOn(t, c, plan.Host{}, root, limit)
}

// tryOn does so on a host with the given features.
func tryOn(t testing.TB, c *engine.Config, host plan.Host, root *os.File, limit time.Duration) result {
	t.Helper()
	dir := t.TempDir()
	host.Name, host.Cgroup, host.Mountpoint, host.LastCap, host.NoFile = "probe", "none", dir, 40, 4096
	host.Roots = []plan.Prepared{{Target: "/", Text: "the host's tree"}}
	host.Caps = launch.Bounding()
	steps, err := plan.Build(c, host)
	if err != nil {
		return result{err: err}
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	made, err := launch.Namespaces(2, testMap, testMap)
	if err != nil {
		t.Fatal(err)
	}
	defer made[0].Close()
	defer made[1].Close()
	files := launch.Files{Net: made[1], Roots: []*os.File{root}, Devices: nodes(t, c), Null: null, Log: log,
		Join: map[specs.LinuxNamespaceType]*os.File{specs.UserNamespace: made[0]}}
	if c.Init() {
		if files.Init, err = reaper.File(); err != nil {
			t.Fatal(err)
		}
		defer files.Init.Close()
	}
	if c.Namespace(specs.UserNamespace).Host {
		if files.Net, err = netns.New(); err != nil {
			t.Fatal(err)
		}
		defer files.Net.Close()
	}
	program, err := launch.Assemble(steps, files)
	if err != nil {
		return result{err: err}
	}
	var r result
	if failure, status := run(t, program, limit); failure != nil {
		r.err, r.status = failure, status
	} else {
		r.status = status
	}
	text, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	r.output = string(text)
	return r
}

// nodes takes the devices of a configuration.
func nodes(t testing.TB, c *engine.Config) []*os.File {
	t.Helper()
	devices, err := plan.Devices(&c.Spec)
	if err != nil {
		t.Fatal(err)
	}
	var all launch.Nodes
	defer all.Close()
	mounts, err := all.Take(devices, launch.IDs{UIDs: c.Spec.Linux.UIDMappings, GIDs: c.Spec.Linux.GIDMappings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, m := range mounts {
			m.Close()
		}
	})
	return mounts
}

// config is a container with the host's user namespace, so that roots need not be idmapped: that is package overlay's.
func config(args ...string) *engine.Config {
	c := engine.NewConfig()
	c.Spec.Process.Args = args
	c.Spec.Linux.Namespaces = slices.DeleteFunc(c.Spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.UserNamespace })
	return c
}

func TestProgramRunsAlone(t *testing.T) {
	requireRoot(t)
	script := `echo pid=$$; hostname; ls /proc | grep -c '^[0-9][0-9]*$'; grep -c : /proc/net/dev; ls /proc/self/fd | tr '\n' ' '
grep -e CapBnd -e CapEff -e CapInh -e NoNewPrivs /proc/self/status; pwd; echo $VAR; ulimit -n; umask; cat /proc/self/cgroup | head -1
ls -l /dev/null | cut -c1; wc -l < /proc/mounts; echo x > /proc/sysrq-trigger; exit 7`
	c := engine.NewConfig()
	c.Spec.Process.Args = []string{"sh", "-c", script}
	c.Spec.Process.Env = append(c.Spec.Process.Env, "VAR=value of it")
	c.Spec.Process.Cwd = "/usr/lib"
	r := try(t, c, hostTree(t), time.Minute)
	t.Logf("%+v", r)
	if r.err != nil || r.status.ExitStatus() != 7 {
		t.Fatalf("launch: %v, status %#x, output %q", r.err, r.status, r.output)
	}
	if !strings.HasPrefix(r.output, "pid=1\nprobe\n") {
		t.Errorf("not PID 1 of its own host: %q", r.output)
	}
}

func TestFailuresNameStepAndErrno(t *testing.T) {
	requireRoot(t)
	cases := []struct {
		name string
		c    *engine.Config
		want syscall.Errno
	}{
		{"no such program", config("no-such-program"), syscall.ENOENT},
		{"no such path", config("/no/such/program"), syscall.ENOENT},
		{"not executable", config("/etc/passwd"), syscall.EACCES},
		{"a directory", config("/etc"), syscall.EACCES},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := try(t, c.c, hostTree(t), time.Minute)
			var f *launch.Failure
			if !errors.As(r.err, &f) || f.Errno != c.want {
				t.Errorf("got %v, want a failure with %v", r.err, c.want)
			}
		})
	}
}

// hanging returns a program whose second step, a write to a full pipe, never ends.
func hanging(t *testing.T) *launch.Program {
	t.Helper()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pipe[0]) })
	full := os.NewFile(uintptr(pipe[1]), "pipe")
	t.Cleanup(func() { full.Close() })
	for {
		if _, err := unix.Write(pipe[1], make([]byte, 4096)); err != nil {
			break
		}
	}
	if err := unix.SetNonblock(pipe[1], false); err != nil {
		t.Fatal(err)
	}
	steps := []plan.Step{plan.Clone{}, plan.JoinCgroup{}, plan.Exec{Candidates: []string{"/bin/true"}, Args: []string{"true"}}}
	program, err := launch.Assemble(steps, launch.Files{Tasks: []*os.File{full}})
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// TestHangingChildHoldsNobodyUp: while a child hangs, which borrows a thread of this process, goroutines run and the garbage
// collector, which stops the world, gets its turn.
func TestHangingChildHoldsNobodyUp(t *testing.T) {
	requireRoot(t)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	program := hanging(t)
	collected := make(chan time.Duration, 1)
	go func() {
		time.Sleep(50 * time.Millisecond) // the child hangs by now
		begin := time.Now()
		runtime.GC()
		collected <- time.Since(begin)
	}()
	failure, _ := run(t, program, time.Second)
	if failure == nil || failure.Errno != syscall.ETIMEDOUT {
		t.Fatalf("got %v, want ETIMEDOUT", failure)
	}
	select {
	case took := <-collected:
		if took > 500*time.Millisecond {
			t.Errorf("a collection took %v", took)
		}
	default:
		t.Error("no collection ended while the child was hanging")
	}
}

// TestSignalsReachTheProgram: what keeps signals from the child on its way is gone when it gets there, and so is what this
// process was started with by nohup or a script.
func TestSignalsReachTheProgram(t *testing.T) {
	requireRoot(t)
	ignored := []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTTOU}
	signal.Ignore(ignored...)
	defer signal.Reset(ignored...)
	steps := []plan.Step{plan.Clone{}, plan.Exec{Candidates: []string{"/bin/sh"},
		Args: []string{"sh", "-c", "grep -Eq '^Sig(Blk|Ign):.*[1-9a-f]' /proc/self/status && exit 1; exit 0"}}}
	program, err := launch.Assemble(steps, launch.Files{})
	if err != nil {
		t.Fatal(err)
	}
	if failure, status := run(t, program, 5*time.Second); failure != nil || status.ExitStatus() != 0 {
		t.Errorf("a signal is blocked or ignored: %v, status %d", failure, status.ExitStatus())
	}
}

// TestHangingChildIsKilled: a call that never ends does not hold the launch forever.
func TestHangingChildIsKilled(t *testing.T) {
	requireRoot(t)
	program := hanging(t)
	begin := time.Now()
	failure, status := run(t, program, 100*time.Millisecond)
	if failure == nil || failure.Errno != syscall.ETIMEDOUT || failure.Step != 1 {
		t.Errorf("got %v, want ETIMEDOUT at the second step", failure)
	}
	if status.Signal() != syscall.SIGKILL {
		t.Errorf("the child was not killed: %#x", status)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

// mapped maps an assembled program, as the keeper does.
func mapped(t testing.TB, program *launch.Program) *launch.Image {
	t.Helper()
	image, err := program.Encode()
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	var fds []int
	for _, f := range program.Files() {
		fds = append(fds, int(f.Fd()))
	}
	img, err := launch.Load(int(image.Fd()), fds)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// run launches an assembled program and waits for its end.
func run(t testing.TB, program *launch.Program, limit time.Duration) (*launch.Failure, syscall.WaitStatus) {
	t.Helper()
	img := mapped(t, program)
	defer img.Close()
	child, failed := img.Launch(limit)
	if child.PID == 0 {
		t.Fatal(failed)
	}
	defer unix.Close(child.PidFD)
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(child.PID, &status, 0, nil); err != nil {
		t.Fatal(err)
	}
	var f *launch.Failure
	errors.As(failed, &f)
	return f, status
}

// TestNulIsRefused: no value is cut at a NUL on its way to the kernel.
func TestNulIsRefused(t *testing.T) {
	for _, c := range []*engine.Config{config("sh\x00x"), config("sh", "a\x00b")} {
		steps, err := plan.Build(c, plan.Host{LastCap: 40, Roots: []plan.Prepared{{Target: "/"}}})
		if err != nil {
			t.Fatal(err)
		}
		null, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		files := launch.Files{Net: null, Roots: []*os.File{null}, Devices: slices.Repeat([]*os.File{null}, 6), Null: null, Log: null}
		program, err := launch.Assemble(steps, files)
		if err == nil {
			_, err = program.Encode()
		}
		if engine.Errno(err) != syscall.EINVAL {
			t.Errorf("%q: got %v, want EINVAL", c.Spec.Process.Args, err)
		}
	}
}

// FuzzMap maps damaged programs: they are refused, or at least lead nowhere outside of themselves.
func FuzzMap(f *testing.F) {
	program, err := launch.Assemble([]plan.Step{plan.Clone{}, plan.Session{}, plan.Hostname{Name: "x"},
		plan.Exec{Candidates: []string{"/bin/true"}, Args: []string{"true"}, Env: []string{"A=1"}}}, launch.Files{})
	if err != nil {
		f.Fatal(err)
	}
	image, err := program.Encode()
	if err != nil {
		f.Fatal(err)
	}
	defer image.Close()
	good := make([]byte, 1<<16)
	n, err := image.ReadAt(good, 0)
	if n == 0 {
		f.Fatal(err)
	}
	f.Add(good[:n], uint16(0), byte(0))
	f.Fuzz(func(t *testing.T, data []byte, at uint16, flip byte) {
		if int(at) < len(data) {
			data[at] ^= flip
		}
		fd, err := unix.MemfdCreate("fuzz", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if _, err := unix.Write(fd, data); err != nil {
			t.Fatal(err)
		}
		img, err := launch.Load(fd, nil)
		if err != nil {
			if engine.Errno(err) == syscall.EIO {
				t.Errorf("an error without an errno: %v", err)
			}
			return
		}
		img.Close()
	})
}

// BenchmarkLaunch is a launch without groups and overlay, to the reaped child.
func BenchmarkLaunch(b *testing.B) {
	requireRoot(b)
	for b.Loop() {
		b.StopTimer()
		root := hostTree(b)
		b.StartTimer()
		if r := try(b, config("/bin/true"), root, time.Minute); r.err != nil {
			b.Fatal(r.err)
		}
	}
}

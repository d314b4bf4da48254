package launch_test

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/launch"
	"github.com/ctrfs/ctrfs/engine/plan"
)

const testMap = "0 1900000000 65536\n"

// TestNamespaces: a program in them is root inside and nobody outside, and its network is its own to use.
func TestNamespaces(t *testing.T) {
	requireRoot(t)
	made, err := launch.Namespaces(2, testMap, testMap)
	if err != nil {
		t.Fatal(err)
	}
	user, net := made[0], made[1]
	defer user.Close()
	defer net.Close()
	steps := []plan.Step{plan.Fork{}, plan.Join{Type: specs.UserNamespace}, plan.Clone{Namespaces: []specs.LinuxNamespaceType{specs.PIDNamespace, specs.MountNamespace}},
		plan.BecomeRoot{}, plan.Guard{}, plan.Network{}, plan.Exec{Candidates: []string{"/bin/sh"}, Args: []string{"sh", "-c",
			`[ "$(id -u):$(id -g):$(id -G)" = 0:0:0 ] || exit 1; [ $$ = 1 ] || exit 2; read a b c < /proc/self/uid_map; [ "$b" = 1900000000 ] || exit 3
			grep -q 'lo:' /proc/net/dev || exit 4; grep -q 127.0.0.1 /proc/net/fib_trie || exit 5; exit 7`}}}
	program, err := launch.Assemble(steps, launch.Files{Net: net, Join: map[specs.LinuxNamespaceType]*os.File{specs.UserNamespace: user}})
	if err != nil {
		t.Fatal(err)
	}
	if failure, status := run(t, program, 5*time.Second); failure != nil || status.ExitStatus() != 7 {
		t.Errorf("%v, status %d", failure, status.ExitStatus())
	}
}

// TestUserNamespaceAlone: it needs no network namespace beside it, whose lo could not be brought up from it.
func TestUserNamespaceAlone(t *testing.T) {
	requireRoot(t)
	made, err := launch.Namespaces(1, testMap, testMap)
	if err != nil || len(made) != 1 {
		t.Fatal(made, err)
	}
	made[0].Close()
}

// TestNamespacesRefused: a mapping that the kernel does not take is an error, and nobody stays behind.
func TestNamespacesRefused(t *testing.T) {
	requireRoot(t)
	made, err := launch.Namespaces(4, "0 0\n", testMap)
	if engine.Errno(err) != syscall.EINVAL || made != nil {
		t.Errorf("got %v, want EINVAL", err)
	}
	if _, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("there is a child left: %v", err)
	}
}

// TestJoinFails: what fails in the first of two children is reported as from the second.
func TestJoinFails(t *testing.T) {
	requireRoot(t)
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	steps := []plan.Step{plan.Fork{}, plan.Join{Type: specs.UserNamespace}, plan.Clone{}, plan.Exec{Candidates: []string{"/bin/true"}, Args: []string{"true"}}}
	program, err := launch.Assemble(steps, launch.Files{Join: map[specs.LinuxNamespaceType]*os.File{specs.UserNamespace: null}})
	if err != nil {
		t.Fatal(err)
	}
	image, err := program.Encode()
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	img, err := launch.Load(int(image.Fd()), []int{int(null.Fd())})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	child, err := img.Launch(time.Second)
	if child.PID != 0 || engine.Errno(err) != syscall.EINVAL || !strings.Contains(err.Error(), "step 2") {
		t.Errorf("got child %d, %v", child.PID, err)
	}
}

func BenchmarkNamespaces(b *testing.B) {
	requireRoot(b)
	for b.Loop() {
		made, err := launch.Namespaces(2, testMap, testMap)
		if err != nil {
			b.Fatal(err)
		}
		for _, f := range made {
			f.Close()
		}
	}
}

// makerEnv makes this test program one that makes namespaces until it is killed.
const makerEnv = "CTRFS_TEST_MAKER"

// TestNamespacesOrphans: whoever is killed while it makes namespaces leaves nobody behind.
func TestNamespacesOrphans(t *testing.T) {
	requireRoot(t)
	if os.Getenv(makerEnv) != "" {
		for range 3 { // several at once, which have copies of each other's pipes
			go func() {
				for {
					made, err := launch.Namespaces(2, testMap, testMap)
					if err != nil {
						panic(err)
					}
					for _, f := range made {
						f.Close()
					}
				}
			}()
		}
		select {}
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	for i := range 40 {
		maker := exec.Command("/proc/self/exe", "-test.run", "^TestNamespacesOrphans$")
		maker.Env = append(os.Environ(), makerEnv+"=1")
		if err := maker.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(60*time.Millisecond + time.Duration(i)*137*time.Microsecond)
		maker.Process.Kill()
		maker.Wait()
	}
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if err == unix.ECHILD {
			return
		}
		if pid == 0 && time.Now().After(end) {
			t.Fatal("a child has outlived its parent")
		}
	}
}

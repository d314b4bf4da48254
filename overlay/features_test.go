package overlay

import (
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// userNamespace starts a child in a user namespace with these maps, and returns the namespace's descriptor.
func userNamespace(t testing.TB, uids, gids []syscall.SysProcIDMap) *os.File {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{insideEnv + `={"Ops":["sleep"]}`}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: uids, GidMappings: gids}
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Skip("no user namespaces here:", err)
	}
	defer cmd.Wait()
	defer in.Close()
	ns, err := os.Open("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func TestFeatures(t *testing.T) {
	s := newStore(t)
	container := syscall.SysProcIDMap{ContainerID: 0, HostID: 100000, Size: 65536}
	rootless := syscall.SysProcIDMap{ContainerID: 1, HostID: 100000, Size: 65536}
	for _, test := range []struct {
		ns   *os.File
		want string
	}{
		{nil, "unknown: there was no user namespace to try it with"},
		{userNamespace(t, []syscall.SysProcIDMap{container}, []syscall.SysProcIDMap{container}), "yes"},
		{userNamespace(t, []syscall.SysProcIDMap{rootless}, []syscall.SysProcIDMap{rootless}), "no: the user namespace has no root"},
	} {
		got := map[string]string{}
		for _, f := range s.Features(test.ns) {
			t.Log(f)
			got[f.Name] = strings.TrimSuffix(fmt.Sprintf("%s: %s", f.Value, f.Reason), ": ")
		}
		if got["overlay"] != "yes" || got["volatile"] != "yes" || !strings.HasPrefix(got["idmapped-overlay"], test.want) {
			t.Errorf("with %v: %v", test.ns, got)
		}
	}
	if left := inDir(t, s.state); !slices.Equal(left, []string{"containers", "host", "mnt", "trash"}) {
		t.Errorf("the state directory holds %v", left)
	}
}

// A root knows the contract, the kernel, and where a test may kill it, nothing else: engine/local composes it with cgroups, networks and launches.
func TestImports(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range file.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			known := []string{"golang.org/x/sys/unix", "github.com/ctrfs/ctrfs/engine", "github.com/ctrfs/ctrfs/engine/crash"}
			if strings.Contains(path, ".") && !slices.Contains(known, path) {
				t.Errorf("%s imports %s", name, path)
			}
		}
	}
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/seccomp"
)

// A peer is another way to run /bin/true from a root. prepare gets the root and an empty directory, and returns the
// arguments of one job; "ID" in them is replaced by a name that no other job has.
type peer struct {
	name    string
	prepare func(root, scratch string) ([]string, error)
	forget  []string // a command that removes what prepare has left with the runtime
}

// peers are tried in this order. Flags beyond the plain use of each have their reason beside them.
var peers = []peer{
	{name: "fork and exec", prepare: func(root, _ string) ([]string, error) {
		return []string{root + "/bin/true"}, nil
	}},
	{name: "unshare", prepare: func(root, _ string) ([]string, error) {
		return []string{"unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork", "chroot", root, "/bin/true"}, nil
	}},
	{name: "bwrap", prepare: func(root, _ string) ([]string, error) {
		return []string{"bwrap", "--unshare-all", "--ro-bind", root, "/", "--proc", "/proc", "--dev", "/dev", "/bin/true"}, nil
	}},
	{name: "crun", prepare: ociBundle("crun", nil)},
	{name: "runc", prepare: ociBundle("runc", nil)},
	{name: "crun, isolated as ctrfs", prepare: ociBundle("crun", isolate)},
	{name: "runc, isolated as ctrfs", prepare: ociBundle("runc", isolate)},
	{name: "lxc-execute", prepare: func(root, scratch string) ([]string, error) {
		config := "lxc.rootfs.path = dir:" + root + "\nlxc.net.0.type = empty\n"
		return []string{"lxc-execute", "-n", "ID", "-P", scratch, "-f", scratch + "/config", "--", "/bin/true"},
			os.WriteFile(scratch+"/config", []byte(config), 0o644)
	}},
	// Without systemd as PID 1 there is nobody to register with, nor to ask for a unit.
	{name: "systemd-nspawn", prepare: func(root, _ string) ([]string, error) {
		return []string{"systemd-nspawn", "--quiet", "-D", root, "--register=no", "--keep-unit", "--private-network", "/bin/true"}, nil
	}},
	// Its default limits are above what root may set without CAP_SYS_RESOURCE.
	{name: "podman", prepare: func(root, _ string) ([]string, error) {
		return []string{"podman", "run", "--rm", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024",
			"--rootfs", root, "/bin/true"}, nil
	}},
	{name: "docker", prepare: dockerImage, forget: []string{"docker", "rmi", image}},
}

func peerNames() []string {
	var names []string
	for _, p := range peers {
		names = append(names, p.name)
	}
	return names
}

// ociBundle has the runtime write its own default configuration, which is changed only in what to run, and by more.
func ociBundle(runtime string, more func(config map[string]any) error) func(root, scratch string) ([]string, error) {
	return func(root, scratch string) ([]string, error) {
		spec := exec.Command(runtime, "spec")
		spec.Dir = scratch
		if out, err := spec.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%w: %s", err, out)
		}
		file := scratch + "/config.json"
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var config map[string]any
		if err := json.Unmarshal(text, &config); err != nil {
			return nil, err
		}
		process, ok := config["process"].(map[string]any)
		if !ok {
			return nil, errors.New("its specification has no process")
		}
		process["args"], process["terminal"] = []string{"/bin/true"}, false
		config["root"] = map[string]any{"path": root, "readonly": true}
		if more != nil {
			if err := more(config); err != nil {
				return nil, err
			}
		}
		if text, err = json.Marshal(config); err != nil {
			return nil, err
		}
		return []string{runtime, "run", "--bundle", scratch, "ID"}, os.WriteFile(file, text, 0o644)
	}
}

// isolate adds what ctrfs does by default and others leave to an option: a user namespace of its own, with ids that nobody on
// the host has, and the filter of system calls. Both runtimes mask and drop the rest by themselves.
func isolate(config map[string]any) error {
	linux, ok := config["linux"].(map[string]any)
	if !ok {
		return errors.New("its specification has no linux")
	}
	var spec specs.Spec
	text, err := json.Marshal(config)
	if err == nil {
		err = json.Unmarshal(text, &spec)
	}
	if err != nil {
		return err
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	filter, err := seccomp.Default(spec.Process.Capabilities.Bounding, unix.ByteSliceToString(uts.Release[:]))
	if err != nil {
		return err
	}
	ids := []specs.LinuxIDMapping{{HostID: 1 << 30, Size: 65536}}
	linux["seccomp"], linux["uidMappings"], linux["gidMappings"] = filter, ids, ids
	linux["namespaces"] = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	return nil
}

const image = "ctrfs-bench"

func dockerImage(root, _ string) ([]string, error) {
	out, err := exec.Command("sh", "-c", `docker version >/dev/null && tar -C "$0" -c . | docker import - "$1"`, root, image).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	return []string{"docker", "run", "--rm", "--network", "none", image, "/bin/true"}, nil
}

// setUpPeers makes a contestant of every named peer that is installed. cleanUp takes back what they left with runtimes.
func setUpPeers(names []string, root, scratch string, do func(func())) (all []*contestant, cleanUp func()) {
	var undo [][]string
	for _, p := range peers {
		if !contains(names, p.name) {
			continue
		}
		c := &contestant{rows: []*row{{name: p.name}}}
		dir := filepath.Join(scratch, strings.ReplaceAll(p.name, " ", "-"))
		args, err := []string(nil), os.Mkdir(dir, 0o755)
		if err == nil {
			args, err = p.prepare(root, dir)
		}
		if errors.Is(err, exec.ErrNotFound) {
			continue
		}
		if err == nil {
			if _, missing := exec.LookPath(args[0]); missing != nil {
				continue
			}
			if p.forget != nil {
				undo = append(undo, p.forget)
			}
		}
		c.err, c.run = err, runner(p.name, args, do)
		all = append(all, c)
	}
	return all, func() {
		for _, args := range undo {
			exec.Command(args[0], args[1:]...).Run()
		}
	}
}

// contains tells whether a peer is asked for: by its name, or by that of its program.
func contains(names []string, name string) bool {
	program, _, _ := strings.Cut(name, ",")
	for _, n := range names {
		if n = strings.TrimSpace(n); n == name || n == program {
			return true
		}
	}
	return false
}

// runner runs the job of one peer, each time under a new name.
func runner(name string, args []string, do func(func())) func() ([]time.Duration, error) {
	jobs := 0
	return func() (times []time.Duration, err error) {
		jobs++
		id := fmt.Sprintf("ctrfs-bench-%d-%d", os.Getpid(), jobs)
		now := make([]string, len(args))
		for i, arg := range args {
			now[i] = strings.ReplaceAll(arg, "ID", id)
		}
		do(func() { times, err = timed(exec.Command(now[0], now[1:]...)) })
		return times, err
	}
}

// unified is where a hybrid host mounts the second version of cgroups beside the first.
const unified = "/sys/fs/cgroup/unified"

// apart returns a function that runs others on one thread with a mount namespace of its own. In it, the v2 hierarchy of a
// hybrid host is out of sight: crun, and with it podman, refuses to run where that hierarchy has a controller. On the host
// nothing is unmounted.
func apart() (do func(func()), stop func()) {
	work, done := make(chan func()), make(chan struct{})
	go func() {
		runtime.LockOSThread() // and never back: the thread ends with the goroutine
		if err := hideUnified(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: peers that refuse a hybrid host will fail:", err)
		}
		for f := range work {
			f()
			done <- struct{}{}
		}
	}()
	return func(f func()) { work <- f; <-done }, func() { close(work) }
}

func hideUnified() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if _, err := os.Stat(unified + "/cgroup.controllers"); err != nil {
		return nil
	}
	return unix.Unmount(unified, unix.MNT_DETACH)
}

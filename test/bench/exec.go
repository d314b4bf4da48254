package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// A second job: one more program in a container that runs. It is the same for everybody, /bin/true, and timed from the first call
// until its exit is known and nothing of it is left. For ctrfs that is
//
//	mkdir; write cmd; write start; read wait; rmdir
//
// in the container's directory exec. The ratios of its rows are to that.

// resident is what the container runs meanwhile.
const resident = "/bin/sleep 100000"

// enters are the contestants of the second job. cleanUp ends the containers.
func enters(dir, root, scratch string, names []string, apart func(func())) (all []*contestant, cleanUp func(), err error) {
	c := filepath.Join(dir, "bench-exec")
	if err := raw("mkdir", unix.SYS_MKDIRAT, c, 0o755); err != nil {
		return nil, nil, err
	}
	for _, s := range [][2]string{{"cmd", resident}, {"rootfs", root}, {"stop.timeout", "0"}, {"start", "1"}} {
		if err := put(c+"/"+s[0], s[1]+"\n"); err != nil {
			return nil, nil, reason(c, err)
		}
	}
	own := execThroughMount(c)
	own.rows[0].base = own.rows[0]
	all = append(all, own)
	undo := func() {}
	if contains(names, "crun") {
		var peer *contestant
		peer, undo = execOfCrun(root, scratch, apart)
		if peer != nil {
			peer.rows[0].base = own.rows[0]
			all = append(all, peer)
		}
	}
	return all, func() {
		undo()
		put(c+"/stop", "1\n")
		get(c + "/wait")
		os.Remove(c)
	}, nil
}

// execThroughMount does it by plain system calls, as throughMount does the first job.
func execThroughMount(c string) *contestant {
	jobs := 0
	return &contestant{
		rows: []*row{{name: "ctrfs exec"}, {name: "ctrfs exec: the write to start alone", parts: true}},
		run: func() ([]time.Duration, error) {
			jobs++
			x := fmt.Sprintf("%s/exec/%d", c, jobs)
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			begin := time.Now()
			if err := raw("mkdir", unix.SYS_MKDIRAT, x, 0o755); err != nil {
				return nil, err
			}
			if err := put(x+"/cmd", "/bin/true\n"); err != nil {
				return nil, reason(x, err)
			}
			launch := time.Now()
			if err := put(x+"/start", "1\n"); err != nil {
				return nil, reason(x, err)
			}
			launched := time.Since(launch)
			exit, err := get(x + "/wait")
			if err != nil || exit != "0\n" {
				return nil, reason(x, fmt.Errorf("wait reads as %q, %v", exit, err))
			}
			if err := raw("rmdir", unix.SYS_UNLINKAT, x, unix.AT_REMOVEDIR); err != nil {
				return nil, err
			}
			return []time.Duration{time.Since(begin), launched}, nil
		},
	}
}

// execOfCrun does it with crun, in a container that is isolated as ctrfs's. It is nil where there is no crun.
func execOfCrun(root, scratch string, apart func(func())) (c *contestant, undo func()) {
	undo = func() {}
	c = &contestant{rows: []*row{{name: "crun exec"}}}
	bundle := filepath.Join(scratch, "crun-exec")
	id := fmt.Sprintf("ctrfs-bench-%d-exec", os.Getpid())
	c.err = os.Mkdir(bundle, 0o755)
	if c.err == nil {
		_, c.err = ociBundle("crun", func(config map[string]any) error {
			process, ok := config["process"].(map[string]any)
			if !ok {
				return errors.New("its specification has no process")
			}
			process["args"] = []string{"/bin/sleep", "100000"}
			return isolate(config)
		})(root, bundle)
	}
	if errors.Is(c.err, exec.ErrNotFound) {
		return nil, undo
	}
	command := func(args ...string) (times []time.Duration, err error) {
		apart(func() { times, err = timed(exec.Command("crun", args...)) })
		return times, err
	}
	if c.err == nil {
		_, c.err = command("run", "--detach", "--bundle", bundle, id)
	}
	if c.err == nil {
		undo = func() { command("delete", "--force", id) }
	}
	c.run = func() ([]time.Duration, error) { return command("exec", id, "/bin/true") }
	return c, undo
}

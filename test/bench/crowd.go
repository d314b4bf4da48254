package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/test"
)

// counters are the kernel's files that one reading of a container's stats comes from, by the controller whose hierarchy holds
// them: those of v1, and those of v2, of which a hybrid host has the files of its v1 controllers only.
var counters = []struct {
	controller string
	v1, v2     []string
}{
	{"cpuacct", []string{"cpuacct.usage", "cpuacct.usage_user", "cpuacct.usage_sys"}, nil}, // only without v2
	{"cpu", []string{"cpu.stat"}, []string{"cpu.stat"}},
	{"memory", []string{"memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.stat", "memory.failcnt", "memory.oom_control"},
		[]string{"memory.current", "memory.peak", "memory.swap.current", "memory.events"}},
	{"pids", []string{"pids.current"}, []string{"pids.current"}},
	{"blkio", []string{"blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"}, nil},
	{"io", nil, []string{"io.stat"}},
}

// crowd measures what reading costs with n running containers: against the same files of the kernel, read by the same cat(1)
// or by the same system calls, and for those who start containers meanwhile.
func crowd(n, rounds int) (err error) {
	fs, err := test.Mount()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fs.Close()) }()
	root := fs.Base + "/root"
	if err := test.BusyboxRoot(root); err != nil {
		return err
	}
	var stats, kernel []string
	for i := range n {
		c := fmt.Sprintf("%s/c%04d", fs.Dir, i)
		if err := os.Mkdir(c, 0o755); err != nil {
			return err
		}
		for _, s := range [][2]string{{"cmd", "sleep 1000000"}, {"rootfs", root}, {"start", "1"}} {
			if err := put(c+"/"+s[0], s[1]+"\n"); err != nil {
				return reason(c, err)
			}
		}
		files, err := kernelFiles(c)
		if err != nil {
			return err
		}
		stats, kernel = append(stats, c+"/stats"), append(kernel, files...)
	}
	fmt.Printf("%d containers, %d files of the kernel\n", n, len(kernel))
	if err := readers(rounds, fs.Dir, stats, kernel); err != nil {
		return err
	}
	return starters(rounds*10, fs.Dir, root, stats)
}

// kernelFiles lists the files behind the stats of a running container.
func kernelFiles(c string) (files []string, err error) {
	pid, err := get(c + "/pid")
	if err != nil {
		return nil, err
	}
	groups, err := os.ReadFile("/proc/" + strings.TrimSpace(pid) + "/cgroup")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(groups)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		mount, v2, err := hierarchy(part[1])
		if err != nil {
			return nil, err
		}
		for _, k := range counters {
			names := k.v1
			if v2 {
				names = k.v2
			} else if !strings.Contains(","+part[1]+",", ","+k.controller+",") || part[2] == "/" {
				continue // of another controller, or a hierarchy that containers are not in
			}
			for _, name := range names {
				file := filepath.Join(mount, strings.TrimSuffix(part[2], "/_self"), name)
				if _, err := os.Stat(file); err == nil {
					files = append(files, file)
				}
			}
		}
	}
	return append(files, "/proc/"+strings.TrimSpace(pid)+"/net/dev"), nil
}

// hierarchy finds where the hierarchy with these controllers is mounted; no controllers are v2's.
func hierarchy(controllers string) (mount string, v2 bool, err error) {
	table, err := os.Open("/proc/self/mounts")
	if err != nil {
		return "", false, err
	}
	defer table.Close()
	for lines := bufio.NewScanner(table); lines.Scan(); {
		word := strings.Fields(lines.Text())
		options := "," + word[3] + ","
		if controllers == "" && word[2] == "cgroup2" || controllers != "" && word[2] == "cgroup" && strings.Contains(options, ","+controllers+",") {
			return word[1], word[2] == "cgroup2", nil
		}
	}
	return "", false, fmt.Errorf("no hierarchy has %q", controllers)
}

// readers lets all ways to read take turns, and compares them.
func readers(rounds int, dir string, stats, kernel []string) error {
	ways := []struct {
		name string
		run  func() error
		by   int // the way that it is compared with
		took []time.Duration
	}{
		{name: "the kernel's files, by cat", run: byCat(kernel)},
		{name: "the kernel's files, by system calls", run: byCalls(kernel), by: 1},
		{name: "cat */stats", run: byCat(stats)},
		{name: "*/stats, by system calls", run: byCalls(stats), by: 1},
		{name: "cat stats", run: byCat([]string{dir + "/stats"})},
		{name: "stats, by system calls", run: byCalls([]string{dir + "/stats"}), by: 1},
		{name: "cat metrics", run: byCat([]string{dir + "/metrics"})},
		{name: "cat ps", run: byCat([]string{dir + "/ps"})},
		{name: "ls -l", run: func() error { return quiet(exec.Command("ls", "-l", dir)) }},
	}
	for range rounds {
		for i := range ways {
			begin := time.Now()
			if err := ways[i].run(); err != nil {
				return fmt.Errorf("%s: %w", ways[i].name, err)
			}
			ways[i].took = append(ways[i].took, time.Since(begin))
		}
	}
	for _, w := range ways {
		base := ways[w.by].took
		fmt.Printf("%-40s %8s ms   %5.2f × %s\n", w.name, ms(at(w.took, 50)), float64(at(w.took, 50))/float64(at(base, 50)), ways[w.by].name)
	}
	return nil
}

func byCat(files []string) func() error {
	return func() error { return quiet(exec.Command("cat", files...)) }
}

// byCalls opens, reads to the end and closes each file, and does nothing else.
func byCalls(files []string) func() error {
	buffer := make([]byte, 1<<17)
	return func() error {
		for _, f := range files {
			fd, err := unix.Open(f, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return &os.PathError{Op: "open", Path: f, Err: err}
			}
			for n := 1; n > 0 && err == nil; {
				n, err = unix.Read(fd, buffer)
			}
			unix.Close(fd)
			if err != nil {
				return &os.PathError{Op: "read", Path: f, Err: err}
			}
		}
		return nil
	}
}

// quiet runs a command whose output goes to memory.
func quiet(cmd *exec.Cmd) error {
	_, err := timed(cmd)
	return err
}

// starters measures starts while somebody reads in a loop, and while nobody does, in turns.
func starters(n int, dir, root string, stats []string) error {
	loops := []struct {
		name  string
		files []string
		took  []time.Duration
	}{{name: "nobody reads"}, {name: "cat stats in a loop", files: []string{dir + "/stats"}}, {name: "cat */stats in a loop", files: stats},
		{name: "cat metrics in a loop", files: []string{dir + "/metrics"}}}
	job := throughMount("start", dir, root)
	for done := 0; done < n; done += burst {
		for i := range loops {
			stop := loop(loops[i].files)
			for range burst {
				times, err := job.run()
				if err != nil {
					return errors.Join(err, stop())
				}
				loops[i].took = append(loops[i].took, times[1])
			}
			if err := stop(); err != nil {
				return err
			}
		}
	}
	for _, l := range loops {
		fmt.Printf("start, while %-25s p50 %6s ms   p99 %6s ms   %5.2f ×\n", l.name, ms(at(l.took, 50)), ms(at(l.took, 99)),
			float64(at(l.took, 50))/float64(at(loops[0].took, 50)))
	}
	return nil
}

// loop reads the files again and again, by cat, until it is stopped.
func loop(files []string) (stop func() error) {
	if files == nil {
		return func() error { return nil }
	}
	var out bytes.Buffer
	cmd := exec.Command("sh", append([]string{"-c", `while cat "$@" > /dev/null; do :; done`, "sh"}, files...)...)
	cmd.Stderr = &out
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return func() error { return err }
	}
	time.Sleep(20 * time.Millisecond)
	return func() error {
		err := unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		cmd.Wait()
		if out.Len() > 0 {
			err = errors.New(out.String())
		}
		return err
	}
}

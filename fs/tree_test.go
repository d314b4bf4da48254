package fs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ctrfs/ctrfs/engine"
)

func TestTreeMakeAndRemove(t *testing.T) {
	m := mount(t)
	m.sh("mkdir a; mkdir -p pod/web/deep; ls -d [!in]*/ pod/*/ pod/web/*/", "a/\npod/\npod/exec/\npod/ns/\npod/web/\npod/web/deep/\npod/web/exec/\npod/web/ns/\n")
	m.sh("cat pod/web/deep/hostname; cat pod/web/deep/status | grep path", "deep\npath pod/web/deep\n")
	m.fails("rmdir pod/web", "busy")
	m.sh("cat pod/web/error", "rmdir web: the container is created; stop it first\n")
	m.sh("rmdir pod/web/deep pod/web pod; ls -d [!in]*/", "a/\n")
	m.sh("echo x > a/cmd; rmdir a; mkdir a; cat a/cmd; rmdir a", "\n") // a new one, though the name is the same
	m.sh("mkdir -p p/q; rm -r p; ls -d [!in]*/ 2> /dev/null || echo none", "none\n")
}

func TestTreeNames(t *testing.T) {
	m := mount(t)
	long := strings.Repeat("a", 63)
	for _, name := range []string{"a", "0", "A.b-c_d", long, "cmd"} { // cmd: no control file of the root
		m.sh("mkdir "+name+"; rmdir "+name, "")
	}
	for name, errno := range map[string]string{long + "a": "Invalid argument", ".hidden": "Invalid argument", "-- -x": "Invalid argument",
		"'a b'": "Invalid argument", "'a\nb'": "Invalid argument", "ä": "Invalid argument", "help": "File exists", "ps": "File exists"} {
		m.fails("mkdir "+name, errno)
	}
	m.sh("mkdir a", "")
	m.fails("mkdir a", "File exists")
	m.fails("mkdir a/cmd", "File exists")
	m.fails("mkdir no/a", "No such file")
}

func TestTreeRename(t *testing.T) {
	m := mount(t)
	m.sh("mkdir -p a pod; echo x > a/cmd; id=$(cat a/id); mv a b; [ $id = $(cat b/id) ] && cat b/cmd b/hostname; ls -d [!in]*/", "x\nb\nb/\npod/\n")
	m.sh("mv b pod; cat pod/b/status | grep path; mv pod/b c; ls -d [!in]*/", "path pod/b\nc/\npod/\n")
	m.fails("mv -T c pod", "File exists")
	m.fails("mv c/cmd c/foo", "not permitted")
	m.fails("mv c/cmd c/env", "not permitted")
	m.fails("mv c pod/_x", "itself") // how mv words EINVAL
	m.sh("cat c/error", `mkdir "_x": not a container name; use 1 to 63 of A-Z a-z 0-9 _ . -, starting with a letter or a digit`+"\n")
	m.fails("mv c c/d", "subdirectory of itself")
	m.fails("/usr/bin/python3 -c 'import os; os.rename(\"c\", \"pod/cmd\")'", "Not a directory")
	const exchange = 2
	path := func(name string) *byte { b, _ := syscall.BytePtrFromString(m.dir + "/" + name); return b }
	if errno := renameat2(path("c"), path("pod"), exchange); errno != syscall.EINVAL {
		t.Errorf("RENAME_EXCHANGE: %v", errno)
	}
	if errno := renameat2(path("c"), path("d"), renameNoReplace); errno != 0 {
		t.Errorf("RENAME_NOREPLACE: %v", errno)
	}
	m.sh("ls -d [!in]*/", "d/\npod/\n")
}

func TestTreeUnlink(t *testing.T) {
	m := created(t)
	m.sh("echo x > c/cmd; echo A=1 > c/env; echo 1G > c/memory.max; rm c/cmd c/env c/memory.max c/state c/start c/log; cat c/cmd c/env c/memory.max c/state",
		"\nPATH="+engine.DefaultPath+"\nmax\ncreated\n")
	m.sh("rm help; cat help | wc -l | grep -c .; ls c | wc -l", fmt.Sprintf("1\n%d\n", permanent()))
	m.sh("echo x > c/cmd; echo 1G > c/memory.max; echo 1 > c/start", "")
	m.fails("rm c/cmd", "busy")
	m.fails("rm c/memory.max", "busy") // live, but rm -r must not take the limits off
	m.sh("rm c/state; cat c/memory.max; echo KILL > c/kill; rm -rf c; ls -d c 2> /dev/null || echo gone", "1073741824\ngone\n")
}

// TestTreeLinks: ns is a part of the container like its files; the links in it come and go with what runs.
func TestTreeLinks(t *testing.T) {
	m := created(t)
	m.sh("ls -A c/ns; stat -c '%a %F %h' c/ns; [ $(stat -c %i c/ns) = $(ls -di c/ns | cut -d' ' -f1) ]", "555 directory 1\n")
	m.fails("mkdir c/ns", "File exists")
	m.fails("mv c/ns c/x", "not permitted")
	m.fails("mkdir d; mv -T d c/ns", "exists")
	for _, script := range []string{"mkdir c/ns/x", "touch c/ns/x", "ln -s a c/ns/x", "mknod c/ns/x p", "ln c/cmd c/ns/x"} {
		m.fails(script, "not permitted")
	}
	m.sh("rmdir d; echo true > c/cmd; echo 1 > c/start; ls c/ns; stat -c '%A %s' c/ns/net; readlink c/ns/net; ls -l c/ns > /dev/null",
		"cgroup\nipc\nmnt\nnet\npid\ntime\nuser\nuts\nlrwxrwxrwx 17\n/proc/self/ns/net\n")
	m.sh("[ $(stat -Lc %i c/ns/net) = $(stat -Lc %i /proc/self/ns/net) ] && nsenter --net=c/ns/net echo in", "in\n")
	m.fails("mv c/ns/net c/ns/x", "not permitted")
	m.sh("rm c/ns/net; readlink c/ns/net; rmdir c/ns; ls c/ns | wc -l; cat c/state", "/proc/self/ns/net\n8\nrunning\n")
	m.fails("readlink -v c/ns/nosuch", "No such file")
	m.sh("chown -R 65534 c; stat -c '%u %a' c/ns c/ns/net; chmod 700 c/ns; stat -c %a c/ns; chown -R 0 c", "65534 555\n65534 777\n700\n")
	m.sh("tar cf - c/ns | tar tf -", "c/ns/\nc/ns/pid\nc/ns/net\nc/ns/mnt\nc/ns/ipc\nc/ns/uts\nc/ns/user\nc/ns/cgroup\nc/ns/time\n")
	m.get("c").exit(0)
	m.sh("ls -A c/ns; readlink c/ns/net; rm -r c; ls -d c 2> /dev/null || echo gone", "gone\n")
}

// TestTreePermissions: the bits are kept by the engine and enforced by the kernel.
func TestTreePermissions(t *testing.T) {
	m := mount(t)
	needUsers(t, m.dir)
	const user = 65534
	as := func(script, want string) {
		t.Helper()
		if out, ok := m.runAs(user, script); out != want {
			t.Errorf("%s: %q, want %q (success %v)", script, out, want, ok)
		}
	}
	as("mkdir x 2>&1 | grep -o denied", "denied\n")
	m.sh("chmod 1777 .; stat -c %a .", "777\n") // permission bits only
	as("umask 027; mkdir x; stat -c '%a %u %g' x x/cmd x/state x/start", "750 65534 65534\n644 65534 65534\n444 65534 65534\n200 65534 65534\n")
	as("echo true > x/cmd && echo 1 > x/start && cat x/state; (cat x/start) 2>&1 | grep -o denied; (echo 1 > x/pid) 2>&1 | grep -o denied",
		"running\ndenied\ndenied\n")
	m.sh("mkdir -m 755 y; cat y/cmd", "\n")
	as("(echo x > y/cmd) 2>&1 | grep -o denied; (echo 1 > y/start) 2>&1 | grep -o denied; chmod 777 y 2>&1 | grep -o permitted",
		"denied\ndenied\npermitted\n")
	m.sh("chown 65534:7 y/cmd; chmod 620 y/cmd; stat -c '%a %u %g' y/cmd y/env", "620 65534 7\n644 0 0\n")
	as("echo mine > y/cmd; cat y/cmd; (echo A=1 > y/env) 2>&1 | grep -o denied", "mine\ndenied\n")
	m.sh("chown 65534 y; chmod 700 y; stat -c '%a %u' y y/env y/cmd", "700 65534\n644 65534\n620 65534\n")
	as("echo A=1 > y/env; chmod 600 y/env; chmod 0 y/cmd; (cat y/cmd) 2>&1 | grep -o denied; stat -c %a y/env y/cmd", "denied\n600\n0\n")
	m.sh("chmod 6755 y/env; stat -c %a y/env", "755\n")
	m.fails("chmod 600 help", "not permitted")
	m.sh("touch help y/env y; chmod 755 .", "")
	m.get("x").exit(0)
}

// TestTreeConcurrent works on the tree from many sides at once; the race detector watches.
func TestTreeConcurrent(t *testing.T) {
	m := created(t)
	m.sh("echo true > c/cmd; echo 1 > c/start", "")
	var wg sync.WaitGroup
	for _, script := range []string{
		"mkdir a$i && echo x > a$i/cmd && mv a$i b$i && rm -r b$i", "mkdir -p p$i/q && rmdir p$i/q p$i",
		"echo $i > c/pids.max && cat c/pids.max > /dev/null", "ls -lR > /dev/null; true", "cat ps stats c/ps c/status c/config.json > /dev/null",
		"timeout -s INT 0.02 cat c/wait; [ $? = 124 ]",
	} {
		wg.Add(1)
		go func() {
			defer wg.Done()
			loop := "for i in 1 2 3 4 5 6 7 8 9 10; do " + script + " || echo \"failed $i\"; done"
			if out, ok := m.run("bash", loop); !ok || strings.Contains(out, "failed") {
				t.Errorf("%s: %s", script, out)
			}
		}()
	}
	wg.Wait()
	m.get("c").exit(0)
}

func TestServer(t *testing.T) {
	m := created(t)
	var st syscall.Stat_t
	if err := syscall.Stat(m.dir+"/c", &st); err != nil || st.Dev != m.server.Device() {
		t.Errorf("device %d, want %d (%v)", m.server.Device(), st.Dev, err)
	}
	table, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(table)) {
		if words := strings.Fields(line); words[4] == m.dir {
			have := strings.Join([]string{words[5], words[len(words)-3], words[len(words)-2], words[len(words)-1]}, " ")
			want := "rw,nosuid,nodev,noexec,relatime fuse.ctrfs ctrfs rw,user_id=0,group_id=0,default_permissions,allow_other,max_read=16384"
			if have != want {
				t.Errorf("mounted as %s\nwant       %s", have, want)
			}
		}
	}
	f, err := os.Open(m.dir + "/c/wait")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.server.Unmount(); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("unmounting while a file is open: %v", err)
	}
	f.Close()
	for end := time.Now().Add(5 * time.Second); exec.Command("umount", m.dir).Run() != nil && time.Now().Before(end); {
	}
	old := *m
	m.mount() // for the cleanup
	old.ends()
}

// TestServerForced: a mount that is aborted under a blocked reader ends.
func TestServerForced(t *testing.T) {
	m := created(t)
	m.sh("echo true > c/cmd; echo 1 > c/start", "")
	cat := exec.Command("cat", m.dir+"/c/wait")
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	if err := m.server.Unmount(); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("unmounting under a reader: %v", err)
	}
	syscall.Unmount(m.dir, syscall.MNT_FORCE)
	syscall.Unmount(m.dir, syscall.MNT_DETACH)
	if err := cat.Wait(); err == nil {
		t.Error("cat succeeded")
	}
	m.server.Wait()
	m.mount()
	m.get("c").exit(0)
}

func TestMountRefused(t *testing.T) {
	needFUSE(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]syscall.Errno{file: syscall.ENOTDIR, file + ".none": syscall.ENOENT} {
		s, err := Mount(dir, newMemEngine(), Options{})
		if s != nil || engine.Errno(err) != want || !strings.Contains(fmt.Sprint(err), dir) {
			t.Errorf("%s: %v, want %v", dir, err, want)
		}
	}
}

// TestRefuse covers what no engine of the tests returns.
func TestRefuse(t *testing.T) {
	var log bytes.Buffer
	tr := &tree{log: slog.New(slog.NewTextHandler(&log, nil))}
	for err, want := range map[error]syscall.Errno{
		syscall.ENOSPC: syscall.ENOSPC, syscall.EAGAIN: syscall.EBUSY, fmt.Errorf("x: %w", syscall.ENOENT): syscall.ENOENT, context.Canceled: syscall.EIO,
		&engine.Error{Errno: syscall.EBUSY, Err: syscall.EINTR}: syscall.EBUSY,
	} {
		log.Reset()
		if have := tr.refuse(nil, err); have != want || (log.Len() > 0) != (want == syscall.EIO) {
			t.Errorf("%v: %v, want %v; logged %q", err, have, want, &log)
		}
	}
}

// TestInodes: no number is one that means something else.
func TestInodes(t *testing.T) {
	if inode("c1", "") == inode("c1", "cmd") || inode("c1", "cmd") == inode("c2", "cmd") {
		t.Error("numbers are not told apart")
	}
}

// permanent is how many of a container's files are there at any time.
func permanent() (n int) {
	for _, r := range containerScope.rows {
		if r.link == nil {
			n++
		}
	}
	return n
}

// TestTreeLink: a link is there while the engine says so, and removing it does nothing.
func TestTreeLink(t *testing.T) {
	m := created(t)
	m.sh("ls c | grep -c '^stdin$'; test -L c/stdin || echo none", "0\nnone\n")
	m.fails("echo x > c/stdin", "denied")
	m.sh("cat c/error", "create stdin: it is not there now; write 1 into stdin.open first\n")
	m.sh("echo 1 > c/stdin.open; ls c | grep -c '^stdin$'; readlink c/stdin; stat -c '%A %s' c/stdin; rm c/stdin; test -L c/stdin && echo there",
		fmt.Sprintf("1\n/run/stdin/%[1]s\nlrwxrwxrwx %[2]d\nthere\n", m.get("c").View().ID, len("/run/stdin/"+m.get("c").View().ID)))
	m.sh("echo 0 > c/stdin.open; test -L c/stdin || echo none; echo 1 > c/stdin.open; rm -r c; ls -d c 2> /dev/null || echo gone", "none\ngone\n")
}

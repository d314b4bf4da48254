package fs

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// created mounts a tree with a container c.
func created(t *testing.T) *mounted {
	t.Helper()
	m := mount(t)
	m.sh("mkdir c", "")
	return m
}

// TestWriteTools sets a value by every way that people have.
func TestWriteTools(t *testing.T) {
	m := created(t)
	for i, c := range []struct{ shell, script string }{
		{"dash", "echo %s > c/cwd"},
		{"bash", "echo %s > c/cwd"},
		{"busybox sh", "echo %s > c/cwd"},
		{"dash", "printf %s > c/cwd"},
		{"dash", "echo %s | tee c/cwd > /dev/null"},
		{"dash", "echo %s | dd of=c/cwd 2> /dev/null"},
		{"dash", "echo %s | dd of=c/cwd conv=notrunc 2> /dev/null"},
		{"dash", "echo %s >> c/cwd"},
		{"dash", "echo %s 1<> c/cwd"},
		{"dash", "{ echo /other; echo %s; } > c/cwd"},
		{"bash", "printf '/other\\n%s\\n' > c/cwd"},
		{"dash", "exec 3> c/cwd; echo /other >&3; echo %s >&3"},
		{"dash", "cd c; echo %s > cwd"},
		{"dash", "d=$(mktemp); echo %s > $d; cp $d c/cwd; rm $d"},
		{"dash", "d=$(mktemp); echo %s > $d; cat $d > c/cwd; rm $d"},
		{"busybox sh", "d=$(mktemp); echo %s > $d; busybox cp $d c/cwd; rm $d"},
		{"dash", "perl -e 'open F, \">c/cwd\"; print F \"%s\\n\"; close F or die'"},
		{"dash", "/usr/bin/python3 -c 'open(\"c/cwd\", \"w\").write(\"%s\\n\")'"},
		{"dash", "/usr/bin/python3 -c 'open(\"c/cwd\", \"r+b\", 0).write(b\"%s\")'"},
		{"dash", "vim -u NONE -es -c 's,.*,%s,' -c wq c/cwd"},
	} {
		want := fmt.Sprintf("/dir%d", i)
		m.in(c.shell, fmt.Sprintf(c.script, want), "")
		m.sh("cat c/cwd c/error", want+"\n")
	}
}

// TestWriteNothing: truncation, flush, close and fsync by themselves change nothing.
func TestWriteNothing(t *testing.T) {
	m := created(t)
	m.sh("echo /x > c/cwd", "")
	for _, script := range []string{": > c/cwd", "truncate -s 0 c/cwd", "truncate -s 100 c/cwd", "touch c/cwd", "cat /dev/null > c/cwd",
		"sync c/cwd", "touch -d 2001-01-01 c/cwd", "cp /dev/null c/cwd"} {
		m.sh(script, "")
		m.sh("cat c/cwd; stat -c %s c/cwd", "/x\n3\n")
	}
}

func TestWriteLists(t *testing.T) {
	m := created(t)
	m.sh("echo A=1 > c/env; cat c/env", "A=1\n")
	m.sh("echo B=2 >> c/env; cat c/env", "A=1\nB=2\n")
	m.sh("{ echo C=3; echo D=4; } >> c/env; cat c/env", "A=1\nB=2\nC=3\nD=4\n")
	m.in("bash", "printf 'E=5\\nF=6\\n' > c/env; cat c/env", "E=5\nF=6\n")
	m.sh("{ echo A=1; echo B=2; } > c/env; cat c/env", "A=1\nB=2\n")
	m.sh("echo >> c/env; cat c/env", "A=1\nB=2\n")
	m.sh("echo > c/env; cat c/env; stat -c %s c/env", "\n1\n")
	m.sh("echo X=1 >> c/env; cat c/env", "X=1\n")
	m.sh("exec 3>> c/env; echo Y=1 >&3; echo > c/env; echo Z=1 >&3; cat c/env", "Z=1\n") // each write of >> stands alone
	// A refused write leaves the value that was being continued.
	m.sh("{ echo A=1; echo bad 2> /dev/null || echo B=2; } > c/env; cat c/env", "A=1\nB=2\n")
	m.sh(`cat c/error`, "write env \"bad\": not KEY=VALUE; write one KEY=VALUE a line\n")
}

// TestWriteResets: an empty line is the default.
func TestWriteResets(t *testing.T) {
	m := created(t)
	m.sh(`echo 'a b' > c/cmd; echo /x > c/cwd; echo h > c/hostname; echo 256M > c/memory.max; echo '500000 1000000' > c/cpu.max`, "")
	m.sh("cat c/cmd c/cwd c/hostname c/memory.max c/cpu.max", "a b\n/x\nh\n268435456\n500000 1000000\n")
	m.sh("echo 50000 > c/cpu.max; cat c/cpu.max; echo max > c/cpu.max; cat c/cpu.max", "50000 1000000\nmax 1000000\n")
	m.sh("for f in cmd cwd hostname memory.max cpu.max; do echo > c/$f; cat c/$f; done", "\n/\nc\nmax\nmax 100000\n")
	m.sh("echo /y > c/cwd; echo > c/config.json; cat c/cwd c/error", "/\n")
}

// TestWritePieces: a value that a program writes in pieces.
func TestWritePieces(t *testing.T) {
	m := created(t)
	m.sh("echo 256M | dd of=c/memory.max bs=1 2> /dev/null; cat c/memory.max", "268435456\n")
	m.sh(`printf '%s' "/bin/sh -c 'echo hi'" | dd of=c/cmd bs=25 2> /dev/null; cat c/cmd`, "/bin/sh -c 'echo hi'\n")
	m.sh(`/usr/bin/python3 -c '
import os
f = os.open("c/env", os.O_RDWR)
os.write(f, b"A=1\nB="); os.write(f, b"2\n"); os.pwrite(f, b"C=3\n", 0)
print(os.pread(f, 99, 0)); os.write(f, b"D=4\n"); print(os.pread(f, 99, 0))'`, "b'C=3\\n'\nb'C=3\\nD=4\\n'\n")
}

// TestWriteLimits: a value of 1 MiB is taken at once or in pieces; a longer one is refused and changes nothing.
func TestWriteLimits(t *testing.T) {
	m := created(t)
	env := m.dir + "/c/env"
	line := "K=" + strings.Repeat("v", maxValue-3) + "\n"
	write := func(flags int, pieces ...string) error {
		f, err := os.OpenFile(env, os.O_WRONLY|flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, p := range pieces {
			if n, err := syscall.Write(int(f.Fd()), []byte(p)); err != nil {
				return err
			} else if n != len(p) {
				return fmt.Errorf("wrote %d of %d", n, len(p))
			}
		}
		return nil
	}
	for _, c := range []struct {
		flags  int
		pieces []string
		want   error
	}{
		{0, []string{line}, nil},
		{0, []string{"A=1\n", line[4:]}, syscall.EINVAL}, // no = in it
		{0, []string{"A=1\n", "B" + line[5:]}, syscall.EINVAL},
		{0, []string{"A=1\n", "B=" + line[6:]}, nil},
		{0, []string{"A=1\n", line}, syscall.E2BIG},
		{0, []string{"A" + line}, syscall.E2BIG},
		{0, []string{line[:maxValue-1] + "vv\n"}, syscall.E2BIG},
		{os.O_APPEND, []string{line}, syscall.E2BIG},
	} {
		if err := write(0, "A=1\n"); err != nil {
			t.Fatal(err)
		}
		err := write(c.flags, c.pieces...)
		have, _ := os.ReadFile(env)
		want := strings.Join(c.pieces, "")
		if c.want != nil {
			want = "A=1\n"
		}
		if err != c.want && fmt.Sprint(err) != fmt.Sprint(c.want) || string(have) != want {
			t.Errorf("%d pieces from %.10q: %v, want %v; %d bytes, want %d", len(c.pieces), c.pieces[0], err, c.want, len(have), len(want))
		}
	}
	// A list is refused by its length, too; a value only here.
	m.sh("echo A=1 > c/env; echo short > c/cmd", "")
	for _, dd := range []string{"bs=2M count=1", "bs=64k count=17"} {
		m.fails("tr '\\0' x < /dev/zero | dd of=c/cmd iflag=fullblock "+dd, "Argument list too long")
		m.sh("echo short > c/cmd; cat c/env", "A=1\n")
	}
	m.fails("tr '\\0' x < /dev/zero | dd of=c/cmd iflag=fullblock bs=2M count=1", "Argument list too long")
	m.sh("cat c/cmd", "short\n")
	m.fails("head -c 1048570 /dev/zero | tr '\\0' x | sed s/^/A=/ > c/env; echo B=1 >> c/env", "Argument list too long")
	m.sh("cat c/error", "write env: the value is larger than 1 MiB; write at most 1048576 bytes, at once and ending in a newline\n")
}

// TestWriteDocuments: programs that buffer 8 KiB write a long config.json in pieces.
func TestWriteDocuments(t *testing.T) {
	m := created(t)
	var env strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&env, "K%d=%040d\n", i, i)
	}
	if err := os.WriteFile(m.dir+"/c/env", []byte(env.String()), 0); err != nil {
		t.Fatal(err)
	}
	for _, script := range []string{"cat c/config.json > d/config.json", "cp c/config.json d/config.json", "sed s/x/x/ c/config.json > d/config.json",
		"jq . c/config.json > d/config.json", "perl -pe 1 c/config.json > d/config.json", "dd if=c/config.json of=d/config.json bs=4096 2> /dev/null",
		"cat c/config.json > d/config.json; vim -u NONE -es -c 's/$/ /' -c wq d/config.json", "cat c/env > d/env"} {
		m.sh("mkdir d", "")
		m.sh(script, "")
		m.sh("cmp c/config.json d/config.json; cat d/error; rmdir d # after "+script, "")
	}
	var filter strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&filter, `,{"names":["n%d"],"action":"SCMP_ACT_ERRNO"}`, i)
	}
	text := `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[` + filter.String()[1:] + "]}\n"
	if err := os.WriteFile(m.dir+"/c/seccomp", []byte(text), 0); err != nil {
		t.Fatal(err)
	}
	m.sh("mkdir d; jq . c/seccomp > d/seccomp; cmp c/seccomp d/seccomp; cat d/error; grep -c names d/seccomp; rmdir d", "1000\n")
	m.sh("echo > c/seccomp; cat c/seccomp", "default\n")
	m.sh("mkdir d; head -c 8192 c/config.json > d/config.json; wc -c < d/cmd", "1\n")
	m.eventually("cat d/error", "unexpected EOF")
	m.fails("head -c 8191 c/config.json > d/config.json", "Invalid argument")
	m.fails("head -c 8192 /dev/zero | tr '\\0' x > d/env", "Invalid argument")
	m.sh("rmdir d", "")
}

// TestWriteCopies: what a setting reads as can be written back, also when it is empty.
func TestWriteCopies(t *testing.T) {
	m := created(t)
	m.sh(`mkdir d; echo "sh -c 'x  \"y\"'" > c/cmd; echo > c/env; echo /x > c/cwd; echo ro > c/rootfs.mode; echo SIGHUP > c/stop.signal
		echo 3 > c/stop.timeout; echo 1G > c/memory.max; echo 7 > c/pids.max; echo on-failure:3 > c/restart; echo 1 > c/autostart; echo 'cmd a  b' > c/health; echo 1M > c/log.max; echo 1 > c/init; echo 20000 > c/cpu.max; echo 1 > c/cpu.weight`, "")
	m.sh("cd d; for f in $(find . -type f -perm 0644 ! -name 'cgroup.*' ! -name '*.pressure' ! -name '*.json' ! -name hostname); do cat ../c/$f > $f; done", "")
	m.sh("diff c/config.json d/config.json; cat c/stop.signal d/error c/error", "HUP\n")
	m.sh("mkdir e; cp c/config.json e; diff c/config.json e/config.json", "")
	m.sh("echo > c/cmd; cat c/cmd > d/cmd; cat d/cmd", "\n")
	// A long list is one operation: in pieces, a line without its = would be refused.
	var long strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&long, "%0*d=\n", 50+i%97, i)
	}
	if err := os.WriteFile(m.dir+"/c/env", []byte(long.String()), 0); err != nil {
		t.Fatal(err)
	}
	for _, copy := range []string{"cat c/env > d/env", "cp c/env d/env", "sed s/x/x/ c/env > d/env",
		"cat c/env > d/env; vim -u NONE -es -c wq d/env", "/usr/bin/python3 -c 'import shutil; shutil.copyfile(\"c/env\", \"d/env\")'"} {
		m.sh("echo > d/env", "")
		m.sh(copy, "")
		m.sh("cmp c/env d/env; cat d/error; wc -c < d/env # "+copy, fmt.Sprintln(long.Len()))
	}
}

// TestWriteRefused: each refusal is an errno, changes nothing, and says so in the error file.
func TestWriteRefused(t *testing.T) {
	m := created(t)
	m.get("c").lack("memory.peak")
	for _, c := range []struct{ write, errno, sentence string }{
		{"echo -1 > c/memory.max", "Invalid argument", `write memory.max "-1": not a size; write bytes, 256M, 1G or max`},
		{"echo 12x > c/memory.max", "Invalid argument", `"12x"`},
		{"echo 12345678901234567890 > c/memory.max", "Invalid argument", `larger than any memory`},
		{"echo 0 > c/cpu.weight", "Invalid argument", "write 1 to 10000"},
		{"echo 5 5 5 > c/cpu.max", "Invalid argument", "not one or two numbers"},
		{"echo -1 > c/pids.max", "Invalid argument", "not a count"},
		{"printf 'a\\0b' > c/cmd", "Invalid argument", "NUL"},
		{"printf '\\377' > c/cmd", "Invalid argument", "not UTF-8"},
		{`echo 'sh -c "x' > c/cmd`, "Invalid argument", "close every quote"},
		{"echo x/y > c/cwd", "Invalid argument", `write cwd "x/y": not an absolute path`},
		{"printf '/x\\n/y' | dd of=c/cwd", "Invalid argument", "more than one line"},
		{"echo A > c/env", "Invalid argument", "write one KEY=VALUE a line"},
		{"echo x > c/rootfs.mode", "Invalid argument", "write overlay, volatile, ro or rw"},
		{"echo NOPE > c/stop.signal", "Invalid argument", "not a signal"},
		{"echo 99999 > c/stop.timeout", "Invalid argument", "write 0 to 86400"},
		{"echo on-failure:0 > c/restart", "Invalid argument", "1 or more"},
		{"echo yes > c/autostart", "Invalid argument", "write 0 to 1"},
		{"echo '{' > c/config.json", "Invalid argument", "not an OCI runtime specification"},
		{"echo 1 > c/start", "Invalid argument", "write one into cmd"},
		{"echo 1 > c/stop", "Device or resource busy", "the container is created"},
		{"echo x > c/kill", "Invalid argument", "not a signal"},
		{"echo > c/kill", "Invalid argument", "not a signal"},
		{"printf '\\0' > c/start", "Invalid argument", "NUL"},
		{"echo 2 > c/cgroup.freeze", "Invalid argument", "write 1 to pause"},
		{"echo > c/cgroup.procs", "Invalid argument", "nothing was written"},
		{"echo x > c/state", "Permission denied", "only read"},
		{"echo x >> c/log", "Permission denied", "only read"},
		{"echo x > c/comand", "Permission denied", "create comand: no such control file"},
		{"cat c/memory.peak", "Operation not supported", "read memory.peak: this host has no such counter"},
		{"sed -i s/a/b/ c/cwd", "Permission denied", "no such control file"},
		{"mkdir c/_x", "Invalid argument", `mkdir "_x": not a container name`},
	} {
		before, _ := m.run("dash", "cat c/config.json")
		m.fails(c.write, c.errno)
		if text, _ := m.run("dash", "cat c/error"); !strings.Contains(text, c.sentence) || strings.Count(text, "\n") != 1 {
			t.Errorf("%s: the sentence is %q, want %q in it", c.write, text, c.sentence)
		}
		if after, _ := m.run("dash", "cat c/config.json"); after != before {
			t.Errorf("%s changed something", c.write)
		}
	}
	if out, ok := m.run("dash", "echo x > c/cwd"); ok || !strings.Contains(out, "I/O error") {
		t.Errorf("dash: %q, %v", out, ok)
	}
	m.sh("mkdir -p c/x; cd c/x; ln -s a b 2> /dev/null || ln cmd cmd2 2> /dev/null || mknod d p 2> /dev/null || echo refused", "refused\n")
}

// TestWriteBusy: what is not live is refused while the container runs, and says so.
func TestWriteBusy(t *testing.T) {
	m := created(t)
	m.sh("echo true > c/cmd; echo 1 > c/start; cat c/state c/pid", "running\n4711\n")
	for _, r := range containerScope.rows {
		if !r.setting() {
			continue
		}
		script := fmt.Sprintf("cat c/%s > /tmp/.v.$$; cat /tmp/.v.$$ > c/%s; r=$?; rm /tmp/.v.$$; exit $r", r.name, r.name)
		if out, ok := m.run("bash", script); ok != r.live || !ok && !strings.Contains(out, "busy") {
			t.Errorf("%s: %q, %v", r.name, out, ok)
		}
		if !r.live {
			m.sh("cat c/error", "write "+r.name+": the container is running; stop it first\n")
		}
	}
	m.fails("echo 1 > c/start", "busy")
	m.fails("rmdir c", "busy")
	m.sh("cat c/error", "rmdir c: the container is running; stop it first\n")
	m.fails("rm -r c", "busy")
	m.sh("cat c/cmd; ls c | wc -l", fmt.Sprintf("true\n%d\n", permanent()))
	m.sh("echo 1 > c/cgroup.freeze; cat c/cgroup.freeze; echo 12 > c/cgroup.procs; echo 13 > c/cgroup.procs; cat c/cgroup.procs", "1\n12\n13\n")
	m.sh("echo 1 > c/stop; cat c/state; echo KILL > c/kill; cat c/state c/exit c/pid; rm -r c; ls -d c 2> /dev/null || echo gone",
		"stopping\nexited\n137\ngone\n")
}

// TestWriteAction: each write is one action, whatever it writes and whoever does.
func TestWriteAction(t *testing.T) {
	m := created(t)
	needUsers(t, m.dir)
	m.sh("echo true > c/cmd; chmod 666 c/start c/cgroup.procs", "")
	if out, ok := m.runAs(65534, "printf x >> c/start"); !ok {
		t.Error(out)
	}
	if by := m.get("c").caller(); by.UID != 65534 || by.GID != 65534 || by.PID == 0 {
		t.Errorf("started by %+v", by)
	}
	m.sh("{ echo 1; echo 2; } > c/cgroup.procs; cat c/cgroup.procs", "1\n2\n")
	m.get("c").exit(0)
	m.sh("cat c/start c/kill; wc -c c/stop", "0 c/stop\n") // root reads an action as empty
}

// TestWriteEIO: an error that carries no errno is EIO, and is logged.
func TestWriteEIO(t *testing.T) {
	m := created(t)
	m.get("c").breakStop(errors.New("odd"))
	m.fails("echo 1 > c/stop", "Input/output error")
	m.sh("cat c/error", "odd\n")
	if text := m.log.take(); !strings.Contains(text, "odd") {
		t.Errorf("the log is %q", text)
	}
}

package fs

import (
	"fmt"
	"testing"

	"github.com/ctrfs/ctrfs/engine"
)

// TestExecTree: exec is a part of the container like its files; mkdir in it makes an exec, whose files are those of its table.
func TestExecTree(t *testing.T) {
	m := created(t)
	m.sh("ls -A c/exec; stat -c '%a %F %h' c/exec; [ $(stat -c %i c/exec) = $(ls -di c/exec | cut -d' ' -f1) ]", "755 directory 1\n")
	m.sh("mkdir c/exec/b c/exec/a; ls c/exec; ls c/exec/a | wc -l; stat -c '%a %F' c/exec/a", fmt.Sprintf("a\nb\n%d\n755 directory\n", len(execScope.rows)-len([]string{"console", "stdin"}))) // links that are not there yet
	m.sh("[ $(stat -c %i c/exec/a/cmd) != $(stat -c %i c/exec/b/cmd) ] && i=$(stat -c %i c/exec/a) && [ $i = $(ls -i c/exec | grep a | cut -d' ' -f1) ]", "")
	for _, name := range []string{".x", "-- -x", "'a b'"} {
		m.fails("cd c/exec; mkdir "+name, "Invalid argument")
	}
	m.sh("cat c/error", `mkdir "a b": not a container name; use 1 to 63 of A-Z a-z 0-9 _ . -, starting with a letter or a digit`+"\n")
	m.fails("mkdir c/exec/a", "File exists")
	m.fails("mkdir c/exec", "File exists")
	m.fails("mkdir c/exec/a/x", "not permitted")
	m.fails("mv c/exec c/x", "not permitted")
	m.fails("mv c/exec/a c/exec/x", "not permitted")
	m.fails("mv c/exec/a c/x", "not permitted")
	m.fails("mkdir d; mv d c/exec/x", "not permitted")
	m.fails("mv d c/exec/a/x", "not permitted")
	for _, script := range []string{"touch c/exec/x", "ln -s a c/exec/x", "mknod c/exec/x p", "ln c/cmd c/exec/x", "ln -s a c/exec/a/x", "mknod c/exec/a/x p"} {
		m.fails(script, "not permitted")
	}
	m.fails("touch c/exec/a/x", "denied")
	m.fails("rmdir c/exec/none", "No such file")
	m.sh("rmdir c/exec; ls c/exec; chmod 700 c/exec; stat -c %a c/exec; chown 65534 c/exec/a; stat -c '%u %u' c/exec/a c/exec/a/cmd", "a\nb\n700\n65534 65534\n65534 65534\n")
	m.sh("i=$(stat -c %i c c/exec c/exec/a); chown -R 65534 c; [ \"$i\" = \"$(stat -c %i c c/exec c/exec/a)\" ] && chown -R 0 c", "")
	m.sh("rmdir c/exec/a; ls c/exec; rm -r c; ls -d c 2> /dev/null || echo gone", "b\ngone\n")
}

// TestExecFiles: shapes and rules are those of a container's files; what is not set, or is reset, is the container's.
func TestExecFiles(t *testing.T) {
	m := created(t)
	m.sh("echo A=1 > c/env; echo /srv > c/cwd; echo 7:8 > c/user; echo sleep 1 > c/cmd; mkdir c/exec/x", "")
	m.sh("cd c/exec/x; cat cmd env cwd user tty state exit pid", "\nA=1\n/srv\n7:8\n0\ncreated\n")
	m.sh("cd c/exec/x; echo B=2 >> env; echo /tmp > cwd; echo 0 > user; echo 80x24 > tty; echo true > cmd; cat env cwd user tty cmd; stat -c %s env cmd; cat ../../env",
		"A=1\nB=2\n/tmp\n0\n80x24\ntrue\n8\n5\nA=1\n")
	m.sh("cd c/exec/x; echo > cwd; rm user env; cat cwd user; cat env; echo > tty; cat tty", "/srv\n7:8\nA=1\n0\n")
	for _, x := range []struct{ file, value, errno string }{
		{"cwd", "tmp", "Invalid argument"}, {"env", "A", "Invalid argument"}, {"user", "a b", "Invalid argument"}, {"tty", "x", "Invalid argument"},
		{"cmd", "'", "Invalid argument"}, {"kill", "NONE", "Invalid argument"}, {"kill", "TERM", "busy"}, {"start", "1", "busy"}, {"state", "x", "denied"},
	} {
		m.fails(fmt.Sprintf("cd c/exec/x; echo \"%s\" > %s", x.value, x.file), x.errno)
		m.sh("cat c/exec/x/error | grep -c .; cat c/error", "1\n")
	}
	m.sh("cd c/exec/x; cat cwd user tty cmd state", "/srv\n7:8\n0\ntrue\ncreated\n")
	m.sh("echo 1 > c/start; echo 1 > c/exec/x/start; cat c/exec/x/state c/exec/x/pid c/exec/x/error; cat c/exec/x/status | grep path; stat -c %s c/exec/x/wait",
		"running\n4711\npath c/exec/x\n8\n")
	m.fails("echo x > c/exec/x/cmd", "busy")
	m.fails("rm c/exec/x/cmd", "busy")
	m.fails("rmdir c/exec/x", "busy")
	m.sh("cat c/exec/x/error", "rmdir x: it is running; end it first\n")
	x := m.exec("c", "x")
	x.say("hello\n")
	m.sh("cat c/exec/x/log; stat -c %s c/exec/x/log; rm c/exec/x/log; cat c/exec/x/log", "hello\n6\nhello\n")
	x.exit(3 << 8)
	m.sh("cat c/exec/x/wait c/exec/x/exit c/exec/x/state; stat -c %s c/exec/x/wait; echo KILL > c/kill; rm -r c; ls -d c 2> /dev/null || echo gone", "3\n3\nexited\n2\ngone\n")
}

// TestExecRowsAreProgramRows: an exec has no file that a container does not have, nor one of another use.
func TestExecRowsAreProgramRows(t *testing.T) {
	for _, r := range execScope.rows {
		if c := containerScope.byName[r.name]; c == nil || c.shape != r.shape || c.mode() != r.mode() || c.live != r.live {
			t.Errorf("%s is not as a container's", r.name)
		}
	}
	if execScope.byName["exec"] != nil {
		t.Error("an exec of an exec")
	}
	if err := toContainer(nil)(engine.Caller{}, source{c: &memContainer{}, p: &memExec{}}, ""); err == nil {
		t.Error("an exec takes what is for containers")
	}
}

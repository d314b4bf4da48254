package fs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// configured mounts a tree with two containers, one of which runs, and one below it.
func configured(t *testing.T) *mounted {
	t.Helper()
	m := mount(t)
	m.sh("mkdir -p pod/web idle; echo 'sleep 1h' > pod/cmd; echo A=1 > idle/env; echo 1 > pod/start", "")
	m.get("pod").say("hello\nworld\n")
	return m
}

// stable are the files whose text does not change by reading, and do not block.
const stable = `find . -type f ! -name wait ! -name events ! -name memory.current`

// TestReadSizes: st_size is the length of the text, exactly, for every file.
func TestReadSizes(t *testing.T) {
	m := configured(t)
	m.sh(`for f in $(`+stable+`); do [ $(stat -c %s $f) = $(cat $f | wc -c) ] || echo $f; done`, "")
	m.sh(`for f in $(`+stable+` -perm -0444); do [ "$(busybox cat $f)" = "$(cat $f)" ] || echo $f; done`, "")
	m.sh("stat -c %s pod/wait idle/wait; cat idle/wait; stat -c '%s %b %h %a %F' pod", "8\n0\n0 0 1 755 directory\n")
	m.sh("stat -c %o pod/cmd pod/log", "1048576\n4096\n")
	m.sh("stat -fc '%s %b %l' .; stat -fc %l pod/cmd", "4096 0 63\n63\n")
}

// TestReadTools: what people point at a directory works on this one.
func TestReadTools(t *testing.T) {
	m := configured(t)
	m.get("pod").exit(0) // a wait that blocks is what it is for; see TestReadWait
	m.quiet.Store(true)  // and so do events; see TestEventsWalk
	out := t.TempDir()
	want := m.tree("cat")
	for _, c := range []struct{ program, script, copied string }{
		{"ls", "ls -lR > /dev/null", ""},
		{"find", "find . -size +0 > /dev/null", ""},
		{"grep", "grep -r sleep pod > /dev/null", ""},
		{"du", "du -a > /dev/null", ""},
		{"tree", "tree > /dev/null", ""},
		{"diff", "mkdir a b; diff -r a b | grep -v '^[-<>0-9]' | grep -vE ' a/(config.json|hostname|id|status|memory.current) '; rmdir a b", ""},
		{"tar", "tar cf OUT/a.tar . && mkdir OUT/tar && tar xf OUT/a.tar -C OUT/tar", "tar"},
		{"cp", "mkdir OUT/cp && cp -r . OUT/cp", "cp"},
		{"cp", "mkdir OUT/cpa && cp -a . OUT/cpa", "cpa"},
		{"rsync", "rsync -a . OUT/rsync", "rsync"},
		{"cpio", "mkdir OUT/cpio && find . | cpio -pdm OUT/cpio 2> /dev/null", "cpio"},
		{"busybox", "mkdir OUT/bcp && busybox cp -r . OUT/bcp", "bcp"},
		{"busybox", "mkdir OUT/btar && busybox tar cf - $(find . ! -type d ! -name events) | busybox tar xf - -C OUT/btar", "btar"},
		{"busybox", "busybox ls -lR > /dev/null && busybox find . > /dev/null && busybox grep -r sleep . > /dev/null && busybox du > /dev/null", ""},
		{"/usr/bin/python3", "/usr/bin/python3 -c 'import shutil; shutil.copytree(\".\", \"OUT/py\")'", "py"},
		{"vim", "vim -u NONE -es -c 'w! OUT/vim' -c q pod/cmd; diff OUT/vim pod/cmd", ""},
	} {
		if _, err := exec.LookPath(c.program); err != nil {
			t.Logf("not installed: %s", c.program)
			continue
		}
		if printed, ok := m.run("bash -o pipefail", strings.ReplaceAll(c.script, "OUT", out)); !ok || printed != "" {
			t.Errorf("%s: %q, %v", c.script, printed, ok)
		}
		if c.copied != "" {
			if have := m.elsewhere(out+"/"+c.copied, m.listing("cat")); have != want {
				t.Errorf("%s copied\n%s\nwant\n%s", c.script, have, want)
			}
		}
	}
}

// listing is a script that prints every file with its content, but for those that differ at each reading.
func (m *mounted) listing(cat string) string {
	return "for f in $(" + stable + " | LC_ALL=C sort); do echo \"== $f\"; " + cat + " $f; done"
}

func (m *mounted) tree(cat string) string {
	out, _ := m.run("bash", m.listing(cat))
	return out
}

// elsewhere runs a script in another directory.
func (m *mounted) elsewhere(dir, script string) string {
	out, _ := m.run("bash", "cd "+dir+"\n"+script)
	return out
}

// TestReadVolatile: a counter that grows a digit between fstat and read is neither cut nor padded, and a write through the
// mount is seen at once whatever size was told before it.
func TestReadVolatile(t *testing.T) {
	m := created(t)
	for _, script := range []string{
		"tar cf - c/memory.current 2> /dev/null | tar xfO -", // it may say that the file has changed since: so it has
		"rsync c/memory.current OUT/r && cat OUT/r", "cp c/memory.current OUT/c && cat OUT/c",
		"busybox cat c/memory.current", "busybox cp c/memory.current OUT/b && cat OUT/b", "cat c/memory.current",
	} {
		for n := range int64(8) {
			out, ok := "", false
			for try := 0; try < 5 && !ok; try++ { // on a busy machine a reader may take longer than a memo lives
				m.get("c").reads.Store(92 + n) // somewhere on the way there is a digit more
				out, ok = m.run("bash", strings.ReplaceAll(script, "OUT", t.TempDir()))
				number, whole := strings.CutSuffix(out, "\n")
				ok = ok && whole && strings.Trim(number, "0123456789") == ""
			}
			if !ok {
				t.Errorf("%s from %d: %q", script, 92+n, out)
			}
		}
	}
	for i := range 50 {
		want := strings.Repeat("x", i)
		var st syscall.Stat_t
		syscall.Stat(m.dir+"/c/cmd", &st)
		os.WriteFile(m.dir+"/c/cmd", []byte(want+"\n"), 0)
		have, err := os.ReadFile(m.dir + "/c/cmd")
		syscall.Stat(m.dir+"/c/cmd", &st)
		if string(have) != want+"\n" || err != nil || st.Size != int64(len(have)) {
			t.Fatalf("wrote %q, read %q (%v) of size %d", want, have, err, st.Size)
		}
	}
}

// TestReadShorter: a text that becomes shorter under a reader is no file with a hole, which grep(1) calls binary.
func TestReadShorter(t *testing.T) {
	m := created(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 2000 {
			os.WriteFile(m.dir+"/c/cmd", []byte(strings.Repeat("x", 1+500*(i%2))+"\n"), 0)
		}
	}()
	defer func() { <-done }()
	out, _ := m.run("bash", "for i in {1..200}; do grep -o ^x c/cmd; done | sort -u")
	if out != "x\n" {
		t.Errorf("grep found %q", out)
	}
}

// TestReadMoments: one handle shows one moment until it is read from the start again; two readings are two moments.
func TestReadMoments(t *testing.T) {
	m := created(t)
	m.get("c").reads.Store(1_000_000)
	f, err := os.Open(m.dir + "/c/memory.current")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	read := func() string {
		var text []byte
		one := make([]byte, 1)
		for {
			if n, err := f.Read(one); n == 0 || err != nil {
				return string(text)
			}
			text = append(text, one...)
			m.get("c").reads.Add(1)
		}
	}
	first := read()
	f.Seek(0, io.SeekStart)
	second := read()
	if len(first) != 8 || len(second) != 8 || first >= second {
		t.Errorf("read %q, then %q", first, second)
	}
	g, _ := os.Open(f.Name())
	defer g.Close()
	if n, err := g.ReadAt(make([]byte, 9), 3); n != 5 || err != io.EOF {
		t.Errorf("the first reading at offset 3 gave %d bytes, %v", n, err)
	}
	before := ""
	for range 20 {
		text, _ := os.ReadFile(f.Name())
		if string(text) == before {
			t.Errorf("two readings gave %q", text)
		}
		before = string(text)
	}
}

// TestReadRoot checks what the root tells about all containers.
func TestReadRoot(t *testing.T) {
	m := configured(t)
	m.sh("echo x > pod/web/cmd; echo 1 > pod/web/start; cat version host ps",
		"ctrfs test\ncgroup hybrid\nnftables no: modprobe nf_tables\n"+
			"CONTAINER PID  INNER USER STATE RSS  CPU  COMMAND\n"+
			"pod       4711 1     0    S     8192 1.50 evil?name?sleep 1h\n"+
			"pod/web   4711 1     0    S     8192 1.50 evil?name?x\n")
	m.sh("cat pod/web/ps", "PID  INNER USER STATE RSS  CPU  COMMAND\n4711 1     0    S     8192 1.50 evil?name?x\n")
	m.sh("cat stats",
		"CONTAINER STATE   CPU_USEC MEMORY MEMORY_PEAK PIDS IO_READ IO_WRITE NET_RX NET_TX\n"+
			"idle      created 12       4096   -           1    -       -        -      -\n"+
			"pod       running 12       4096   -           1    -       -        -      -\n"+
			"pod/web   running 12       4096   -           1    -       -        -      -\n")
	m.get("pod/web").exit(9)
	m.sh("grep -vE '^(started|finished|id) ' pod/web/status",
		"state exited\nexit 137\nsignal KILL\noom 0\nrestarts 0\nrootfs host\nrootfs.mode overlay\npath pod/web\n")
	m.sh("grep -cE '^(started|finished) [0-9]{4}-[0-9-]+T[0-9:]+(Z|[+-]..:..)$' pod/web/status", "2\n")
	m.sh("cat pod/web/stats", "cpu.usage_usec 12\nmemory.current 4096\npids.current 1\n")
	m.get("pod").exit(0)
}

// TestReadWait: wait blocks, holds up nothing, and ends with the exit or a signal.
func TestReadWait(t *testing.T) {
	m := configured(t)
	start := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(name, append(args, m.dir+"/pod/wait")...)
		cmd.Stdout, cmd.Stderr = &bytes.Buffer{}, &bytes.Buffer{}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	var blocked []*exec.Cmd
	for i := range 200 {
		if i%4 == 0 { // through sendfile(2), and so through the page cache
			blocked = append(blocked, start("busybox", "cat"))
		} else {
			blocked = append(blocked, start("cat"))
		}
	}
	for range 20 {
		m.sh("cat pod/state; busybox cat idle/env; echo /x > idle/cwd; ls -l pod > /dev/null", "running\nA=1\n")
	}
	began := time.Now()
	for _, cmd := range blocked {
		cmd.Process.Signal(os.Interrupt)
	}
	for _, cmd := range blocked {
		cmd.Wait()
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("200 readers took %v to be interrupted", d)
	}
	one, two := start("cat"), start("busybox", "cat")
	time.Sleep(50 * time.Millisecond)
	m.get("pod").exit(7 << 8)
	for _, cmd := range []*exec.Cmd{one, two} {
		if err := cmd.Wait(); err != nil || fmt.Sprint(cmd.Stdout) != "7\n" {
			t.Errorf("%v printed %v (%v)", cmd.Args, cmd.Stdout, err)
		}
	}
	m.sh("cat pod/wait pod/exit idle/wait idle/exit", "7\n7\n")
	m.sh("echo 1 > pod/start; timeout -s INT 0.1 cat pod/wait; echo $?; echo KILL > pod/kill; cat pod/wait; cat pod/error", "124\n137\n")
}

// TestReadLog: a log is a regular file that grows.
func TestReadLog(t *testing.T) {
	m := configured(t)
	m.sh("cat pod/log; wc -c pod/log; tail -n 1 pod/log; grep -c o pod/log; tail -c +7 pod/log; busybox tail -n 1 pod/log",
		"hello\nworld\n12 pod/log\nworld\n2\nworld\nworld\n")
	tail := exec.Command("timeout", "10", "tail", "-s", "0.05", "-n", "0", "-f", m.dir+"/pod/log")
	out, err := tail.StdoutPipe()
	if err != nil || tail.Start() != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	m.get("pod").say("more\n")
	text := make([]byte, 5)
	if _, err := io.ReadFull(out, text); err != nil || string(text) != "more\n" {
		t.Errorf("tail -f printed %q, %v", text, err)
	}
	tail.Process.Signal(syscall.SIGTERM)
	tail.Wait()
	big := strings.Repeat("0123456789abcde\n", 40_000)
	m.get("pod").say(big)
	if have, err := os.ReadFile(m.dir + "/pod/log"); err != nil || string(have) != "hello\nworld\nmore\n"+big {
		t.Errorf("%d bytes of log, %v", len(have), err)
	}
	m.get("pod").exit(0)
	m.sh("echo 1 > pod/start; cat pod/log; wc -c < pod/log", "0\n")
	for end := time.Now().Add(5 * time.Second); m.get("pod").logs.Load() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d logs are left open", m.get("pod").logs.Load())
		}
	}
	m.get("pod").exit(0)
}

// TestReadInodes: inode numbers are unique, survive a rename and a restart, and are the ones that readdir tells.
func TestReadInodes(t *testing.T) {
	m := configured(t)
	list := "find . -printf '%i %p\n' | sort"
	before, _ := m.run("bash", list)
	m.sh("[ $(find . -printf '%i\\n' | sort -u | wc -l) = $(find . | wc -l) ]; stat -c %i .", "1\n")
	m.unmount()
	m.mount()
	if after, _ := m.run("bash", list); after != before {
		t.Errorf("after a restart:\n%s\nbefore:\n%s", after, before)
	}
	m.sh("a=$(stat -c %i idle idle/cmd); mv idle busy; b=$(stat -c %i busy busy/cmd); [ \"$a\" = \"$b\" ] || echo \"$a $b\"", "")
	m.sh("ls -i pod | while read i n; do [ $i = $(stat -c %i pod/$n) ] || echo $n; done", "")
	m.get("pod").exit(0)
}

// TestReadNothingOpen: a mount that was used leaves no descriptor in this process.
func TestReadNothingOpen(t *testing.T) {
	needFUSE(t)
	before, _ := filepath.Glob("/proc/self/fd/*")
	var m *mounted
	t.Run("used", func(t *testing.T) {
		m = configured(t)
		m.sh("cat pod/log pod/cmd > /dev/null", "")
		m.sh("ls -l /proc/$PPID/fd | grep -c /dev/fuse; ls -l /proc/self/fd | grep -c /dev/fuse; true", "2\n0\n") // one is go-fuse's, one to be handed over
	})
	m.T = t
	m.ends()
	if after, _ := filepath.Glob("/proc/self/fd/*"); len(after) > len(before) {
		t.Errorf("descriptors before %v, after %v", before, after)
	}
}

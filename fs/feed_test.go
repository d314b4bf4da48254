package fs

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctrfs/ctrfs/engine"
)

// listens waits until so many streams are open.
func (m *mounted) listens(n int) {
	m.Helper()
	for end := time.Now().Add(10 * time.Second); m.open.Load() != int64(n); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			m.Fatalf("%d streams are open, not %d", m.open.Load(), n)
		}
	}
}

// TestEventsReaders: what people read a stream with gets every line, as it happens.
func TestEventsReaders(t *testing.T) {
	m := configured(t)
	readers := []struct{ script, want string }{
		{"cat F", "123456"}, {"busybox cat F", "123456"}, {"dd if=F bs=7 2> /dev/null", "123456"}, {"head -1 F", "1"},
		{"head -n 2 F", "12"}, {"{ head -1; head -1; cat; } < F", "123456"}, {"sed -u 3q F", "123"}, {"grep --line-buffered '[24]}' F", "24"},
		{"while read -r line; do echo \"$line\"; done < F", "123456"}, {"tail -n +1 F", "123456"}, {"awk '{ print; fflush() }' F", "123456"},
		{"/usr/bin/python3 -uc 'for line in open(\"F\"): print(line, end=\"\")'", "123456"},
	}
	var commands []*exec.Cmd
	var outputs []io.Reader
	for _, shell := range []string{"bash", "dash"} {
		for _, r := range readers {
			cmd := exec.Command(shell, "-c", strings.ReplaceAll(r.script, "F", m.dir+"/pod/events"))
			out, err := cmd.StdoutPipe()
			if err != nil || cmd.Start() != nil {
				t.Fatal(err)
			}
			commands, outputs = append(commands, cmd), append(outputs, out)
		}
	}
	m.listens(len(commands))
	for i := range 5 {
		m.tell(m.get("pod/web"), engine.EventStart, engine.Field{Key: "n", Value: i + 1})
	}
	m.tell(m.get("idle"), engine.EventStart)
	m.tell(m.get("pod"), engine.EventRemove, engine.Field{Key: "n", Value: 6})
	for i, cmd := range commands {
		have := ""
		for lines := bufio.NewScanner(outputs[i]); lines.Scan(); {
			line := lines.Text()
			have += line[max(0, len(line)-2):max(0, len(line)-1)]
		}
		if err := cmd.Wait(); err != nil || have != readers[i%len(readers)].want {
			t.Errorf("%v read %q, want %q (%v)", cmd.Args, have, readers[i%len(readers)].want, err)
		}
	}
	m.listens(0)
	m.get("pod").exit(0)
}

// TestEventsWalk: a program that opens whatever it meets is not held up.
func TestEventsWalk(t *testing.T) {
	m := configured(t)
	m.get("pod").exit(0)
	out := t.TempDir()
	for _, script := range []string{"! grep -r nothing-like-it .", "tar cf OUT/a.tar .", "cp -r . OUT/cp", "rsync -a . OUT/rsync", "ls -lR > /dev/null"} {
		m.sh("timeout 10 "+strings.Replace(strings.ReplaceAll(script, "OUT", out), "! ", "sh -c '! ", 1)+map[bool]string{true: "'"}[script[0] == '!'], "")
	}
	m.sh("stat -c %s events pod/events; wc -c < "+out+"/cp/events", "1\n1\n1\n")
	m.listens(0)
}

// TestEventsInterrupt: a reader that waits dies of a signal, and holds up nothing.
func TestEventsInterrupt(t *testing.T) {
	m := configured(t)
	var blocked []*exec.Cmd
	for i := range 100 {
		cmd := exec.Command([]string{"cat", "head"}[i%2], m.dir+"/events")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		blocked = append(blocked, cmd)
	}
	m.listens(len(blocked))
	m.sh("cat pod/state; ls -l pod > /dev/null", "running\n")
	for i, cmd := range blocked {
		cmd.Process.Signal([]os.Signal{os.Interrupt, syscall.SIGKILL}[i/50])
	}
	for _, cmd := range blocked {
		cmd.Wait()
	}
	m.listens(0)
	m.get("pod").exit(0)
}

// TestEventsSlow: who does not read is told later how much it has missed, and long lines and many of them come whole.
func TestEventsSlow(t *testing.T) {
	m := configured(t)
	f, err := os.Open(m.dir + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	long := strings.Repeat("x", 40_000)
	for i := range 1030 {
		m.tell(m.get("idle"), "long", engine.Field{Key: "n", Value: i}, engine.Field{Key: "text", Value: long[:i*37%len(long)]})
	}
	lines := bufio.NewReader(f)
	for i := range 1025 {
		line, err := lines.ReadString('\n')
		want := fmt.Sprintf(`"n":%d,"text":"%s"}`, i+5, long[:(i+5)*37%len(long)])
		if i == 0 {
			want = `"container":"","event":"gap","seq":6,"lost":6}`
		}
		if err != nil || !strings.HasSuffix(line, want+"\n") {
			t.Fatalf("line %d is %.120q (%v), want %.80q", i, line, err, want)
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Read(make([]byte, 100)); err == nil {
		t.Error("the forgotten begin can be read")
	}
	m.get("pod").exit(0)
}

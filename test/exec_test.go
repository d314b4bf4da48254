package test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// makeExec makes an exec of a container, and its cmd.
func (m *Tree) makeExec(path, cmd string) {
	m.T.Helper()
	if err := os.Mkdir(filepath.Join(m.Dir, path), 0o755); err != nil {
		m.T.Fatal(err)
	}
	m.Write(path+"/cmd", cmd)
}

// Execs go on while the server is killed, and so does their output; what they say afterwards is right, also of those that ended
// meanwhile, and of those that had ended.
func TestKillServerDuringExecs(t *testing.T) {
	m := MountFor(t)
	m.Start("c", "sleep 1000", "stop.timeout", "0")
	loop := `sh -c 'trap "exit 9" TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done'`
	for name, cmd := range map[string]string{"long": loop, "short": "sh -c 'sleep 0.3; echo bye; exit 42'", "over": "sh -c 'exit 5'"} {
		m.makeExec("c/exec/"+name, cmd)
		m.Write("c/exec/"+name+"/start", "1")
	}
	if got := m.Read("c/exec/over/wait"); got != "5" {
		t.Errorf("exit %s, wanted 5", got)
	}
	pid := m.Read("c/exec/long/pid")
	m.killServer()
	if got := m.Read("c/exec/long/state") + " " + m.Read("c/exec/long/pid"); got != "running "+pid {
		t.Errorf("it is %s, wanted running %s", got, pid)
	}
	before := m.Read("c/exec/long/log")
	Eventually(t, "it goes on writing", 5*time.Second, func() bool { return len(m.Read("c/exec/long/log")) > len(before) })
	for name, want := range map[string]string{"short": "42", "over": "5"} {
		if got := m.Read("c/exec/" + name + "/wait"); got != want {
			t.Errorf("%s: exit %s, wanted %s", name, got, want)
		}
	}
	if got := m.Read("c/exec/short/log"); got != "bye" {
		t.Errorf("its log is %q", got)
	}
	m.killServer() // what it has just recorded is recorded
	m.Write("c/exec/long/kill", "TERM")
	if got := m.Read("c/exec/long/wait") + m.Read("c/exec/short/exit"); got != "942" {
		t.Errorf("exits %s, wanted 9 and 42", got)
	}
	for _, name := range []string{"long", "short", "over"} {
		if err := os.Remove(m.Dir + "/c/exec/" + name); err != nil {
			t.Error(err)
		}
	}
	if left, _ := filepath.Glob(m.State + "/containers/*/*/exec/*"); len(left) > 0 {
		t.Errorf("left on disk: %v", left)
	}
}

// The server is killed in the middle of many starts. Each exec runs or does not, and says so; its log is its own.
func TestKillServerAmongExecs(t *testing.T) {
	m := MountFor(t)
	m.Start("c", "sleep 1000", "stop.timeout", "0")
	const count = 30
	for i := range count {
		m.makeExec(fmt.Sprintf("c/exec/%d", i), fmt.Sprintf("sh -c 'echo %d; exit 3'", i))
	}
	began := make(chan int)
	go func() {
		defer close(began)
		for i := range count {
			os.WriteFile(fmt.Sprintf("%s/c/exec/%d/start", m.Dir, i), []byte("1"), 0)
			began <- i
		}
	}()
	for i := range began {
		if i == count/3 {
			m.killServer()
		}
	}
	ran := 0
	for i := range count {
		x := fmt.Sprintf("c/exec/%d/", i)
		exit, log, state := m.Read(x+"wait"), m.Read(x+"log"), m.Read(x+"state")
		switch {
		case state == "created" && exit == "" && log == "":
		case state == "exited" && exit == "3" && log == fmt.Sprint(i):
			ran++
		default:
			t.Errorf("%d: state %s, exit %q, log %q", i, state, exit, log)
		}
	}
	if ran < count/2 {
		t.Errorf("%d of %d ran", ran, count)
	}
}

// A freeze, of the container or of the one around it, catches nobody half-way: a start is over when the freeze is, or refused.
func TestFreezeAmongExecs(t *testing.T) {
	m := MountFor(t)
	m.Start("pod", "sleep 1000", "stop.timeout", "0")
	m.Start("pod/c", "sleep 1000", "stop.timeout", "0")
	const crowd = 4
	for i := range crowd {
		m.makeExec(fmt.Sprintf("pod/c/exec/%d", i), "true")
	}
	ran, late := 0, Patiently(5*time.Second)
	for round := range 30 {
		over := make(chan error, crowd)
		for i := range crowd {
			go func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				over <- os.WriteFile(fmt.Sprintf("%s/pod/c/exec/%d/start", m.Dir, i), []byte("1"), 0)
			}()
		}
		time.Sleep(time.Duration(round%6) * time.Millisecond)
		frozen := []string{"pod/", "pod/c/"}[round%2] + "cgroup.freeze"
		Eventually(t, "it is frozen", 5*time.Second, func() bool { // refused while somebody is long on his way
			return os.WriteFile(m.Dir+"/"+frozen, []byte("1"), 0) == nil
		})
		for range crowd {
			select {
			case err := <-over:
				if err == nil {
					ran++
				} else if !errors.Is(err, syscall.EBUSY) {
					t.Error(err)
				}
			case <-time.After(late):
				t.Error("a start waits for the thaw")
				m.Write(frozen, "0")
				return
			}
		}
		m.Write(frozen, "0")
		for i := range crowd {
			m.Read(fmt.Sprintf("pod/c/exec/%d/wait", i))
		}
	}
	if ran == 0 || ran == 30*crowd {
		t.Errorf("%d starts of %d came before the freeze: this shows nothing", ran, 30*crowd)
	}
}

// Whatever is wrong with an exec is refused with its errno and a sentence, and changes nothing.
func TestExecBadInput(t *testing.T) {
	m := MountFor(t)
	m.Start("c", "sleep 1000", "stop.timeout", "0")
	m.makeExec("c/exec/x", "true")
	before := m.Sh("cd c/exec/x; cat cmd env cwd user tty state; cat ../../config.json")
	for _, w := range []struct{ file, value, errno string }{
		{"cmd", "a 'b", "invalid argument"}, {"cmd", "''", "invalid argument"}, {"cmd", "a\x00b", "invalid argument"}, {"cmd", "\xff", "invalid argument"},
		{"cmd", strings.Repeat("a", 2<<20), "argument list too long"}, {"env", "A", "invalid argument"}, {"env", "=A", "invalid argument"},
		{"cwd", "tmp", "invalid argument"}, {"cwd", "..", "invalid argument"}, {"user", "-1", "invalid argument"}, {"user", "4294967295", "invalid argument"},
		{"user", "a:b:c", "invalid argument"}, {"tty", "2", "invalid argument"}, {"tty", "0x0", "invalid argument"}, {"tty", "65536x1", "invalid argument"},
		{"kill", "0", "invalid argument"}, {"kill", "TERM", "device or resource busy"}, {"state", "running", "permission denied"},
		{"wait", "x", "permission denied"}, {"exit", "0", "permission denied"}, {"stdin", "x", "permission denied"}, {"memory.max", "1", "permission denied"},
	} {
		err := os.WriteFile(m.Dir+"/c/exec/x/"+w.file, []byte(w.value), 0)
		if err == nil || !strings.Contains(err.Error(), w.errno) {
			t.Errorf("%s %.20q: %v, wanted %s", w.file, w.value, err, w.errno)
		} else if m.Read("c/exec/x/error") == "" {
			t.Errorf("%s %.20q: no sentence", w.file, w.value)
		}
	}
	for _, name := range []string{".x", "-x", "a b", "a/b", strings.Repeat("a", 64), "x", "ä"} {
		if err := os.Mkdir(m.Dir+"/c/exec/"+name, 0o755); err == nil {
			t.Errorf("an exec is called %q", name)
		}
	}
	if after := m.Sh("cd c/exec/x; cat cmd env cwd user tty state; cat ../../config.json; ls .. | wc -l"); after != before+"1\n" {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
}

// A program that ends while no server is there, after one that died between the launch and what follows it, has its log all the same.
func TestKillServerBeforeLogs(t *testing.T) {
	m := MountFor(t)
	m.Start("c", "sh -c 'echo one; exec sleep 1000'")
	m.makeExec("c/exec/x", "sh -c 'echo two; exec sleep 1000'")
	m.Write("c/exec/x/start", "1")
	Eventually(t, "both are up", 5*time.Second, func() bool { return m.Read("c/log") == "one" && m.Read("c/exec/x/log") == "two" })
	pids := []string{m.Read("c/exec/x/pid"), m.Read("c/pid")}
	var logs []string
	for _, pattern := range []string{"/log", "/exec/*.log"} {
		found, err := filepath.Glob(m.State + "/containers/*/" + m.Read("c/id") + pattern)
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		logs = append(logs, found[0])
	}
	_, server, err := m.Processes()
	if err != nil {
		t.Fatal(err)
	}
	syscall.Kill(server, syscall.SIGSTOP)
	for _, log := range logs {
		if err := os.Rename(log, log+".new"); err != nil { // as the launch leaves it
			t.Fatal(err)
		}
	}
	for _, text := range pids {
		pid, err := strconv.Atoi(text)
		if err != nil || syscall.Kill(pid, syscall.SIGKILL) != nil {
			t.Fatal(text, err)
		}
		Eventually(t, "it is gone", 5*time.Second, func() bool { return syscall.Kill(pid, 0) != nil })
	}
	m.killServer()
	for path, want := range map[string]string{"c/wait": "137", "c/exec/x/wait": "137", "c/log": "one", "c/exec/x/log": "two"} {
		if got := m.Read(path); got != want {
			t.Errorf("%s reads %q, wanted %q", path, got, want)
		}
	}
}

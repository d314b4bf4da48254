package test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestTranscripts runs every session of testdata on a mount of its own.
func TestTranscripts(t *testing.T) {
	RequireRoot(t)
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			tr, err := Parse(file, string(text))
			if err != nil {
				t.Fatal(err)
			}
			requirePrograms(t, append(tr.Needs, tr.Shell[0]))
			m := mountFor(t, tr.World)
			tr.Run(m.Shell(tr.Shell...), func(failure string) { t.Error(failure) })
		})
	}
}

// mountFor mounts ctrfs in the tests' own network namespace, or in a world where it may change that of the host.
func mountFor(t *testing.T, world bool) *Tree {
	if world {
		return MountWorld(t).Tree
	}
	return MountFor(t)
}

func requirePrograms(t *testing.T, names []string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			Require(t, fmt.Errorf("%w; run test/setup test", err))
		}
	}
}

// The rest of this file tests the tester, on a plain directory.

// runText runs a transcript's text in an empty directory and returns what it reported.
func runText(t *testing.T, text string) []string {
	t.Helper()
	tr, err := Parse("x.txt", text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath(tr.Shell[0]); err != nil {
		t.Skip(err)
	}
	sh, err := NewShell(t.TempDir(), t.TempDir(), nil, tr.Shell...)
	if err != nil {
		t.Fatal(err)
	}
	defer sh.Close()
	var failures []string
	tr.Run(sh, func(failure string) { failures = append(failures, failure) })
	return failures
}

func TestTranscriptHolds(t *testing.T) {
	const session = `
# Everything the format has.
$ echo one; echo two >&2
one
two
$ for i in 1 2
> do echo "i $i"; done
i 1
i 2
$ v=kept
$ echo "$v"
kept
$ (exit 3)
exit: 3
$ echo $?
3
$ printf 'a\n\nb'
a

b
\ no newline
$ printf 'x\n\n'
x
~
$ seq 100
1
...
~ 9[0-9]
...
100
$ cat
$ echo '$ not a command'
~ \$ not a command
$ mkdir d && cd d
$ basename "$PWD"
d
`
	for _, shell := range []string{"dash", "bash", "busybox sh"} {
		t.Run(shell, func(t *testing.T) {
			for _, failure := range runText(t, "shell: "+shell+"\n"+session) {
				t.Error(failure)
			}
		})
	}
}

func TestTranscriptFails(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"other output", "$ echo a\nb\n", "x.txt:1: $ echo a\nwanted\n\tb\ngot\n\ta\n"},
		{"too much output", "$ echo a; echo b\na\n", "got\n\ta\n\tb\n"},
		{"too little output", "$ echo a\na\nb\n", "got\n\ta\n"},
		{"no output wanted", "$ echo a\n", "wanted\ngot\n\ta\n"},
		{"pattern", "$ echo abc\n~ ab\n", "got\n\tabc\n"},
		{"newline", "$ printf a\na\n", "\t\\ no newline\n"},
		{"status", "$ true\n$ (exit 4)\n", "x.txt:2: $ (exit 4)\nwanted exit status 0, got 4"},
		{"status wanted", "$ true\nexit: 1\n", "wanted exit status 1, got 0"},
		{"shell gone", "$ exit\n$ true\n", "x.txt:1: $ exit\nthe command ended the shell"},
		{"hang", "timeout: 100ms\n$ echo before; sleep 60\n", "did not end in time (" + Patiently(100*time.Millisecond).String() + "); it had printed\n\tbefore\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := strings.Join(runText(t, c.text), "\n")
			if !strings.Contains(got, c.want) {
				t.Errorf("reported\n%s\nwhich lacks\n%s", got, c.want)
			}
		})
	}
}

func TestTranscriptMalformed(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"nonsense\n", "x.txt:1: neither a header"},
		{"timeout: soon\n", "x.txt:1: "},
		{"$ true\n# comment\nstray\n", "x.txt:3: output without a command"},
		{"$ true\n~ (\n", "x.txt:2: error parsing regexp"},
		{"$ true\nexit: no\n", "x.txt:2: "},
	} {
		if _, err := Parse("x.txt", c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, wanted %s", c.text, err, c.want)
		}
	}
}

// A shell that hangs must not outlive its timeout, nor must what it started.
func TestShellTimeoutKills(t *testing.T) {
	sh, err := NewShell(t.TempDir(), t.TempDir(), nil, "sh")
	if err != nil {
		t.Fatal(err)
	}
	defer sh.Close()
	out, _, err := sh.Run("sh -c 'echo $$; exec sleep 100'", 300*time.Millisecond)
	if !errors.Is(err, ErrTimeout) {
		t.Fatal(out, err)
	}
	proc := "/proc/" + strings.TrimSpace(out)
	Eventually(t, proc+" is gone", 2*time.Second, func() bool {
		state, err := os.ReadFile(proc + "/stat")
		return err != nil || strings.Contains(string(state), ") Z ")
	})
}

func TestInventoryNoticesProcess(t *testing.T) {
	before := TakeInventory()
	program := t.TempDir() + "/ctrfs-lookalike"
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	if err := copyFile(program, sleep, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "100")
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	want := fmt.Sprintf("process %d %s 100 ", cmd.Process.Pid, program)
	Eventually(t, "the inventory has "+want, 2*time.Second, func() bool { return TakeInventory()[want] && !before[want] })
}

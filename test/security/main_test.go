package security

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ctrfs/ctrfs/test"
)

// ground is a mount with something on the host that nothing may touch: a tree of files like those that attackers want.
type ground struct {
	*test.Tree
	canary string // the directory
	secret string // a file in it, readable by everybody; its content is the word below
}

const secretWord = "the-words-of-the-host"

// mounted mounts, and checks in the end that the canary is as it was.
func mounted(t *testing.T, flags ...string) *ground {
	t.Helper()
	g := &ground{Tree: test.MountFor(t, flags...)}
	g.plant(t)
	return g
}

// plant makes the canary.
func (g *ground) plant(t *testing.T) {
	t.Helper()
	g.canary = g.Base + "/canary"
	g.secret = g.canary + "/secret"
	for _, d := range []string{"", "/etc", "/sub"} {
		must(t, os.MkdirAll(g.canary+d, 0o777))
		must(t, os.Chmod(g.canary+d, 0o777)) // nothing but confinement protects it
	}
	for _, f := range []string{g.secret, g.canary + "/etc/passwd", g.canary + "/null"} {
		must(t, os.WriteFile(f, []byte(secretWord+"\n"), 0o666))
	}
	before, err := test.TreeHash(g.canary)
	must(t, err)
	t.Cleanup(func() {
		if after, err := test.TreeHash(g.canary); err != nil || after != before {
			out, _ := exec.Command("find", g.canary, "-ls").CombinedOutput()
			t.Errorf("the host's files were changed (%v):\n%s", err, out)
		}
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// freshRoot makes a busybox root of its own below the instance.
func (g *ground) freshRoot(name string) string {
	g.T.Helper()
	dir := filepath.Join(g.Base, name)
	must(g.T, os.Mkdir(dir, 0o755))
	test.Require(g.T, test.BusyboxRoot(dir))
	return dir
}

// hostile builds the program that is run inside, once, without libraries.
var hostile = sync.OnceValues(func() (string, error) { return test.Program("hostile") })

// attacker returns a root with the hostile program in /bin.
func (g *ground) attacker(name string) string {
	g.T.Helper()
	root := g.freshRoot(name)
	program, err := hostile()
	must(g.T, err)
	text, err := os.ReadFile(program)
	must(g.T, err)
	must(g.T, os.WriteFile(root+"/bin/hostile", text, 0o755))
	return root
}

// put writes a control file and returns what the write said.
func (g *ground) put(path, value string) error {
	return os.WriteFile(filepath.Join(g.Dir, path), []byte(value+"\n"), 0)
}

// make makes a container. settings are pairs of file and value.
func (g *ground) make(name, root, cmd string, settings ...string) {
	g.T.Helper()
	must(g.T, os.Mkdir(filepath.Join(g.Dir, name), 0o755))
	g.Write(name+"/rootfs", root)
	g.Write(name+"/cmd", cmd)
	g.Write(name+"/stop.timeout", "0")
	for i := 0; i < len(settings); i += 2 {
		g.Write(name+"/"+settings[i], settings[i+1])
	}
}

// outcome is what became of one start.
type outcome struct {
	refused string // the sentence in error, or empty when it ran
	exit    string
	log     string
}

func (o outcome) String() string {
	if o.refused != "" {
		return "refused: " + o.refused
	}
	return fmt.Sprintf("exit %s, log:\n%s", o.exit, o.log)
}

// try starts a container and waits for its end.
func (g *ground) try(name string) outcome {
	g.T.Helper()
	if err := g.put(name+"/start", "1"); err != nil {
		return outcome{refused: err.Error() + ": " + g.Read(name+"/error")}
	}
	return outcome{exit: g.Read(name + "/wait"), log: g.Read(name + "/log")}
}

// run makes a container, starts it, and removes it.
func (g *ground) run(name, root, cmd string, settings ...string) outcome {
	g.T.Helper()
	g.make(name, root, cmd, settings...)
	o := g.try(name)
	must(g.T, os.Remove(filepath.Join(g.Dir, name)))
	return o
}

// spec is an OCI configuration as a test changes it.
type spec = map[string]any

// reconfigure changes the configuration of a container through config.json.
func (g *ground) reconfigure(name string, change func(spec)) error {
	g.T.Helper()
	var s spec
	must(g.T, json.Unmarshal([]byte(g.Read(name+"/config.json")), &s))
	change(s)
	text, err := json.Marshal(s)
	must(g.T, err)
	return g.put(name+"/config.json", string(text))
}

// as runs a program of the host as another user without any group or right, and returns what it printed.
func (g *ground) as(uid uint32, argv ...string) (string, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// status returns the fields of proc_pid_status(5), from the file's text.
func status(text string) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			fields[key] = strings.TrimSpace(value)
		}
	}
	return fields
}

// processes returns keeper and server by name.
func (g *ground) processes() map[string]int {
	g.T.Helper()
	keeper, server, err := g.Processes()
	must(g.T, err)
	return map[string]int{"keeper": keeper, "server": server}
}

// sameServer fails the test, in the end, when the server has died in between.
func (g *ground) sameServer(t *testing.T) {
	t.Helper()
	before := g.processes()["server"]
	t.Cleanup(func() {
		_, now, err := g.Processes()
		for end := time.Now().Add(time.Second); now != before && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			_, now, err = g.Processes() // a child on its way looks like a server
		}
		if err != nil || now != before {
			log, _ := os.ReadFile(g.Run + "/ctrfs.log")
			t.Errorf("the server died (%v):\n%s", err, log)
		}
	})
}

// patience is for what must come, and comes at once unless something is wrong.
const patience = 10 * time.Second

package security

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctrfs/ctrfs/test"
)

// look is what a hook writes down about itself: all that it could have from somebody else.
const look = `set -- /proc/self/fd/*; echo "fds $*"; tr '\0' ' ' < /proc/self/environ; echo; umask
grep -e '^Groups' -e '^Cap[IEB]' -e '^NoNew' -e '^Seccomp:' /proc/self/status`

// Hooks have nothing of the administrator's, of ctrfs or of the container's environment: three descriptors, their own variables,
// no groups. One that is a program of the container may not do more than the container's own.
func TestHooksAreClean(t *testing.T) {
	g := carelessly(t)
	out := g.Tmp + "/out"
	must(t, os.Mkdir(out, 0o777))
	must(t, os.Chmod(out, 0o777))
	g.make("c", g.Root(), "sh -c '"+strings.ReplaceAll(look, "'", `'\''`)+"'", "env", "TOKEN="+secretWord)
	must(t, g.reconfigure("c", func(s spec) {
		hook := func(to string) []spec {
			return []spec{{"path": "/bin/sh", "args": []string{"sh", "-c", "exec > " + to + " 3>&-\n" + look}, "env": []string{"A=1"}, "timeout": 5}}
		}
		s["hooks"] = spec{"startContainer": hook("/said")}
		for _, p := range []string{"prestart", "createRuntime", "createContainer", "poststart", "poststop"} {
			s["hooks"].(spec)[p] = hook(filepath.Join(out, p))
		}
		s["process"].(spec)["args"] = []string{"sh", "-c", "cat /said; echo; " + look}
	}))
	o := g.try("c")
	hook, program, _ := strings.Cut(o.log, "\n\n")
	rights := func(text string) string { return text[max(0, strings.Index(text, "\nCapInh")):] }
	if rights(hook) != rights("\n"+program) || !strings.Contains(hook, "\nSeccomp:\t2") || !strings.Contains(hook, "\nNoNewPrivs:\t1") {
		t.Errorf("a hook of the container's has\n%s\nand its program\n%s", hook, program)
	}
	check := func(point, text string) {
		lines := strings.Split(text, "\n")
		if len(lines) < 4 || lines[0] != "fds /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3" || lines[1] != "A=1 " ||
			lines[2] != "0022" || strings.TrimSpace(lines[3]) != "Groups:" || !strings.Contains(text, "CapInh:\t0000000000000000") {
			t.Errorf("%s has\n%s", point, text)
		}
	}
	check("startContainer", hook)
	for _, p := range []string{"prestart", "createRuntime", "createContainer", "poststart", "poststop"} {
		var text []byte
		test.Eventually(t, p+" has run", 5*time.Second, func() bool {
			text, _ = os.ReadFile(filepath.Join(out, p))
			return strings.Contains(string(text), "Seccomp:")
		})
		check(p, string(text))
	}
}

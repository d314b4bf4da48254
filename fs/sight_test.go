package fs

import (
	"strings"
	"testing"
	"time"

	"github.com/ctrfs/ctrfs/engine"
)

// TestSight: who is not root reads in the files of the root of those containers only that ls shows him, and of what lies in them.
func TestSight(t *testing.T) {
	m := mount(t)
	m.sh("mkdir -p mine/in open/in shut/in/deep; for c in mine mine/in open open/in shut shut/in; do echo x > $c/cmd; echo 1 > $c/start; done; chown 65534:65534 mine; chmod 700 mine shut", "")
	see := func(uid uint32, want string) {
		t.Helper()
		for _, script := range []string{
			"tail -n +2 stats | cut -d' ' -f1 | grep -v deep", "tail -n +2 ps | cut -d' ' -f1",
			`sed -n 's/^ctrfs_container_info{container="\([^"]*\)".*/\1/p' metrics | grep -v deep`,
		} {
			out, _ := m.runAs(uid, script)
			if got := strings.Join(strings.Fields(out), " "); got != want {
				t.Errorf("%s as %d: %q, not %q", script, uid, got, want)
			}
		}
	}
	see(0, "mine mine/in open open/in shut shut/in")
	see(65534, "mine mine/in open open/in")
	see(65533, "open open/in")
	m.sh("chmod 755 shut; chmod 711 open", "")
	see(65534, "mine mine/in shut shut/in")
	m.sh("chmod 755 open", "")

	// Events of what cannot be seen are not told, of what can be seen also the end.
	m.sh("chmod 700 shut; mkdir mine/gone; chown 65534 mine/gone", "")
	gone := m.at("mine", "gone")
	told := make(chan string)
	opened := m.open.Load()
	go func() {
		out, _ := m.runAs(65534, "timeout 5 head -n 3 events | tr ',' '\\n' | grep -e event -e container")
		told <- out
	}()
	for m.open.Load() == opened {
		time.Sleep(time.Millisecond)
	}
	m.tell(m.at("shut"), engine.EventExit)
	m.tell(m.at("shut", "in"), engine.EventStart)
	m.tell(m.at("open"), engine.EventExit)
	m.sh("rmdir mine/gone; mkdir mine/new", "")
	m.tell(gone, engine.EventRemove)
	m.tell(m.at("mine", "new"), engine.EventCreate)
	if got, want := <-told, []string{"open", "exit", "mine/gone", "remove", "mine/new", "create"}; !inOrder(got, want) {
		t.Errorf("told %q, not %q", got, want)
	}
}

// at finds a container.
func (m *mounted) at(path ...string) (found *memContainer) {
	m.Helper()
	var c engine.Container
	for _, name := range path {
		next, ok := m.Child(c, name)
		if !ok {
			m.Fatalf("there is no %v", path)
		}
		c, found = next, next.(*memContainer)
	}
	return found
}

// inOrder reports whether a text holds words in that order, and nothing about shut.
func inOrder(text string, words []string) bool {
	if strings.Contains(text, "shut") {
		return false
	}
	for _, w := range words {
		_, rest, ok := strings.Cut(text, `"`+w+`"`)
		if !ok {
			return false
		}
		text = rest
	}
	return true
}

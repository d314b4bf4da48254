package local

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/ctrfs/ctrfs/engine"
)

// TestExecInherits: what an exec does not set follows the container, and what it sets does not, also by way of the disk.
func TestExecInherits(t *testing.T) {
	base := engine.NewConfig()
	for _, err := range []error{base.SetCmd("sleep 1"), base.SetEnv([]string{"A=1"}), base.SetCwd("/srv"), base.SetUser("7:8"), base.SetTTY("80x24"), base.SetStdinOpen("1")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	changed := base.Clone()
	for _, err := range []error{changed.SetEnv([]string{"B=2"}), changed.SetCwd("/tmp"), changed.SetUser("9:9")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	show := func(c *engine.Config) []string {
		return append([]string{c.Cmd(), c.Cwd(), c.User(), c.TTY(), c.StdinOpen()}, c.Env()...)
	}
	for _, c := range []struct {
		name   string
		set    func(*engine.Config) error
		before []string // over base
		after  []string // over changed
	}{
		{"nothing", func(*engine.Config) error { return nil }, []string{"", "/srv", "7:8", "0", "0", "A=1"}, []string{"", "/tmp", "9:9", "0", "0", "B=2"}},
		{"cmd and tty", func(c *engine.Config) error { c.SetTTY("1"); return c.SetCmd("true") }, []string{"true", "/srv", "7:8", "1", "0", "A=1"},
			[]string{"true", "/tmp", "9:9", "1", "0", "B=2"}},
		{"env", func(c *engine.Config) error { return c.SetEnv([]string{"C=3"}) }, []string{"", "/srv", "7:8", "0", "0", "C=3"}, []string{"", "/tmp", "9:9", "0", "0", "C=3"}},
		{"no env", func(c *engine.Config) error { return c.SetEnv(nil) }, []string{"", "/srv", "7:8", "0", "0"}, []string{"", "/tmp", "9:9", "0", "0"}},
		{"cwd", func(c *engine.Config) error { return c.SetCwd("/") }, []string{"", "/", "7:8", "0", "0", "A=1"}, []string{"", "/", "9:9", "0", "0", "B=2"}},
		{"user", func(c *engine.Config) error { return c.SetUser("www") }, []string{"", "/srv", "www", "0", "0", "A=1"}, []string{"", "/tmp", "www", "0", "0", "B=2"}},
		{"the same", func(c *engine.Config) error { c.SetCwd("/x"); return c.SetCwd("/srv") }, []string{"", "/srv", "7:8", "0", "0", "A=1"},
			[]string{"", "/tmp", "9:9", "0", "0", "B=2"}},
	} {
		var r execRecord
		next := r.over(base)
		if err := c.set(next); err != nil {
			t.Fatal(err)
		}
		r.take(next, base)
		r.ID, r.Name = "x", "x"
		s := execStore(t)
		if err := s.saveExec("aa", &r); err != nil {
			t.Fatal(err)
		}
		read := s.loadExecs("aa")["x"]
		if before, after := show(read.over(base)), show(read.over(changed)); !slices.Equal(before, c.before) || !slices.Equal(after, c.after) {
			t.Errorf("%s: %q and %q, wanted %q and %q", c.name, before, after, c.before, c.after)
		}
	}
}

// execStore is a store with the home of a container, aa.
func execStore(t *testing.T) *store {
	t.Helper()
	s, err := openStore(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	if err := os.MkdirAll(s.path("aa"), 0o700); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestExecRecords: the last whole line counts, what a crash has left goes, and what cannot be read stays.
func TestExecRecords(t *testing.T) {
	s := execStore(t)
	if got := s.loadExecs("aa"); got != nil {
		t.Errorf("without any: %v", got)
	}
	for _, r := range []*execRecord{{ID: "one", Name: "a"}, {ID: "two", Name: "b"}, {ID: "one", Name: "a", Cwd: "/x"}} {
		if err := s.saveExec("aa", r); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Dir(s.execPath("aa", "one", ""))
	for name, text := range map[string]string{"one.log": "out", "gone.log": "out", "gone.log.new": "out", "bad.record": "{", "bad.log": "out", "lie.record": `{"id":"other","name":"c"}` + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if f, err := os.OpenFile(s.execPath("aa", "one", execRecordName), os.O_APPEND|os.O_WRONLY, 0); err == nil {
		f.WriteString(`{"id":"one","cwd":"/cut`)
		f.Close()
	}
	got := s.loadExecs("aa")
	if len(got) != 2 || got["a"].Cwd != "/x" || got["b"].ID != "two" {
		t.Errorf("read %v", got)
	}
	var left []string
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{"bad.log", "bad.record", "lie.record", "one.log", "one.record", "two.record"}; !reflect.DeepEqual(left, want) {
		t.Errorf("left %v, wanted %v", left, want)
	}
	if err := s.removeExec("aa", "one"); err != nil || len(s.loadExecs("aa")) != 1 {
		t.Errorf("after the removal of one: %v, %v", err, s.loadExecs("aa"))
	}
}
